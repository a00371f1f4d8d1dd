// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A process that does nothing but have the files of a guest open.
//!
//! When a VMM dies, the memory of its guest is in the files that came from the previous kernel, as long as
//! somebody has them. A session that preserves them for the next kernel does not give them back in this one.
//! The VMM preserves these very files, and puts its state into the file of the old state, so a VMM that
//! dies with its guest suspended leaves everything here.

use std::fs::{
    self,
    File, //
};
use std::path::PathBuf;
use std::process::{
    Command,
    Stdio, //
};

use anyhow::{
    Context,
    Result, //
};
use rustix::process::{
    pidfd_getfd,
    pidfd_open,
    PidfdFlags,
    PidfdGetfdFlags, //
};

use crate::control::DIRECTORY;
use crate::memory::Files;

/// The descriptors, which are those of standard input, output and error.
const STATE: i32 = 0;
const MEMORY: i32 = 1;
const PRIVATE: i32 = 2;

fn path(name: &str) -> PathBuf {
    PathBuf::from(DIRECTORY).join(format!("{name}.keeper"))
}

/// Starts the process. Where there is no private memory, it has the state in its place.
pub(crate) fn start(name: &str, state: &File, files: &Files) -> Result<()> {
    let private = files.private.as_ref().unwrap_or(state);
    let keeper = Command::new("/proc/self/exe")
        .args(["--name", name, "keep"])
        .stdin(Stdio::from(state.try_clone()?))
        .stdout(Stdio::from(files.memory.try_clone()?))
        .stderr(Stdio::from(private.try_clone()?))
        .spawn()
        .context("no process to keep the files can be started")?;
    fs::write(path(name), keeper.id().to_string()).context("the keeper cannot be noted")
}

/// A file of the process, in this one.
fn file(name: &str, number: i32) -> Result<File> {
    let path = path(name);
    let pid = fs::read_to_string(&path)
        .ok()
        .and_then(|text| rustix::process::Pid::from_raw(text.trim().parse().ok()?))
        .with_context(|| format!("nobody keeps the files of {name}"))?;
    let keeper = pidfd_open(pid, PidfdFlags::empty()).context("the keeper is gone")?;
    let fd = pidfd_getfd(keeper, number, PidfdGetfdFlags::empty())
        .context("the keeper does not have the file")?;
    Ok(fd.into())
}

/// The state that is kept.
pub(crate) fn state(name: &str) -> Result<File> {
    file(name, STATE)
}

/// The memory that is kept.
pub(crate) fn memory(name: &str, private: bool) -> Result<Files> {
    Ok(Files {
        memory: file(name, MEMORY)?,
        private: match private {
            false => None,
            true => Some(file(name, PRIVATE)?),
        },
    })
}

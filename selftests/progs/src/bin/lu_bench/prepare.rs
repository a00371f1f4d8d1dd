// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Modules and the next kernel: what is loaded before and after an update.
//!
//! An emulated CPU that waits for the host's files counts what it likes, so that they are read before.

use std::ffi::CString;
use std::fs;
use std::io::Write;
use std::os::fd::{
    AsRawFd,
    OwnedFd, //
};
use std::path::{
    Path,
    PathBuf, //
};

use anyhow::{
    Context,
    Result, //
};
use progs::{
    memory,
    sys, //
};

use crate::timed;

/// A copy of a file in memory.
fn copy(path: &Path) -> Result<OwnedFd> {
    let bytes = fs::read(path).with_context(|| path.display().to_string())?;
    let file = fs::File::from(memory::memfd("copy")?);
    (&file).write_all(&bytes)?;
    // A file that somebody may write to is not executed, and a module is not loaded from it.
    Ok(memory::reopen(&file, rustix::fs::OFlags::RDONLY)?)
}

/// Loads modules.
pub(crate) fn modules(files: &[PathBuf]) -> Result<()> {
    for path in files {
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        let module = copy(path)?;
        timed(&format!("module.{name}"), || {
            rustix::system::finit_module(&module, c"", 0)
                .with_context(|| path.display().to_string())
        })?;
    }
    Ok(())
}

/// Loads a stage's kernel with its initrd and command line, in place of what is loaded.
pub(crate) fn kexec(stage: u32) -> Result<()> {
    let dir = PathBuf::from(format!("/lu/stage/{stage}"));
    let (kernel, initrd) = (copy(&dir.join("kernel"))?, copy(Path::new("/lu/initrd"))?);
    let line = fs::read_to_string(dir.join("cmdline")).context("the stage has no command line")?;
    let line = CString::new(line.trim_end())?;
    timed("kexec-load", || {
        // SAFETY: Both descriptors are open for the time of the call, and the string is as long as is
        // said, its NUL included. The kernel only reads them.
        let status = unsafe {
            libc::syscall(
                libc::SYS_kexec_file_load,
                kernel.as_raw_fd(),
                initrd.as_raw_fd(),
                line.as_bytes_with_nul().len(),
                line.as_ptr(),
                0,
            )
        };
        Ok(sys::answer(status)?)
    })
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The process that holds a session in the new kernel is killed.

use super::{
    receive::{
        look_at,
        DEVICE,
        MEMORY, //
    },
    stopped::{
        check_running,
        check_stopped, //
    }, //
};
use crate::{
    expect::same,
    run::New,
    sys,
    vfio::Device, //
};
use anyhow::{
    Context,
    Result, //
};
use liveupdate::{
    IncomingSession,
    Token, //
};
use std::{
    fs::File,
    os::fd::{
        AsRawFd,
        OwnedFd, //
    },
    thread,
    time::Duration, //
};

/// What the agent has; it is never given back.
struct Agent {
    memory: OwnedFd,
    _session: IncomingSession,
    _device: Option<Device>,
}

fn take(new: &New<'_>, device: bool) -> Result<Agent> {
    let session = new.take_session("")?;
    Ok(Agent {
        memory: session.retrieve(Token(MEMORY))?,
        _device: match device {
            true => Some(Device::retrieve(&session, Token(DEVICE))?),
            false => None,
        },
        _session: session,
    })
}

/// Has another process take the session, and kills it. The memory stays, as this process has it, too.
fn killed(new: &mut New<'_>, device: bool) -> Result<()> {
    let (reader, writer) = rustix::pipe::pipe()?;
    let child = sys::fork(|| match take(new, device) {
        Ok(agent) => {
            let number = agent.memory.as_raw_fd().to_le_bytes();
            let _ = rustix::io::write(&writer, &number);
            loop {
                thread::sleep(Duration::from_secs(3600));
            }
        }
        Err(error) => {
            println!("# the agent failed: {error:#}");
            1
        }
    })?;
    drop(writer);
    let mut number = [0; 4];
    let len = rustix::io::read(&reader, &mut number)?;
    new.common.check("agent", same(len, number.len()));

    let number = i32::from_le_bytes(number);
    let path = format!("/proc/{}/fd/{number}", child.id());
    let memory = File::options().read(true).write(true).open(&path);
    let memory = memory.context("the agent's memory cannot be opened")?;
    let (_memory, ring) = look_at(new, memory.into())?;
    check_running(new)?;
    new.common
        .check("killed", same(child.kill()?, 128 + libc::SIGKILL as u8));
    check_stopped(new, &ring)
}

pub(super) fn killed_new(new: &mut New<'_>) -> Result<()> {
    killed(new, false)
}

pub(super) fn killed_bound_new(new: &mut New<'_>) -> Result<()> {
    killed(new, true)
}

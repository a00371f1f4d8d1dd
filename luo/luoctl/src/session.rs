// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! `luoctl session`: the client of `luoctl hold`.

use anyhow::{
    Context as _,
    Result, //
};
use clap::Subcommand;
use liveupdate::{
    hold::{
        Client,
        Held,
        SOCKET, //
    },
    SessionName, //
};
use rustix::io::{
    fcntl_setfd,
    FdFlags, //
};
use std::{
    ffi::OsString,
    os::{
        fd::{
            AsRawFd as _,
            OwnedFd, //
        },
        unix::process::CommandExt as _, //
    },
    path::PathBuf,
    process::Command, //
};

use crate::output::print;

/// Tells a command which of its descriptors is the session.
const FD_VARIABLE: &str = "LIVEUPDATE_SESSION_FD";

const DETAILS: &str = "\
With `-- CMD`, CMD is run in place of luoctl and inherits the session;
LIVEUPDATE_SESSION_FD in its environment is the number of the file descriptor.
The session stays held when CMD ends.

Examples:
  luoctl session create vm-7 -- my-vmm
  luoctl session get vm-7 -- my-vmm --resume    after a crash of the VMM
  luoctl session release vm-7                   no live update after all
  luoctl session retrieve vm-7 -- my-vmm --resume
  luoctl session finish vm-7                    when all is well after the update";

/// Use the sessions that `luoctl hold` holds.
#[derive(Debug, clap::Args)]
#[command(after_help = DETAILS)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
    /// Where `luoctl hold` listens.
    #[arg(long, value_name = "PATH", default_value = SOCKET, global = true)]
    socket: PathBuf,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Create a session for the next live update.
    Create(Target),
    /// Retrieve a session that the previous kernel left.
    Retrieve(Target),
    /// Use a session that is held already.
    Get(Target),
    /// Let go of a session that was created in this kernel; it will not be handed over.
    Release {
        /// The session's name.
        name: SessionName,
    },
    /// Finish a session of the previous kernel; what was not retrieved is freed.
    Finish {
        /// The session's name.
        name: SessionName,
    },
    /// List the sessions that are held.
    List,
}

#[derive(Debug, clap::Args)]
struct Target {
    /// The session's name.
    name: SessionName,
    /// A command to run with the session.
    #[arg(last = true)]
    command: Vec<OsString>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let client = Client::connect(&args.socket)?;
    match &args.action {
        Action::Create(target) => run_with(client.create(&target.name)?.into(), target),
        Action::Retrieve(target) => run_with(client.retrieve(&target.name)?.into(), target),
        Action::Get(target) => {
            let fd = match client.get(&target.name)? {
                Held::Outgoing(session) => session.into(),
                Held::Incoming(session) => session.into(),
            };
            run_with(fd, target)
        }
        Action::Release { name } => Ok(client.release(name)?),
        Action::Finish { name } => Ok(client.finish(name)?),
        Action::List => {
            let mut text = String::new();
            for (name, kind) in client.list()? {
                text += &format!("{kind}  {}\n", name.as_str().escape_debug());
            }
            print(&text)
        }
    }
}

/// Becomes the command, which inherits the session.
fn run_with(session: OwnedFd, target: &Target) -> Result<()> {
    let Some((program, args)) = target.command.split_first() else {
        return Ok(());
    };
    fcntl_setfd(&session, FdFlags::empty()).context("cannot pass the session on")?;
    let error = Command::new(program)
        .args(args)
        .env(FD_VARIABLE, session.as_raw_fd().to_string())
        .exec();
    Err(error).with_context(|| format!("cannot run {}", program.display()))
}

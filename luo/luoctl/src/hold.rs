// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! `luoctl hold`: keeps sessions open, so that a VMM's death loses nothing.

use anyhow::{
    Context as _,
    Result, //
};
use liveupdate::hold::{
    self,
    Server,
    SOCKET, //
};
use signal_hook::consts::{
    SIGHUP,
    SIGINT,
    SIGTERM, //
};
use std::{
    path::PathBuf,
    sync::{
        atomic::{
            AtomicBool,
            Ordering, //
        },
        Arc, //
    },
    thread,
    time::Duration, //
};

use crate::output::say;

/// A signal between the look at the flag and the wait is noticed after this time.
const TICK: Duration = Duration::from_secs(1);

const DETAILS: &str = "\
The kernel ends a session when its last descriptor is closed: before the reboot
nothing of it is handed over, after the reboot whatever was not retrieved is
freed. This command keeps a descriptor of every session that a client creates or
retrieves through it, and gives a duplicate to any client that asks.

It must run until the moment of the reboot, so start the reboot with a tool that
does not end processes first (`kexec -e`). While sessions are held, SIGTERM,
SIGINT and SIGHUP are answered with a message only; release or finish the
sessions to let it end.

Clients are `luoctl session` and the module `hold` of the Rust crate
`liveupdate`, which describes the protocol. Only root and the user of
--allow-uid may connect. The socket's directory must be one that only root may
write to.

Examples:
  luoctl hold
  luoctl hold --socket /run/vmm-live.sock --allow-uid 107";

/// Hold sessions on behalf of VMMs, and hand them out over a Unix socket.
#[derive(Debug, clap::Args)]
#[command(after_help = DETAILS)]
pub(crate) struct Args {
    /// Where to listen.
    #[arg(long, value_name = "PATH", default_value = SOCKET)]
    socket: PathBuf,
    /// A user besides root who may connect.
    #[arg(long, value_name = "UID")]
    allow_uid: Option<u32>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT, SIGHUP] {
        signal_hook::flag::register(signal, stop.clone())
            .context("cannot change how signals are handled")?;
    }
    let mut server = Server::bind(&args.socket, args.allow_uid)?;
    spare_from_oom_killer();
    say(format_args!(
        "holding sessions for {}",
        args.socket.display()
    ));

    loop {
        let stepped = server.step(Some(TICK));
        let held: Vec<_> = server.sessions().map(|(name, _)| name.as_str()).collect();
        survive(stepped, !held.is_empty())?;
        if stop.swap(false, Ordering::Relaxed) {
            if held.is_empty() {
                return Ok(());
            }
            say(format_args!(
                "not ending, because that would end the sessions {}; use `luoctl session release` \
                 or `finish` first",
                held.join(", ")
            ));
        }
    }
}

/// An error ends the process only if that ends no session.
fn survive(stepped: hold::Result<()>, holding: bool) -> Result<()> {
    match stepped {
        Err(error) if holding => {
            say(format_args!(
                "{:#}; trying again",
                anyhow::Error::new(error)
            ));
            thread::sleep(TICK);
            Ok(())
        }
        other => Ok(other?),
    }
}

/// The process that holds everybody's memory should be the last to be chosen. It works for root only
/// and is not worth failing for.
fn spare_from_oom_killer() {
    let _ = std::fs::write("/proc/self/oom_score_adj", "-1000");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_ends_the_process_only_if_nothing_is_held() {
        let error = || {
            let source = rustix::io::Errno::NOMEM;
            Err(hold::Error::Poll { source })
        };
        assert!(survive(error(), true).is_ok());
        assert!(survive(error(), false).is_err());
        assert!(survive(Ok(()), false).is_ok());
    }
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A small VMM whose guests live through an update of the host's kernel.
//!
//! `vmm run` has a guest in the foreground. `vmm suspend` asks it to stop the guest and to put it into
//! a session of `/dev/liveupdate`; the process stays, because it holds the session. After the kexec,
//! `vmm resume` takes the guest over. If there is no kexec, `vmm continue` lets it run on.

mod arch;
mod card;
mod control;
mod devices;
mod guest;
mod handover;
mod host;
mod keeper;
mod machine;
mod memory;
mod receiver;
mod state;
mod timeline;
mod tiny;
mod vcpu;
mod watch;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{
    Context,
    Result, //
};
use clap::{
    Parser,
    Subcommand, //
};

use crate::control::{
    Request,
    Saved, //
};
use crate::guest::Guest;
use crate::host::{
    Host,
    Resume,
    Step, //
};
use crate::machine::{
    Machine,
    Wrong, //
};
use crate::memory::Backend;

#[derive(Debug, Parser)]
#[command(about = "Runs guests that live through an update of the host's kernel")]
struct Cli {
    /// The guest's name, and that of its session.
    #[arg(long, global = true, default_value = "vm")]
    name: String,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Boot a guest and have it in the foreground.
    Run {
        /// What its memory is made of.
        #[arg(long, value_enum, default_value_t = Backend::Memfd)]
        memory: Backend,
        /// Size of its memory in MiB.
        #[arg(long, default_value_t = 64)]
        mib: u64,
        /// Allocate nothing in advance; the tiny guest leaves holes in its memory.
        #[arg(long)]
        sparse: bool,
        /// Number of its vCPUs.
        #[arg(long, default_value_t = 1)]
        cpus: usize,
        /// Give it the igb that vfio-pci has, and run a guest that takes numbered frames from it.
        #[arg(long, conflicts_with_all = ["kernel", "sparse"])]
        igb: bool,
        /// A Linux kernel to boot; without it, a tiny counting guest runs.
        #[arg(long)]
        kernel: Option<PathBuf>,
        /// The one program in the kernel's initrd.
        #[arg(long, default_value = "/lu/bin/vmm-guest")]
        init: PathBuf,
        /// More for the kernel's command line.
        #[arg(long, default_value = "")]
        append: String,
    },
    /// Stop a guest and put it into a session.
    Suspend {
        /// Have `luoctl hold` keep the session, at this socket.
        #[arg(long, value_name = "SOCKET", num_args = 0..=1, default_missing_value = liveupdate::hold::SOCKET)]
        hold: Option<PathBuf>,
        /// Save checksums of the memory and its physical pages, to be compared at resume.
        #[arg(long)]
        check: bool,
        /// Let the guest run on for so many milliseconds when its memory is in the session.
        #[arg(long, default_value_t = 0)]
        linger: u64,
        /// For tests: die at this point.
        #[arg(long, value_enum)]
        die_after: Option<Saved>,
        /// For tests: give up at this point, and let the guest run on.
        #[arg(long, value_enum)]
        fail_after: Option<Saved>,
    },
    /// Let a suspended guest run on in the old kernel.
    Continue,
    /// Take a guest over from the previous kernel and have it in the foreground.
    Resume {
        /// Get the session from `luoctl hold`, at this socket.
        #[arg(long, value_name = "SOCKET", num_args = 0..=1, default_missing_value = liveupdate::hold::SOCKET)]
        hold: Option<PathBuf>,
        /// Start a process that keeps the guest's files, so that another VMM of this kernel can take the guest
        /// over when it is suspended again.
        #[arg(long)]
        keep: bool,
        /// Take the guest over from a VMM of this kernel that died.
        #[arg(long)]
        kept: bool,
        /// Do not compare checksums.
        #[arg(long)]
        skip_check: bool,
        /// For tests: change one byte of memory first, or of a frame that waits for the guest.
        #[arg(long)]
        damage: bool,
        /// For tests: change one bit of the state first.
        #[arg(long)]
        damage_state: bool,
        /// For tests: make a VM that is not as the state says.
        #[arg(long, value_enum)]
        wrong: Option<Wrong>,
        /// For tests: die at this point.
        #[arg(long, value_enum)]
        die_after: Option<Step>,
    },
    /// Wait until the VMM has seen this many heartbeats; fail if the guest found an error.
    Wait {
        #[arg(long, default_value_t = 1)]
        beats: u64,
        #[arg(long, default_value_t = 250)]
        seconds: u64,
    },
    /// End a guest.
    Stop,
    /// Have files open.
    #[command(hide = true)]
    Keep,
}

fn perform(cli: Cli) -> Result<()> {
    let name = cli.name;
    match cli.action {
        Action::Run {
            memory,
            mib,
            sparse,
            cpus,
            igb,
            kernel,
            init,
            append,
        } => {
            let listener = control::listen(&name)?;
            let size = mib.checked_mul(1 << 20).context("too much memory")?;
            let guest = match kernel {
                None if igb => Guest::Receiver,
                None => Guest::Tiny { sparse },
                Some(kernel) => Guest::Linux {
                    kernel,
                    initrd: guest::initrd(&init)?,
                    cmdline: append,
                },
            };
            let machine = Machine::new(&name, &guest, memory, size, sparse, cpus)?;
            Host::new(&name, machine).run(&listener)
        }
        Action::Resume {
            hold,
            keep,
            kept,
            skip_check,
            damage,
            damage_state,
            wrong,
            die_after,
        } => {
            let listener = control::listen(&name)?;
            let how = Resume {
                hold: hold.as_deref(),
                keep,
                kept,
                skip_check,
                damage,
                damage_state,
                wrong,
                die_after,
            };
            host::resume(&name, &listener, &how)
        }
        Action::Suspend {
            hold,
            check,
            linger,
            die_after,
            fail_after,
        } => tell(
            &name,
            &Request::Suspend {
                hold,
                check,
                linger,
                die_after,
                fail_after,
            },
        ),
        Action::Continue => tell(&name, &Request::Continue),
        Action::Wait { beats, seconds } => tell(&name, &Request::Wait { beats, seconds }),
        Action::Keep => loop {
            std::thread::park();
        },
        Action::Stop => tell(&name, &Request::Stop),
    }
}

fn tell(name: &str, request: &Request) -> Result<()> {
    let progress = control::ask(name, request)?;
    println!(
        "VMM {name}: heartbeat {} {}",
        progress.beat, progress.report
    );
    Ok(())
}

fn main() -> ExitCode {
    match perform(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // In one piece: other processes of a test write to the same console.
            let line = format!("vmm: {error:#}\n");
            let _ = std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes());
            ExitCode::FAILURE
        }
    }
}

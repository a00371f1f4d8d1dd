// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! `luoctl`: shows the state of live updates and holds sessions on behalf of VMMs.

mod check;
mod format;
mod hold;
mod inspect;
mod kexec;
mod modinfo;
mod output;
mod reason;
mod search;
mod session;
mod status;
mod unpack;

use clap::{
    Parser,
    Subcommand, //
};
use std::process::ExitCode;

const EXAMPLES: &str = "\
Examples:
  luoctl status                          what the loaded modules hold
  luoctl inspect                         what was handed over to this kernel
  luoctl hold &                          hold sessions until they are released or finished
  luoctl session create vm-7 -- my-vmm   start a VMM that inherits its session
  luoctl session list                    which sessions are held
  luoctl format rs-memfd-v1 --next /lib/modules/7.3.9
                                         hand memfds over faster, if that kernel can read it
  luoctl check --kernel IMAGE --modules DIR
                                         what would survive the start of that kernel
  luoctl kexec --kernel IMAGE --modules DIR
                                         start it if everything does
After the live update:
  luoctl hold &
  luoctl session retrieve vm-7 -- my-vmm --resume
  luoctl session finish vm-7";

/// Shows the state of live updates and holds sessions on behalf of VMMs.
#[derive(Debug, Parser)]
#[command(version, after_help = EXAMPLES)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Status(status::Args),
    Hold(hold::Args),
    Session(session::Args),
    Format(format::Args),
    Inspect(inspect::Args),
    Check(check::Args),
    Kexec(kexec::Args),
}

fn main() -> ExitCode {
    let result = match Args::parse().command {
        Command::Status(args) => status::run(&args),
        Command::Hold(args) => hold::run(&args),
        Command::Session(args) => session::run(&args),
        Command::Format(args) => format::run(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Kexec(args) => kexec::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::say(format_args!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }
}

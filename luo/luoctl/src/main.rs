// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! `luoctl`: shows the state of live updates and holds sessions on behalf of VMMs.

mod format;
mod hold;
mod modinfo;
mod output;
mod reason;
mod session;
mod status;

use clap::{
    Parser,
    Subcommand, //
};
use std::process::ExitCode;

const EXAMPLES: &str = "\
Examples:
  luoctl status                          what the loaded modules hold
  luoctl hold &                          hold sessions until they are released or finished
  luoctl session create vm-7 -- my-vmm   start a VMM that inherits its session
  luoctl session list                    which sessions are held
  luoctl format rs-memfd-v1 --next /lib/modules/7.3.9
                                         hand memfds over faster, if that kernel can read it
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
}

fn main() -> ExitCode {
    let result = match Args::parse().command {
        Command::Status(args) => status::run(&args),
        Command::Hold(args) => hold::run(&args),
        Command::Session(args) => session::run(&args),
        Command::Format(args) => format::run(&args),
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

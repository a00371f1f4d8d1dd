// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The lab tool: what `make` and `selftests/vm/run` call.

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::Result;
use clap::{
    Args,
    Parser,
    Subcommand, //
};
use lab::{
    arch::{
        Arch,
        Build,
        Variant, //
    },
    bench,
    beside,
    build,
    check,
    demo,
    lint, //
};

/// Builds the lab kernels and modules, and runs live updates in virtual machines.
#[derive(Debug, Parser)]
#[command(name = "lab")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Args)]
struct Target {
    /// Architecture.
    #[arg(long, value_enum, default_value_t = Arch::X86_64)]
    arch: Arch,
    /// Variant.
    #[arg(long, value_enum, default_value_t = Variant::Plain)]
    variant: Variant,
}

impl Target {
    fn build(&self) -> Build {
        Build::new(self.arch, self.variant)
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs stages in a virtual machine, with a live update between them.
    #[command(disable_help_flag = true)]
    Run {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Builds the lab kernel, the modules and the programs for one architecture.
    Kernel(Target),
    /// Builds the modules only, against any prepared and patched kernel tree.
    Modules {
        /// The kernel tree (its O= directory).
        kdir: std::path::PathBuf,
    },
    /// Builds luoctl for hosts.
    Programs {
        /// Architecture.
        #[arg(long, value_enum, default_value_t = Arch::X86_64)]
        arch: Arch,
    },
    /// Builds the tests for a host that is in use, into build/ARCH/bin/kselftest.
    Kselftest {
        /// Architecture.
        #[arg(long, value_enum, default_value_t = Arch::X86_64)]
        arch: Arch,
    },
    /// Runs the tests; prints KTAP.
    Check(check::Options),
    /// A guest, or a device, lives through an update of the kernel of its host.
    Demo(demo::Options),
    /// Measures in guest instructions; prints tables and writes build/bench.json and build/bench.svg.
    Bench(bench::Options),
    /// Shows what changed from one bench.json to another.
    BenchCompare(bench::CompareOptions),
    /// Formatting, lints, licences and checkpatch.
    Lint,
    #[command(flatten)]
    Beside(beside::Command),
}

fn dispatch(command: Command) -> Result<ExitCode> {
    match command {
        Command::Run { args } => return Ok(lab::run::main(args)),
        Command::Kernel(target) => build::everything(target.build())?,
        Command::Modules { kdir } => build::modules::for_tree(&kdir)?,
        Command::Programs { arch } => build::programs::for_host(arch)?,
        Command::Kselftest { arch } => build::programs::for_kselftest(arch)?,
        Command::Check(options) => return check::main(&options),
        Command::Demo(options) => return demo::main(&options),
        Command::Bench(options) => return bench::main(&options),
        Command::BenchCompare(options) => return bench::compare_main(&options),
        Command::Lint => return lint::main(),
        Command::Beside(command) => beside::main(&command)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn main() -> ExitCode {
    match dispatch(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("liveupdate-rs: {error:#}");
            ExitCode::from(127)
        }
    }
}

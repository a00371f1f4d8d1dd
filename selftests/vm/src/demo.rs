// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! `make demo`: a guest, or a device, goes on while the kernel of its host is replaced.

mod guest;
mod igb;
mod moments;

use std::io::{
    BufRead,
    BufReader,
    Write, //
};
use std::path::PathBuf;
use std::process::{
    Command,
    ExitCode,
    Stdio, //
};
use std::time::Instant;

use anyhow::{
    Context,
    Result, //
};

use crate::arch::{
    top,
    Arch,
    Build,
    Variant, //
};
use crate::build;

/// What each stage says of its kernel.
const HOST: &str = "echo DEMO host $(uname -r) $(cat /proc/sys/kernel/random/boot_id)";

/// What goes on.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Device {
    /// A network card that receives.
    Igb,
}

/// What to show.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Architecture.
    #[arg(long, value_enum, default_value_t = Arch::X86_64)]
    arch: Arch,
    /// A device that is passed through, instead of a guest.
    #[arg(long, value_enum)]
    device: Option<Device>,
    /// Do not preserve the device: the demo must fail.
    #[arg(long, requires = "device")]
    sabotage: bool,
}

/// What was to be shown, and whether it was.
type Proofs = Vec<(bool, String)>;

/// The word behind `key=`.
fn value<'a>(report: &'a str, key: &str) -> Option<&'a str> {
    report
        .split_whitespace()
        .find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
}

/// Runs the runner. `take` is given each line of the console, with the seconds that have passed, and says what
/// a person should see of it. Returns whether all went well, for the runner.
fn watch(run: &mut Command, mut take: impl FnMut(&str, f64) -> Option<String>) -> Result<bool> {
    let mut run = run.stdout(Stdio::piped()).spawn()?;
    let start = Instant::now();
    let mut file = std::fs::File::create(log())?;
    for line in BufReader::new(run.stdout.take().context("the runner has a pipe")?).split(b'\n') {
        let line = String::from_utf8_lossy(&line?).trim_end().to_string();
        writeln!(file, "{line}")?;
        let passed = start.elapsed().as_secs_f64();
        if let Some(shown) = take(&line, passed) {
            println!("  {passed:6.2} s  {shown}");
        }
    }
    Ok(run.wait()?.success())
}

/// The whole console.
fn log() -> PathBuf {
    top().join("build/demo.log")
}

/// Shows the proofs. Whether all of them are good.
fn show(proofs: &Proofs) -> bool {
    println!("\n  proof");
    for (good, what) in proofs {
        println!("  {:4} {what}", if *good { "ok" } else { "BAD" });
    }
    proofs.iter().all(|proof| proof.0)
}

/// The last words, and the status.
fn end(good: bool, success: &str, failure: &str) -> ExitCode {
    println!("\n{}", if good { success } else { failure });
    println!("The whole console is in {}.", log().display());
    match good {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

/// Builds what is missing, updates a host's kernel under a guest or a device and shows the proof.
///
/// # Errors
///
/// If something cannot be built or the runner cannot be started.
pub fn main(options: &Options) -> Result<ExitCode> {
    let (old, new) = (
        Build::new(options.arch, Variant::Plain),
        Build::new(options.arch, Variant::Other),
    );
    build::all(&[old, new])?;
    match options.device {
        None => guest::main(options.arch, new),
        Some(Device::Igb) => igb::main(old, options.sabotage),
    }
}

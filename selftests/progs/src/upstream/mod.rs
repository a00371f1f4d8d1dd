// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Upstream's selftests as they are, with and without what this project does to a kernel.
//!
//! What a program shows somewhere is written down, and all that it shows elsewhere must be the same. That it
//! skips is one of the things that it shows.

pub mod hugetlb;
pub mod iommufd;
pub mod kvm;
pub mod vfio;

use crate::tap::Report;
use anyhow::{
    Context,
    Result, //
};
use std::{
    fs,
    path::Path,
    process::{
        Command,
        Stdio, //
    }, //
};

/// The status of a kselftest that could not test anything.
const SKIPPED: &str = "status 4";

/// What a program shows: how it ended, and those of its lines that begin with one of `starts`.
fn run(program: impl AsRef<Path>, args: &[&str], starts: &[&str]) -> Result<String> {
    let program = program.as_ref();
    let output = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("{} cannot be run", program.display()))?;
    let mut text = match output.status.code() {
        Some(code) => format!("status {code}\n"),
        None => format!("{}\n", output.status),
    };
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    if !output.status.success() {
        println!("{}", quote(said.lines().last().unwrap_or_default()));
    }
    for line in said.lines() {
        if starts.iter().any(|start| line.starts_with(start)) {
            text += line.trim_end();
            text += "\n";
        }
    }
    Ok(text)
}

/// How lines begin that do not differ from run to run: results, and what kselftest's harness says of each test.
const HARNESS: [&str; 5] = ["# ", "ok ", "not ok ", "1..", "Bail out"];

/// Each test of the harness has 30 s. That says nothing of the kernel where a CPU is emulated, beside others.
const LATE: &str = "terminated by timeout";
const ATTEMPTS: u32 = 3;

/// What a program with the harness shows when none of its tests was late, if that happens.
fn run_in_time(program: &str, args: &[&str]) -> Result<String> {
    let mut text = String::new();
    for _ in 0..ATTEMPTS {
        text = run(program, args, &HARNESS)?;
        if !text.contains(LATE) {
            break;
        }
        println!("# {program} was too slow");
    }
    Ok(text)
}

/// What kselftest programs print is not taken for results of ours.
fn quote(text: &str) -> String {
    text.lines()
        .map(|line| format!("  | {}", line.replace("ok ", "ok: ")))
        .collect::<Vec<_>>()
        .join("\n")
}

/// Writes down what a program shows.
fn note(report: &mut Report, dir: &Path, name: &str, text: &str) -> Result<()> {
    fs::create_dir_all(dir)?;
    fs::write(dir.join(name), text)?;
    println!("{}", quote(text));
    if text.starts_with(SKIPPED) {
        report.skip(name, "it skips");
    } else {
        // A failure is as good a reference as any other result.
        report.check(name, Ok::<(), String>(()));
    }
    Ok(())
}

/// Compares what a program shows with what was written down.
fn compare(report: &mut Report, dir: &Path, name: &str, text: &str) -> Result<()> {
    let want = fs::read_to_string(dir.join(name)).context("there is no reference")?;
    if text != want {
        let (want, text) = (quote(&want), quote(text));
        report.check(name, Err(format!("in the reference\n{want}\nnow\n{text}")));
    } else if text.starts_with(SKIPPED) {
        report.skip(name, "it skips in the reference, too");
    } else {
        report.check(name, Ok::<(), String>(()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_programs_print_is_no_result_of_ours() {
        let quoted = quote("status 1\nok 1 x # SKIP\nnot ok 2 y");
        assert_eq!(quoted, "  | status 1\n  | ok: 1 x # SKIP\n  | not ok: 2 y");
    }

    #[test]
    fn only_the_same_is_a_pass_and_a_skip_is_one_nowhere_else() {
        let dir = std::env::temp_dir().join(format!("upstream.{}", std::process::id()));
        let mut report = Report::new("t");
        for (name, text) in [("a", "status 0\nTesting x\n"), ("b", "status 4\n")] {
            note(&mut report, &dir, name, text).unwrap();
        }
        assert!(compare(&mut report, &dir, "c", "status 0\n").is_err());
        compare(&mut report, &dir, "a", "status 0\nTesting x\n").unwrap();
        compare(&mut report, &dir, "b", "status 4\n").unwrap();
        assert_eq!(report.end(), crate::tap::Outcome::Passed);
        for (name, text) in [
            ("a", "status 0\n"),
            ("a", "status 4\n"),
            ("b", "status 0\n"),
        ] {
            let mut report = Report::new("t");
            compare(&mut report, &dir, name, text).unwrap();
            assert_eq!(report.end(), crate::tap::Outcome::Failed);
        }
        fs::remove_dir_all(dir).unwrap();
    }
}

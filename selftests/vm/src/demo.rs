// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! `make demo`: a memfd survives an update of the kernel under it.

use std::io::{
    BufRead,
    BufReader,
    Write, //
};
use std::process::{
    Command,
    ExitCode,
    Stdio, //
};
use std::time::{
    Duration,
    Instant, //
};

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
use crate::run::SELF;

/// Size of the demo's memfd.
const MIB: &str = "512";

/// A phase of the update: its name, and the console texts it begins and ends with.
const PHASES: [(&str, &str, &str); 9] = [
    ("old kernel boots", "Linux version", "lu-init: stage 1"),
    (
        "image load",
        "lu-init: loading the next kernel",
        "lu-init: the next kernel is loaded",
    ),
    ("fill", "DEMO fill start", "DEMO fill end"),
    ("preserve", "DEMO preserve start", "DEMO preserve end"),
    ("freeze and jump", "lu-init: live update", "Linux version"),
    ("kernel boot", "Linux version", "lu-init: stage 2"),
    ("retrieve", "DEMO retrieve start", "DEMO retrieve end"),
    ("verify", "DEMO verify start", "DEMO verify end"),
    ("finish", "DEMO finish start", "DEMO finish end"),
];

/// One line of the console and when it came.
type Line = (Duration, String);

/// Finds the phases in the console, each after the one before.
fn timeline(lines: &[Line]) -> Vec<(&'static str, Duration, Duration)> {
    let mut from = 0;
    let mut found = Vec::new();
    for (name, begin, end) in PHASES {
        let seek = |start: usize, text: &str| {
            (start..lines.len()).find(|&i| lines.get(i).is_some_and(|l| l.1.contains(text)))
        };
        let Some(first) = seek(from, begin) else {
            continue;
        };
        let Some(last) = seek(first + usize::from(begin != end), end) else {
            continue;
        };
        if let (Some(a), Some(b)) = (lines.get(first), lines.get(last)) {
            found.push((name, a.0, b.0));
        }
        from = last;
    }
    found
}

fn draw(phases: &[(&str, Duration, Duration)]) {
    const WIDTH: f64 = 48.0;
    let total = phases
        .iter()
        .map(|p| p.2)
        .max()
        .unwrap_or_default()
        .as_secs_f64()
        .max(0.001);
    println!("\n  phase             start      took");
    for (name, start, end) in phases {
        let column = |d: &Duration| (d.as_secs_f64() / total * WIDTH) as usize;
        let bar = "#".repeat((column(end) - column(start)).max(1));
        println!(
            "  {name:16} {:6.2} s  {:6.2} s  |{:pad$}{bar}",
            start.as_secs_f64(),
            (*end - *start).as_secs_f64(),
            "",
            pad = column(start)
        );
    }
    println!("  Wall time of an emulated machine: only the proportions mean something; `make bench` measures.");
}

/// Builds what is missing, updates a VM's kernel under a memfd and shows the proof.
///
/// # Errors
///
/// If something cannot be built or the runner cannot be started.
pub fn main(arch: Arch) -> Result<ExitCode> {
    let (old, new) = (
        Build::new(arch, Variant::Plain),
        Build::new(arch, Variant::Other),
    );
    build::all(&[old, new])?;
    let bin = top().join("build").join(arch.name()).join("bin/lu_demo");
    println!("A virtual machine boots {}, fills a memfd of {MIB} MiB, live-updates into {} and checks every byte.", old.name(), new.name());
    let mut run = Command::new(SELF)
        .args([
            "run",
            "--arch",
            arch.name(),
            "--mem",
            "3G",
            "--timeout",
            "300",
        ])
        .arg("--file")
        .arg(format!("{}:/bin/lu_demo", bin.display()))
        .args(["--stage", &format!("lu_demo --mib {MIB} fill")])
        .arg("--stage-kernel")
        .arg(new.image())
        .args(["--stage", &format!("lu_demo --mib {MIB} verify")])
        .stdout(Stdio::piped())
        .spawn()?;
    let start = Instant::now();
    let log = top().join("build/demo.log");
    let mut file = std::fs::File::create(&log)?;
    let mut lines: Vec<Line> = Vec::new();
    for line in BufReader::new(run.stdout.take().context("the runner has a pipe")?).split(b'\n') {
        let line = String::from_utf8_lossy(&line?).trim_end().to_string();
        writeln!(file, "{line}")?;
        if let Some(step) = line.strip_prefix("DEMO ").filter(|s| s.ends_with(" start")) {
            println!(
                "  {:6.2} s  {}",
                start.elapsed().as_secs_f64(),
                step.trim_end_matches(" start")
            );
        }
        lines.push((start.elapsed(), line));
    }
    let status = run.wait()?;
    draw(&timeline(&lines));
    println!("\n  proof");
    let proofs: Vec<&str> = lines
        .iter()
        .filter_map(|l| l.1.split_once("DEMO proof ").map(|(_, r)| r))
        .collect();
    for proof in &proofs {
        let mut parts = proof.split('|');
        let mut part = || parts.next().unwrap_or("");
        let (verdict, what, old, new) = (part(), part(), part(), part());
        println!("  {verdict:4} {what:32} {old} -> {new}");
    }
    let good =
        status.success() && !proofs.is_empty() && proofs.iter().all(|p| p.starts_with("ok|"));
    println!(
        "\n{}",
        if good {
            "The memfd survived the update of the kernel."
        } else {
            "The demo FAILED."
        }
    );
    println!("The whole console is in {}.", log.display());
    Ok(if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_follow_each_other() {
        let console = [
            "Linux version 1",
            "lu-init: stage 1",
            "DEMO fill start",
            "DEMO fill end",
            "lu-init: live update",
            "Linux version 2",
            "lu-init: stage 2",
        ];
        let lines: Vec<Line> = console
            .iter()
            .enumerate()
            .map(|(i, l)| (Duration::from_secs(i as u64), l.to_string()))
            .collect();
        let found = timeline(&lines);
        let boot = found.iter().find(|p| p.0 == "kernel boot").unwrap();
        assert_eq!((boot.1.as_secs(), boot.2.as_secs()), (5, 6));
    }
}

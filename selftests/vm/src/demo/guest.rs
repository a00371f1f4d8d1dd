// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A guest counts, the kernel of its host is replaced under it, and it counts on.

use std::process::{
    Command,
    ExitCode, //
};

use anyhow::Result;

use super::{
    end,
    moments::Moments,
    show,
    value,
    watch,
    Proofs,
    HOST, //
};
use crate::arch::{
    Arch,
    Build, //
};
use crate::run::SELF;

const HOLD: &str = "(luoctl hold &); until luoctl session list >/dev/null 2>&1; do sleep 0.2; done";
const HUGE_BEFORE: &str = "luoctl session create huge -- lu_memfd vmm preserve --huge 256M";
const HUGE_AFTER: &str =
    "luoctl session retrieve huge -- lu_memfd vmm retrieve --huge 256M && luoctl session finish huge";
const BEFORE: &str = "(vmm run --mib 128 --cpus 2 --kernel /lu/stage/1/kernel &); \
    vmm wait --beats 20 --seconds 250 && vmm suspend --check";
const AFTER: &str = "(vmm resume &); vmm wait --beats 20 && vmm stop";

/// What the console told so far.
#[derive(Debug, Default)]
struct Seen {
    /// Kernel release and boot id of the host in each stage.
    hosts: Vec<(String, String)>,
    /// Each heartbeat with the guest's uptime.
    beats: Vec<(u64, String)>,
    /// The longest gap that the guest noticed.
    gap: Option<f64>,
    moments: Moments,
    blackout: Option<f64>,
    follows: Option<(u64, u64)>,
    same_memory: bool,
    bad: bool,
    /// What each kernel says of the memory in huge pages, and of their pool.
    huge: Vec<String>,
}

fn millis(text: &str) -> Option<f64> {
    text.strip_suffix("ms")?.trim().parse().ok()
}

/// Content and pool of memory in huge pages, for a person.
fn huge(report: &str) -> Option<String> {
    let mib = |key| -> Option<u64> { Some(value(report, key)?.parse::<u64>().ok()? >> 20) };
    let (size, page) = (mib("bytes")?, mib("page")?);
    let (hash, nr, free) = (
        value(report, "hash")?,
        value(report, "nr")?,
        value(report, "free")?,
    );
    Some(format!(
        "{size} MiB in huge pages of {page} MiB, hash {hash}, pool of {nr} with {free} free"
    ))
}

impl Seen {
    /// Takes in a line of the console. Returns what a person should see of it.
    fn line(&mut self, line: &str) -> Option<String> {
        self.moments.line(line);
        if let Some(host) = line.strip_prefix("DEMO host ") {
            let (release, boot) = host.split_once(' ')?;
            self.hosts.push((release.into(), boot.into()));
            return Some(format!("host    runs {release}"));
        }
        if let Some(report) = line.strip_prefix("HUGE ") {
            self.huge.push(report.to_owned());
            return Some(format!("memory  {}", huge(report)?));
        }
        if let Some(report) = line.strip_prefix("vm| MON ") {
            self.bad |= report.contains("BAD");
            let beat = value(report, "beat")?.parse().ok()?;
            let up = value(report, "up")?.to_string();
            self.gap = value(report, "gap").and_then(millis).or(self.gap);
            let shown = format!("guest   counts {beat:4}, up for {up}");
            self.beats.push((beat, up));
            return Some(shown);
        }
        if line.starts_with("lu-init: live update") {
            return Some(
                "======  the host's kernel is replaced, the guest's memory stays  ======".into(),
            );
        }
        let told = line.strip_prefix("VMM vm: ")?;
        if let Some(took) = told.strip_prefix("blackout: ") {
            self.blackout = millis(took);
        } else if told.starts_with("memory has the same checksum") {
            self.same_memory = true;
        } else if let Some((first, saved)) = told
            .strip_prefix("heartbeat ")
            .and_then(|t| t.split_once(" follows "))
        {
            self.follows = Some((first.parse().ok()?, saved.parse().ok()?));
        }
        None
    }

    fn proofs(&self) -> Proofs {
        let (old, new) = match self.hosts.as_slice() {
            [old, new] => (old.clone(), new.clone()),
            _ => Default::default(),
        };
        let (first, saved) = self.follows.unwrap_or_default();
        let consecutive = self.beats.windows(2).all(|pair| match pair {
            [a, b] => b.0 == a.0 + 1,
            _ => false,
        });
        let (gap, blackout) = (self.gap.unwrap_or(0.0), self.blackout.unwrap_or(0.0));
        vec![
            (
                old.1 != new.1 && !new.1.is_empty(),
                format!("the host booted anew: {} -> {}", old.1, new.1),
            ),
            (
                old.0 != new.0,
                format!("its kernel is another one: {} -> {}", old.0, new.0),
            ),
            (
                saved > 0 && first == saved + 1,
                format!("the guest counted {saved} before and {first} next"),
            ),
            (
                consecutive && self.beats.len() >= 40,
                format!("no count is missing of {}", self.beats.len()),
            ),
            (
                self.same_memory,
                "its memory has the same checksum, in the same physical pages".into(),
            ),
            (
                matches!(self.huge.as_slice(), [old, new] if old == new && huge(new).is_some()),
                format!(
                    "another file came back the same: {}",
                    self.huge
                        .last()
                        .and_then(|last| huge(last))
                        .unwrap_or_default()
                ),
            ),
            (
                !self.bad && !self.beats.is_empty(),
                "inside, clocks, memory, a process, a pipe and a timer went on".into(),
            ),
            (
                self.moments.phases().is_some(),
                "each phase of the blackout was measured".into(),
            ),
            (
                gap > 0.0 && blackout > 0.0 && gap < blackout + 1000.0,
                format!(
                    "the blackout: {:.2} s seen from outside, {:.2} s from inside",
                    blackout / 1000.0,
                    gap / 1000.0
                ),
            ),
        ]
    }
}

/// The whole thing at a glance: what counted on, over what.
fn picture(seen: &Seen) {
    const SHOWN: usize = 4;
    let (Some((_, saved)), [old, new]) = (seen.follows, seen.hosts.as_slice()) else {
        return;
    };
    let counts = |numbers: &[&(u64, String)]| {
        let numbers: Vec<_> = numbers.iter().map(|beat| beat.0.to_string()).collect();
        numbers.join(" ")
    };
    let (before, after): (Vec<_>, Vec<_>) = seen.beats.iter().partition(|beat| beat.0 <= saved);
    let before = counts(
        before
            .get(before.len().saturating_sub(SHOWN)..)
            .unwrap_or_default(),
    );
    let after = counts(after.get(..after.len().min(SHOWN)).unwrap_or_default());
    let width = before.len().max(old.0.len()) + 4;
    let pause = seen.blackout.unwrap_or(0.0) / 1000.0;
    println!(
        "\n  guest   {:>width$} | {after} ...",
        format!("... {before}")
    );
    println!("  kernel  {:>width$} | {}", old.0, new.0);
    println!(
        "          {:>width$} ^ {pause:.1} s, in which the guest stood still",
        ""
    );
}

fn draw(phases: &[(&str, f64)]) {
    const WIDTH: f64 = 48.0;
    let total: f64 = phases.iter().map(|phase| phase.1).sum::<f64>().max(0.001);
    let mut start = 0.0;
    println!("\n  phase of the blackout      took");
    for (name, took) in phases {
        let column = |at: f64| (at / total * WIDTH) as usize;
        let bar = "#".repeat((column(start + took) - column(start)).max(1));
        println!(
            "  {name:20} {took:8.1} ms  |{:pad$}{bar}",
            "",
            pad = column(start)
        );
        start += took;
    }
    println!("  Wall time of an emulated machine: only the proportions mean something; `make bench` measures.");
}

/// Updates a host's kernel under a guest and shows the proof.
pub(super) fn main(arch: Arch, new: Build) -> Result<ExitCode> {
    println!("A host (a virtual machine itself) runs a Linux guest with two CPUs, and is live-updated under it.");
    let mut run = Command::new(SELF);
    run.args(["run", "--arch", arch.name(), "--timeout", "300"])
        .args([
            "--stage",
            &format!("{HOST}; {HOLD}; {HUGE_BEFORE} && {BEFORE}"),
        ])
        .arg("--stage-kernel")
        .arg(new.image())
        .args([
            "--stage",
            &format!("{HOST}; {AFTER} && {HOLD} && {HUGE_AFTER}"),
        ]);
    let mut seen = Seen::default();
    let well = watch(&mut run, |line, _| seen.line(line))?;
    draw(&seen.moments.phases().unwrap_or_default());
    let good = show(&seen.proofs()) && well;
    picture(&seen);
    Ok(end(
        good,
        "The guest lived through the update of its host's kernel.",
        "The demo FAILED.",
    ))
}

#[cfg(test)]
mod tests {
    use super::super::moments::tests::CONSOLE;
    use super::*;

    fn console() -> Vec<String> {
        let mut lines = vec!["DEMO host 7.3 aaa".to_string()];
        let beat = |n: u64| format!("vm| MON beat={n} up=1.5s gap=900.0ms cpus=2");
        lines.extend((1..=20).map(beat));
        let huge = "HUGE bytes=268435456 page=2097152 hash=0f nr=128 free=0 resv=0 surplus=0";
        lines.push(huge.into());
        lines.extend(CONSOLE.iter().take(3).map(ToString::to_string));
        lines.push("DEMO host 7.3-next bbb".into());
        lines.push("VMM vm: memory has the same checksum and is in the same physical pages".into());
        lines.push("VMM vm: heartbeat 21 follows 20".into());
        lines.extend(CONSOLE.iter().skip(3).map(ToString::to_string));
        lines.push("VMM vm: blackout: 950.0 ms".into());
        lines.extend((21..=41).map(beat));
        lines.push(huge.into());
        lines
    }

    fn all_good(lines: &[String]) -> bool {
        let mut seen = Seen::default();
        for line in lines {
            seen.line(line);
        }
        seen.proofs().iter().all(|proof| proof.0)
    }

    #[test]
    fn every_proof_can_fail() {
        let good = console();
        assert!(all_good(&good));
        let needed = |line: &String| !line.contains("beat=1 ") && !line.contains("beat=41 ");
        for missing in (0..good.len()).filter(|n| needed(&good[*n])) {
            let mut lines = good.clone();
            let line = lines.remove(missing);
            assert!(!all_good(&lines), "without {line}");
        }
        for other in ["hash=00 nr=128", "hash=0f nr=127"] {
            let mut lines = good.clone();
            let last = lines.pop().unwrap().replace("hash=0f nr=128", other);
            lines.push(last);
            assert!(!all_good(&lines), "with {other}");
        }
        let mut bad = good.clone();
        bad.push("vm| MON beat=42 up=2s gap=900.0ms cpus=2 BAD the clock went back".into());
        assert!(!all_good(&bad));
    }
}

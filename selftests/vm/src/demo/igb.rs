// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! `make demo DEVICE=igb`: a network card receives while the kernel of its host is replaced.
//!
//! It is a declared test that is watched: from inside by the test's program, which tells how many frames it
//! finds when it looks, and from outside through QEMU, which does not need a kernel.

use std::process::ExitCode;

use anyhow::{
    Context,
    Result, //
};

use super::{
    end,
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
use crate::check;

/// The test, and the one in which the card is not preserved: behind an IOMMU, and without one.
const TRANSLATED: [&str; 2] = ["iommu.rx", "iommu.stopped"];
const DIRECT: [&str; 2] = ["vfio.receive", "vfio.stopped"];

/// What the first of them says of the IOMMU, when the card has been found and when it is in use again.
const TRANSLATION: [&str; 4] = [
    ".boot.stays-on",
    ".boot.no-faults",
    ".replaced.stays-on",
    ".replaced.no-faults",
];

/// How many frames the program waits for, in each kernel.
const FRAMES: u64 = 100;

/// Seconds from one line to the next, about.
const SHOWN: f64 = 0.9;

/// Who could look after the card.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum Phase {
    #[default]
    Starts,
    Old,
    /// From the old program's last look on.
    Left,
    /// From the jump on.
    Jump,
    Boot,
    /// The new kernel runs, and nobody has looked at the card.
    Up,
    /// The new program has looked.
    New,
}

impl Phase {
    fn name(self) -> &'static str {
        match self {
            Self::Starts | Self::Old => "the old kernel runs",
            Self::Left => "the old kernel ends",
            Self::Jump => "no kernel runs",
            Self::Boot => "the new kernel boots",
            Self::Up => "the new kernel runs, nobody has the card",
            Self::New => "the new kernel runs, the program is back",
        }
    }

    /// Nobody could have told the card anything.
    fn is_blackout(self) -> bool {
        matches!(self, Self::Jump | Self::Boot | Self::Up)
    }
}

/// What was told so far.
#[derive(Debug, Default)]
struct Seen {
    /// Kernel release and boot id of the host in each stage.
    hosts: Vec<(String, String)>,
    phase: Phase,
    /// When the first frames were seen, the old program looked last, the new one first, and was done.
    began: Option<f64>,
    left: f64,
    back: f64,
    done: f64,
    /// Frames in memory at these times.
    before: Option<u64>,
    meanwhile: Option<u64>,
    here: Option<u64>,
    /// How many were sent in all.
    sent: Option<u64>,
    /// What was seen from outside at last: frames that were sent, and that are in memory.
    outside: (u64, u64),
    /// When a person last saw that.
    shown: Option<f64>,
    /// The same in memory, at each look during the blackout.
    dark: Vec<u64>,
    /// As many came meanwhile as were due; every frame was whole and in order; nothing was written that could
    /// have stopped the card.
    enough: bool,
    whole: bool,
    untouched: bool,
    /// How much of [`TRANSLATION`] was said, where there is an IOMMU.
    translation: Option<usize>,
}

impl Seen {
    /// Takes in a line of the console. Returns what a person should see of it.
    fn line(&mut self, line: &str, passed: f64) -> Option<String> {
        let number = |key| value(line, key).and_then(|word| word.parse::<u64>().ok());
        if let Some(host) = line.strip_prefix("DEMO host ") {
            let (release, boot) = host.split_once(' ')?;
            self.phase = match self.hosts.len() {
                0 => Phase::Old,
                _ => Phase::Up,
            };
            self.hosts.push((release.into(), boot.into()));
            return Some(format!("host    runs {release}"));
        }
        if line.starts_with("FRAMES ") {
            self.outside = (number("sent")?, number("here")?);
            let here = self.outside.1;
            self.began.get_or_insert(passed);
            if self.phase.is_blackout() {
                self.dark.push(here);
            }
            if self.shown.is_some_and(|shown| passed < shown + SHOWN) {
                return None;
            }
            self.shown = Some(passed);
            return Some(format!("card    {here:4} frames   {}", self.phase.name()));
        }
        if line.starts_with("# frames: ") {
            if let Some(meanwhile) = number("meanwhile") {
                (self.meanwhile, self.back) = (Some(meanwhile), passed);
                self.phase = Phase::New;
            } else if let Some(before) = number("before") {
                (self.before, self.left) = (Some(before), passed);
                self.phase = Phase::Left;
            } else {
                (self.sent, self.here, self.done) = (number("sent"), number("here"), passed);
            }
            return None;
        }
        if line.starts_with("lu-init: live update") {
            self.phase = Phase::Jump;
            return Some(
                "======  the host's kernel is replaced, nobody looks after the card  ======".into(),
            );
        }
        if self.phase == Phase::Jump && line.contains("] Linux version ") {
            self.phase = Phase::Boot;
        }
        if line.starts_with("ok ") {
            self.enough |= line.ends_with(".meanwhile");
            self.whole |= line.ends_with(".all");
            self.untouched |= line.ends_with(".igb.trace");
            if let Some(said) = &mut self.translation {
                *said += TRANSLATION
                    .iter()
                    .filter(|end| line.ends_with(*end))
                    .count();
            }
        }
        None
    }

    /// How many were sent, and how many of them are not in memory.
    fn lost(&self) -> (u64, u64) {
        let (sent, here) = self.sent.zip(self.here).unwrap_or(self.outside);
        (sent, sent.saturating_sub(here))
    }

    fn proofs(&self) -> Proofs {
        let (old, new) = match self.hosts.as_slice() {
            [old, new] => (old.clone(), new.clone()),
            _ => Default::default(),
        };
        let (before, meanwhile) = (
            self.before.unwrap_or(0),
            self.meanwhile.or(self.before).unwrap_or(0),
        );
        let grown = self.dark.windows(2).filter(|pair| match pair {
            [before, after] => after > before,
            _ => false,
        });
        let (grown, looks) = (grown.count(), self.dark.len().saturating_sub(1));
        let (sent, lost) = self.lost();
        let mut proofs = vec![
            (
                old.1 != new.1 && !new.1.is_empty(),
                format!("the host booted anew: {} -> {}", old.1, new.1),
            ),
            (
                old.0 != new.0,
                format!("its kernel is another one: {} -> {}", old.0, new.0),
            ),
            (
                self.enough,
                format!(
                    "{} frames came between the old kernel's last look and the new one's first",
                    meanwhile.saturating_sub(before)
                ),
            ),
            (
                grown * 2 > looks,
                format!("in {grown} of {looks} looks from outside meanwhile, there were more of them in memory"),
            ),
            (
                self.untouched,
                "nothing was written that could have stopped, reset or moved the card".into(),
            ),
            (
                self.whole,
                "in preserved memory, every byte of every frame is right, and all are in order"
                    .into(),
            ),
            (
                self.sent.is_some() && lost == 0,
                format!("of {sent} frames that were sent, {lost} are lost"),
            ),
        ];
        proofs.extend(self.translation.map(|said| {
            (
                said == TRANSLATION.len(),
                "the IOMMU translated for the card all the time, and refused nothing".into(),
            )
        }));
        proofs
    }

    /// The whole thing at a glance.
    fn picture(&self) {
        let ((sent, lost), (Some(before), [old, new])) =
            (self.lost(), (self.before, self.hosts.as_slice()))
        else {
            return;
        };
        let here = self.here.unwrap_or(self.outside.1);
        let meanwhile = self.meanwhile.unwrap_or(here);
        let row = |name: &str, cells: [String; 3]| {
            let [before, blackout, after] = cells;
            println!("  {name:10} {before:>22} | {blackout:^22} | {after}");
        };
        let text = |count: u64| format!("{count} frames");
        let seconds = |from: f64, to: f64| format!("{:.1} s", (to - from).max(0.0));
        println!();
        row("", ["before".into(), "blackout".into(), "after".into()]);
        row("kernel", [old.0.clone(), "replaced".into(), new.0.clone()]);
        row(
            "received",
            [
                text(before),
                text(meanwhile.saturating_sub(before)),
                text(here.saturating_sub(meanwhile)),
            ],
        );
        row(
            "took",
            [
                seconds(self.began.unwrap_or(self.left), self.left),
                seconds(self.left, self.back),
                seconds(self.back, self.done),
            ],
        );
        println!("\n  sent {sent}, received {here}, lost: {lost}");
    }
}

/// Runs the test and shows it.
///
/// # Errors
///
/// If the test is not what this counts on, or the runner cannot be started.
pub(super) fn main(old: Build, sabotage: bool) -> Result<ExitCode> {
    println!("A host (a virtual machine itself) has a network card that receives frames into preserved memory, and");
    println!("is live-updated. How many frames are in its memory is seen from outside, whatever runs there.");
    // Only VT-d can be handed over.
    let has_iommu = old.arch == Arch::X86_64;
    if has_iommu {
        println!("An IOMMU translates what the card asks for.");
    }
    let [good, bad] = if has_iommu { TRANSLATED } else { DIRECT };
    let mut test = check::declared(if sabotage { bad } else { good })?;
    let host = test.args.iter().position(|arg| arg == "--host");
    let host = host.and_then(|at| test.args.get_mut(at + 1));
    host.context("the test has no sender")?.push_str(" --watch");
    for stage in &mut test.stages {
        stage.cmd = format!("{HOST}; {} --frames {FRAMES}", stage.cmd);
    }
    let last = test.stages.last_mut().context("the test has no stages")?;
    last.kernel = Some("other".into());
    let mut run = check::command(&test, old)?;

    let mut seen = Seen {
        translation: has_iommu.then_some(0),
        ..Seen::default()
    };
    let well = watch(&mut run, |line, passed| seen.line(line, passed))?;
    let good = show(&seen.proofs()) && well;
    seen.picture();
    Ok(end(
        good,
        "The card received through the update of its host's kernel.",
        "The demo FAILED.",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONSOLE: [&str; 16] = [
        "DEMO host 7.3 aaa",
        "FRAMES sent=20 here=20",
        "# frames: before=30",
        "FRAMES sent=31 here=31",
        "lu-init: live update up=1 ticks=150000 hz=0",
        "FRAMES sent=50 here=49",
        "[    0.000000] Linux version 7.3",
        "FRAMES sent=60 here=59",
        "DEMO host 7.3-next bbb",
        "FRAMES sent=65 here=65",
        "# frames: before=30 meanwhile=70",
        "ok 1 memfd.vfio.receive.meanwhile",
        "ok 9 memfd.vfio.receive.igb.trace",
        "FRAMES sent=80 here=80",
        "# frames: sent=90 here=90",
        "ok 12 memfd.vfio.receive.all",
    ];

    fn seen(lines: &[&str]) -> Seen {
        let mut seen = Seen::default();
        for (at, line) in lines.iter().enumerate() {
            seen.line(line, at as f64);
        }
        seen
    }

    fn all_good(lines: &[&str]) -> bool {
        seen(lines).proofs().iter().all(|proof| proof.0)
    }

    #[test]
    fn every_proof_can_fail() {
        assert!(all_good(&CONSOLE));
        for (at, bad) in [
            (8, "DEMO host 7.3-next aaa"),
            (8, "DEMO host 7.3 bbb"),
            (9, "FRAMES sent=65 here=59"),
            (11, "not ok 1 memfd.vfio.receive.meanwhile"),
            (12, "not ok 9 memfd.vfio.receive.igb.trace"),
            (14, "# frames: sent=90 here=89"),
            (14, ""),
            (15, "not ok 12 memfd.vfio.receive.all"),
        ] {
            let mut lines = CONSOLE;
            lines[at] = bad;
            assert!(!all_good(&lines), "with {bad}");
        }
    }

    #[test]
    fn a_moment_without_translation_is_noticed() {
        let mut seen = seen(&CONSOLE);
        seen.translation = Some(0);
        let good = |seen: &Seen| seen.proofs().iter().all(|proof| proof.0);
        for end in &TRANSLATION[1..] {
            seen.line(&format!("ok 3 memfd.iommu.rx{end}"), 1.0);
        }
        seen.line(&format!("not ok 2 memfd.iommu.rx{}", TRANSLATION[0]), 1.0);
        assert!(!good(&seen));
        seen.line(&format!("ok 2 memfd.iommu.rx{}", TRANSLATION[0]), 1.0);
        assert!(good(&seen));
    }

    #[test]
    fn what_is_lost_is_known_without_the_programs_word() {
        let stopped = seen(&[CONSOLE[0], CONSOLE[2], "FRAMES sent=80 here=33"]);
        assert_eq!(stopped.lost(), (80, 47));
        assert_eq!(seen(&CONSOLE).lost(), (90, 0));
        assert_eq!(seen(&CONSOLE).dark, [49, 59, 65]);
    }
}

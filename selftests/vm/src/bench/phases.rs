// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The parts of a blackout, out of what init and the kernels tell.
//!
//! Init tells the CPU's counter when it asks for the jump and when it starts in the next kernel, and before
//! the jump in a message of the kernel, which has the kernel's own time in front of it. By that the times
//! of the kernel's other messages are known, too, and when its clock began to run. x86 corrects its clock
//! once, and tells by how much.

use crate::run::{
    Mark,
    Outcome, //
};

/// From the request for a jump to the first program of the next kernel, in nanoseconds of the emulated
/// machine: one for each instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Boot {
    /// Until the old kernel is ready to jump.
    pub(super) freeze: i64,
    /// From there until the clock of the next kernel runs. [`None`] if it did not tell.
    pub(super) jump: Option<i64>,
    /// From the same until its first program.
    pub(super) boot: i64,
}

/// When what happened to one kernel.
#[derive(Clone, Copy, Debug, Default)]
struct Times {
    /// When its first program started.
    started: Option<i64>,
    /// When it was asked to jump, and when it did.
    asked: Option<i64>,
    jumped: Option<i64>,
    /// When its clock would have begun, by the times in front of its messages.
    clock: Option<i64>,
    /// How much of that is a correction.
    corrected: i64,
}

/// A value of the counter in nanoseconds. With `-icount shift=0` it counts them on x86_64, which does not
/// tell a frequency.
fn nanos(ticks: u64, hz: u64) -> i64 {
    let nanos = match hz {
        0 => u128::from(ticks),
        hz => u128::from(ticks) * 1_000_000_000 / u128::from(hz),
    };
    i64::try_from(nanos).unwrap_or(i64::MAX)
}

/// The time in front of a kernel's message, and the message.
fn message(line: &str) -> Option<(i64, &str)> {
    let (time, text) = line.strip_prefix('[')?.split_once("] ")?;
    let (seconds, micros) = time.trim().split_once('.')?;
    let micros = (micros.len() == 6).then(|| micros.parse::<i64>().ok())??;
    Some((
        (seconds.parse::<i64>().ok()? * 1_000_000 + micros) * 1000,
        text,
    ))
}

/// How much a kernel has added to its clock: the last of the numbers of
/// `sched_clock: Marking stable (TIME, OFFSET)->(TIME, OFFSET)`.
fn correction(text: &str) -> Option<i64> {
    let (_, told) = text.split_once("sched_clock: Marking stable (")?;
    let (_, last) = told.trim_end().strip_suffix(')')?.rsplit_once(", ")?;
    last.parse().ok()
}

/// All kernels of a run, in their order.
fn kernels<'a>(marks: &[Mark], lines: impl Iterator<Item = &'a str>) -> Vec<Times> {
    let mut kernels: Vec<Times> = Vec::new();
    let mut hz = 0;
    for mark in marks {
        let record = &mark.record;
        let time = nanos(record.ticks, record.hz);
        match (record.ev.as_str(), kernels.last_mut()) {
            ("boot", _) => kernels.push(Times {
                started: Some(time),
                ..Times::default()
            }),
            ("live-update", Some(kernel)) => kernel.asked = Some(time),
            _ => {}
        }
        hz = hz.max(record.hz);
    }
    let mut number = 0;
    for (time, text) in lines.filter_map(message) {
        let Some(kernel) = kernels.get_mut(number) else {
            break;
        };
        if let Some(ticks) = text.strip_prefix("lu-init: ticks=") {
            kernel.clock = ticks
                .trim()
                .parse()
                .ok()
                .map(|ticks| nanos(ticks, hz) - time);
        } else if let Some(correction) = correction(text) {
            kernel.corrected = correction;
        } else if text.ends_with("Starting new kernel") {
            kernel.jumped = kernel.clock.map(|clock| clock + time);
            number += 1;
        }
    }
    kernels
}

fn boot(old: &Times, new: &Times) -> Option<Boot> {
    let jumped = old.jumped?;
    Some(Boot {
        freeze: jumped - old.asked?,
        jump: new.clock.map(|clock| clock + new.corrected - jumped),
        boot: new.started? - jumped,
    })
}

/// The boots into the second kernel, the third, and so on. [`None`] for one of which something is missing.
pub(super) fn boots(outcome: &Outcome) -> Vec<Option<Boot>> {
    let lines = outcome.console.iter().map(|line| line.text.as_str());
    kernels(&outcome.marks, lines)
        .windows(2)
        .map(|pair| match pair {
            [old, new] => boot(old, new),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::Record;

    fn mark(ev: &str, ticks: u64) -> Mark {
        let record = Record {
            ev: ev.into(),
            ticks,
            ..Record::default()
        };
        Mark {
            in_stage: 1,
            host_us: 0,
            record,
        }
    }

    #[test]
    fn the_parts_of_a_boot() {
        let marks = [
            mark("boot", 1_000_000),
            mark("live-update", 9_000_000),
            mark("boot", 20_000_000),
            mark("live-update", 29_000_000),
            mark("boot", 40_000_000),
        ];
        // The clocks start at 500 us, at 12 ms, and nobody knows.
        let lines = [
            "[    0.008400] lu-init: ticks=8900000",
            "[    0.008900] kexec_core: Starting new kernel",
            "[    0.000000] Linux version 7.3",
            "[    0.001000] sched_clock: Marking stable (9, -3)->(2, 700000)",
            "[    0.017600] lu-init: ticks=28900000",
            "[    0.017900] kexec_core: Starting new kernel",
        ];
        let kernels = kernels(&marks, lines.into_iter());
        let first = boot(&kernels[0], &kernels[1]).unwrap();
        assert_eq!((first.freeze, first.boot), (400_000, 10_600_000));
        assert_eq!(first.jump, Some(2_600_000));
        let second = boot(&kernels[1], &kernels[2]).unwrap();
        assert_eq!((second.jump, second.boot), (None, 10_800_000));
    }

    #[test]
    fn what_was_not_told_is_not_known() {
        let marks = [mark("boot", 1), mark("live-update", 2), mark("boot", 3)];
        let kernels = kernels(&marks, ["[    0.1] no time"].into_iter());
        assert_eq!(boot(&kernels[0], &kernels[1]), None);
    }

    #[test]
    fn counters_have_frequencies() {
        assert_eq!(nanos(5, 0), 5);
        assert_eq!(nanos(62_500_000, 62_500_000), 1_000_000_000);
        assert_eq!(message("[   12.000034] a b"), Some((12_000_034_000, "a b")));
        assert_eq!(message("BENCH x 1"), None);
    }
}

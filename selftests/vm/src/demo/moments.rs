// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The phases of a blackout, out of what VMM, init and kernel tell on the console.
//!
//! The VMM tells its points in time as values of the CPU's counter, which goes on over a kexec. Init tells
//! the counter when it asks for the jump, and in a message of the kernel, which has the kernel's own time in
//! front of it. By that one the time of the kernel's last message is one of the counter, too.

/// What the points of the VMM are the beginnings of. From its fourth to its fifth it can note nothing.
const PHASES: [&str; 9] = [
    "stop vCPUs",
    "save",
    "check (old)",
    "to the reboot",
    "boot",
    "retrieve",
    "check (new)",
    "restore",
    "first instruction",
];
/// The point of those from which on it can not.
const BLIND: usize = 3;

/// The points in time that were told so far.
#[derive(Debug, Default)]
pub(super) struct Moments {
    /// Ticks in a second.
    hz: f64,
    points: Vec<f64>,
    /// A time of the old kernel in seconds, and the counter then.
    clock: Option<(f64, f64)>,
    /// The counter when the jump was asked for.
    asked: Option<f64>,
    /// The old kernel's time when it began to jump.
    jumped: Option<f64>,
}

impl Moments {
    /// Takes in a line of the console.
    pub(super) fn line(&mut self, line: &str) {
        let number = |text: &str| -> Option<f64> {
            text.split_whitespace()
                .next()?
                .parse()
                .ok()
                .filter(|number: &f64| number.is_finite())
        };
        if let Some((_, told)) = line.split_once("lu-init: live update ") {
            self.asked = told
                .split_once("ticks=")
                .and_then(|(_, ticks)| number(ticks));
        } else if let Some((time, message)) = line
            .strip_prefix('[')
            .and_then(|line| line.split_once("] "))
        {
            let time = number(time);
            if let Some(ticks) = message.strip_prefix("lu-init: ticks=") {
                self.clock = time.zip(number(ticks));
            } else if message.ends_with("Starting new kernel") {
                self.jumped = time;
            }
        } else if let Some((_, points)) = line.split_once(": points: hz=") {
            let mut numbers = points.split_whitespace().filter_map(number);
            self.hz = numbers.next().unwrap_or(0.0);
            self.points = numbers.collect();
        }
    }

    /// Each phase and how many milliseconds it took; nothing, if not all of them are known.
    pub(super) fn phases(&self) -> Option<Vec<(&'static str, f64)>> {
        let (time, ticks) = self.clock?;
        let freeze = self.asked?;
        let jump = ticks + (self.jumped? - time) * self.hz;
        let (before, after) = self.points.split_at_checked(BLIND + 1)?;
        if after.len() != PHASES.len() - BLIND {
            return None;
        }
        let (told, untold) = PHASES.split_at_checked(BLIND + 1)?;
        let begins = before.iter().chain([&freeze, &jump]).chain(after);
        let names = told.iter().chain(&["freeze", "jump"]).chain(untold);
        let begins: Vec<f64> = begins.copied().collect();
        let phases: Vec<_> = names
            .zip(begins.windows(2))
            .filter_map(|(name, pair)| match pair {
                [from, to] => Some((*name, (to - from) / self.hz * 1000.0)),
                _ => None,
            })
            .collect();
        let whole = self.hz > 0.0 && phases.len() == PHASES.len() + 2;
        (whole && phases.iter().all(|phase| phase.1 >= 0.0)).then_some(phases)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Points in milliseconds, and a kernel whose clock is 40 ms behind the counter.
    pub(in super::super) const CONSOLE: [&str; 4] = [
        "[    0.090000] lu-init: ticks=130000",
        "lu-init: live update up=1 ticks=150000 hz=0",
        "[    0.130000] kexec_core: Starting new kernel",
        "VMM vm: points: hz=1000000 100000 110000 120000 125000 300000 400000 410000 420000 450000 455000",
    ];

    #[test]
    fn the_kernel_tells_what_the_vmm_cannot() {
        let mut moments = Moments::default();
        for line in CONSOLE {
            assert_eq!(moments.phases(), None);
            moments.line(line);
        }
        let phases = moments.phases().unwrap();
        let took: Vec<u64> = phases.iter().map(|phase| phase.1.round() as u64).collect();
        assert_eq!(took, [10, 10, 5, 25, 20, 130, 100, 10, 10, 30, 5]);
        assert_eq!(phases[4].0, "freeze");
        assert_eq!(phases[5].0, "jump");
        assert_eq!(phases[6].0, "boot");
    }

    #[test]
    fn time_does_not_go_back() {
        let mut moments = Moments::default();
        CONSOLE.iter().for_each(|line| moments.line(line));
        moments.line("[    0.050000] kexec_core: Starting new kernel");
        assert_eq!(moments.phases(), None);
    }
}

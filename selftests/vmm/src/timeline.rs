// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! When the phases of an update began, in ticks of the host's counter.
//!
//! The counter (TSC or the generic timer's) runs on over a kexec, which no clock of the kernel does.
//! If it was set back nevertheless, nothing is said about the phases that cross the update.

use std::time::Duration;

use crate::arch;

/// The points in time, each the beginning of the phase of that name.
/// In the old kernel, the session is filled and the kernel jumps in the phase "freeze and jump": the
/// VMM cannot note anything later than its state.
pub(crate) const POINTS: [&str; 9] = [
    "stop vCPUs",
    "save",
    "check (old)",
    "freeze and jump",
    "boot",
    "retrieve",
    "check (new)",
    "restore",
    "first instruction",
];

/// How many of them are taken in the old kernel.
pub(crate) const OLD: usize = 4;

/// The points taken so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Timeline(Vec<u64>);

impl Timeline {
    /// Continues the timeline of the old kernel's VMM.
    pub(crate) fn continued(old: Vec<u64>) -> Self {
        Self(old)
    }

    /// Notes the beginning of the next phase.
    pub(crate) fn mark(&mut self) {
        self.mark_at(arch::counter());
    }

    pub(crate) fn mark_at(&mut self, tick: u64) {
        self.0.push(tick);
    }

    pub(crate) fn ticks(&self) -> &[u64] {
        &self.0
    }

    /// Each phase and how long it took.
    pub(crate) fn phases(&self, hz: u64) -> Vec<(&'static str, Option<Duration>)> {
        POINTS
            .iter()
            .zip(self.0.windows(2))
            .map(|(name, pair)| {
                let took = match pair {
                    [from, to] => to.checked_sub(*from).map(|ticks| duration(ticks, hz)),
                    _ => None,
                };
                (*name, took)
            })
            .collect()
    }

    /// From the first point to the last.
    pub(crate) fn total(&self, hz: u64) -> Option<Duration> {
        Some(duration(self.0.last()?.checked_sub(*self.0.first()?)?, hz))
    }
}

/// Ticks as time.
pub(crate) fn duration(ticks: u64, hz: u64) -> Duration {
    let nanos = u128::from(ticks) * 1_000_000_000 / u128::from(hz.max(1));
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// The counter's value when this kernel's own clock began, as near as can be told.
pub(crate) fn kernel_began(hz: u64) -> u64 {
    let up = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let nanos = u128::try_from(up.tv_sec).unwrap_or(0) * 1_000_000_000
        + u128::try_from(up.tv_nsec).unwrap_or(0);
    let ticks = nanos * u128::from(hz) / 1_000_000_000;
    arch::counter().saturating_sub(u64::try_from(ticks).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_are_the_times_between_points() {
        let timeline = Timeline::continued(vec![1_000, 3_000, 2_000]);
        let phases = timeline.phases(1_000_000);
        assert_eq!(phases[0], ("stop vCPUs", Some(Duration::from_millis(2))));
        assert_eq!(phases[1], ("save", None));
        assert_eq!(timeline.total(1_000_000), Some(Duration::from_millis(1)));
    }
}

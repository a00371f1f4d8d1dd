// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What is known of the guest from outside: its heartbeat, and whether it found something wrong.

use std::sync::{
    Condvar,
    Mutex,
    MutexGuard,
    PoisonError, //
};
use std::time::{
    Duration,
    Instant, //
};

use serde::{
    Deserialize,
    Serialize, //
};

/// The guest's progress.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Progress {
    /// The last heartbeat; each is one more than the one before.
    pub(crate) beat: u64,
    /// The first heartbeat that this process saw.
    pub(crate) first: Option<u64>,
    /// What went wrong, in the order in which it was noticed.
    pub(crate) faults: Vec<String>,
    /// The guest's last report.
    pub(crate) report: String,
    /// The guest is switched off.
    pub(crate) ended: bool,
}

/// The progress, and a way to wait for more.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    progress: Mutex<Progress>,
    more: Condvar,
}

impl Watch {
    /// Continues behind the heartbeat that another VMM saw last.
    pub(crate) fn from(beat: u64) -> Self {
        let watch = Self::default();
        watch.lock().beat = beat;
        watch
    }

    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A heartbeat. Returns whether it is the first that this process sees.
    pub(crate) fn beat(&self, beat: u64) -> bool {
        let mut progress = self.lock();
        let expected = progress.beat.wrapping_add(1);
        if beat != expected {
            let fault = format!("heartbeat {beat} came where {expected} was due");
            progress.faults.push(fault);
        }
        let first = progress.first.is_none();
        progress.first.get_or_insert(beat);
        progress.beat = beat;
        self.more.notify_all();
        first
    }

    /// The guest, or this VMM, noticed something wrong.
    pub(crate) fn fault(&self, what: String) {
        self.lock().faults.push(what);
        self.more.notify_all();
    }

    pub(crate) fn report(&self, line: &str) {
        self.lock().report = line.to_string();
    }

    /// The guest has ended.
    pub(crate) fn end(&self) {
        self.lock().ended = true;
        self.more.notify_all();
    }

    pub(crate) fn progress(&self) -> Progress {
        self.lock().clone()
    }

    /// Waits until this process has seen `count` heartbeats, or there is no hope of that.
    pub(crate) fn wait(&self, count: u64, timeout: Duration) -> Progress {
        let deadline = Instant::now() + timeout;
        let mut progress = self.lock();
        loop {
            let seen = progress.first.map_or(0, |first| {
                progress.beat.saturating_sub(first).saturating_add(1)
            });
            let left = deadline.saturating_duration_since(Instant::now());
            if seen >= count || !progress.faults.is_empty() || progress.ended || left.is_zero() {
                return progress.clone();
            }
            progress = match self.more.wait_timeout(progress, left) {
                Ok((progress, _)) => progress,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_or_repeated_beat_is_a_fault() {
        let watch = Watch::from(10);
        assert!(watch.beat(11));
        assert!(!watch.beat(12));
        assert!(watch.progress().faults.is_empty());
        watch.beat(14);
        watch.beat(14);
        assert_eq!(watch.progress().faults.len(), 2);
        assert_eq!(watch.progress().first, Some(11));
    }
}

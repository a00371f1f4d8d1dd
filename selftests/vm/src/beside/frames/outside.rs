// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Looks into a machine's memory from outside: it does not matter which kernel runs there, or whether one does.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{
    AtomicU64,
    Ordering, //
};
use std::thread;
use std::time::Duration;

use anyhow::{
    Context,
    Result, //
};
use serde_json::json;

use super::descriptor::{
    is_done,
    LEN,
    SLOTS, //
};
use crate::beside::Machine;
use crate::qmp::Qmp;

/// From one look to the next.
const EVERY: Duration = Duration::from_millis(250);

/// The ring of the card, whose place the guest says in `ring` of the state directory.
pub(super) struct Ring {
    qmp: Qmp,
    start: u64,
    /// What QEMU copies it to.
    copy: PathBuf,
}

impl Ring {
    pub(super) fn new(machine: &Machine) -> Result<Self> {
        let start = fs::read_to_string(machine.state.join("ring"))
            .context("nobody says where the ring is")?;
        Ok(Self {
            qmp: Qmp::connect(&machine.qmp)?,
            start: start.trim().parse()?,
            copy: machine.state.join("ring.copy"),
        })
    }

    /// How many frames are in memory.
    fn received(&mut self) -> Result<usize> {
        let arguments = json!({
            "val": self.start,
            "size": SLOTS * LEN,
            "filename": &self.copy,
        });
        self.qmp.execute("pmemsave", arguments)?;
        Ok(count(&fs::read(&self.copy)?))
    }

    /// Tells it until the machine is gone.
    pub(super) fn tell(&mut self, sent: &AtomicU64) {
        while let Ok(here) = self.received() {
            println!("FRAMES sent={} here={here}", sent.load(Ordering::Relaxed));
            thread::sleep(EVERY);
        }
    }
}

/// How many descriptors were written back, from the first one on.
fn count(ring: &[u8]) -> usize {
    let second = |descriptor: &[u8]| {
        let word = descriptor.last_chunk().copied().unwrap_or_default();
        is_done(u64::from_le_bytes(word))
    };
    ring.chunks(LEN as usize)
        .take_while(|descriptor| second(descriptor))
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_count_up_to_the_first_that_is_missing() {
        let mut ring = vec![0; 4 * LEN as usize];
        assert_eq!(count(&ring), 0);
        for (slot, expected) in [(0, 1), (2, 1), (1, 3)] {
            ring[slot * LEN as usize + 8] = 3;
            assert_eq!(count(&ring), expected);
        }
        // Half of it is not enough.
        ring[3 * LEN as usize + 8] = 1;
        assert_eq!(count(&ring), 3);
    }
}

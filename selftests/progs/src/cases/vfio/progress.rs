// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! How far an NVMe controller is, and how far it should be.
//!
//! QEMU answers [`RATE`] requests in a second of the host.

use super::noted;
use crate::{
    clock,
    expect::{
        is,
        Check, //
    },
    run::{
        Common,
        New, //
    },
    vfio::nvme::Queues, //
};
use anyhow::{
    Context,
    Result, //
};
use std::{
    thread,
    time::Duration, //
};

/// Requests in a second, as `vfio.toml` tells QEMU.
pub(super) const RATE: u64 = 4;

/// For how many requests the controller is left alone.
const ALONE: u64 = 12;

/// How far a controller is at some time of the host.
pub(super) struct Look {
    pub(super) completed: u64,
    time: Duration,
}

impl Look {
    /// How far it is now.
    pub(super) fn at(queues: &Queues) -> Result<Self> {
        Ok(Self {
            completed: queues.completed(),
            time: host_time()?,
        })
    }

    /// How far it is when [`ALONE`] requests more were due.
    pub(super) fn later(&self, queues: &Queues) -> Result<Self> {
        while due(host_time()?.saturating_sub(self.time)) < ALONE {
            thread::sleep(Duration::from_millis(50));
        }
        Self::at(queues)
    }

    /// Writes it down for the next kernel.
    pub(super) fn note(&self, common: &Common<'_>, prefix: &str) -> Result<()> {
        let note = |key: &str, value: &str| common.note(&format!("{prefix}.{key}"), value);
        note("completed", &self.completed.to_string())?;
        note("time", &self.time.as_millis().to_string())
    }

    /// What the previous kernel wrote down.
    pub(super) fn noted(new: &New<'_>, prefix: &str) -> Result<Self> {
        Ok(Self {
            completed: noted(new, prefix, "completed")?.parse()?,
            time: Duration::from_millis(noted(new, prefix, "time")?.parse()?),
        })
    }

    /// From then on until a later look, at least half of the requests were completed that were due, if so many
    /// were left of those that were submitted.
    pub(super) fn enough(&self, later: &Self, submitted: u64, since: &str) -> Check {
        let count = later.completed.saturating_sub(self.completed);
        let due = due(later.time.saturating_sub(self.time));
        let text = format!("{count} requests were completed since {since}, of about {due}");
        println!("# {text}");
        let left = submitted.saturating_sub(self.completed);
        is(count >= due.min(left) / 2, &text)
    }
}

fn host_time() -> Result<Duration> {
    clock::now().context("the host does not tell the time")
}

/// How many requests are answered in so much time of the host.
fn due(time: Duration) -> u64 {
    time.as_millis() as u64 * RATE / 1000
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A driver that looks at its queues only when an interrupt tells it to.
//!
//! Interrupts are not handed over: what comes between the kernels is in memory, and nobody is told.

use super::nvme::{
    check_data,
    retrieve,
    run,
    Running, //
};
use crate::{
    expect::{
        is,
        same,
        Check, //
    },
    memory::Map,
    run::{
        New,
        Old, //
    },
    vfio::{
        nvme::{
            self,
            Queues,
            VECTOR, //
        },
        Device, //
    }, //
};
use anyhow::Result;
use liveupdate::vfio::{
    self,
    Interrupts, //
};
use rustix::{
    event::{
        eventfd,
        poll,
        EventfdFlags,
        PollFd,
        PollFlags, //
    },
    fs::Timespec, //
};
use std::{
    os::fd::{
        AsFd,
        BorrowedFd,
        OwnedFd, //
    },
    time::{
        Duration,
        Instant, //
    }, //
};

/// One for each vector.
struct Events(Vec<OwnedFd>);

impl Events {
    /// Vectors up to that of the requests.
    fn new() -> Result<Self> {
        let new = |_| eventfd(0, EventfdFlags::CLOEXEC);
        Ok(Self((0..=VECTOR).map(new).collect::<Result<_, _>>()?))
    }

    fn all(&self) -> Vec<BorrowedFd<'_>> {
        self.0.iter().map(AsFd::as_fd).collect()
    }

    fn set_up(&self, device: &Device) -> Result<()> {
        Ok(vfio::enable(device.fd(), Interrupts::Msix, &self.all())?)
    }

    /// Waits for a vector: whether it was signalled.
    fn wait(&self, vector: u32, patience: Duration) -> Result<bool> {
        let event = &self.0[vector as usize];
        let patience = Timespec::try_from(patience)?;
        let mut wanted = [PollFd::new(event, PollFlags::IN)];
        if poll(&mut wanted, Some(&patience))? == 0 {
            return Ok(false);
        }
        rustix::io::read(event, &mut [0; 8])?;
        Ok(true)
    }

    /// Takes completions only when told of them, until `count` were taken.
    fn drive(&self, running: &Running, count: u64) -> Result<Check> {
        let start = Instant::now();
        while running.queues.taken() < count {
            let left = super::PATIENCE.saturating_sub(start.elapsed());
            if !self.wait(VECTOR, left)? {
                let taken = running.queues.taken();
                return Ok(Err(format!("no interrupt after {taken} of {count}")));
            }
            if let Err(error) = running.controller.take(&running.queues) {
                return Ok(Err(error));
            }
        }
        Ok(Ok(()))
    }
}

const BEFORE: u64 = 24;
const AFTER: u64 = 8;

pub(super) fn old(old: &mut Old<'_>) -> Result<()> {
    super::nvme::fill_disk()?;
    let events = Events::new()?;
    let running = run(old, |device| events.set_up(device).map(|()| true))?;
    running.submit(BEFORE);
    old.common.check("driven", events.drive(&running, 3)?);
    vfio::silence(running.device.fd())?;
    running.preserve(old)?;
    running.leave(old)
}

pub(super) fn new(new: &mut New<'_>) -> Result<()> {
    let memory = new.retrieve(super::nvme::MEMORY)?;
    let queues = Queues::new(Map::new(&memory, nvme::SIZE, true)?)?;
    let running = retrieve(new, memory, queues)?;
    // What is completed later would be told of in the usual way.
    let all = running.queues.wait(BEFORE, super::PATIENCE);
    new.common.check("all", all);
    let taken = running.queues.taken();
    new.common
        .check("untaken", is(taken < BEFORE, "nothing came meanwhile"));
    // There would be an interrupt, and nobody who expects it.
    let intx = same(running.place.intx()?, (true, true));
    new.common.check("intx-disabled", intx);

    let events = Events::new()?;
    events.set_up(&running.device)?;
    let told = events.wait(VECTOR, Duration::from_secs(1))?;
    new.common
        .check("silent", is(!told, "an interrupt came by itself"));
    vfio::listen(running.device.fd(), Interrupts::Msix, &events.all())?;
    let first = events.wait(0, super::PATIENCE)?;
    new.common
        .check("triggered", is(first, "the first vector was not signalled"));
    new.common
        .check("caught-up", events.drive(&running, BEFORE)?);
    running.submit(AFTER);
    new.common
        .check("goes-on", events.drive(&running, BEFORE + AFTER)?);
    check_data(new, "end", &running.queues)?;
    new.finish()
}

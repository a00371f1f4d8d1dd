// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A page table that was handed over is replaced, again and again, while frames come as fast as they can.

use super::{
    accounts::pages,
    receive::{
        seen,
        take_over,
        IOVA, //
    },
};
use crate::{
    cases::vfio::{
        receive::{
            look,
            sent,
            STOP, //
        },
        PATIENCE, //
    },
    expect::{
        is,
        same,
        Check, //
    },
    run::New,
    vfio::{
        igb::{
            self,
            Ring, //
        },
        Device,
        PciDevice,
        Registers,
        Space, //
    }, //
};
use anyhow::{
    ensure,
    Context,
    Result, //
};
use std::{
    fs,
    time::Instant, //
};

/// How often.
const TIMES: u64 = 1000;

/// Pages of page tables that may not be freed yet: those of a few tables.
const SPARE: u64 = 32;

/// How many frames are taken before anything else is looked at.
const AT_ONCE: u32 = 1000;

/// Has the sender send as fast as it can.
const FAST: &str = "/state/fast";

/// Has the kernel take what is attached to a device for the previous kernel's (`CONFIG_IOMMU_LIVEUPDATE_TEST`).
pub(super) const PEND: &str = "/sys/kernel/debug/iommu_liveupdate_pend";

/// All frames, in order, each of which is checked as soon as it is there.
struct Stream<'a> {
    ring: &'a Ring,
    registers: &'a Registers,
    /// The number of the next.
    next: u64,
}

impl Stream<'_> {
    /// Checks those that are there, but not for ever if more come meanwhile.
    fn drain(&mut self) -> Check {
        for _ in 0..AT_ONCE {
            if !self.ring.take(self.next, IOVA, self.registers)? {
                break;
            }
            self.next += 1;
        }
        Ok(())
    }

    /// Checks those that come until one has a number.
    fn wait(&mut self, number: u64) -> Check {
        let start = Instant::now();
        while self.next < number {
            self.drain()?;
            if self.next < number && start.elapsed() > PATIENCE {
                let next = self.next;
                return Err(format!("frame {next} of {number} did not come"));
            }
        }
        Ok(())
    }
}

/// Replaces the page table that often, with one that maps the same. No memory is kept of those that were replaced,
/// but for what is not freed yet of the last ones.
fn replace(stream: &mut Stream<'_>, space: &Space, device: &Device, pend: bool) -> Result<Check> {
    let place = PciDevice::find(igb::MODEL)?;
    let mut last = None;
    let mut kept = 0;
    for number in 0..TIMES {
        // Some come for each, so that there is one in each moment of it, sooner or later.
        let came = stream.wait(stream.next + 2);
        if came.is_err() {
            println!("# after {number} replacements");
            return Ok(came);
        }
        let table = space.page_table(device)?;
        if pend {
            fs::write(PEND, place.name()?).context(PEND)?;
        }
        device.attach_to(table)?;
        if let Some(last) = last.replace(table) {
            space.destroy(last)?;
        } else {
            kept = pages()?;
        }
    }
    let now = pages()?;
    let same = is(
        now < kept + SPARE,
        &format!("{kept} pages of page tables, then {now}"),
    );
    Ok(same)
}

fn run(new: &mut New<'_>, pend: bool) -> Result<()> {
    let (memory, ring) = look(new)?;
    let (device, space, _manifest) = take_over(new, &memory, &ring)?;
    let registers = device.map(0)?;
    let mut stream = Stream {
        ring: &ring,
        registers: &registers,
        next: 0,
    };
    fs::write(FAST, "")?;
    let before = stream.next;
    let fine = replace(&mut stream, &space, &device, pend)?;
    println!("# {} frames came meanwhile", stream.next - before);
    new.common.check("replaced", fine);
    let faults = seen(new)?.faults;
    new.common.check("no-faults", same(faults.len(), 0));
    fs::write(STOP, "")?;
    let stopping = Instant::now();
    let sent = loop {
        stream.drain().ok();
        if let Some(sent) = sent()? {
            break sent;
        }
        ensure!(stopping.elapsed() < PATIENCE, "the sender does not stop");
    };
    new.common.check("all", stream.wait(sent));
    new.common.check("missed", same(igb::missed(&registers), 0));
    new.finish()
}

pub(super) fn new(new: &mut New<'_>) -> Result<()> {
    run(new, true)
}

/// As VT-d does without a live update: the entry is cleared, and then set.
pub(super) fn cleared_new(new: &mut New<'_>) -> Result<()> {
    run(new, false)
}

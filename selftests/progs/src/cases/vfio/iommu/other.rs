// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Devices that are not preserved.
//!
//! Two cards get the same frames, and the memory of both is preserved. A program on the host lets the second
//! one use memory again when the old kernel has stopped it.

use super::receive::{
    check_translation,
    leave,
    run_with,
    seen_of,
    IOVA,
    OTHER, //
};
use crate::{
    cases::vfio::{
        self,
        receive::{
            begin,
            look, //
        },
        PATIENCE, //
    },
    expect::is,
    memory::Map,
    run::{
        New,
        Old, //
    },
    vfio::{
        igb::{
            self,
            Ring, //
        },
        Access,
        Device,
        PciDevice,
        Space, //
    }, //
};
use anyhow::{
    Context,
    Result, //
};

const MEMORY: u64 = 5;

pub(super) fn old(old: &mut Old<'_>) -> Result<()> {
    let memory = vfio::memory("other", igb::SIZE)?;
    let ring = Ring::older(Map::new(&memory, igb::SIZE, true)?);
    ring.fill_at(IOVA);
    let space = Space::new()?;
    space.map(&memory, igb::SIZE, IOVA, Access::Write)?;
    old.preserve(&memory, MEMORY)?;
    let device = Device::bind_to(PciDevice::find(igb::OLDER)?.open()?, &space)?;
    device.attach()?;
    let registers = begin(old, &device, IOVA)?;

    let (running, first) = run_with(old, |_, _, _| Ok(()))?;
    old.common.check("other-receives", ring.wait(10, PATIENCE));
    old.keep(memory);
    ring.leak();
    std::mem::forget((device, registers, space));
    leave(old, running, first)
}

pub(super) fn new(new: &mut New<'_>) -> Result<()> {
    let (_memory, _ring) = look(new)?;
    check_translation(new, "boot")?;
    let master = PciDevice::find(igb::OLDER)?.is_master()?;
    new.common
        .check("may-write", is(master, "nobody lets it use memory"));
    let faults = seen_of(new, OTHER)?.faults.len();
    new.common
        .check("blocked", is(faults != 0, "it was not kept from it"));

    let memory = new.retrieve(MEMORY)?;
    let ring = Ring::older(Map::new(&memory, igb::SIZE, true)?);
    let received = ring.received();
    let before: u64 = new
        .common
        .noted("igb.before")?
        .context("nobody wrote it down")?
        .parse()?;
    println!("# the other card received {received} frames");
    // A few come while the old kernel ends.
    let few = before + 40;
    new.common
        .check("few", is(received < few, "it went on receiving"));
    new.common.check("untouched", ring.untouched_from(received));
    Ok(())
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The slot of an igb is emptied between the kernels, and another card may be put there.
//!
//! A program on the host does that when the old kernel has ended, and before the new one looks.

use super::{
    noted,
    receive::{
        silent,
        DEVICE,
        MEMORY, //
    }, //
};
use crate::{
    expect::{
        is,
        refused,
        same,
        works, //
    },
    memory::Map,
    run::New,
    vfio::{
        igb::{
            self,
            Ring, //
        },
        Device,
        Model,
        PciDevice, //
    }, //
};
use anyhow::Result;
use liveupdate::Token;
use rustix::io::Errno;

/// The memory is as the igb left it, and the igb is not retrieved.
fn check_lost(new: &mut New<'_>) -> Result<Ring> {
    let before: u64 = noted(new, "igb", "before")?.parse()?;
    let memory = new.retrieve(MEMORY)?;
    let ring = Ring::new(Map::new(&memory, igb::SIZE, true)?);
    let received = ring.received();
    println!("# {received} frames, {before} of them before the update");
    let frames = is(received >= before, "frames were lost").and(ring.verify(received));
    new.common.check("frames", frames);
    let answer = new.session()?.retrieve(Token(DEVICE));
    new.common.check("lost", refused(answer, &[Errno::NODEV]));
    Ok(ring)
}

/// The session can be finished, and nothing comes into memory.
fn check_end(new: &mut New<'_>, ring: &Ring) -> Result<()> {
    let received = ring.received();
    new.finish()?;
    let silent = silent(ring)?.and(same(ring.received(), received));
    new.common.check("silent", silent);
    Ok(())
}

pub(super) fn gone_new(new: &mut New<'_>) -> Result<()> {
    let there = PciDevice::find(igb::MODEL);
    new.common
        .check("gone", is(there.is_err(), "the igb is still there"));
    let ring = check_lost(new)?;
    check_end(new, &ring)
}

/// Another card is at the address of the igb.
fn other_new(new: &mut New<'_>, model: Model) -> Result<()> {
    let place = PciDevice::find(model)?;
    let path = noted(new, "igb", "path")?;
    new.common.check("address", same(place.path(), path));
    let ring = check_lost(new)?;
    let master = place.is_master()?;
    new.common
        .check("no-master", is(!master, "the other card may use memory"));
    check_end(new, &ring)?;
    let device = place.open().map_err(Into::into).and_then(Device::bind);
    new.common.check("opened", works(device));
    Ok(())
}

pub(super) fn replaced_new(new: &mut New<'_>) -> Result<()> {
    other_new(new, igb::OLDER)
}

pub(super) fn another_new(new: &mut New<'_>) -> Result<()> {
    other_new(new, igb::MODEL)
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What was handed over of the file of an igb was damaged on its way, and the igb goes on.
//!
//! The memory that it writes to is behind it in the session, and so is released first. Another card is in another
//! session: as long as that is not finished, nothing stops all cards that are left. A program on the host damages what
//! is handed over between the kernels: see `vfio.toml`.

use super::{
    receive::{
        look,
        start_at,
        DEVICE,
        MEMORY, //
    },
    stopped::{
        check_running,
        check_stopped, //
    },
    PATIENCE, //
};
use crate::{
    expect::{
        is,
        refused,
        works, //
    },
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
        Device,
        PciDevice, //
    }, //
};
use anyhow::Result;
use liveupdate::Token;
use rustix::io::Errno;

/// The other session, and the card in it, which uses no memory but may.
const OTHER: &str = "other";
const CARD: u64 = 3;

pub(super) fn old(old: &mut Old<'_>) -> Result<()> {
    let memory = super::memory("ring", igb::SIZE)?;
    let ring = Ring::new(Map::new(&memory, igb::SIZE, true)?);
    let place = PciDevice::find(igb::MODEL)?;
    let device = Device::bind(place.open()?)?;
    old.preserve(device.fd(), DEVICE)?;
    old.preserve(&memory, MEMORY)?;
    // It stays where it is from here on.
    let start = ring.fill()?;
    let running = start_at(old, place, memory, ring, device, start)?;

    let card = Device::bind(PciDevice::find(igb::OLDER)?.open()?)?;
    card.enable()?;
    let other = old.new_session(OTHER)?;
    other.preserve(card.fd(), Token(CARD))?;
    std::mem::forget((card, other));
    running.leave(old)
}

/// The igb goes on until its session is finished, and not any longer.
fn finish(new: &mut New<'_>, ring: &Ring) -> Result<()> {
    check_running(new)?;
    let now = ring.received();
    new.common.check("goes-on", ring.wait(now + 10, PATIENCE));
    new.finish()?;
    let received = ring.received();
    check_stopped(new, ring)?;
    new.common.check("untouched", ring.untouched_from(received));
    new.common.check("frames-then", ring.verify(received));
    Ok(())
}

/// Whether the other card may use memory.
fn check_other(new: &mut New<'_>, name: &str, may: bool) -> Result<()> {
    let master = PciDevice::find(igb::OLDER)?.is_master()?;
    let text = format!("it may use memory: {master}");
    new.common.check(name, is(master == may, &text));
    Ok(())
}

/// It is refused, for good. Which card it is nobody knows, so that it is stopped as one that nobody has retrieved. The
/// other one was, and goes on.
fn refused_new(new: &mut New<'_>, why: Errno) -> Result<()> {
    let (_memory, ring) = look(new)?;
    for name in ["refused", "stays-refused"] {
        let answer = new.session()?.retrieve(Token(DEVICE));
        new.common.check(name, refused(answer, &[why]));
    }
    let other = new.take_session(OTHER)?;
    let card = Device::retrieve(&other, Token(CARD))?;
    finish(new, &ring)?;
    check_other(new, "other", true)?;
    other.finish().map_err(liveupdate::Error::from)?;
    check_other(new, "other-finished", true)?;
    new.common.check("other-usable", works(card.command()));
    Ok(())
}

/// It is of another version.
pub(super) fn unknown_new(new: &mut New<'_>) -> Result<()> {
    refused_new(new, Errno::OPNOTSUPP)
}

/// It is not where it should be.
pub(super) fn missing_new(new: &mut New<'_>) -> Result<()> {
    refused_new(new, Errno::IO)
}

/// Nobody asks for any card. The other one could be what the damaged header is of, and is stopped, too.
pub(super) fn unasked_new(new: &mut New<'_>) -> Result<()> {
    let (_memory, ring) = look(new)?;
    check_other(new, "other", true)?;
    finish(new, &ring)?;
    check_other(new, "other-stopped", false)?;
    let other = new.take_session(OTHER)?;
    let answer = other.retrieve(Token(CARD));
    new.common
        .check("other-lost", refused(answer, &[Errno::NODEV]));
    Ok(other.finish().map_err(liveupdate::Error::from)?)
}

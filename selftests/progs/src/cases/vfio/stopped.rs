// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Devices that nobody takes over are stopped before memory is freed.

use super::{
    receive::{
        look,
        silent,
        DEVICE,
        MEMORY, //
    },
    PATIENCE, //
};
use crate::{
    clock,
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
        PciDevice, //
    }, //
};
use anyhow::{
    ensure,
    Result, //
};
use liveupdate::Token;
use rustix::io::Errno;
use std::{
    fs,
    path::Path, //
};

/// The device may use memory.
pub(super) fn check_running(new: &mut New<'_>) -> Result<()> {
    let master = PciDevice::find(igb::MODEL)?.is_master()?;
    new.common.check("running", is(master, "it does not run"));
    Ok(())
}

/// The device does not use memory any more, and can be opened as any other.
pub(super) fn check_stopped(new: &mut New<'_>, ring: &Ring) -> Result<()> {
    let place = PciDevice::find(igb::MODEL)?;
    let master = place.is_master()?;
    new.common
        .check("no-master", is(!master, "it may still use memory"));
    new.common.check("silent", silent(ring)?);
    let device = place.open().map_err(Into::into).and_then(Device::bind);
    new.common.check("opened-again", works(device));
    Ok(())
}

pub(super) fn unclaimed_new(new: &mut New<'_>) -> Result<()> {
    let (_memory, ring) = look(new)?;
    check_running(new)?;
    new.finish()?;
    check_stopped(new, &ring)
}

pub(super) fn unbound_new(new: &mut New<'_>) -> Result<()> {
    let (_memory, ring) = look(new)?;
    let fd = new.retrieve(DEVICE)?;
    check_running(new)?;
    new.finish()?;
    drop(fd);
    check_stopped(new, &ring)
}

/// The device is stopped with its removal, and not only when it is found again.
pub(super) fn removed_new(new: &mut New<'_>) -> Result<()> {
    removed(new, PciDevice::remove)
}

/// What is there until somebody outside has undone that the device was stopped.
const UNDO: &str = "/state/removed";

/// Its removal does not stop it for good.
pub(super) fn removed_on_new(new: &mut New<'_>) -> Result<()> {
    removed(new, |device| {
        device.remove()?;
        fs::write(UNDO, "now")?;
        let undone = clock::wait(PATIENCE, || !Path::new(UNDO).exists())?;
        ensure!(undone, "nobody lets the device use memory");
        Ok(())
    })
}

/// It is not removed.
pub(super) fn stays_new(new: &mut New<'_>) -> Result<()> {
    removed(new, |_| Ok(()))
}

fn removed(new: &mut New<'_>, remove: impl FnOnce(&PciDevice) -> Result<()>) -> Result<()> {
    let (_memory, ring) = look(new)?;
    check_running(new)?;
    remove(&PciDevice::find(igb::MODEL)?)?;
    new.common.check("silent-at-once", silent(&ring)?);
    let answer = new.session()?.retrieve(Token(DEVICE));
    new.common.check("lost", refused(answer, &[Errno::NODEV]));
    PciDevice::rescan()?;
    check_stopped(new, &ring)?;
    new.finish()
}

/// It could not be retrieved for want of a driver, and is another device when the session is finished: what was left of
/// the attempt goes, and leaves alone what is in its place.
pub(super) fn found_again_new(new: &mut New<'_>) -> Result<()> {
    let (_memory, ring) = look(new)?;
    let before = PciDevice::find(igb::MODEL)?;
    before.unbind()?;
    let answer = new.session()?.retrieve(Token(DEVICE));
    new.common
        .check("no-driver", refused(answer, &[Errno::NODEV]));
    check_running(new)?;
    before.remove()?;
    new.common.check("silent", silent(&ring)?);

    PciDevice::rescan()?;
    let now = PciDevice::find(igb::MODEL)?;
    new.common
        .check("same-place", same(now.path(), before.path()));
    let device = Device::bind(now.open()?)?;
    device.enable()?;
    new.common
        .check("master", is(now.is_master()?, "it may not use memory"));
    new.finish()?;
    new.common.check(
        "still-master",
        is(now.is_master()?, "it may not use memory any more"),
    );
    new.common.check("usable", works(device.command()));
    Ok(())
}

/// Only memory was handed over.
pub(super) fn aborted_new(new: &mut New<'_>) -> Result<()> {
    let memory = new.retrieve(MEMORY)?;
    let ring = Ring::new(Map::new(&memory, igb::SIZE, true)?);
    let received = ring.received();
    new.common.check("frames", ring.verify(received));
    check_stopped(new, &ring)
}

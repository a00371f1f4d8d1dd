// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Every allocation fails once: when a card is preserved, and when it is retrieved.

use crate::{
    expect::{
        same,
        works,
        Check, //
    },
    run::{
        New,
        Old, //
    },
    sweep::{
        self,
        Sweep, //
    },
    sys::FailNth,
    vfio::{
        igb,
        Device,
        PciDevice,
        Space, //
    }, //
};
use anyhow::{
    Context,
    Result, //
};
use liveupdate::vfio;
use std::os::fd::OwnedFd;

const OTHER: u64 = 1000;

/// A card that is bound.
fn card() -> Result<OwnedFd> {
    let cards = PciDevice::all(igb::MODEL)?;
    let device = Device::bind(cards.first().context("there is no card")?.open()?)?;
    Ok(device.fd().try_clone_to_owned()?)
}

/// It can be used as before.
fn usable(fd: &OwnedFd) -> Check {
    works(vfio::silence(fd))
}

const SWEEP: Sweep<'_> = Sweep {
    make: &card,
    verify: &usable,
    free: &usable,
};

pub(super) fn preserve(old: &mut Old<'_>) -> Result<()> {
    // What the kernel keeps of all cards lives as long as one is preserved: what is left behind there shows.
    let other = PciDevice::all(igb::MODEL)?.pop();
    let other = Device::bind(other.context("there is no card")?.open()?)?;
    old.preserve(other.fd(), OTHER)?;
    sweep::preserve(old, &SWEEP)?;
    old.close_session();
    Ok(())
}

/// Hands over all cards that there are: a retrieval that fails can be final.
pub(super) fn retrieve_old(old: &mut Old<'_>) -> Result<()> {
    if let Err(why) = FailNth::new()? {
        return old.common.skip_all(&why);
    }
    for (place, token) in PciDevice::all(igb::MODEL)?.iter().zip(1..) {
        let device = Device::bind(place.open()?)?;
        device.enable()?;
        old.preserve(device.fd(), token)?;
        std::mem::forget(device);
    }
    Ok(())
}

/// A card is retrieved, and can be bound, maybe with another attempt; or it is stopped. None is left that runs.
pub(super) fn retrieve_new(new: &mut New<'_>) -> Result<()> {
    let cards = PciDevice::all(igb::MODEL)?;
    let space = Space::new()?;
    let verify = |fd: &OwnedFd| -> Check {
        works(vfio::bind(fd, space.fd()))?;
        usable(fd)
    };
    sweep::retrieve_new(new, &verify, cards.len() as u64)?;
    let mut running = 0;
    for card in &cards {
        running += u32::from(card.is_master()?);
    }
    // Those that were retrieved are closed.
    new.common.check("stopped", same(running, 0));
    Ok(())
}

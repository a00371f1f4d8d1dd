// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Devices whose page table nobody replaces are stopped before it is freed.

use super::receive::{
    check_no_orphan,
    check_translation,
    seen,
    IOMMUFD, //
};
use crate::{
    cases::vfio::{
        noted,
        receive::{
            look,
            silent,
            DEVICE,
            MEMORY, //
        },
        stopped::{
            check_running,
            check_stopped, //
        },
        PATIENCE, //
    },
    expect::{
        is,
        refused,
        same, //
    },
    memory::Map,
    run::New,
    vfio::{
        igb::{
            self,
            Ring, //
        },
        manifest::Manifest,
        trace::stopped_before_off,
        Device,
        PciDevice,
        Space, //
    }, //
};
use anyhow::Result;
use liveupdate::Token;
use rustix::io::Errno;
use std::{
    fs,
    thread,
    time::Duration, //
};

/// Nobody retrieves anything but the memory.
pub(super) fn unclaimed_new(new: &mut New<'_>) -> Result<()> {
    let (_memory, ring) = look(new)?;
    check_running(new)?;
    new.finish()?;
    check_stopped(new, &ring)
}

/// It is bound, and nothing is attached.
pub(super) fn unattached_new(new: &mut New<'_>) -> Result<()> {
    let (_memory, ring) = look(new)?;
    let manifest = Manifest::new(new.retrieve(IOMMUFD)?);
    let space = Space::new()?;
    let device = Device::bind_to(new.retrieve(DEVICE)?, &space)?;
    check_running(new)?;
    new.finish()?;
    new.common
        .check("freed", same(manifest.info()?.nr_tables, 0));
    drop(device);
    check_stopped(new, &ring)
}

/// No driver took the IOMMU over, which goes on with tables that nobody keeps. So the device is stopped when all drivers
/// had their turn, and cannot be had any more.
pub(super) fn no_driver_new(new: &mut New<'_>) -> Result<()> {
    let memory = new.retrieve(MEMORY)?;
    let ring = Ring::new(Map::new(&memory, igb::SIZE, true)?);
    let count = ring.received();
    let before = noted(new, "igb", "before")?.parse::<u64>()?;
    new.common.check(
        "until-then",
        is(count > before, "it did not run between the kernels"),
    );
    new.common.check("frames", ring.verify(count));
    check_translation(new, "boot")?;
    let master = PciDevice::find(igb::MODEL)?.is_master()?;
    new.common
        .check("no-master", is(!master, "it may still use memory"));
    thread::sleep(Duration::from_millis(500));
    new.common.check("silent", same(ring.received(), count));

    let answer = new.session()?.retrieve(Token(DEVICE));
    new.common.check("lost", refused(answer, &[Errno::NODEV]));
    new.finish()?;
    check_no_orphan(new)?;
    thread::sleep(Duration::from_millis(500));
    new.common
        .check("silent-then", same(ring.received(), count));
    new.common.check("frames-then", ring.verify(count));
    check_translation(new, "finished")
}

/// Whether an allocation was made to fail when the kernel took the IOMMU over.
const FAILED: &str = "/state/failed";

/// If none was, the device goes on. Otherwise it was stopped, and if translation was ever off, before that.
pub(super) fn fail_boot_new(new: &mut New<'_>) -> Result<()> {
    let memory = new.retrieve(MEMORY)?;
    let ring = Ring::new(Map::new(&memory, igb::SIZE, true)?);
    let failed = fs::read_to_string(FAILED)? == "true";
    let place = PciDevice::find(igb::MODEL)?;
    new.common
        .check("stopped", same(!place.is_master()?, failed));
    let received = ring.received();
    new.common.check("frames", ring.verify(received));
    if !failed {
        new.common
            .check("goes-on", ring.wait(received + 10, PATIENCE));
        check_translation(new, "boot")?;
        return new.finish();
    }
    let seen = seen(new)?;
    new.common
        .check("no-faults", same(seen.faults.first().copied(), None));
    let start = noted(new, "igb", "trace")?.parse()?;
    let first = seen.off == 0 || stopped_before_off(start, place.name()?)?;
    new.common.check("stopped-first", is(first, "it was not"));
    new.common.check("silent", silent(&ring)?);
    new.finish()
}

/// The kernel was told not to use the IOMMU. The device is stopped before translation is.
pub(super) fn off_new(new: &mut New<'_>) -> Result<()> {
    let memory = new.retrieve(MEMORY)?;
    let ring = Ring::new(Map::new(&memory, igb::SIZE, true)?);
    let received = ring.received();
    new.common.check("frames", ring.verify(received));
    let seen = seen(new)?;
    new.common
        .check("off", is(seen.off != 0, "translation stayed on"));
    new.common
        .check("no-faults", same(seen.faults.first().copied(), None));
    let start = noted(new, "igb", "trace")?.parse()?;
    let place = PciDevice::find(igb::MODEL)?;
    let order = stopped_before_off(start, place.name()?)?;
    new.common.check("stopped-first", is(order, "it was not"));
    new.common.check("silent", silent(&ring)?);
    // Without an IOMMU nothing can be retrieved but the memory.
    new.finish()
}

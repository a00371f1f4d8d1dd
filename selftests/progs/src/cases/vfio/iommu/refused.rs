// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What is refused of devices behind an IOMMU.

use super::receive::{
    leave,
    run_with,
    IOMMUFD, //
};
use crate::{
    cases::vfio::{
        self,
        receive::{
            DEVICE,
            MEMORY, //
        }, //
    },
    expect::{
        is,
        refused,
        same,
        works, //
    },
    memory::HUGE,
    run::Old,
    sys,
    vfio::{
        igb,
        trace,
        Access,
        Device,
        Model,
        PciDevice,
        Space, //
    }, //
};
use anyhow::Result;
use liveupdate::Token;
use rustix::io::Errno;

/// A device whose page table is not preserved.
pub(super) fn old(old: &mut Old<'_>) -> Result<()> {
    let place = PciDevice::find(igb::MODEL)?;
    let device = Device::bind(place.open()?)?;
    let answer = old.session()?.preserve(device.fd(), Token(1));
    old.common
        .check("bound", refused(answer, &[Errno::OPNOTSUPP]));
    // Only now an IOMMU is told to translate, which there has to be for it.
    old.common.check("attach", works(device.attach()));
    let answer = old.session()?.preserve(device.fd(), Token(1));
    old.common
        .check("attached", refused(answer, &[Errno::OPNOTSUPP]));
    old.common.check("usable", works(device.command()));
    Ok(())
}

/// Where something is mapped that is not preserved.
const HOLE: u64 = 1 << 40;

/// An update in which the device could write to memory that is not preserved is refused. Once it is preserved,
/// the update succeeds.
pub(super) fn closure_old(old: &mut Old<'_>) -> Result<()> {
    let empty = Space::new()?;
    let answer = old.session()?.preserve(empty.fd(), Token(9));
    old.common.check("empty", refused(answer, &[Errno::NXIO]));

    let other = vfio::memory("other", HUGE)?;
    let (running, space) = run_with(old, |_, _, space| {
        Ok(space.map(&other, HUGE, HOLE, Access::Write)?)
    })?;
    let answer = old.session()?.preserve(running.device.fd(), Token(9));
    old.common
        .check("order", refused(answer, &[Errno::OPNOTSUPP]));

    old.preserve(space.fd(), IOMMUFD)?;
    old.preserve(running.device.fd(), DEVICE)?;
    let answer = sys::refused_reboot()?;
    old.common
        .check("not-preserved", same(answer, Errno::FAULT));
    let settings = igb::settings(&running.registers);
    running.check_unchanged(old, &settings);

    // It can be changed again, and all of it once more.
    old.close_session();
    old.common.check("unmap", works(space.unmap(HOLE, HUGE)));
    old.preserve(&running.memory, MEMORY)?;
    leave(old, running, space)
}

/// The session is closed, and what is handed over in the end is memory alone.
pub(super) fn aborted_old(old: &mut Old<'_>) -> Result<()> {
    let (running, space) = run_with(old, |_, _, _| Ok(()))?;
    let settings = igb::settings(&running.registers);
    old.preserve(space.fd(), IOMMUFD)?;
    old.preserve(running.device.fd(), DEVICE)?;
    old.close_session();
    running.check_unchanged(old, &settings);
    let other = vfio::memory("other", HUGE)?;
    let map = space.map(&other, HUGE, HOLE, Access::Write);
    old.common.check("map", works(map));
    old.common.check("unmap", works(space.unmap(HOLE, HUGE)));
    old.preserve(&running.memory, MEMORY)?;
    std::mem::forget(space);
    running.leave(old)
}

/// Page tables that cannot be handed over.
pub(super) fn kinds(old: &mut Old<'_>) -> Result<()> {
    let memory = vfio::memory("memory", HUGE)?;
    let space = Space::new()?;
    space.map(&memory, HUGE, 0, Access::Write)?;
    let place = PciDevice::find(igb::MODEL)?;
    let device = Device::bind_to(place.open()?, &space)?;
    let unsupported = &[Errno::OPNOTSUPP];

    let first = space.page_table(&device)?;
    let second = space.page_table(&device)?;
    let answer = old.session()?.preserve(space.fd(), Token(1));
    old.common.check("two", refused(answer, unsupported));
    old.common.check("destroy", works(space.destroy(second)));

    space.map_memory(page_of_memory(), HUGE)?;
    let answer = old.session()?.preserve(space.fd(), Token(1));
    old.common.check("no-file", refused(answer, unsupported));
    old.common
        .check("unmap", works(space.unmap(HUGE, crate::memory::page())));

    // Nothing is attached, so that the device has no translation.
    old.preserve(space.fd(), 1)?;
    let answer = old.session()?.preserve(device.fd(), Token(2));
    old.common
        .check("not-attached", refused(answer, unsupported));
    old.close_session();
    old.common.check("attach", works(device.attach_to(first)));
    Ok(())
}

/// The address of a page that is in no file.
fn page_of_memory() -> u64 {
    let page = vec![1u8; 3 * crate::memory::page() as usize].leak();
    (page.as_ptr() as u64).next_multiple_of(crate::memory::page())
}

/// The page table of a first stage, which an IOMMU in scalable mode can have.
pub(super) fn first_stage(old: &mut Old<'_>) -> Result<()> {
    let memory = vfio::memory("memory", HUGE)?;
    let space = Space::new()?;
    space.map(&memory, HUGE, 0, Access::Write)?;
    let device = Device::bind_to(PciDevice::find(igb::MODEL)?.open()?, &space)?;
    device.attach()?;
    old.session()?.preserve(&memory, Token(MEMORY))?;
    let answer = old.session()?.preserve(space.fd(), Token(IOMMUFD));
    old.common
        .check("iommufd", refused(answer, &[Errno::OPNOTSUPP]));
    let answer = old.session()?.preserve(device.fd(), Token(DEVICE));
    old.common
        .check("device", refused(answer, &[Errno::OPNOTSUPP]));
    Ok(())
}

/// A device of virtio, of which QEMU says that it has a TLB.
const RNG: Model = Model {
    vendor: 0x1af4,
    device: 0x1044,
};

/// A device with a TLB of its own. It cannot be handed over; but what it keeps there is invalidated as ever.
pub(super) fn ats(old: &mut Old<'_>) -> Result<()> {
    let place = PciDevice::find(RNG)?;
    place.unbind()?;
    place.bind_to("vfio-pci")?;
    let memory = vfio::memory("memory", HUGE)?;
    let space = Space::new()?;
    space.map(&memory, HUGE, 0, Access::Write)?;
    let device = Device::bind_to(place.open()?, &space)?;
    device.attach()?;
    old.preserve(&memory, MEMORY)?;
    old.preserve(space.fd(), IOMMUFD)?;
    let answer = old.session()?.preserve(device.fd(), Token(DEVICE));
    old.common
        .check("device", refused(answer, &[Errno::OPNOTSUPP]));
    old.close_session();

    let before = trace::tlbs_of_devices()?;
    old.common.check("unmap", works(space.unmap(0, HUGE)));
    let seen = trace::tlbs_of_devices()? > before;
    old.common
        .check("invalidated", is(seen, "the TLB of the device was not"));
    Ok(())
}

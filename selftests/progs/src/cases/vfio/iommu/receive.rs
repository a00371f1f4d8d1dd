// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! An igb receives through a live update, behind an IOMMU.

use crate::{
    cases::vfio::{
        self,
        noted,
        receive::{
            go_on,
            look,
            start_at,
            take,
            Running,
            DEVICE,
            MEMORY,
            NAME, //
        },
        PATIENCE, //
    },
    expect::{
        is,
        refused,
        same,
        works, //
    },
    hugetlb::huge_memfd,
    memory::{
        memfd,
        page,
        Map,
        HUGE, //
    },
    run::{
        New,
        Old, //
    },
    vfio::{
        igb::{
            self,
            Ring, //
        },
        manifest::{
            Area,
            Manifest, //
        },
        trace::Iommu,
        Access,
        Device,
        PciDevice,
        Space, //
    }, //
};
use anyhow::Result;
use liveupdate::Token;
use rustix::{
    fs::MemfdFlags,
    io::Errno, //
};
use std::{
    fs,
    os::fd::OwnedFd, //
};

pub(super) const IOMMUFD: u64 = 3;

/// Where the file is mapped for the device. There is memory of the machine at this physical address, too, so
/// that a request that is not translated would write to it.
pub(super) const IOVA: u64 = 1 << 30;

/// Its requester ID, and that of a card behind the next port.
const SOURCE: u16 = 0x0100;
pub(super) const OTHER: u16 = 0x0200;

/// Starts one, whose memory is preserved, and maps what is wanted besides for it.
pub(super) fn run_with(
    old: &mut Old<'_>,
    map: impl FnOnce(&mut Old<'_>, &Ring, &Space) -> Result<()>,
) -> Result<(Running, Space)> {
    run_in(old, vfio::memory("ring", igb::SIZE)?, map)
}

/// The same with memory of any kind.
fn run_in(
    old: &mut Old<'_>,
    memory: OwnedFd,
    map: impl FnOnce(&mut Old<'_>, &Ring, &Space) -> Result<()>,
) -> Result<(Running, Space)> {
    let ring = Ring::new(Map::new(&memory, igb::SIZE, true)?);
    ring.fill_at(IOVA);
    let space = Space::new()?;
    space.map(&memory, igb::SIZE, IOVA, Access::Write)?;
    old.preserve(&memory, MEMORY)?;
    map(old, &ring, &space)?;

    let place = PciDevice::find(igb::MODEL)?;
    let device = Device::bind_to(place.open()?, &space)?;
    device.attach()?;
    let running = start_at(old, place, memory, ring, device, IOVA)?;
    Ok((running, space))
}

/// Has the page table preserved, and the device, and leaves all of it behind.
pub(super) fn leave(old: &mut Old<'_>, running: Running, space: Space) -> Result<()> {
    old.preserve(space.fd(), IOMMUFD)?;
    old.preserve(running.device.fd(), DEVICE)?;
    std::mem::forget(space);
    running.leave(old)
}

/// Nothing can be changed any more of what the device uses.
fn check_fixed(old: &mut Old<'_>, running: &Running, space: &Space) -> Result<()> {
    let other = memfd("other")?;
    rustix::fs::ftruncate(&other, page())?;
    let busy = &[Errno::BUSY];
    let mut check = |name, answer| old.common.check(name, refused(answer, busy));
    check("no-map", space.map(&other, page(), 0, Access::Read));
    check("no-unmap", space.unmap(IOVA, igb::SIZE));
    check("no-detach", running.device.detach());
    check("no-attach", running.device.attach());
    Ok(())
}

pub(super) fn old(old: &mut Old<'_>) -> Result<()> {
    let (running, space) = run_with(old, |_, _, _| Ok(()))?;
    old.preserve(space.fd(), IOMMUFD)?;
    check_fixed(old, &running, &space)?;
    old.preserve(running.device.fd(), DEVICE)?;
    let settings = igb::settings(&running.registers);
    running.check_unchanged(old, &settings);
    std::mem::forget(space);
    running.leave(old)
}

/// The same in huge pages.
pub(super) fn huge_old(old: &mut Old<'_>) -> Result<()> {
    let memory = huge_memfd(HUGE, MemfdFlags::empty())?;
    rustix::fs::ftruncate(&memory, igb::SIZE)?;
    let (running, space) = run_in(old, memory, |_, _, _| Ok(()))?;
    leave(old, running, space)
}

/// Only the device is missing.
pub(super) fn stopped_old(old: &mut Old<'_>) -> Result<()> {
    let (running, space) = run_with(old, |_, _, _| Ok(()))?;
    old.preserve(space.fd(), IOMMUFD)?;
    std::mem::forget(space);
    running.leave(old)
}

/// What QEMU wrote down of the IOMMU since the old kernel's last look.
pub(super) fn seen(new: &New<'_>) -> Result<Iommu> {
    seen_of(new, SOURCE)
}

/// The same, with the faults of another card.
pub(super) fn seen_of(new: &New<'_>, source: u16) -> Result<Iommu> {
    let seen = Iommu::since(noted(new, NAME, "trace")?.parse()?, source)?;
    println!(
        "# {} commands to the IOMMU, {} with translation off, {} with interrupt remapping off; {} faults",
        seen.on + seen.off,
        seen.off,
        seen.open,
        seen.faults.len()
    );
    Ok(seen)
}

/// Translation and interrupt remapping were on all the time, and nothing was refused.
pub(super) fn check_translation(new: &mut New<'_>, name: &str) -> Result<()> {
    let seen = seen(new)?;
    let stays = is(seen.on != 0, "the trace has no commands").and(same(seen.off, 0));
    new.common.check(&format!("{name}.stays-on"), stays);
    new.common
        .check(&format!("{name}.remaps-interrupts"), same(seen.open, 0));
    let faults = same(seen.faults.first().copied(), None);
    new.common.check(&format!("{name}.no-faults"), faults);
    Ok(())
}

/// The manifest says what was mapped.
fn check_manifest(new: &mut New<'_>, manifest: &Manifest) -> Result<()> {
    let info = manifest.info()?;
    println!("# {info:?}");
    let fits = info.format == 1 && (3..=5).contains(&info.levels) && info.nr_tables >= 3;
    new.common
        .check("info", is(fits && info.nr_areas == 1, &format!("{info:?}")));
    let all = Area {
        iova: IOVA,
        length: igb::SIZE,
        token: MEMORY,
        flags: 7,
        ..Area::default()
    };
    new.common
        .check("areas", same(manifest.areas(0, 9)?, vec![all]));
    new.common
        .check("no-more-areas", same(manifest.areas(1, 9)?, vec![]));
    Ok(())
}

/// A page table that differs is noticed, with the address; and so that there can be another update, is destroyed.
fn check_differs(
    new: &mut New<'_>,
    manifest: &Manifest,
    space: &Space,
    device: &Device,
    memory: &OwnedFd,
) -> Result<()> {
    let other = vfio::memory("other", igb::SIZE)?;
    let short = igb::SIZE - page();
    for (name, file, length, at) in [
        ("empty", None, 0, IOVA),
        ("short", Some(memory), short, IOVA + short),
        ("other", Some(&other), igb::SIZE, IOVA),
    ] {
        let wrong = space.another()?;
        if let Some(file) = file {
            wrong.map(file, length, IOVA, Access::Write)?;
        }
        let table = wrong.page_table(device)?;
        let answer = manifest.verify(&wrong, table);
        let expected = Err((Errno::ADDRNOTAVAIL, at));
        new.common
            .check(&format!("differs.{name}"), same(answer, expected));
        space.destroy(table)?;
    }
    Ok(())
}

/// No page table is kept of those that are not in use any more.
pub(super) fn check_freed(new: &mut New<'_>, manifest: &Manifest) -> Result<()> {
    new.common
        .check("freed", same(manifest.info()?.nr_tables, 0));
    check_no_orphan(new)
}

/// Nothing is kept that nobody has a file of.
pub(super) fn check_no_orphan(new: &mut New<'_>) -> Result<()> {
    let status = fs::read_to_string("/dev/luo_status")?;
    let orphan = status.lines().find(|line| line.starts_with("orphan"));
    new.common.check("no-orphan", same(orphan, None));
    Ok(())
}

/// Takes the device over: a new page table replaces the old one.
pub(super) fn take_over(
    new: &mut New<'_>,
    memory: &OwnedFd,
    ring: &Ring,
) -> Result<(Device, Space, Manifest)> {
    let fd = take(new)?;
    let manifest = Manifest::new(new.retrieve(IOMMUFD)?);
    let space = Space::new()?;
    space.map(memory, igb::SIZE, IOVA, Access::Write)?;
    let device = Device::bind_to(fd, &space)?;
    let now = ring.received();
    new.common.check("bound", ring.wait(now + 10, PATIENCE));
    let table = space.page_table(&device)?;
    new.common.check("attach", works(device.attach_to(table)));
    Ok((device, space, manifest))
}

pub(super) fn new(new: &mut New<'_>) -> Result<()> {
    let (memory, ring) = look(new)?;
    check_translation(new, "boot")?;
    let space = Space::new()?;
    let group = PciDevice::find(igb::MODEL)?.open_group()?;
    let answer = space.contain(&group);
    new.common
        .check("no-container", refused(answer, &[Errno::BUSY]));
    drop(group);
    let fd = take(new)?;
    let manifest = Manifest::new(new.retrieve(IOMMUFD)?);
    check_manifest(new, &manifest)?;

    space.map(&memory, igb::SIZE, IOVA, Access::Write)?;
    let device = Device::bind_to(fd, &space)?;
    let now = ring.received();
    new.common.check("bound", ring.wait(now + 10, PATIENCE));
    check_differs(new, &manifest, &space, &device, &memory)?;
    let table = space.page_table(&device)?;
    new.common
        .check("same", same(manifest.verify(&space, table), Ok(())));
    new.common.check("attach", works(device.attach_to(table)));
    let now = ring.received();
    new.common.check("attached", ring.wait(now + 10, PATIENCE));
    check_translation(new, "replaced")?;
    go_on(new, &memory, &ring, &device, &[(space.fd(), IOMMUFD)])?;
    check_freed(new, &manifest)
}

/// There is no module for the page table.
pub(super) fn no_module_new(new: &mut New<'_>) -> Result<()> {
    no_manifest_new(new, Errno::NODEV)
}

/// What tells of the page table cannot be retrieved, for a reason.
pub(super) fn no_manifest_new(new: &mut New<'_>, why: Errno) -> Result<()> {
    let (memory, ring) = look(new)?;
    let fd = take(new)?;
    let answer = new.session()?.retrieve(Token(IOMMUFD));
    new.common.check("no-manifest", refused(answer, &[why]));
    let space = Space::new()?;
    space.map(&memory, igb::SIZE, IOVA, Access::Write)?;
    let device = Device::bind_to(fd, &space)?;
    new.common.check("attach", works(device.attach()));
    check_translation(new, "replaced")?;
    go_on(new, &memory, &ring, &device, &[])
}

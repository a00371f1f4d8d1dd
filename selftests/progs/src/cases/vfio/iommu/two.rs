// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Two devices behind one IOMMU, which have a page table in common, or each its own.

use super::receive::{
    check_freed,
    check_translation,
    run_with,
    seen_of,
    IOVA,
    OTHER, //
};
use crate::{
    cases::vfio::{
        nvme,
        receive::{
            self,
            look,
            take,
            DEVICE,
            MEMORY, //
        },
        PATIENCE, //
    },
    expect::{
        is,
        same,
        works, //
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
        nvme as controller,
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
use std::{
    os::fd::OwnedFd,
    thread,
    time::Duration, //
};

/// The number that the iommufd has elsewhere is that of the controller's memory.
const IOMMUFD: u64 = 5;
/// That of the controller, if it has one.
const SECOND: u64 = 6;

/// Where the controller's memory is mapped for both. There is memory of the machine, too.
const QUEUES: u64 = 3 << 29;

pub(super) fn old(old: &mut Old<'_>) -> Result<()> {
    let mut memory = None;
    let (igb, space) = run_with(old, |old, _, space| {
        let queues = nvme::memory(old)?;
        space.map(&queues, controller::SIZE, QUEUES, Access::Write)?;
        memory = Some(queues);
        Ok(())
    })?;
    let memory = memory.context("no memory for the controller")?;
    let nvme = nvme::start_at(old, &space, memory, QUEUES)?;
    old.preserve(space.fd(), IOMMUFD)?;
    old.preserve(igb.device.fd(), DEVICE)?;
    nvme.preserve(old)?;
    std::mem::forget(space);
    nvme.leave(old)?;
    igb.leave(old)
}

/// Translation was on all the time, and nothing was refused to either.
fn check_both(new: &mut New<'_>, name: &str) -> Result<()> {
    check_translation(new, name)?;
    let faults = seen_of(new, OTHER)?.faults;
    new.common.check(
        &format!("{name}.no-faults-nvme"),
        same(faults.first().copied(), None),
    );
    Ok(())
}

/// What the two devices use, in the new kernel.
struct Shared {
    ring: Ring,
    card: Device,
    space: Space,
    manifest: Manifest,
    /// The page table that both are to use.
    table: u32,
}

/// Makes a page table for both, and gives it to the igb.
fn take_over(new: &mut New<'_>, ring: Ring, files: [&OwnedFd; 2]) -> Result<Shared> {
    let fd = take(new)?;
    let manifest = Manifest::new(new.retrieve(IOMMUFD)?);
    let area = |iova, length, token| Area {
        iova,
        length,
        token,
        flags: 7,
        ..Area::default()
    };
    let areas = [
        area(IOVA, igb::SIZE, MEMORY),
        area(QUEUES, controller::SIZE, nvme::MEMORY),
    ];
    new.common
        .check("areas", same(manifest.areas(0, 9)?, areas.to_vec()));

    let space = Space::new()?;
    for (file, area) in files.into_iter().zip(areas) {
        space.map(file, area.length, area.iova, Access::Write)?;
    }
    let card = Device::bind_to(fd, &space)?;
    let table = space.page_table(&card)?;
    new.common
        .check("same", same(manifest.verify(&space, table), Ok(())));
    new.common.check("attach", works(card.attach_to(table)));
    let now = ring.received();
    new.common.check("attached", ring.wait(now + 10, PATIENCE));
    Ok(Shared {
        ring,
        card,
        space,
        manifest,
        table,
    })
}

/// First the igb gets another page table, and the controller goes on with the old one; then it gets that, too.
pub(super) fn new(new: &mut New<'_>) -> Result<()> {
    let (memory, ring) = look(new)?;
    let (file, queues) = nvme::look_at(new, Some(QUEUES))?;
    check_both(new, "boot")?;
    let shared = take_over(new, ring, [&memory, &file])?;
    let Shared {
        ring,
        card,
        space,
        manifest,
        table,
    } = &shared;

    let nvme = nvme::retrieve_in(new, file, queues, space)?;
    let next = (nvme.queues.completed() + 1).min(nvme.queues.submitted());
    let goes_on = nvme.queues.wait(next, PATIENCE);
    new.common.check("old-table", goes_on);
    check_both(new, "one")?;
    let attach = nvme.device.attach_to(*table);
    new.common.check("attach-nvme", works(attach));
    nvme::take_all(new, "before", &nvme)?;
    check_both(new, "both")?;
    // This finishes the session.
    receive::go_on(new, &memory, ring, card, &[])?;
    check_freed(new, manifest)?;
    nvme::go_on(new, &nvme)?;
    check_both(new, "finished")
}

/// Nobody retrieves the controller, which is stopped, and the igb goes on.
pub(super) fn half_new(new: &mut New<'_>) -> Result<()> {
    let (memory, ring) = look(new)?;
    let (file, queues) = nvme::look_at(new, Some(QUEUES))?;
    let shared = take_over(new, ring, [&memory, &file])?;
    let place = PciDevice::find(controller::MODEL)?;
    new.common
        .check("runs-nvme", is(place.is_master()?, "it does not"));

    receive::go_on(new, &memory, &shared.ring, &shared.card, &[])?;
    check_freed(new, &shared.manifest)?;
    new.common.check(
        "stopped-nvme",
        is(!place.is_master()?, "it may still use memory"),
    );
    let completed = queues.completed();
    thread::sleep(Duration::from_secs(1));
    new.common
        .check("silent-nvme", same(queues.completed(), completed));
    check_both(new, "finished")
}

/// Each has an iommufd of its own, as devices of two guests have.
pub(super) fn apart_old(old: &mut Old<'_>) -> Result<()> {
    let (igb, first) = run_with(old, |_, _, _| Ok(()))?;
    let memory = nvme::memory(old)?;
    let second = Space::new()?;
    second.map(&memory, controller::SIZE, QUEUES, Access::Write)?;
    let nvme = nvme::start_at(old, &second, memory, QUEUES)?;
    old.preserve(first.fd(), IOMMUFD)?;
    old.preserve(second.fd(), SECOND)?;
    old.preserve(igb.device.fd(), DEVICE)?;
    nvme.preserve(old)?;
    std::mem::forget((first, second));
    nvme.leave(old)?;
    igb.leave(old)
}

/// Preserves what the controller uses, and not the controller.
pub(super) fn preserve_other(old: &mut Old<'_>) -> Result<(Device, Space)> {
    let memory = nvme::memory(old)?;
    let space = Space::new()?;
    space.map(&memory, controller::SIZE, QUEUES, Access::Write)?;
    let device = Device::bind_to(PciDevice::find(controller::MODEL)?.open()?, &space)?;
    device.attach()?;
    old.preserve(space.fd(), SECOND)?;
    Ok((device, space))
}

/// Both are taken over, each with a page table of its own.
pub(super) fn apart_new(new: &mut New<'_>) -> Result<()> {
    let (memory, ring) = look(new)?;
    let (file, queues) = nvme::look_at(new, Some(QUEUES))?;
    check_both(new, "boot")?;
    let fd = take(new)?;
    let manifests = [IOMMUFD, SECOND].map(|token| new.retrieve(token).map(Manifest::new));
    let [first, second] = manifests;
    let (first, second) = (first?, second?);

    let space = Space::new()?;
    space.map(&memory, igb::SIZE, IOVA, Access::Write)?;
    let card = Device::bind_to(fd, &space)?;
    new.common.check("attach", works(card.attach()));
    let space = Space::new()?;
    space.map(&file, controller::SIZE, QUEUES, Access::Write)?;
    let nvme = nvme::retrieve_in(new, file, queues, &space)?;
    let attach = nvme.device.attach();
    new.common.check("attach-nvme", works(attach));
    check_both(new, "attached")?;

    nvme::take_all(new, "before", &nvme)?;
    // This finishes the session.
    receive::go_on(new, &memory, &ring, &card, &[])?;
    check_freed(new, &first)?;
    let tables = second.info()?.nr_tables;
    new.common.check("freed-nvme", same(tables, 0));
    nvme::go_on(new, &nvme)?;
    check_both(new, "finished")
}

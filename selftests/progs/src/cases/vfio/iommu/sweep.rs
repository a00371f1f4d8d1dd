// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Every allocation fails once: when page tables are preserved and retrieved, and when one replaces another.

use super::{
    receive::{
        check_translation,
        IOMMUFD,
        IOVA, //
    },
    thousand::PEND, //
};
use crate::{
    cases::vfio::{
        self,
        receive::{
            look,
            take, //
        },
        PATIENCE, //
    },
    expect::{
        is,
        same,
        works,
        Check, //
    },
    memory::page,
    run::{
        New,
        Old, //
    },
    sweep::{
        self,
        Sweep,
        MOST, //
    },
    sys::FailNth,
    vfio::{
        igb::{
            self,
            Ring, //
        },
        manifest::Manifest,
        Access,
        Device,
        PciDevice,
        Space, //
    }, //
};
use anyhow::{
    bail,
    Context,
    Result, //
};
use rustix::io::Errno;
use std::{
    fs,
    os::fd::{
        AsFd,
        OwnedFd, //
    }, //
};

/// How many page tables are handed over: more than the retrieval of one has allocations.
const FILES: u64 = 80;

/// Files have these numbers from 1 on.
const SHARED: u64 = 1000;

fn duplicate(fd: impl AsFd) -> Result<OwnedFd> {
    Ok(fd.as_fd().try_clone_to_owned()?)
}

/// What an attempt fails with. With the mock IOMMU, an object that is looked up can be missing, too.
const INJECTED: [Errno; 2] = [Errno::NOMEM, Errno::NOENT];

/// A card that uses a page of memory.
fn attached(memory: &OwnedFd) -> Result<(Device, Space)> {
    let space = Space::new()?;
    space.map(memory, page(), IOVA, Access::Write)?;
    let device = Device::bind_to(PciDevice::find(igb::MODEL)?.open()?, &space)?;
    device.attach()?;
    Ok((device, space))
}

/// The iommufd: while it is not preserved, memory can be mapped and unmapped.
pub(super) fn preserve(old: &mut Old<'_>) -> Result<()> {
    let memory = vfio::memory("memory", page())?;
    let (_device, space) = attached(&memory)?;
    let free = |_: &OwnedFd| -> Check {
        works(space.map(&memory, page(), 2 * IOVA, Access::Read))?;
        works(space.unmap(2 * IOVA, page()))
    };
    let sweep = Sweep {
        make: &|| duplicate(space.fd()),
        verify: &|_| Ok(()),
        free: &free,
    };
    sweep::preserve(old, &sweep)
}

/// The card, whose page table is preserved.
pub(super) fn preserve_device(old: &mut Old<'_>) -> Result<()> {
    let memory = vfio::memory("memory", page())?;
    let (device, space) = attached(&memory)?;
    old.preserve(space.fd(), IOMMUFD)?;
    let usable = |_: &OwnedFd| -> Check { works(device.command()).map(drop) };
    let sweep = Sweep {
        make: &|| duplicate(device.fd()),
        verify: &usable,
        free: &usable,
    };
    sweep::preserve(old, &sweep)?;
    old.close_session();
    Ok(())
}

/// A page table that no device uses: one is needed only to make it.
fn unused(memory: &OwnedFd) -> Result<OwnedFd> {
    let space = Space::new()?;
    space.map(memory, page(), IOVA, Access::Read)?;
    let device = Device::bind_to(PciDevice::find(igb::MODEL)?.open()?, &space)?;
    space.page_table(&device)?;
    duplicate(space.fd())
}

pub(super) fn retrieve_old(old: &mut Old<'_>) -> Result<()> {
    let memory = vfio::memory("memory", page())?;
    old.preserve(&memory, SHARED)?;
    let sweep = Sweep {
        make: &|| unused(&memory),
        verify: &|_| Ok(()),
        free: &|_| Ok(()),
    };
    sweep::retrieve_old(old, &sweep, FILES)?;
    old.keep(memory);
    Ok(())
}

/// The manifest tells of what was mapped.
fn verify(fd: &OwnedFd) -> Check {
    let manifest = Manifest::new(duplicate(fd).map_err(|e| e.to_string())?);
    let info = manifest.info().map_err(|e| e.to_string())?;
    is(
        info.nr_areas == 1 && info.nr_tables >= 3,
        &format!("{info:?}"),
    )
}

pub(super) fn retrieve_new(new: &mut New<'_>) -> Result<()> {
    let _memory = new.retrieve(SHARED)?;
    sweep::retrieve_new(new, &verify, FILES).map(drop)
}

/// A card that receives, and whose page table is replaced.
struct Replacing<'a> {
    place: PciDevice,
    device: &'a Device,
    space: &'a Space,
    ring: &'a Ring,
}

impl Replacing<'_> {
    /// Whatever fails, the old page table stays in force, and the next attempt can succeed. Returns how many allocations
    /// there were, and how many of them it could not do without.
    fn sweep(&self, fail: &FailNth) -> Result<(u32, u32, Check)> {
        let (mut good, mut refusals) = (Ok(()), 0);
        let mut table = self.space.page_table(self.device)?;
        let mut last = None;
        for nth in 1..=MOST {
            let (answer, injected) = fail.inject(nth, || self.device.attach_to(table))?;
            let now = self.ring.received();
            let mut seen = self.ring.wait(now + 2, PATIENCE);
            if let Err(errno) = answer {
                refusals += 1;
                seen = seen.and(is(INJECTED.contains(&errno), &format!("{errno:?}")));
            }
            if let Err(why) = &seen {
                println!("# allocation {nth}, which gave {answer:?}: {why}");
            }
            good = good.and(seen);
            if answer.is_err() {
                continue;
            }
            if let Some(last) = last.replace(table) {
                self.space.destroy(last)?;
            }
            if !injected {
                return Ok((nth - 1, refusals, good));
            }
            // It did without. Once more, as if that were the previous kernel's.
            table = self.space.page_table(self.device)?;
            fs::write(PEND, self.place.name()?).context(PEND)?;
        }
        bail!("there are more than {MOST} allocations")
    }
}

pub(super) fn attach_new(new: &mut New<'_>) -> Result<()> {
    let fail = match FailNth::new()? {
        Ok(fail) => fail,
        Err(why) => return new.common.skip_all(&why),
    };
    let (memory, ring) = look(new)?;
    let fd = take(new)?;
    let manifest = Manifest::new(new.retrieve(IOMMUFD)?);
    let space = Space::new()?;
    space.map(&memory, igb::SIZE, IOVA, Access::Write)?;
    let device = Device::bind_to(fd, &space)?;
    let replacing = Replacing {
        place: PciDevice::find(igb::MODEL)?,
        device: &device,
        space: &space,
        ring: &ring,
    };
    let (allocations, refusals, good) = replacing.sweep(&fail)?;
    println!("# {allocations} allocations, {refusals} refusals");
    new.common.check("good", good);
    new.common
        .check("injected", is(allocations > 0, "there were none"));
    check_translation(new, "replaced")?;
    new.finish()?;
    new.common
        .check("freed", same(manifest.info()?.nr_tables, 0));
    let received = ring.received();
    new.common.check("frames", ring.verify(received));
    let now = ring.received();
    new.common.check("finished", ring.wait(now + 10, PATIENCE));
    Ok(())
}

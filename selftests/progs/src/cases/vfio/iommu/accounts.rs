// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What page tables take is given back, to the last page.
//!
//! The kernel counts the pages of its own page tables, so that one that is lost is seen. Those that it was handed over
//! it does not count: they are free memory once they are freed, which is not that exact. So there are many page tables,
//! and if one page of each is lost that is seen, too.

use super::receive::{
    check_freed,
    IOMMUFD,
    IOVA, //
};
use crate::{
    cases::vfio::{
        self,
        receive::{
            DEVICE,
            MEMORY, //
        },
        PATIENCE, //
    },
    expect::{
        is,
        works,
        Check, //
    },
    memory::page,
    run::{
        New,
        Old, //
    },
    sys::{
        self,
        given_back,
        mem_free,
        slack, //
    },
    vfio::{
        igb,
        manifest::Manifest,
        Access,
        Device,
        Model,
        PciDevice,
        Space, //
    }, //
};
use anyhow::{
    Context,
    Result, //
};
use liveupdate::Token;
use std::{
    fs,
    os::fd::OwnedFd,
    thread,
    time::{
        Duration,
        Instant, //
    }, //
};

/// QEMU's device for teaching. It cannot be reset, which takes long.
const EDU: Model = Model {
    vendor: 0x1234,
    device: 0x11e8,
};

/// How many page tables are handed over that no device uses, and the token of the first.
const TABLES: u64 = 256;
const FIRST: u64 = 1000;

/// Each has a list of its pages: one page of records, and one that lists that.
const LIST: u64 = 2;

/// Pages of the smallest page table: one at each level.
const LEAST: u64 = 3;

/// How often it is given up before it is handed over.
const CYCLES: u32 = 8;

/// How much free memory may be missing, in bytes: half of one page for each table.
const SLACK: u64 = TABLES / 2 * 4096;

/// Has the kernel tell exactly: each processor counts for itself for a while.
const REFRESH: &str = "/proc/sys/vm/stat_refresh";

/// Pages of page tables of IOMMUs.
pub(super) fn pages() -> Result<u64> {
    sys::set(REFRESH, "1")?;
    let text = fs::read_to_string("/proc/vmstat")?;
    let mut words = text.split_ascii_whitespace();
    let found = words.find(|word| *word == "nr_iommu_pages");
    let value = found.and(words.next()).context("nr_iommu_pages")?;
    Ok(value.parse()?)
}

/// There are as many of them as there were. Some may be freed a moment later.
fn back_to(base: u64) -> Result<Check> {
    let start = Instant::now();
    let mut now = pages()?;
    while now != base && start.elapsed() < PATIENCE / 4 {
        thread::sleep(Duration::from_millis(50));
        now = pages()?;
    }
    let text = format!("{now} pages of page tables, and there were {base}");
    println!("# {text}");
    Ok(is(now == base, &text))
}

/// How many pages fewer there are once a card does not use what was handed over in scalable mode: the copies of a
/// directory and of a table of PASIDs are freed, and the card's own directory has got a table.
fn pasid_pages() -> Result<u64> {
    let line = fs::read_to_string("/proc/cmdline")?;
    Ok(u64::from(line.contains("sm_on")))
}

/// An address space in which a page of memory is mapped.
fn mapped(memory: &OwnedFd) -> Result<Space> {
    let space = Space::new()?;
    space.map(memory, page(), IOVA, Access::Read)?;
    Ok(space)
}

/// A card that uses one.
fn attached(memory: &OwnedFd) -> Result<(Device, Space)> {
    let space = mapped(memory)?;
    let device = Device::bind_to(PciDevice::find(igb::MODEL)?.open()?, &space)?;
    device.attach()?;
    Ok((device, space))
}

/// A page table that no device uses. One is needed only to make it.
fn unused(memory: &OwnedFd) -> Result<OwnedFd> {
    let space = mapped(memory)?;
    let device = Device::bind_to(PciDevice::find(EDU)?.open()?, &space)?;
    space.page_table(&device)?;
    Ok(space.fd().try_clone_to_owned()?)
}

/// Everything is given up after it was preserved, again and again, and handed over in the end.
pub(super) fn old(old: &mut Old<'_>) -> Result<()> {
    let memory = vfio::memory("memory", page())?;
    let base = pages()?;
    let mut counted = Ok(());
    for _ in 0..=CYCLES {
        let (device, space) = attached(&memory)?;
        let used = pages()?;
        let text = format!("{used} pages of page tables while they are in use, and {base} before");
        counted = counted.and(is(used >= base + LEAST, &text));
        let session = old.new_session(".cycle")?;
        session.preserve(&memory, Token(MEMORY))?;
        session.preserve(space.fd(), Token(IOMMUFD))?;
        session.preserve(device.fd(), Token(DEVICE))?;
        drop(session);
        device.detach()?;
    }
    old.common.check("counted", counted);
    old.common.check("tables", back_to(base)?);

    let (device, space) = attached(&memory)?;
    device.enable()?;
    old.preserve(&memory, MEMORY)?;
    for token in FIRST..FIRST + TABLES {
        let unused = unused(&memory)?;
        old.preserve(&unused, token)?;
        old.keep(unused);
    }
    old.preserve(space.fd(), IOMMUFD)?;
    old.preserve(device.fd(), DEVICE)?;
    old.keep(memory);
    std::mem::forget((device, space));
    Ok(())
}

/// Retrieves what tells of all page tables that no device uses, and how many pages they have.
fn retrieve_unused(new: &mut New<'_>) -> Result<(Vec<Manifest>, u64)> {
    let (mut all, mut sum) = (Vec::new(), 0);
    for token in FIRST..FIRST + TABLES {
        let manifest = Manifest::new(new.retrieve(token)?);
        sum += manifest.info()?.nr_tables;
        all.push(manifest);
    }
    println!("# {sum} pages of {TABLES} page tables that no device uses");
    new.common.check(
        "handed-over",
        is(sum >= TABLES * LEAST, "there are fewer pages"),
    );
    Ok((all, sum))
}

/// Takes the card over, and gives everything up, or nothing.
fn run(new: &mut New<'_>, give_up: bool) -> Result<()> {
    let base = pages()?;
    let memory = new.retrieve(MEMORY)?;
    let manifest = Manifest::new(new.retrieve(IOMMUFD)?);
    let (unused, sum) = retrieve_unused(new)?;
    let space = mapped(&memory)?;
    let device = Device::bind_to(new.retrieve(DEVICE)?, &space)?;
    new.common.check("attach", works(device.attach()));
    let used = pages()?;
    let text = format!("{used} pages of page tables while they are in use, and {base} before");
    new.common.check("counted", is(used >= base + LEAST, &text));

    let free = mem_free()?;
    if give_up {
        new.finish()?;
        check_freed(new, &manifest)?;
    }
    let gain = (sum + TABLES * LIST) * page();
    new.common
        .check("old-tables", given_back(free, gain, slack(SLACK))?);
    drop(unused);
    let in_use = match give_up {
        true => {
            device.detach()?;
            drop((device, space));
            None
        }
        false => Some((device, space)),
    };
    new.common
        .check("new-tables", back_to(base - pasid_pages()?)?);
    drop(in_use);
    Ok(())
}

pub(super) fn new(new: &mut New<'_>) -> Result<()> {
    run(new, true)
}

/// Nothing is given up: both figures tell.
pub(super) fn kept_new(new: &mut New<'_>) -> Result<()> {
    run(new, false)
}

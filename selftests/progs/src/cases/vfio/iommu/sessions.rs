// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A page table in one session, and the device that uses it in another one.

use super::{
    receive::{
        check_translation,
        leave,
        run_with,
        IOMMUFD,
        IOVA, //
    },
    two, //
};
use crate::{
    cases::vfio::{
        receive::{
            look,
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
    sys,
    vfio::{
        igb,
        manifest::Manifest,
        Access,
        Device,
        Space, //
    }, //
};
use anyhow::Result;
use liveupdate::{
    Session,
    Token, //
};
use rustix::io::Errno;
use std::fs;

/// The other sessions.
const OTHER: &str = "device";
const TABLE: &str = "table";

pub(super) fn old(old: &mut Old<'_>) -> Result<()> {
    let (running, space) = run_with(old, |_, _, _| Ok(()))?;
    old.preserve(space.fd(), IOMMUFD)?;
    let other = old.new_session(OTHER)?;
    other.preserve(running.device.fd(), Token(DEVICE))?;

    // Without its page table the device cannot go on.
    old.close_session();
    let answer = sys::refused_reboot()?;
    old.common.check("closed", same(answer, Errno::BUSY));
    let settings = igb::settings(&running.registers);
    running.check_unchanged(old, &settings);
    drop(other);

    old.preserve(&running.memory, MEMORY)?;
    old.preserve(space.fd(), IOMMUFD)?;
    let other = old.new_session(OTHER)?;
    other.preserve(running.device.fd(), Token(DEVICE))?;
    std::mem::forget((other, space));
    running.leave(old)
}

/// The page table of the igb is replaced while it is not preserved, and another one's is.
pub(super) fn stale_old(old: &mut Old<'_>) -> Result<()> {
    let (running, space) = run_with(old, |_, _, _| Ok(()))?;
    old.close_session();
    let other = two::preserve_other(old)?;

    let preserve_table = |session: &Session| {
        session.preserve(&running.memory, Token(MEMORY))?;
        session.preserve(space.fd(), Token(IOMMUFD))
    };
    let table = old.new_session(TABLE)?;
    preserve_table(&table)?;
    let device = old.new_session(OTHER)?;
    device.preserve(running.device.fd(), Token(DEVICE))?;
    drop(table);
    let replacement = space.page_table(&running.device)?;
    let answer = running.device.attach_to(replacement);
    old.common.check("replaced", works(answer));

    // What was noted of the device leads to a page table that is gone.
    let table = old.new_session(TABLE)?;
    preserve_table(&table)?;
    let answer = sys::refused_reboot()?;
    old.common.check("stale", same(answer, Errno::BUSY));
    let settings = igb::settings(&running.registers);
    running.check_unchanged(old, &settings);
    drop((device, table));
    old.close_session();
    drop(other);

    old.preserve(&running.memory, MEMORY)?;
    leave(old, running, space)
}

/// How many page tables are kept that nobody has a file of.
fn orphans() -> Result<usize> {
    let status = fs::read_to_string("/dev/luo_status")?;
    Ok(status
        .lines()
        .filter(|line| line.starts_with("orphan ") && line.contains("rs-iommufd-v1"))
        .count())
}

/// The page table stays as long as the device uses it.
pub(super) fn new(new: &mut New<'_>) -> Result<()> {
    let (memory, ring) = look(new)?;
    let manifest = Manifest::new(new.retrieve(IOMMUFD)?);
    new.finish()?;
    new.common.check("orphan", same(orphans()?, 1));
    new.common
        .check("no-tables", same(manifest.info()?.nr_tables, 0));
    let now = ring.received();
    new.common.check("goes-on", ring.wait(now + 10, PATIENCE));

    let other = new.take_session(OTHER)?;
    let space = Space::new()?;
    space.map(&memory, igb::SIZE, IOVA, Access::Write)?;
    let device = Device::bind_to(other.retrieve(Token(DEVICE))?, &space)?;
    new.common.check("attach", works(device.attach()));
    let now = ring.received();
    new.common.check("attached", ring.wait(now + 10, PATIENCE));
    check_translation(new, "replaced")?;
    other.finish().map_err(liveupdate::Error::from)?;
    new.common.check("released", same(orphans()?, 0));
    let now = ring.received();
    new.common.check("finished", ring.wait(now + 10, PATIENCE));
    let received = ring.received();
    let right = ring.verify(received);
    new.common.check("frames", right);
    new.common
        .check("usable", is(device.command().is_ok(), "it is not"));
    Ok(())
}

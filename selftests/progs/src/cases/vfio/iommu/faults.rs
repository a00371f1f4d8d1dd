// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What is not mapped is not written to.

use super::receive::{
    leave,
    run_with,
    seen,
    take_over,
    IOVA, //
};
use crate::{
    cases::vfio::{
        self,
        noted,
        receive::MEMORY,
        PATIENCE, //
    },
    expect::{
        is,
        same,
        Check, //
    },
    memory::{
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
        Access,
        Space, //
    }, //
};
use anyhow::{
    Context,
    Result, //
};
use std::{
    ops::Range,
    os::fd::OwnedFd,
    sync::atomic::Ordering, //
};

const CANARY: u64 = 4;
/// What is in it.
const SONG: u64 = 0x7477_6565_7421_2121;

/// The frames that are sent to the canary: they come when there is no kernel, or it boots.
const BAD: Range<u64> = 100..104;

/// Memory that must not change, at a physical address that is nothing else for the device. It is preserved.
fn canary(old: &mut Old<'_>) -> Result<(OwnedFd, u64)> {
    let memory = vfio::memory("canary", HUGE)?;
    let map = Map::new(&memory, HUGE, true)?;
    for at in (0..HUGE).step_by(8) {
        map.word(at).store(SONG, Ordering::Relaxed);
    }
    // Only from here on it stays where it is.
    old.preserve(&memory, CANARY)?;
    let ring = IOVA..IOVA + igb::SIZE;
    let pfns = map.pfns()?;
    let at = pfns.iter().map(|pfn| pfn * page());
    let at = at.filter(|at| !ring.contains(at)).nth(1);
    let at = at.context("all of it is where the ring is")?;
    old.common.note("canary", &at.to_string())?;
    Ok((memory, at))
}

fn check_canary(new: &mut New<'_>) -> Result<OwnedFd> {
    let memory = new.retrieve(CANARY)?;
    new.common.check("canary", unchanged(&memory)?);
    Ok(memory)
}

fn unchanged(memory: &OwnedFd) -> Result<Check> {
    let map = Map::new(memory, HUGE, false)?;
    let changed = (0..HUGE)
        .step_by(8)
        .find(|at| map.word(*at).load(Ordering::Relaxed) != SONG);
    Ok(same(changed, None))
}

fn point(ring: &Ring, slots: Range<u64>, to: u64) {
    for slot in slots {
        ring.point(slot, to);
    }
}

/// Some descriptors point to an address that is not mapped, at which there is memory of the machine.
pub(super) fn canary_old(old: &mut Old<'_>) -> Result<()> {
    aim(old, |_, _, _| Ok(()))
}

/// It is mapped, so that it is written to.
pub(super) fn mapped_old(old: &mut Old<'_>) -> Result<()> {
    aim(old, |space, memory, at| {
        let map = Map::new(memory, HUGE, false)?;
        let pfns = map.pfns()?;
        let nr = pfns.iter().position(|pfn| pfn * page() == at);
        let nr = nr.context("it has moved")? as u64;
        Ok(space.map(memory, HUGE, at - nr * page(), Access::Write)?)
    })
}

fn aim(old: &mut Old<'_>, map: impl FnOnce(&Space, &OwnedFd, u64) -> Result<()>) -> Result<()> {
    let mut kept = None;
    let (running, space) = run_with(old, |old, ring, space| {
        let (memory, at) = canary(old)?;
        point(ring, BAD, at);
        map(space, &memory, at)?;
        kept = Some(memory);
        Ok(())
    })?;
    if let Some(memory) = kept {
        old.keep(memory);
    }
    leave(old, running, space)
}

/// Faults are of a page, and of no other.
fn check_faults(new: &mut New<'_>, name: &str, at: u64) -> Result<()> {
    let seen = seen(new)?;
    let here = at..at + page();
    let other = seen.faults.iter().find(|at| !here.contains(at));
    new.common.check(
        &format!("{name}.faults"),
        is(!seen.faults.is_empty(), "there were none").and(same(other, None)),
    );
    new.common
        .check(&format!("{name}.stays-on"), same(seen.off, 0));
    Ok(())
}

pub(super) fn canary_new(new: &mut New<'_>) -> Result<()> {
    let memory = new.retrieve(MEMORY)?;
    let ring = Ring::new(Map::new(&memory, igb::SIZE, true)?);
    new.common
        .check("meanwhile", ring.wait(BAD.end + 20, PATIENCE));
    let at = noted(new, "igb", "before")?.parse::<u64>()?;
    new.common
        .check("late-enough", is(at < BAD.start, "they came too early"));
    new.common.check("before", ring.verify_range(0..BAD.start));
    let received = ring.received();
    new.common
        .check("after", ring.verify_range(BAD.end..received));
    let _canary = check_canary(new)?;
    let at = new.common.noted("canary")?.context("no address")?;
    check_faults(new, "blackout", at.parse()?)
}

/// A write of a device to here is an interrupt. With bit 4 it is looked up in a table, under a number that nothing has;
/// without, QEMU lets it through, to CPU 128 or the eighth of a group, neither of which the machine has.
const INTERRUPT: u64 = 0xfee8_0010;
const LOOKED_UP: u64 = 1 << 4;

/// The frames that become interrupts, from when there is no kernel to when the next one has its own table.
const INTERRUPTS: Range<u64> = 100..200;

/// What the device writes is not memory, and no address that is translated.
pub(super) fn interrupts_old(old: &mut Old<'_>) -> Result<()> {
    let (running, space) = run_with(old, |_, ring, _| {
        point(ring, INTERRUPTS, INTERRUPT);
        Ok(())
    })?;
    leave(old, running, space)
}

/// None of it was let through, and there was always a table: an empty one, and then that of the next kernel.
pub(super) fn interrupts_new(new: &mut New<'_>) -> Result<()> {
    let memory = new.retrieve(MEMORY)?;
    let ring = Ring::new(Map::new(&memory, igb::SIZE, true)?);
    new.common
        .check("meanwhile", ring.wait(INTERRUPTS.end + 20, PATIENCE));
    let at = noted(new, "igb", "before")?.parse::<u64>()?;
    let late = is(at < INTERRUPTS.start, "they came too early");
    new.common.check("late-enough", late);
    let received = ring.received();
    let frames = ring.verify_range(0..INTERRUPTS.start);
    let frames = frames.and(ring.verify_range(INTERRUPTS.end..received));
    new.common.check("frames", frames);

    let seen = seen(new)?;
    new.common.check("stays-on", same(seen.open, 0));
    let own = 1 << 16;
    let empty = seen.interrupts.first().is_some_and(|size| *size < own);
    let tables = is(empty, "no empty table").and(same(seen.interrupts.last().copied(), Some(own)));
    new.common.check("tables", tables);
    let mine = INTERRUPT & !(page() - 1)..(INTERRUPT | (page() - 1)) + 1;
    let passed = |at: &u64| mine.contains(at) && at & LOOKED_UP != 0;
    let passed = seen.delivered.iter().copied().find(passed);
    new.common.check("blocked", same(passed, None));
    Ok(())
}

/// Where something is mapped in the old kernel only.
const OLD: u64 = 1 << 40;

/// Something is mapped that the next kernel does not map again.
pub(super) fn old_only_old(old: &mut Old<'_>) -> Result<()> {
    let mut kept = None;
    let (running, space) = run_with(old, |old, _, space| {
        let (memory, _) = canary(old)?;
        space.map(&memory, HUGE, OLD, Access::Write)?;
        kept = Some(memory);
        Ok(())
    })?;
    if let Some(memory) = kept {
        old.keep(memory);
    }
    leave(old, running, space)
}

/// From when the page table is replaced, that cannot be used any more.
pub(super) fn old_only_new(new: &mut New<'_>) -> Result<()> {
    let memory = new.retrieve(MEMORY)?;
    let ring = Ring::new(Map::new(&memory, igb::SIZE, true)?);
    let (_device, _space, manifest) = take_over(new, &memory, &ring)?;
    let canary = check_canary(new)?;
    new.finish()?;
    new.common
        .check("freed", same(manifest.info()?.nr_tables, 0));

    let bad = ring.received() + 10;
    point(&ring, bad..bad + 4, OLD);
    new.common.check("goes-on", ring.wait(bad + 10, PATIENCE));
    new.common.check("untouched", unchanged(&canary)?);
    new.common.check("frames", ring.verify_range(0..bad));
    check_faults(new, "finished", OLD)
}

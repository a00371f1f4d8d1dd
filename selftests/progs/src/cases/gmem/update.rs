// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What is handed over to the next kernel.

use super::PAGES;
use crate::{
    expect::{
        is,
        same, //
    },
    gmem::{
        allocate,
        fill,
        resident,
        verify,
        Vm,
        DEFAULT,
        SHARED, //
    },
    memory::{
        page,
        pfns,
        Map, //
    },
    run::{
        New,
        Old, //
    },
    sys, //
};
use anyhow::Result;
use liveupdate::guest_memfd;
use std::{
    ops::Range,
    os::fd::OwnedFd, //
};

/// Written before the file is preserved.
const EARLY: Range<u64> = 0..16;
/// Allocated before, and written after the file is preserved.
const LATE: Range<u64> = 16..24;
/// Allocated, and never touched.
const UNTOUCHED: Range<u64> = 24..32;

/// So many pages that it shows if they are not freed, in a kernel with checkers too.
pub(super) const MANY: u64 = 16384;

pub(super) fn basic_old(old: &mut Old<'_>) -> Result<()> {
    let vm = Vm::new(DEFAULT)?;
    let memory = vm.memory(PAGES * page(), SHARED)?;
    // The pages that nobody touches are not zero: this processor gives out again what it got back last.
    sys::stay()?;
    let dirt = vm.memory(PAGES * page(), SHARED)?;
    fill(&Map::new(&dirt, PAGES * page(), true)?, 0..PAGES);
    let dirty = pfns(&dirt, PAGES * page())?;
    drop(dirt);
    allocate(&memory, EARLY.start..UNTOUCHED.end)?;
    let dirty: Vec<_> = dirty.iter().map(u64::to_string).collect();
    old.common.note("dirt", &dirty.join(" "))?;
    let map = Map::new(&memory, PAGES * page(), true)?;
    fill(&map, EARLY);
    old.preserve(&memory, 1)?;
    fill(&map, LATE);
    old.common
        .check("early", verify(&map, EARLY.start..LATE.end, false));
    old.note_pages(&memory, LATE.end * page(), 1)
}

pub(super) fn basic_new(new: &mut New<'_>) -> Result<()> {
    let memory = new.retrieve(1)?;
    let map = Map::new(&memory, PAGES * page(), true)?;
    let pages: Vec<_> = (0..PAGES).map(|at| at < UNTOUCHED.end).collect();
    new.common
        .check("holes", same(resident(&map, PAGES)?, pages));
    new.common.check("early", verify(&map, EARLY, false));
    new.common.check("late", verify(&map, LATE, false));
    new.common.check("untouched", verify(&map, UNTOUCHED, true));
    let dirt = new.common.noted("dirt")?.unwrap_or_default();
    let pages = pfns(&memory, UNTOUCHED.end * page())?.split_off(UNTOUCHED.start as usize);
    let dirty = pages
        .iter()
        .filter(|page| dirt.split(' ').any(|dirty| dirty == page.to_string()));
    let dirty = is(
        dirty.count() != 0,
        "all were zero before they were allocated",
    );
    new.common.check("untouched-were-dirty", dirty);
    let same_pages = new.same_pages(&memory, LATE.end * page(), 1);
    new.common.check("same-pages", same_pages);
    new.common
        .check("hole-reads-zero", verify(&map, UNTOUCHED.end..PAGES, true));

    let vm = Vm::new(DEFAULT)?;
    let view = guest_memfd::link(&memory, &vm)?;
    vm.bind(&view, PAGES * page())?;
    let other = Map::new(&view, PAGES * page(), true)?;
    fill(&other, UNTOUCHED.end..PAGES);
    new.finish()?;
    drop((map, memory));
    new.common
        .check("of-vm", verify(&other, EARLY.start..LATE.end, false));
    new.common
        .check("of-vm-new", verify(&other, UNTOUCHED.end..PAGES, false));
    Ok(())
}

fn large() -> Result<OwnedFd> {
    let vm = Vm::new(DEFAULT)?;
    let memory = vm.memory(MANY * page(), SHARED)?;
    let map = Map::new(&memory, MANY * page(), true)?;
    fill(&map, 0..MANY);
    Ok(memory)
}

pub(super) fn large_old(old: &mut Old<'_>) -> Result<()> {
    old.preserve(large()?, 1)
}

/// At least so much more must be free than before.
fn freed(new: &mut New<'_>, before: u64) -> Result<()> {
    let want = before + MANY * page() - sys::slack(4 << 20);
    let now = sys::wait_mem_free(want)?;
    let text = format!("{before} bytes were free, then {now}");
    new.common.check("memory", is(now >= want, &text));
    Ok(())
}

pub(super) fn unretrieved_new(new: &mut New<'_>) -> Result<()> {
    let before = sys::mem_free()?;
    new.finish()?;
    freed(new, before)
}

pub(super) fn closed_new(new: &mut New<'_>) -> Result<()> {
    let before = sys::mem_free()?;
    drop(new.retrieve(1)?);
    new.finish()?;
    freed(new, before)
}

pub(super) fn relay_old(old: &mut Old<'_>) -> Result<()> {
    let vm = Vm::new(DEFAULT)?;
    let memory = vm.memory(PAGES * page(), SHARED)?;
    let map = Map::new(&memory, PAGES * page(), true)?;
    fill(&map, EARLY);
    old.note_pages(&memory, EARLY.end * page(), 1)?;
    old.preserve(&memory, 1)
}

pub(super) fn relay_new(new: &mut New<'_>) -> Result<()> {
    let memory = new.retrieve(1)?;
    let map = Map::new(&memory, PAGES * page(), false)?;
    new.common.check("content", verify(&map, EARLY, false));
    let same_pages = new.same_pages(&memory, EARLY.end * page(), 1);
    new.common.check("same-pages", same_pages);
    let pages: Vec<_> = (0..PAGES).map(|at| at < EARLY.end).collect();
    new.common
        .check("holes", same(resident(&map, PAGES)?, pages));
    new.finish()?;
    new.hand_on(&memory, 1)
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Every allocation of preserve, of retrieve and of link fails once.

use super::PAGES;
use crate::{
    expect::{
        works,
        Check, //
    },
    gmem::{
        allocate,
        fill,
        punch,
        verify,
        Vm,
        DEFAULT,
        SHARED, //
    },
    memory::{
        page,
        Map, //
    },
    run::{
        New,
        Old, //
    },
    sweep::{
        self,
        Sweep, //
    },
    sys::{
        given_back,
        mem_free,
        slack, //
    }, //
};
use anyhow::Result;
use liveupdate::guest_memfd::link;
use std::{
    ops::Range,
    os::fd::OwnedFd, //
};

const FILES: u64 = 200;

/// Pages with content. Not in one piece, so that there is more than one extent.
const FILLED: [Range<u64>; 3] = [0..16, 20..21, 30..PAGES];

fn make(vm: &Vm) -> Result<OwnedFd> {
    let memory = vm.memory(PAGES * page(), SHARED)?;
    let map = Map::new(&memory, PAGES * page(), true)?;
    for pages in FILLED {
        fill(&map, pages);
    }
    Ok(memory)
}

fn content(memory: &OwnedFd) -> Check {
    let map = Map::new(memory, PAGES * page(), false).map_err(|error| error.to_string())?;
    FILLED
        .into_iter()
        .try_for_each(|pages| verify(&map, pages, false))
}

/// Memory can be added and taken away.
fn free(memory: &OwnedFd) -> Check {
    works(allocate(memory, 25..26))?;
    works(punch(memory, 25..26))
}

/// Runs `work` with files of one VM, which end the VM when the last of them is closed.
fn with_files<T>(work: impl FnOnce(&Sweep<'_>) -> Result<T>) -> Result<T> {
    let vm = Vm::new(DEFAULT)?;
    work(&Sweep {
        make: &|| make(&vm),
        verify: &content,
        free: &free,
    })
}

pub(super) fn preserve(old: &mut Old<'_>) -> Result<()> {
    with_files(|files| sweep::preserve(old, files))
}

pub(super) fn retrieve_old(old: &mut Old<'_>) -> Result<()> {
    with_files(|files| sweep::retrieve_old(old, files, FILES))
}

pub(super) fn retrieve_new(new: &mut New<'_>) -> Result<()> {
    let before = mem_free()?;
    sweep::retrieve_new(new, &content, FILES)?;
    let pages: u64 = FILLED.iter().map(|pages| pages.end - pages.start).sum();
    let memory = given_back(before, FILES * pages * page(), slack(2 << 20))?;
    new.common.check("memory", memory);
    Ok(())
}

pub(super) fn link_old(old: &mut Old<'_>) -> Result<()> {
    old.preserve(make(&Vm::new(DEFAULT)?)?, 1)
}

pub(super) fn link_new(new: &mut New<'_>) -> Result<()> {
    let memory = new.retrieve(1)?;
    let vm = Vm::new(DEFAULT)?;
    sweep::call(&mut new.common, || link(&memory, &vm), content)
}

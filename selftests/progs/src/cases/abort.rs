// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Taking it back before the reboot.

use super::Case;
use crate::{
    expect::{
        works,
        Check, //
    },
    memory::{
        memfd,
        page,
        Map, //
    },
    pattern::Layout,
    run::{
        New,
        Old, //
    },
    sys, //
};
use anyhow::Result;
use rustix::fs::{
    fallocate,
    fcntl_add_seals,
    ftruncate,
    FallocateFlags,
    SealFlags, //
};
use std::{
    os::fd::OwnedFd,
    sync::atomic::Ordering, //
};

pub(super) const CASES: &[Case] = &[
    Case::update(
        "abort.twice",
        "After closing the session everything works again, twice, and then the update succeeds",
        twice_old,
        twice_new,
    ),
    Case::local(
        "abort.no-leak",
        "Preserving and closing a hundred times leaves as much memory free as before",
        no_leak,
    ),
    Case::local(
        "abort.sealable",
        "After closing the session nothing is pinned: the write seal can be added",
        sealable,
    )
    .on_host(),
];

fn layout() -> Layout {
    let page = page();
    Layout::every(0xab027, 1 << 20, 0, 8 * page, 5 * page)
}

/// Everything that is refused while a file is preserved.
fn all_works(fd: &OwnedFd) -> Check {
    let (size, page) = (layout().size, page());
    let steps = || -> rustix::io::Result<()> {
        ftruncate(fd, size / 2)?;
        ftruncate(fd, size + 3 * page)?;
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        fallocate(fd, punch, 0, size)?;
        fallocate(fd, FallocateFlags::empty(), 0, size + 9 * page)?;
        rustix::io::pwrite(fd, &[1; 100], size + 20 * page)?;
        ftruncate(fd, 0)?;
        layout().write(fd)
    };
    works(steps())?;
    layout().verify(fd)
}

fn twice_old(old: &mut Old<'_>) -> Result<()> {
    let fd = memfd("abort")?;
    layout().write(&fd)?;
    let map = Map::new(&fd, layout().size, true)?;
    for round in ["first", "second"] {
        old.preserve(&fd, 1)?;
        old.close_session();
        old.common
            .check(&format!("{round}.content"), layout().verify(&fd));
        old.common.check(&format!("{round}.works"), all_works(&fd));
    }
    old.preserve(&fd, 1)?;
    // The mapping outlived all of it.
    let word = map.word(8);
    word.store(word.load(Ordering::Relaxed), Ordering::Relaxed);
    Ok(())
}

fn twice_new(new: &mut New<'_>) -> Result<()> {
    let fd = new.retrieve(1)?;
    new.common.check("content", layout().verify(&fd));
    Ok(())
}

fn no_leak(old: &mut Old<'_>) -> Result<()> {
    let fd = memfd("leak")?;
    Layout::full(1, 8 << 20).write(&fd)?;
    let empty = memfd("empty")?;
    let mut rounds = |count| -> Result<()> {
        for _ in 0..count {
            old.preserve(&fd, 1)?;
            old.preserve(&empty, 2)?;
            old.close_session();
        }
        Ok(())
    };
    // The first rounds fill caches.
    rounds(20)?;
    let before = sys::mem_free()?;
    rounds(100)?;
    // A page for each file that is not given back would be 800 KiB.
    let memory = sys::given_back(before, 0, sys::slack(400 << 10))?;
    old.common.check("memory", memory);
    Ok(())
}

fn sealable(old: &mut Old<'_>) -> Result<()> {
    let fd = memfd("sealable")?;
    layout().write(&fd)?;
    old.preserve(&fd, 1)?;
    old.close_session();
    old.common
        .check("write-seal", works(fcntl_add_seals(&fd, SealFlags::WRITE)));
    old.preserve(&fd, 1)?;
    old.close_session();
    old.common.check("content", layout().verify(&fd));
    Ok(())
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Holes, and pages that were allocated and never written.

use super::Case;
use crate::{
    memory::{
        memfd,
        page,
        HUGE, //
    },
    pattern::Layout,
    run::{
        New,
        Old, //
    }, //
};
use anyhow::Result;
use rustix::fs::{
    fallocate,
    FallocateFlags, //
};

pub(super) const CASES: &[Case] = &[
    Case::update(
        "holes.sparse",
        "Holes between pages, across page tables, at the start, at the end and everywhere read as zeroes",
        sparse_old,
        sparse_new,
    ),
    Case::update(
        "holes.fallocated",
        "Pages that were allocated and never written read as zeroes, beyond the end too",
        fallocated_old,
        fallocated_new,
    ),
    Case::update(
        "holes.punched",
        "Pages that were written and given back before preserve read as zeroes",
        punched_old,
        punched_new,
    ),
];

fn sparse() -> [(&'static str, Layout); 6] {
    let page = page();
    [
        (
            "every-other-page",
            Layout::every(1, 4 << 20, 0, 2 * page, page),
        ),
        ("start", Layout::part(2, 1 << 20, 64 * page..1 << 20)),
        ("end", Layout::part(3, (1 << 20) + 1, 0..3 * page)),
        ("all", Layout::ranges(4, 1 << 20, [])),
        // One page in each page table, at another place each.
        (
            "page-tables",
            Layout::every(5, 16 * HUGE, 3 * page, HUGE + 5 * page, page),
        ),
        ("bytes", Layout::every(6, 2 << 20, 100, 3 * page + 11, 13)),
    ]
}

fn sparse_old(old: &mut Old<'_>) -> Result<()> {
    for (token, (_, layout)) in (1..).zip(sparse()) {
        let fd = memfd("sparse")?;
        layout.write(&fd)?;
        old.preserve(&fd, token)?;
    }
    Ok(())
}

fn sparse_new(new: &mut New<'_>) -> Result<()> {
    for (token, (name, layout)) in (1..).zip(sparse()) {
        let fd = new.retrieve(token)?;
        new.common.check(name, layout.verify(&fd));
    }
    Ok(())
}

fn fallocated() -> Layout {
    let page = page();
    Layout::ranges(
        7,
        256 * page,
        [10 * page..12 * page + 5, 200 * page..201 * page],
    )
}

/// How much is allocated behind the end; it is not preserved, and must not come back as garbage.
const BEHIND: u64 = 1 << 20;

fn fallocated_old(old: &mut Old<'_>) -> Result<()> {
    // Dirty memory first, so that pages which are not cleared show.
    for _ in 0..4 {
        let fd = memfd("dirt")?;
        Layout::full(8, 16 << 20).write(&fd)?;
    }
    let fd = memfd("fallocated")?;
    fallocate(&fd, FallocateFlags::empty(), 0, fallocated().size)?;
    fallocated().write_data(&fd)?;
    fallocate(&fd, FallocateFlags::KEEP_SIZE, fallocated().size, BEHIND)?;
    old.preserve(&fd, 1)?;
    let fd = memfd("untouched")?;
    fallocate(&fd, FallocateFlags::empty(), 0, BEHIND)?;
    old.preserve(&fd, 2)
}

fn fallocated_new(new: &mut New<'_>) -> Result<()> {
    let fd = new.retrieve(1)?;
    new.common.check("content", fallocated().verify(&fd));
    let longer = Layout {
        size: fallocated().size + BEHIND,
        ..fallocated()
    };
    rustix::fs::ftruncate(&fd, longer.size)?;
    new.common.check("behind-the-end", longer.verify(&fd));
    let fd = new.retrieve(2)?;
    new.common
        .check("untouched", Layout::ranges(0, BEHIND, []).verify(&fd));
    Ok(())
}

fn punched() -> Layout {
    let page = page();
    Layout::ranges(9, 64 * page, [0..8 * page, 24 * page..64 * page])
}

fn punched_old(old: &mut Old<'_>) -> Result<()> {
    let fd = memfd("punched")?;
    Layout::full(9, punched().size).write(&fd)?;
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    fallocate(&fd, flags, 8 * page(), 16 * page())?;
    old.preserve(&fd, 1)
}

fn punched_new(new: &mut New<'_>) -> Result<()> {
    let fd = new.retrieve(1)?;
    new.common.check("content", punched().verify(&fd));
    Ok(())
}

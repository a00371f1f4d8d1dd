// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What would change the set of pages is refused from preserve on.

use super::Case;
use crate::{
    expect::{
        refused,
        same,
        works, //
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
    sys::in_child, //
};
use anyhow::Result;
use rustix::{
    fs::{
        fallocate,
        ftruncate,
        FallocateFlags, //
    },
    io::{
        pwrite,
        Errno, //
    }, //
};
use std::sync::atomic::Ordering;

pub(super) const CASES: &[Case] = &[Case::update(
    "frozen",
    "Truncate, punch, fallocate and writing beyond the end are refused after preserve and harm nothing",
    frozen_old,
    frozen_new,
)];

fn layout() -> Layout {
    let page = page();
    Layout::ranges(
        0xf02e,
        33 * page + 77,
        [0..10 * page, 20 * page..33 * page + 77],
    )
}

fn frozen_old(old: &mut Old<'_>) -> Result<()> {
    let (size, page) = (layout().size, page());
    let fd = memfd("frozen")?;
    layout().write(&fd)?;
    old.preserve(&fd, 1)?;

    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    let attempts = [
        ("truncate", ftruncate(&fd, 5 * page)),
        ("truncate-to-zero", ftruncate(&fd, 0)),
        ("grow", ftruncate(&fd, size + 1)),
        ("punch", fallocate(&fd, punch, 0, 4 * page)),
        (
            "fallocate",
            fallocate(&fd, FallocateFlags::empty(), 0, size + page),
        ),
        (
            "fallocate-keep-size",
            fallocate(&fd, FallocateFlags::KEEP_SIZE, size, 4 * page),
        ),
        (
            "write-behind-the-end",
            pwrite(&fd, &[1; 8], 40 * page).map(|_| ()),
        ),
        (
            "write-over-the-end",
            pwrite(&fd, &[1; 8], size - 4).map(|_| ()),
        ),
    ];
    for (name, result) in attempts {
        old.common.check(name, refused(result, &[Errno::PERM]));
    }
    old.common.check("same-size", works(ftruncate(&fd, size)));
    // Writing through a mapping behind the end is a bus error; it must not make the file longer.
    let status = in_child(|| {
        let Ok(map) = Map::new(&fd, 40 * page, true) else {
            return 1;
        };
        map.word(39 * page).store(1, Ordering::Relaxed);
        0
    })?;
    old.common.check(
        "mapping-behind-the-end",
        same(status, 128 + libc::SIGBUS as u8),
    );
    // A write over the end may be cut short instead of refused; what it wrote is written again.
    layout().write_data(&fd)?;
    old.common.check("unharmed", layout().verify(&fd));
    Ok(())
}

fn frozen_new(new: &mut New<'_>) -> Result<()> {
    let fd = new.retrieve(1)?;
    new.common.check("content", layout().verify(&fd));
    let thawed = works(ftruncate(&fd, layout().size + page()));
    new.common.check("thawed", thawed);
    Ok(())
}

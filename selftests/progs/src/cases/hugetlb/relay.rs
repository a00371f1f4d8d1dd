// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Huge pages that are handed on through any number of kernels: no counter may drift.

use super::{
    layout,
    pool,
    M2,
    POOL, //
};
use crate::{
    expect::{
        is,
        same, //
    },
    hugetlb::{
        digest,
        huge_memfd,
        write, //
    },
    run::{
        New,
        Old, //
    },
    sys, //
};
use anyhow::Result;
use rustix::fs::MemfdFlags;

const PAGES: u64 = 6;

/// Free memory may differ by this much from one kernel to the next.
const SLACK: u64 = 8 << 20;

pub(super) fn old(old: &mut Old<'_>) -> Result<()> {
    let before = POOL.state()?;
    let fd = huge_memfd(M2, MemfdFlags::ALLOW_SEALING)?;
    write(&layout(PAGES), &fd, M2)?;
    let (nr, free) = (before.nr, before.free - PAGES);
    let state = pool(&mut old.common, "pool", POOL, [nr, free, 0, 0])?;
    old.common.note("nodes", &format!("{:?}", state.nodes))?;
    old.common.note("nr", &nr.to_string())?;
    old.common.note("pages", &digest(&fd, PAGES * M2, M2)?)?;
    old.common.note("free", "0")?;
    old.preserve(&fd, 1)
}

/// Verifies everything and hands the file on, if there is one more kernel to come.
pub(super) fn new(new: &mut New<'_>) -> Result<()> {
    let noted = new.common.noted("nr")?.unwrap_or_default();
    let nr: u64 = noted.parse()?;
    pool(
        &mut new.common,
        "booted",
        POOL,
        [nr - PAGES, nr - PAGES, 0, 0],
    )?;
    let fd = new.retrieve(1)?;
    new.common.check("content", layout(PAGES).verify(&fd));
    let pages = new.common.noted("pages")?.unwrap_or_default();
    new.common
        .check("same-pages", same(digest(&fd, PAGES * M2, M2)?, pages));
    new.finish()?;
    let state = pool(&mut new.common, "finished", POOL, [nr, nr - PAGES, 0, 0])?;
    let nodes = new.common.noted("nodes")?.unwrap_or_default();
    new.common
        .check("nodes", same(format!("{:?}", state.nodes), nodes));
    let free = sys::mem_free()?;
    let noted = new.common.noted("free")?.unwrap_or_default();
    let before: u64 = noted.parse()?;
    if before != 0 {
        let text = format!("{before} bytes were free in the previous kernel, now {free}");
        new.common
            .check("memory", is(free + sys::slack(SLACK) >= before, &text));
    }
    new.common.note("free", &free.to_string())?;
    new.hand_on(&fd, 1)
}

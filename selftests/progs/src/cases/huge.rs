// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Files with large folios.

use super::Case;
use crate::{
    expect::{
        is,
        Check, //
    },
    memory::{
        huge_mapped,
        memfd,
        page,
        Map,
        HUGE, //
    },
    pattern::Layout,
    run::{
        New,
        Old, //
    },
    sys::{
        hook,
        Setting, //
    }, //
};
use anyhow::Result;
use rustix::mm::Advice;
use std::{
    os::fd::OwnedFd,
    path::Path, //
};

pub(super) const CASES: &[Case] = &[
    Case::update(
        "huge.pages",
        "Huge pages come back as huge pages with their content, in the same physical pages",
        huge_old,
        huge_new,
    ),
    Case::update(
        "huge.mixed",
        "Huge, large and single pages and holes in one file come back, whatever their order",
        mixed_old,
        mixed_new,
    ),
    Case::update(
        "huge.chunks",
        "Pinning in chunks whose edges fall inside huge pages loses and doubles nothing",
        chunks_old,
        chunks_new,
    ),
];

const ENABLED: &str = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";

/// A file whose pages are as large as the kernel can make them.
fn huge_memfd(layout: &Layout) -> Result<OwnedFd> {
    let fd = memfd("huge")?;
    rustix::fs::ftruncate(&fd, layout.size)?;
    let map = Map::new(&fd, layout.size.next_multiple_of(page()), true)?;
    map.advise(Advice::LinuxHugepage)?;
    for range in &layout.data {
        let first = range.start.next_multiple_of(page());
        for at in (first..range.end & !7).step_by(page() as usize) {
            map.word(at).store(1, std::sync::atomic::Ordering::Relaxed);
        }
    }
    layout.write_data(&fd)?;
    Ok(fd)
}

/// How many pieces of the length of a huge page are one in physical memory.
fn count_huge(fd: &OwnedFd, size: u64) -> Result<usize> {
    let per = HUGE / page();
    let pfns = crate::memory::pfns(fd, size)?;
    let one = |piece: &[u64]| {
        let run = piece
            .iter()
            .zip(piece[0]..)
            .all(|(pfn, expected)| *pfn == expected);
        run && piece[0] != 0 && piece[0].is_multiple_of(per)
    };
    Ok(pfns
        .chunks_exact(per as usize)
        .filter(|piece| one(piece))
        .count())
}

fn some(count: usize) -> Check {
    is(count > 0, "the kernel made no huge page")
}

fn huge() -> Layout {
    Layout::full(0x4096e, 8 * HUGE + 5 * page() + 3)
}

fn huge_old(old: &mut Old<'_>) -> Result<()> {
    if !Path::new(ENABLED).exists() {
        return old
            .common
            .skip_all("the kernel has no huge pages for memfds");
    }
    let _setting = Setting::change(ENABLED, "always")?;
    let fd = huge_memfd(&huge())?;
    old.preserve(&fd, 1)?;
    // Not before: pinning moves pages that are in the way of the next kernel.
    old.note_pages(&fd, huge().size, 1)?;
    let count = count_huge(&fd, huge().size)?;
    old.common.check("made", some(count));
    old.common.note("count", &count.to_string())
}

fn huge_new(new: &mut New<'_>) -> Result<()> {
    let fd = new.retrieve(1)?;
    new.common.check("content", huge().verify(&fd));
    let pages = new.same_pages(&fd, huge().size, 1);
    new.common.check("same-pages", pages);
    let before: usize = new.common.noted("count")?.unwrap_or_default().parse()?;
    let smaps = huge_mapped(&fd, 8 * HUGE)?;
    let enough = is(
        smaps >= before as u64 * HUGE,
        &format!("{smaps} bytes are mapped as huge pages, there were {before} huge pages"),
    );
    new.common.check("still-huge", enough);
    Ok(())
}

fn mixed() -> Layout {
    let page = page();
    Layout::ranges(
        0x313ed,
        6 * HUGE,
        [
            0..HUGE,
            HUGE + 7 * page..HUGE + 9 * page,
            2 * HUGE + 64 * page..4 * HUGE + 1,
            5 * HUGE + page..5 * HUGE + 2 * page,
        ],
    )
}

fn mixed_memfd() -> Result<OwnedFd> {
    let fd = memfd("mixed")?;
    rustix::fs::ftruncate(&fd, mixed().size)?;
    let chosen = |range: &usize| range.is_multiple_of(2);
    let part = |keep: bool| {
        let ranges = mixed().data.into_iter().enumerate();
        let kept = ranges
            .filter(|(i, _)| chosen(i) == keep)
            .map(|(_, range)| range);
        Layout::ranges(mixed().seed, mixed().size, kept)
    };
    part(false).write_data(&fd)?;
    let _setting = Setting::change(ENABLED, "always")?;
    let medium = "/sys/kernel/mm/transparent_hugepage/hugepages-64kB/shmem_enabled";
    let _medium = Setting::change(medium, "always").ok();
    part(true).write_data(&fd)?;
    Ok(fd)
}

fn mixed_old(old: &mut Old<'_>) -> Result<()> {
    if !Path::new(ENABLED).exists() {
        return old
            .common
            .skip_all("the kernel has no huge pages for memfds");
    }
    let fd = mixed_memfd()?;
    old.common.check("written", mixed().verify(&fd));
    old.preserve(&fd, 1)
}

fn mixed_new(new: &mut New<'_>) -> Result<()> {
    let fd = new.retrieve(1)?;
    new.common.check("content", mixed().verify(&fd));
    Ok(())
}

/// Chunk lengths in pages.
const CHUNKS: [u64; 5] = [1, 3, 100, 511, 513];

fn chunks_old(old: &mut Old<'_>) -> Result<()> {
    if !Path::new(ENABLED).exists() {
        return old
            .common
            .skip_all("the kernel has no huge pages for memfds");
    }
    if !hook("reset")? {
        return old
            .common
            .skip_all("the kernel has no test hook to set the chunk length");
    }
    for chunk in CHUNKS {
        let fd = mixed_memfd()?;
        let whole = {
            let _setting = Setting::change(ENABLED, "always")?;
            huge_memfd(&huge())?
        };
        hook(&format!("chunk {chunk}"))?;
        old.preserve(&fd, chunk)?;
        old.preserve(&whole, chunk + 10_000)?;
    }
    hook("reset")?;
    Ok(())
}

fn chunks_new(new: &mut New<'_>) -> Result<()> {
    for chunk in CHUNKS {
        let fd = new.retrieve(chunk)?;
        new.common
            .check(&format!("{chunk}.mixed"), mixed().verify(&fd));
        let fd = new.retrieve(chunk + 10_000)?;
        new.common
            .check(&format!("{chunk}.huge"), huge().verify(&fd));
    }
    Ok(())
}

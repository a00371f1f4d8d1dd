// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Single pages that come back as large folios, and what can be done with these.

mod folios;

use self::folios::{
    count_aligned,
    large,
    possible, //
};
use super::{
    limits::limited,
    swap::{
        swap_on,
        swapped, //
    },
    Case,
};
use crate::{
    expect::{
        is,
        same,
        works,
        Check, //
    },
    memory::{
        huge_mapped,
        memfd,
        page,
        pfns,
        Map,
        HUGE, //
    },
    pattern::Layout,
    run::{
        New,
        Old, //
    },
    sys::{
        fork,
        in_child,
        set,
        Setting, //
    }, //
};
use anyhow::{
    Context,
    Result, //
};
use liveupdate::Token;
use rustix::{
    fs::{
        fallocate,
        fstat,
        ftruncate,
        FallocateFlags, //
    },
    mm::Advice, //
};
use std::{
    os::fd::OwnedFd,
    path::Path, //
};

pub(super) const CASES: &[Case] = &[
    Case::update(
        "large.made",
        "Single pages that lie together in memory and in the file come back as huge pages, in place",
        old,
        made_new,
    )
    .on_request(),
    Case::update(
        "large.shifted",
        "Pages whose places in memory and in the file are not aligned come back as well as they can",
        shifted_old,
        shifted_new,
    )
    .on_request(),
    Case::update(
        "large.use",
        "Such huge pages can be written to, locked, shared with a child, punched and truncated",
        old,
        use_new,
    )
    .on_request(),
    Case::update(
        "large.swap",
        "Such huge pages can be swapped out and in again, whole and in part, and memory be compacted",
        old,
        swap_new,
    )
    .on_request(),
    Case::update(
        "large.memcg",
        "Such huge pages are charged to who retrieves the file, for as long as it is there",
        old,
        memcg_new,
    )
    .on_request(),
    Case::update(
        "large.moved",
        "Pages in the areas that the next kernel needs for itself are moved before they are preserved",
        moved_old,
        moved_new,
    )
    .on_request(),
];

const ENABLED: &str = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";
const FORMAT: &str = "/sys/module/luo_memfd/parameters/format";
const EXTENTS: &str = "rs-memfd-v1";

fn layout() -> Layout {
    Layout::full(0x1a46e, 16 * HUGE)
}

/// A file of single pages that huge pages could be made of, and the second format for it.
fn split_file(old: &mut Old<'_>) -> Result<Option<(OwnedFd, Setting)>> {
    if !Path::new(ENABLED).exists() {
        old.common
            .skip_all("the kernel has no huge pages for memfds")?;
        return Ok(None);
    }
    if !Path::new(FORMAT).exists() {
        old.common
            .skip_all("our handler is not loaded, or has one format")?;
        return Ok(None);
    }
    let fd = memfd("large")?;
    ftruncate(&fd, layout().size)?;
    {
        let _setting = Setting::change(ENABLED, "always")?;
        layout().write(&fd)?;
    }
    let map = Map::new(&fd, layout().size, true)?;
    map.touch();
    map.split_huge()?;
    let (pages, _) = large(&fd, layout().size)?;
    old.common.check("single", same(pages, 0));
    Ok(Some((fd, Setting::change(FORMAT, EXTENTS)?)))
}

fn old(old: &mut Old<'_>) -> Result<()> {
    let Some((fd, _format)) = split_file(old)? else {
        return Ok(());
    };
    old.preserve(&fd, 1)?;
    old.note_pages(&fd, layout().size, 1)?;
    let whole = count_aligned(&pfns(&fd, layout().size)?);
    old.common.note("whole", &whole.to_string())
}

/// Whether as many huge pages were made as could be.
fn all_made(new: &New<'_>, fd: &OwnedFd) -> Result<Check> {
    let whole: u64 = new.common.noted("whole")?.context("no note")?.parse()?;
    let mapped = huge_mapped(fd, layout().size)?;
    Ok(is(
        whole > 0 && mapped == whole * HUGE,
        &format!("{mapped} bytes are in huge pages, {whole} huge pages are possible"),
    ))
}

fn made_new(new: &mut New<'_>) -> Result<()> {
    let fd = new.retrieve(1)?;
    new.common.check("content", layout().verify(&fd));
    let pages = new.same_pages(&fd, layout().size, 1);
    new.common.check("same-pages", pages);
    let made = all_made(new, &fd)?;
    new.common.check("huge", made);
    Ok(())
}

/// Runs of pages that start anywhere, as another file takes a page after each of them.
fn shifted_old(old: &mut Old<'_>) -> Result<()> {
    const RUN: u64 = 37;
    if !Path::new(FORMAT).exists() {
        return old
            .common
            .skip_all("our handler is not loaded, or has one format");
    }
    let size = layout().size;
    let (fd, between) = (memfd("shifted")?, memfd("between")?);
    ftruncate(&fd, size)?;
    ftruncate(&between, size)?;
    for at in (0..size).step_by((RUN * page()) as usize) {
        let end = (at + RUN * page()).min(size);
        Layout::part(0x1a46e, size, at..end).write_data(&fd)?;
        rustix::io::pwrite(&between, &[1], at)?;
    }
    let _format = Setting::change(FORMAT, EXTENTS)?;
    old.preserve(&fd, 1)?;
    old.note_pages(&fd, size, 1)
}

fn shifted_new(new: &mut New<'_>) -> Result<()> {
    let fd = new.retrieve(1)?;
    new.common.check("content", layout().verify(&fd));
    let pages = new.same_pages(&fd, layout().size, 1);
    new.common.check("same-pages", pages);
    let possible = possible(&pfns(&fd, layout().size)?);
    let (made, _) = large(&fd, layout().size)?;
    // CPUs that share the work may begin where a large folio could be.
    let most = is(
        possible > 0 && made <= possible && made >= possible - possible / 10,
        &format!("{made} pages are in large folios, {possible} could be"),
    );
    new.common.check("large", most);
    Ok(())
}

/// Writes through mappings and locks, punches, truncates and grows, once while the memory is held and once
/// when it is not.
fn use_new(new: &mut New<'_>) -> Result<()> {
    let fd = new.retrieve(1)?;
    let size = layout().size;
    let hole = HUGE + 5 * page()..HUGE + 9 * page();
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    let punched = |range: &std::ops::Range<u64>| {
        Layout::ranges(0x1a46e, size, [0..range.start, range.end..size]).verify(&fd)
    };
    new.common.check(
        "punch-held",
        works(fallocate(&fd, punch, hole.start, hole.end - hole.start)),
    );
    new.common.check("punched-held", punched(&hole));
    new.finish()?;

    let fill = Layout::full(0x1a46e, size);
    fill.write(&fd)?;
    let map = Map::new(&fd, size, true)?;
    map.touch();
    let blocks = fstat(&fd)?.st_blocks;
    new.common.check(
        "punch",
        works(fallocate(&fd, punch, hole.start, hole.end - hole.start)),
    );
    new.common.check("punched", punched(&hole));
    // A huge page that is split is freed in part at once.
    let freed = blocks - fstat(&fd)?.st_blocks;
    new.common
        .check("freed", same(freed as u64 * 512, hole.end - hole.start));
    fill.write(&fd)?;

    // SAFETY: It is a mapping of ours, of this length.
    let locked = unsafe { rustix::mm::mlock(map.address() as *mut _, (3 * HUGE) as usize) };
    new.common.check("mlock", works(locked));
    // SAFETY: As above.
    let unlocked = unsafe { rustix::mm::munlock(map.address() as *mut _, HUGE as usize) };
    new.common.check("munlock", works(unlocked));
    let mark = 0x5a5a_5a5a;
    let child = fork(|| {
        map.word(2 * HUGE + page())
            .store(mark, std::sync::atomic::Ordering::Relaxed);
        u8::from(
            map.word(3 * HUGE)
                .load(std::sync::atomic::Ordering::Relaxed)
                == 0,
        )
    })?;
    new.common.check("child", same(child.wait()?, 0));
    let seen = map
        .word(2 * HUGE + page())
        .load(std::sync::atomic::Ordering::Relaxed);
    new.common.check("shared", same(seen, mark));
    drop(map);
    fill.write(&fd)?;

    let short = 5 * HUGE + 7 * page() + 13;
    new.common.check("truncate", works(ftruncate(&fd, short)));
    new.common.check("grow", works(ftruncate(&fd, size)));
    let cut = Layout::part(0x1a46e, size, 0..short);
    new.common.check("truncated", cut.verify(&fd));
    Ok(())
}

fn swap_new(new: &mut New<'_>) -> Result<()> {
    let fd = new.retrieve(1)?;
    new.finish()?;
    if !swap_on()? {
        new.common.skip("all", "the kernel has no zram to swap to");
        return Ok(());
    }
    let size = layout().size;
    let before = swapped("SwapFree:")?;
    let map = Map::new(&fd, size, true)?;
    map.touch();
    map.advise(Advice::LinuxPageOut)?;
    let out = before - swapped("SwapFree:")?;
    new.common.check(
        "out",
        is(out > 1 << 20, &format!("only {out} bytes are swapped out")),
    );
    // One page of each huge page, and then all.
    for at in (0..size).step_by(HUGE as usize) {
        map.word(at + 3 * page())
            .load(std::sync::atomic::Ordering::Relaxed);
    }
    set("/proc/sys/vm/compact_memory", "1")?;
    new.common.check("content", layout().verify(&fd));
    map.touch();
    set("/proc/sys/vm/compact_memory", "1")?;
    new.common.check("compacted", layout().verify(&fd));
    Ok(())
}

fn memcg_new(new: &mut New<'_>) -> Result<()> {
    let size = layout().size;
    let session = new.take_session("")?;
    let group = match limited(4 * size)? {
        Ok(group) => group,
        Err(why) => {
            new.common.skip("all", &why);
            return Ok(());
        }
    };
    let current = || -> Result<u64> {
        let text = std::fs::read_to_string(format!("{group}/memory.current"))?;
        Ok(text.trim().parse()?)
    };
    let status = in_child(|| {
        let steps = || -> Result<u8> {
            set(&format!("{group}/cgroup.procs"), "0")?;
            let before = current()?;
            let fd = session.retrieve(Token(1))?;
            let with = current()?;
            // The rest is what the task itself needs, and what is charged ahead.
            let charged = (size..size + (1 << 20)).contains(&with.saturating_sub(before));
            let good = layout().verify(&fd).is_ok();
            Ok(u8::from(!charged) | u8::from(!good) << 1)
        };
        steps().unwrap_or(100)
    })?;
    new.common.check("charged", same(status, 0));
    new.common.check(
        "finish",
        works(session.finish().map_err(liveupdate::Error::from)),
    );
    let left = current()?;
    new.common.check(
        "uncharged",
        is(left < size / 2, &format!("{left} bytes are still charged")),
    );
    Ok(())
}

/// Physical addresses of the areas that the next kernel needs for itself.
fn scratch() -> Result<Vec<std::ops::Range<u64>>> {
    let numbers = |name: &str| -> Result<Vec<u64>> {
        let text = std::fs::read_to_string(format!("/sys/kernel/debug/kho/out/{name}"))?;
        let number = |word: &str| match word.strip_prefix("0x") {
            Some(hex) => u64::from_str_radix(hex, 16),
            None => word.parse(),
        };
        Ok(text
            .split_whitespace()
            .map(number)
            .collect::<std::result::Result<_, _>>()?)
    };
    let (starts, lens) = (numbers("scratch_phys")?, numbers("scratch_len")?);
    Ok(starts
        .iter()
        .zip(lens)
        .map(|(start, len)| *start..start + len)
        .collect())
}

fn moved() -> Layout {
    Layout::full(0x30bed, 64 << 20)
}

/// How many pages of a file are in those areas.
fn in_scratch(fd: &OwnedFd) -> Result<usize> {
    let areas = scratch()?;
    let inside = |pfn: &&u64| areas.iter().any(|area| area.contains(&(**pfn * page())));
    Ok(pfns(fd, moved().size)?.iter().filter(inside).count())
}

fn moved_old(old: &mut Old<'_>) -> Result<()> {
    if !Path::new(FORMAT).exists() {
        return old
            .common
            .skip_all("our handler is not loaded, or has one format");
    }
    let mut files = Vec::new();
    // Memory for movable pages comes from these areas when there is less elsewhere.
    let fd = loop {
        let fd = memfd("moved")?;
        moved().write(&fd)?;
        if in_scratch(&fd)? > 1000 {
            break fd;
        }
        files.push(fd);
        if files.len() > 40 {
            return old.common.skip_all("no file got memory of the areas");
        }
    };
    drop(files);
    let before = in_scratch(&fd)?;
    old.common.note("before", &before.to_string())?;
    let _format = Setting::change(FORMAT, EXTENTS)?;
    old.preserve(&fd, 1)?;
    old.common.check("outside", same(in_scratch(&fd)?, 0));
    old.note_pages(&fd, moved().size, 1)
}

fn moved_new(new: &mut New<'_>) -> Result<()> {
    let fd = new.retrieve(1)?;
    new.common.check("content", moved().verify(&fd));
    let pages = new.same_pages(&fd, moved().size, 1);
    new.common.check("same-pages", pages);
    Ok(())
}

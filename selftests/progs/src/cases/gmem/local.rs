// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What shows within one kernel.

use super::PAGES;
use crate::{
    expect::{
        is,
        refused,
        same,
        works, //
    },
    gmem::{
        allocate,
        fill,
        probe,
        punch,
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
    run::Old, //
};
use anyhow::{
    Context,
    Result, //
};
use liveupdate::Token;
use rustix::io::Errno;
use std::{
    fs,
    os::fd::AsFd,
    sync::atomic::{
        AtomicU64,
        Ordering, //
    },
    thread, //
};

/// What would change which memory there is: name and answer.
fn changes(memory: impl AsFd) -> [(&'static str, rustix::io::Result<()>); 3] {
    let memory = memory.as_fd();
    [
        ("fallocate", allocate(memory, 20..21)),
        ("fallocate-present", allocate(memory, 0..1)),
        ("punch", punch(memory, 4..5)),
    ]
}

pub(super) fn frozen(old: &mut Old<'_>) -> Result<()> {
    let vm = Vm::new(DEFAULT)?;
    let memory = vm.memory(PAGES * page(), SHARED)?;
    let map = Map::new(&memory, PAGES * page(), true)?;
    fill(&map, 0..16);
    old.preserve(&memory, 1)?;
    for (name, result) in changes(&memory) {
        old.common.check(name, refused(result, &[Errno::PERM]));
    }
    let hole = probe(&map, 40 * page());
    old.common.check("hole", refused(hole, &[Errno::FAULT]));
    old.common.check("present", works(probe(&map, page())));
    old.common.check("unharmed", verify(&map, 0..16, false));
    let pages: Vec<_> = (0..PAGES).map(|at| at < 16).collect();
    old.common
        .check("no-more", same(resident(&map, PAGES)?, pages));
    let busy = old.new_session(".other")?.preserve(&memory, Token(1));
    old.common.check("twice", refused(busy, &[Errno::BUSY]));
    old.close_session();
    for (name, result) in changes(&memory) {
        old.common.check(&format!("{name}-thawed"), works(result));
    }
    old.common
        .check("hole-thawed", works(probe(&map, 40 * page())));
    Ok(())
}

pub(super) fn abort(old: &mut Old<'_>) -> Result<()> {
    let vm = Vm::new(DEFAULT)?;
    let memory = vm.memory(PAGES * page(), SHARED)?;
    let map = Map::new(&memory, PAGES * page(), true)?;
    fill(&map, 0..16);
    let before = pfns(&memory, 16 * page())?;
    for _ in 0..20 {
        let session = old.new_session("")?;
        session.preserve(&memory, Token(1))?;
    }
    old.common.check("content", verify(&map, 0..16, false));
    old.common
        .check("same-pages", same(pfns(&memory, 16 * page())?, before));
    fill(&map, 16..PAGES);
    old.common.check("grows", verify(&map, 0..PAGES, false));
    Ok(())
}

/// Memory that is preserved for the one file there is, in bytes, with the list of its pages.
pub(super) fn preserved() -> Result<u64> {
    let text = fs::read_to_string("/dev/luo_status")?;
    let files = text.lines().filter(|line| line.starts_with("file "));
    files
        .filter_map(|line| {
            line.split_whitespace()
                .find_map(|w| w.strip_prefix("bytes="))
        })
        .map(|bytes| bytes.parse::<u64>().with_context(|| bytes.to_string()))
        .sum()
}

pub(super) fn race(old: &mut Old<'_>) -> Result<()> {
    // So few that the list has one page, whatever is in it.
    const SIZE: u64 = 256;

    let vm = Vm::new(DEFAULT)?;
    let (mut lost, mut partial) = (0, 0);
    for _ in 0..200 {
        let memory = vm.memory(SIZE * page(), SHARED)?;
        let touched = AtomicU64::new(0);
        let count = thread::scope(|scope| -> Result<u64> {
            let (memory, touched) = (&memory, &touched);
            let toucher = scope.spawn(move || {
                let Ok(map) = Map::new(memory, SIZE * page(), true) else {
                    return;
                };
                for at in 0..SIZE {
                    if probe(&map, at * page()).is_err() {
                        break;
                    }
                    touched.store(at + 1, Ordering::Relaxed);
                }
            });
            let session = old.new_session("")?;
            while touched.load(Ordering::Relaxed) < 8 && !toucher.is_finished() {
                thread::yield_now();
            }
            let count = match session.preserve(memory, Token(1)) {
                // The handler has found out itself that there is more.
                Err(error) if error.errno() == Some(Errno::IO) => 0,
                result => {
                    result?;
                    preserved()? / page() - 1
                }
            };
            let _ = toucher.join();
            Ok(count)
        })?;
        let touched = touched.load(Ordering::Relaxed);
        lost += u64::from(touched > count);
        partial += u64::from(touched < SIZE);
    }
    let text = format!("of 200 files, {lost} have memory that is not preserved");
    old.common.check("nothing-lost", is(lost == 0, &text));
    let text = format!("only {partial} of 200 were preserved while memory was added");
    old.common.check("races", is(partial > 20, &text));
    Ok(())
}

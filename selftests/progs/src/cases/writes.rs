// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Writes between preserve and the reboot.

use super::Case;
use crate::{
    expect::{
        is,
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
    }, //
};
use anyhow::Result;
use std::sync::atomic::Ordering;

pub(super) const CASES: &[Case] = &[
    Case::update(
        "writes.after-preserve",
        "What is written after preserve, through a mapping or not, into holes too, comes back",
        after_old,
        after_new,
    ),
    Case::update(
        "writes.running",
        "A program that writes until the jump is interrupted between two writes, not thrown back",
        running_old,
        running_new,
    ),
];

const PAGES: u64 = 64;

/// What the file has before: data in its first half.
fn before() -> Layout {
    Layout::part(1, PAGES * page(), 0..PAGES / 2 * page())
}

/// What it has afterwards: other data in most pages.
fn after() -> Layout {
    Layout::every(2, PAGES * page(), 0, 4 * page(), 3 * page() + 8)
}

fn after_old(old: &mut Old<'_>) -> Result<()> {
    let fd = memfd("writes")?;
    before().write(&fd)?;
    let map = Map::new(&fd, before().size, true)?;
    old.preserve(&fd, 1)?;

    // Through the mapping that was there before; the rest of the pages with a new one and pwrite.
    let half = before().size / 2;
    let mut bytes = [0; 8];
    for at in (0..before().size).step_by(8) {
        let data = after().data.iter().any(|range| range.contains(&at));
        crate::pattern::fill(after().seed, at, &mut bytes);
        let word = if data { u64::from_ne_bytes(bytes) } else { 0 };
        map.word(at).store(word, Ordering::Relaxed);
    }
    let new = Map::new(&fd, before().size, true)?;
    new.word(half).store(3, Ordering::Relaxed);
    let parts = after().data.into_iter().filter(|range| range.start >= half);
    Layout::ranges(after().seed, after().size, parts).write_data(&fd)?;
    old.common.check("written", after().verify(&fd));
    Ok(())
}

fn after_new(new: &mut New<'_>) -> Result<()> {
    let fd = new.retrieve(1)?;
    new.common.check("content", after().verify(&fd));
    Ok(())
}

/// The writer counts here, and then there.
const HERE: u64 = 64;

fn running_old(old: &mut Old<'_>) -> Result<()> {
    let fd = memfd("running")?;
    let there = 5 * page();
    Layout::ranges(1, 8 * page(), []).write(&fd)?;
    let map = Map::new(&fd, 8 * page(), true)?;
    old.preserve(&fd, 1)?;
    let (a, address) = (
        map.word(HERE).as_ptr() as usize,
        map.word(there).as_ptr() as usize,
    );
    map.leak();
    old.go_on(move || {
        // SAFETY: The mapping is never undone, and the words are only used atomically.
        let (a, b) = unsafe {
            use std::sync::atomic::AtomicU64;
            (&*(a as *const AtomicU64), &*(address as *const AtomicU64))
        };
        loop {
            let next = a.load(Ordering::Relaxed) + 1;
            a.store(next, Ordering::SeqCst);
            b.store(next, Ordering::SeqCst);
            if next.is_multiple_of(4096) {
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
        }
    });
    old.keep(fd);
    Ok(())
}

fn running_new(new: &mut New<'_>) -> Result<()> {
    let fd = new.retrieve(1)?;
    let map = Map::new(&fd, 8 * page(), false)?;
    let a = map.word(HERE).load(Ordering::SeqCst);
    let b = map.word(5 * page()).load(Ordering::SeqCst);
    let between: Check = is(
        a == b || a == b + 1,
        &format!("one counter is {a}, the other {b}"),
    );
    new.common.check("in-step", between);
    new.common.check(
        "ran",
        is(a > 100, &format!("the writer counted only to {a}")),
    );
    Ok(())
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Memory that is added at the wrong moment, or that breaks.

use super::{
    local::preserved,
    PAGES, //
};
use crate::{
    cases::limits::limited,
    expect::{
        is,
        refused,
        same,
        works, //
    },
    gmem::{
        allocate,
        fill,
        punch,
        resident,
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
    sys::{
        self,
        in_child,
        refused_reboot,
        set, //
    }, //
};
use anyhow::{
    ensure,
    Context,
    Result, //
};
use liveupdate::Token;
use rustix::{
    io::Errno,
    mm::Advice, //
};
use std::{
    fs,
    os::fd::OwnedFd,
    sync::atomic::Ordering,
    thread,
    time::{
        Duration,
        Instant, //
    }, //
};

/// How many pages of the file there are.
fn present(map: &Map, pages: u64) -> Result<u64> {
    Ok(resident(map, pages)?
        .into_iter()
        .filter(|there| *there)
        .count() as u64)
}

/// Waits until no more pages come, although there are not all: how many there are.
fn stalled(map: &Map, pages: u64) -> Result<u64> {
    let (mut seen, mut since) = (0, Instant::now());
    let start = Instant::now();
    while seen == 0 || since.elapsed() < Duration::from_millis(300) {
        ensure!(start.elapsed() < Duration::from_secs(30), "no page comes");
        let now = present(map, pages)?;
        if now != seen {
            (seen, since) = (now, Instant::now());
        }
        thread::sleep(Duration::from_millis(5));
    }
    Ok(seen)
}

/// A page whose allocation has begun before the file is frozen, and ends seconds later.
///
/// The kernel makes a process wait that is far beyond the `memory.high` of its cgroup. After a number of
/// pages in one system call it does that where a page is charged: when it was allocated, and is not in the
/// file yet. So whoever preserves the file meanwhile must wait, or miss the page.
pub(super) fn window(old: &mut Old<'_>) -> Result<()> {
    const SIZE: u64 = 256;
    /// The kernel makes them wait for two.
    const WAIT: Duration = Duration::from_millis(500);

    let group = match limited(1 << 40)? {
        Ok(group) => group,
        Err(why) => {
            old.common.skip("all", &why);
            return Ok(());
        }
    };
    set(&format!("{group}/memory.high"), "65536")?;
    let vm = Vm::new(DEFAULT)?;
    let memory = vm.memory(SIZE * page(), SHARED)?;
    let map = Map::new(&memory, SIZE * page(), false)?;
    let toucher = sys::fork(|| {
        if set(&format!("{group}/cgroup.procs"), "0").is_err() {
            return 100;
        }
        let Ok(map) = Map::new(&memory, SIZE * page(), true) else {
            return 101;
        };
        match map.advise(Advice::LinuxPopulateWrite) {
            Ok(()) => 0,
            Err(Errno::FAULT) => 1,
            Err(_) => 102,
        }
    })?;
    let before = stalled(&map, SIZE)?;
    let others = preserved()?;
    let start = Instant::now();
    old.preserve(&memory, 1)?;
    let took = start.elapsed();
    let count = (preserved()? - others) / page() - 1;
    let status = toucher.wait()?;
    let after = present(&map, SIZE)?;
    println!("# {before} pages, {count} preserved after {took:?}, {after} in the end");
    let check = is(before < SIZE, "all pages were there at once");
    old.common.check("stalls", check);
    old.common.check("nothing-lost", same(after, count));
    // It saw the page come that was being allocated. Without that, there was no window.
    let text = format!("{before} pages before, {count} preserved");
    old.common.check("one-more", is(count > before, &text));
    let text = format!("preserve took {took:?}");
    old.common.check("waited", is(took > WAIT, &text));
    old.common.check("frozen", same(status, 1));
    old.close_session();
    fill(&Map::new(&memory, SIZE * page(), true)?, 0..SIZE);
    old.common.check("thawed", verify(&map, 0..SIZE, false));
    Ok(())
}

/// The page that breaks.
const BROKEN: u64 = 5;
/// Pages with content.
const FILLED: u64 = 16;

/// How much memory the kernel knows to be broken, in KiB.
fn broken_memory() -> Result<u64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("HardwareCorrupted:"));
    let Some(number) = line.and_then(|line| line.split_whitespace().next()) else {
        return Ok(0);
    };
    number.parse().context("HardwareCorrupted")
}

/// Marks a page of a file as broken, as the hardware would; false if the kernel cannot.
///
/// A child does it, since the kernel kills who has the page mapped.
fn break_page(memory: &OwnedFd, at: u64) -> Result<bool> {
    let before = broken_memory()?;
    let status = in_child(|| {
        let Ok(map) = Map::new(memory, (at + 1) * page(), true) else {
            return 1;
        };
        // Mapped, or there is no page to speak of.
        map.word(at * page()).load(Ordering::Relaxed);
        let address = map.address() as u64 + at * page();
        // SAFETY: The page is one of the mapping's, and nobody reads it any more.
        let status = unsafe {
            let address = address as *mut libc::c_void;
            libc::madvise(address, page() as usize, libc::MADV_HWPOISON)
        };
        u8::from(status != 0)
    })?;
    let after = broken_memory()?;
    println!("# page {at} of {memory:?}: {status}, {before} KiB broken, then {after}");
    Ok(after > before)
}

/// All but the broken page is as it was.
fn rest(memory: &OwnedFd) -> Result<(), String> {
    let map = Map::new(memory, PAGES * page(), false).map_err(|error| error.to_string())?;
    verify(&map, 0..BROKEN, false)?;
    verify(&map, BROKEN + 1..FILLED, false)
}

pub(super) fn broken_old(old: &mut Old<'_>) -> Result<()> {
    let vm = Vm::new(DEFAULT)?;
    let memory = vm.memory(PAGES * page(), SHARED)?;
    fill(&Map::new(&memory, PAGES * page(), true)?, 0..FILLED);
    let whole = vm.memory(PAGES * page(), SHARED)?;
    fill(&Map::new(&whole, PAGES * page(), true)?, 0..FILLED);

    let other = old.new_session(".broken")?;
    other.preserve(&memory, Token(1))?;
    old.preserve(&whole, 2)?;
    if !break_page(&memory, BROKEN)? {
        return old
            .common
            .skip_all("the kernel cannot mark memory as broken");
    }
    let answer = refused_reboot()?;
    old.common
        .check("freeze-refused", same(answer, Errno::HWPOISON));
    let frozen = allocate(&memory, 20..21);
    old.common
        .check("still-frozen", refused(frozen, &[Errno::PERM]));
    old.common.check("rest", rest(&memory));
    drop(other);
    old.common.check("thawed", works(allocate(&memory, 20..21)));
    old.common.check("rest-thawed", rest(&memory));

    let result = old.session()?.preserve(&memory, Token(1));
    old.common
        .check("preserve-refused", refused(result, &[Errno::HWPOISON]));
    old.common
        .check("not-left-frozen", works(allocate(&memory, 21..22)));
    // What a VMM does that wants to save the rest of its guest.
    let punched = punch(&memory, BROKEN..BROKEN + 1);
    old.common.check("punched", works(punched));
    let map = Map::new(&memory, PAGES * page(), true)?;
    fill(&map, BROKEN..BROKEN + 1);
    old.common.check("mended", verify(&map, 0..FILLED, false));
    old.preserve(&memory, 1)
}

/// The stage's own reboot was the second attempt.
pub(super) fn broken_new(new: &mut New<'_>) -> Result<()> {
    for token in 1..=2 {
        let memory = new.retrieve(token)?;
        let map = Map::new(&memory, PAGES * page(), false)?;
        let content = verify(&map, 0..FILLED, false);
        new.common.check(&format!("{token}.content"), content);
    }
    Ok(())
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Allocations that fail, memory that breaks, and modules that are in use or missing.

use super::{
    layout,
    pool,
    M2,
    POOL, //
};
use crate::{
    expect::{
        is,
        refused,
        same,
        works,
        Check, //
    },
    hugetlb::{
        huge_memfd,
        write,
        HugeMap, //
    },
    run::{
        New,
        Old, //
    },
    sys::{
        given_back,
        in_child,
        mem_free,
        refused_reboot,
        rmmod,
        slack,
        FailNth, //
    }, //
};
use anyhow::{
    bail,
    Result, //
};
use liveupdate::Token;
use rustix::{
    fs::{
        ftruncate,
        MemfdFlags, //
    },
    io::Errno, //
};
use std::os::fd::OwnedFd;

/// A sweep that is longer than this has gone astray.
const MOST: u32 = 1000;

/// Huge pages of each file.
const PAGES: u64 = 2;

fn file() -> Result<OwnedFd> {
    let fd = huge_memfd(M2, MemfdFlags::ALLOW_SEALING)?;
    write(&layout(PAGES), &fd, M2)?;
    Ok(fd)
}

/// The file is not preserved, and all there.
fn untouched(fd: &OwnedFd) -> Check {
    layout(PAGES).verify(fd)?;
    works(ftruncate(fd, (PAGES + 1) * M2))?;
    works(ftruncate(fd, PAGES * M2))
}

pub(super) fn preserve(old: &mut Old<'_>) -> Result<()> {
    let fail = match FailNth::new()? {
        Ok(fail) => fail,
        Err(why) => return old.common.skip_all(&why),
    };
    POOL.set(16)?;
    let mut before = 0;
    let (mut refusals, mut undone) = (0, Ok(()));
    // The first sweep warms up, the second one is measured.
    for sweep in 0..2 {
        before = mem_free()?;
        for nth in 1.. {
            let fd = file()?;
            let session = old.new_session(".faults")?;
            let (result, injected) = fail.inject(nth, || session.preserve(&fd, Token(1)))?;
            if !injected {
                old.common.check(&format!("{sweep}.ends"), works(result));
                println!(
                    "# sweep {sweep}: {} allocations, {refusals} refusals",
                    nth - 1
                );
                old.common.check(
                    &format!("{sweep}.injected"),
                    is(nth > 5, "hardly any failed"),
                );
                break;
            }
            if nth > MOST {
                bail!("allocation {nth} still fails");
            }
            if result.is_err() {
                refusals += 1;
                let why = refused(result, &[Errno::NOMEM]).and_then(|()| untouched(&fd));
                let again = why.and_then(|()| works(session.preserve(&fd, Token(1))));
                undone = undone.and(again.map_err(|why| format!("allocation {nth}: {why}")));
            }
            drop(session);
            undone = undone.and(untouched(&fd).map_err(|why| format!("after {nth}: {why}")));
        }
    }
    old.common.check(
        "refused",
        is(refusals > 5, &format!("only {refusals} refusals")),
    );
    old.common.check("undone", undone);
    pool(&mut old.common, "pool", POOL, [16, 16, 0, 0])?;
    let memory = given_back(before, 0, slack(1 << 20))?;
    old.common.check("memory", memory);
    Ok(())
}

/// What a retrieve without memory fails with: hugetlbfs says that it has no space when it gets no inode.
const NO_MEMORY: [Errno; 2] = [Errno::NOMEM, Errno::NOSPC];

/// A failed retrieve is final, so each attempt needs a file of its own.
const FILES: u64 = 100;

pub(super) fn retrieve_old(old: &mut Old<'_>) -> Result<()> {
    if let Err(why) = FailNth::new()? {
        return old.common.skip_all(&why);
    }
    let nr = FILES * PAGES;
    let enough = same(POOL.set(nr)?, nr);
    old.common.check("pool", enough);
    for token in 1..=FILES {
        old.preserve(file()?, token)?;
    }
    Ok(())
}

pub(super) fn retrieve_new(new: &mut New<'_>) -> Result<()> {
    let Ok(fail) = FailNth::new()? else {
        bail!("the new kernel has no fault injection");
    };
    let pools = POOL.state()?;
    let session = new.take_session("")?;
    let before = mem_free()?;
    let (mut refusals, mut good) = (0, Ok(()));
    let (mut kept, mut end) = (0, None);
    for nth in 1..=FILES as u32 {
        let token = Token(nth.into());
        let (result, injected) = fail.inject(nth, || session.retrieve(token))?;
        let seen = match result {
            Ok(fd) => {
                kept += PAGES;
                layout(PAGES).verify(fd)
            }
            Err(error) => {
                refusals += 1;
                let errno = error.errno();
                refused(Err::<(), _>(error), &NO_MEMORY).and_then(|()| {
                    same(session.retrieve(token).err().and_then(|e| e.errno()), errno)
                })
            }
        };
        good = good.and(seen.map_err(|why| format!("allocation {nth}: {why}")));
        if !injected {
            end = Some(nth);
            break;
        }
    }
    match end {
        Some(nth) => println!("# {} allocations, {refusals} refusals", nth - 1),
        None => bail!("{FILES} files are not enough for all allocations"),
    }
    new.common
        .check("injected", is(end > Some(5), "hardly any failed"));
    new.common.check(
        "refused",
        is(refusals > 5, &format!("only {refusals} refusals")),
    );
    new.common.check("good", good);
    session.finish().map_err(liveupdate::Error::from)?;
    // What was put into a file is in the pool now, and all else is free memory.
    let added = POOL.state()?.nr - pools.nr;
    new.common
        .check("kept", is(added >= kept, &format!("{added} of {kept}")));
    let want = [pools.nr + added, pools.free + added, 0, 0];
    pool(&mut new.common, "pool", POOL, want)?;
    let memory = given_back(before, (FILES * PAGES - added) * M2, slack(3 << 20))?;
    new.common.check("memory", memory);
    Ok(())
}

/// Marks a huge page of a file as broken, as the hardware would; false if the kernel cannot.
///
/// A child does it, since the kernel kills who has the page mapped.
fn poison(fd: &OwnedFd, page: u64) -> Result<bool> {
    let status = in_child(|| {
        let Ok(map) = HugeMap::shared(fd, PAGES * M2, M2) else {
            return 1;
        };
        map.byte(page * M2);
        // It is pinned, so that the kernel cannot take it away.
        u8::from(!matches!(
            map.poison(page * M2, M2),
            Ok(()) | Err(Errno::BUSY)
        ))
    })?;
    Ok(status == 0 || status == 128 + libc::SIGBUS as u8)
}

pub(super) fn poisoned_old(old: &mut Old<'_>) -> Result<()> {
    POOL.set(16)?;
    let good = file()?;
    old.preserve(&good, 1)?;
    old.keep(good);
    let bad = file()?;
    let session = old.new_session(".poisoned")?;
    session.preserve(&bad, Token(1))?;
    if !poison(&bad, 1)? {
        return old
            .common
            .skip_all("the kernel cannot mark memory as broken");
    }
    let answer = refused_reboot()?;
    old.common.check("freeze", same(answer, Errno::HWPOISON));
    drop(session);
    let session = old.new_session(".again")?;
    let again = session.preserve(&bad, Token(1));
    old.common
        .check("preserve", refused(again, &[Errno::HWPOISON, Errno::IO]));
    drop(session);
    // The stage's own reboot is the second attempt.
    Ok(())
}

pub(super) fn poisoned_new(new: &mut New<'_>) -> Result<()> {
    let fd = new.retrieve(1)?;
    new.common.check("content", layout(PAGES).verify(&fd));
    Ok(())
}

/// In the order in which they can be unloaded.
const MODULES: [&str; 2] = ["luo_hugetlb", "luo_rs"];

fn stay(report: &mut crate::run::Common<'_>, when: &str) {
    for name in MODULES {
        let stays = refused(rmmod(name), &[Errno::AGAIN]);
        report.check(&format!("{name}.stays-{when}"), stays);
    }
}

pub(super) fn module_old(old: &mut Old<'_>) -> Result<()> {
    POOL.set(16)?;
    old.preserve(file()?, 1)?;
    stay(&mut old.common, "preserved");
    Ok(())
}

pub(super) fn module_new(new: &mut New<'_>) -> Result<()> {
    new.session()?;
    stay(&mut new.common, "before-retrieve");
    let fd = new.retrieve(1)?;
    stay(&mut new.common, "before-finish");
    new.finish()?;
    for name in MODULES {
        new.common
            .check(&format!("{name}.goes"), works(rmmod(name)));
    }
    // The file is an ordinary one and needs no handler any more.
    new.common.check("content", layout(PAGES).verify(&fd));
    let state = POOL.state()?;
    drop(fd);
    let want = [state.nr, state.free + PAGES, 0, 0];
    pool(&mut new.common, "pool-closed", POOL, want)?;
    Ok(())
}

/// The handler is not there, as after an update to a kernel that knows another version of the format only.
pub(super) fn missing_new(new: &mut New<'_>) -> Result<()> {
    let before = POOL.state()?;
    let dead = refused(new.session()?.retrieve(Token(1)), &[Errno::NODEV]);
    new.common.check("dead-file", dead);
    let finished = new.finish().map_err(|e| format!("{e:#}"));
    new.common.check("finishes", finished);
    new.common.check("pool", same(POOL.state()?, before));
    Ok(())
}

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
    sweep::{
        self,
        Sweep, //
    },
    sys::{
        given_back,
        in_child,
        mem_free,
        refused_reboot,
        rmmod,
        slack, //
    }, //
};
use anyhow::Result;
use liveupdate::Token;
use rustix::{
    fs::{
        ftruncate,
        MemfdFlags, //
    },
    io::Errno, //
};
use std::os::fd::OwnedFd;

/// Huge pages of each file.
const PAGES: u64 = 2;

fn file() -> Result<OwnedFd> {
    let fd = huge_memfd(M2, MemfdFlags::ALLOW_SEALING)?;
    write(&layout(PAGES), &fd, M2)?;
    Ok(fd)
}

fn verify(fd: &OwnedFd) -> Check {
    layout(PAGES).verify(fd)
}

/// The size of the file can be changed.
fn free(fd: &OwnedFd) -> Check {
    works(ftruncate(fd, (PAGES + 1) * M2))?;
    works(ftruncate(fd, PAGES * M2))
}

const SWEEP: Sweep<'_> = Sweep {
    make: &file,
    verify: &verify,
    free: &free,
};

pub(super) fn preserve(old: &mut Old<'_>) -> Result<()> {
    POOL.set(16)?;
    sweep::preserve(old, &SWEEP)?;
    pool(&mut old.common, "pool", POOL, [16, 16, 0, 0])?;
    Ok(())
}

const FILES: u64 = 100;

pub(super) fn retrieve_old(old: &mut Old<'_>) -> Result<()> {
    let nr = FILES * PAGES;
    let enough = same(POOL.set(nr)?, nr);
    old.common.check("pool", enough);
    sweep::retrieve_old(old, &SWEEP, FILES)
}

pub(super) fn retrieve_new(new: &mut New<'_>) -> Result<()> {
    // Opened first, as LUO keeps memory of its own for what waits.
    new.session()?;
    let pools = POOL.state()?;
    let before = mem_free()?;
    let kept = PAGES * sweep::retrieve_new(new, &verify, FILES)?;
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

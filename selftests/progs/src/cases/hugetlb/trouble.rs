// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A freeze that fails, a new kernel without the size of a file, and memory that breaks or is to go while it
//! waits.

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
        digest,
        huge_memfd,
        write,
        HugeMap,
        Pool, //
    },
    memory::page,
    pattern::Layout,
    run::{
        New,
        Old, //
    },
    sys::{
        given_back,
        hook,
        mem_free,
        refused_reboot,
        set, //
    }, //
};
use anyhow::Result;
use liveupdate::Token;
use rustix::{
    fs::{
        fcntl_add_seals,
        fcntl_get_seals,
        ftruncate,
        seek,
        tell,
        MemfdFlags,
        SealFlags,
        SeekFrom, //
    },
    io::Errno, //
};
use std::{
    os::fd::OwnedFd,
    path::Path, //
};

/// Huge pages of each file.
const PAGES: u64 = 3;

/// One gibibyte.
const G1: u64 = 1 << 30;

fn of(token: u64) -> Layout {
    Layout::full(0xf2ee + token, PAGES * M2)
}

/// Files with the tokens 1, 2 and 3, preserved.
fn three(old: &mut Old<'_>) -> Result<Vec<OwnedFd>> {
    POOL.set(16)?;
    (1..=3)
        .map(|token| {
            let fd = huge_memfd(M2, MemfdFlags::ALLOW_SEALING)?;
            write(&of(token), &fd, M2)?;
            old.preserve(&fd, token)?;
            Ok(fd)
        })
        .collect()
}

/// All is as it was after preserve.
fn still_preserved(files: &[OwnedFd]) -> Check {
    for (token, fd) in (1..).zip(files) {
        of(token).verify(fd)?;
        refused(ftruncate(fd, 0), &[Errno::PERM]).map_err(|why| format!("truncate: {why}"))?;
    }
    Ok(())
}

pub(super) fn freeze_old(old: &mut Old<'_>) -> Result<()> {
    if !hook("reset")? {
        return old
            .common
            .skip_all("the kernel has no test hook to make a callback fail");
    }
    let files = three(old)?;
    for before in 0..3 {
        hook(&format!("fail freeze 5 1 {before}"))?;
        let answer = refused_reboot()?;
        old.common
            .check(&format!("{before}.refused"), same(answer, Errno::IO));
        old.common.check(
            &format!("{before}.still-preserved"),
            still_preserved(&files),
        );
    }
    hook("reset")?;
    pool(&mut old.common, "pool", POOL, [16, 16 - 3 * PAGES, 0, 0])?;
    // What changes after a failure counts, in a file that was frozen and in one that was not.
    for (token, fd) in [(11, &files[0]), (13, &files[2])] {
        write(&of(token), fd, M2)?;
        fcntl_add_seals(fd, SealFlags::GROW)?;
        seek(fd, SeekFrom::Start(token))?;
    }
    files.into_iter().for_each(|fd| old.keep(fd));
    Ok(())
}

pub(super) fn freeze_new(new: &mut New<'_>) -> Result<()> {
    let before = POOL.state()?;
    let mut files = Vec::new();
    for (token, content, seals) in [
        (1, 11, SealFlags::GROW),
        (2, 2, SealFlags::empty()),
        (3, 13, SealFlags::GROW),
    ] {
        let fd = new.retrieve(token)?;
        new.common
            .check(&format!("{token}.content"), of(content).verify(&fd));
        new.common.check(
            &format!("{token}.seals"),
            same(fcntl_get_seals(&fd)?, seals),
        );
        let pos = if content > 10 { content } else { 0 };
        new.common
            .check(&format!("{token}.position"), same(tell(&fd)?, pos));
        files.push(fd);
    }
    let want = [before.nr + 3 * PAGES, before.free, 0, 0];
    pool(&mut new.common, "pool", POOL, want)?;
    Ok(())
}

fn gigantic() -> Layout {
    Layout::every(0x619b, G1, 0x1000, 16 << 20, 0x3001)
}

/// Two files with a gigantic page, and one that the next kernel can have.
pub(super) fn no_size_old(old: &mut Old<'_>) -> Result<()> {
    if !Pool(G1).exists() {
        return old.common.skip_all("no gigantic pages");
    }
    let enough = is(Pool(G1).state()?.free >= 2, "start with two of 1G");
    old.common.check("pool", enough);
    for token in 1..=2 {
        let fd = huge_memfd(G1, MemfdFlags::ALLOW_SEALING)?;
        write(&gigantic(), &fd, G1)?;
        old.preserve(&fd, token)?;
    }
    POOL.set(8)?;
    let fd = huge_memfd(M2, MemfdFlags::ALLOW_SEALING)?;
    write(&layout(4), &fd, M2)?;
    old.preserve(&fd, 3)
}

pub(super) fn no_size_new(new: &mut New<'_>) -> Result<()> {
    new.common.check(
        "no-size",
        is(!Pool(G1).exists(), "the kernel has pages of 1G"),
    );
    let before = POOL.state()?;
    let session = new.take_session("")?;
    let bytes = mem_free()?;
    for name in ["refused", "stays-refused"] {
        let result = refused(session.retrieve(Token(1)), &[Errno::NODEV]);
        new.common.check(name, result);
    }
    let memory = given_back(bytes, G1, M2)?;
    new.common.check("memory", memory);
    let fd = session.retrieve(Token(3))?;
    new.common.check("other-file", layout(4).verify(&fd));
    let bytes = mem_free()?;
    session.finish().map_err(liveupdate::Error::from)?;
    // The file that nobody asked for.
    let memory = given_back(bytes, G1, M2)?;
    new.common.check("finish.memory", memory);
    let want = [before.nr + 4, before.free, 0, 0];
    pool(&mut new.common, "pool", POOL, want)?;
    Ok(())
}

/// Where the kernel takes numbers of pages that it is to handle as broken.
const BROKEN: &str = "/sys/kernel/debug/hwpoison/corrupt-pfn";

/// Pages in a huge page that are not its first.
const INSIDE: [u64; 3] = [1, 300, 511];

pub(super) fn broken_old(old: &mut Old<'_>) -> Result<()> {
    if !Path::new(BROKEN).exists() {
        return old
            .common
            .skip_all("the kernel cannot mark memory as broken");
    }
    POOL.set(16)?;
    for token in 1..=4 {
        let fd = huge_memfd(M2, MemfdFlags::ALLOW_SEALING)?;
        write(&of(token), &fd, M2)?;
        old.preserve(&fd, token)?;
        // Pinning may have moved them.
        let pfns = HugeMap::read_only(&fd, PAGES * M2, M2)?.pfns(M2)?;
        old.common.note(&token.to_string(), &pfns[1].to_string())?;
    }
    Ok(())
}

/// In each of three files, a page in the middle breaks while the file waits to be retrieved.
pub(super) fn broken_new(new: &mut New<'_>) -> Result<()> {
    let before = POOL.state()?;
    let session = new.take_session("")?;
    for (token, inside) in (1..).zip(INSIDE) {
        let first = new.common.noted(&token.to_string())?.unwrap_or_default();
        let pfn = first.parse::<u64>()? + inside * 4096 / page();
        // It says that it can do nothing about such memory.
        let marked = set(BROKEN, &pfn.to_string());
        println!("# page {inside} of the second huge page: {marked:?}");
        for name in ["refused", "refused-again"] {
            let result = refused(session.retrieve(Token(token)), &[Errno::HWPOISON]);
            new.common.check(&format!("{token}.{name}"), result);
        }
    }
    let fd = session.retrieve(Token(4))?;
    new.common.check("other-file", of(4).verify(&fd));
    session.finish().map_err(liveupdate::Error::from)?;
    // The first huge page of each was in its file, and goes to the pool.
    let want = [before.nr + 3 + PAGES, before.free + 3, 0, 0];
    pool(&mut new.common, "pool", POOL, want)?;
    // The broken ones are not among what is left.
    new.common.check("other-file-later", of(4).verify(&fd));
    Ok(())
}

/// What the kernel answers when it cannot move a huge page away.
const STAYS: [Errno; 3] = [Errno::BUSY, Errno::AGAIN, Errno::IO];

/// Tries to take the second huge page out of use, with its content moved elsewhere.
fn offline(fd: &OwnedFd) -> Result<rustix::io::Result<()>> {
    let map = HugeMap::shared(fd, PAGES * M2, M2)?;
    map.byte(M2);
    Ok(map.offline(M2, M2))
}

pub(super) fn offline_old(old: &mut Old<'_>) -> Result<()> {
    POOL.set(16)?;
    let fd = huge_memfd(M2, MemfdFlags::ALLOW_SEALING)?;
    write(&of(1), &fd, M2)?;
    let session = old.new_session(".before")?;
    session.preserve(&fd, Token(1))?;
    drop(session);
    let free = offline(&fd)?;
    if free == Err(Errno::INVAL) {
        return old
            .common
            .skip_all("the kernel cannot take memory out of use");
    }
    old.common.check("before", works(free));
    old.preserve(&fd, 1)?;
    let pages = digest(&fd, PAGES * M2, M2)?;
    let result = refused(offline(&fd)?, &STAYS);
    old.common.check("preserved", result);
    old.common
        .check("same-pages", same(digest(&fd, PAGES * M2, M2)?, pages));
    old.common.check("content", of(1).verify(&fd));
    Ok(())
}

pub(super) fn offline_new(new: &mut New<'_>) -> Result<()> {
    // To have a place to move to.
    let nr = POOL.state()?.nr;
    POOL.set(nr + 4)?;
    let fd = new.retrieve(1)?;
    let pages = digest(&fd, PAGES * M2, M2)?;
    let result = refused(offline(&fd)?, &STAYS);
    new.common.check("retrieved", result);
    new.common.check(
        "same-pages",
        same(digest(&fd, PAGES * M2, M2)?, pages.clone()),
    );
    new.finish()?;
    new.common.check("finished", works(offline(&fd)?));
    let moved = digest(&fd, PAGES * M2, M2)?;
    new.common
        .check("moved", is(moved != pages, "it is where it was"));
    new.common.check("content", of(1).verify(&fd));
    Ok(())
}

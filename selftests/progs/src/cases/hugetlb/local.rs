// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What shows within one kernel.

use super::{
    layout,
    pool,
    M2,
    POOL, //
};
use crate::{
    expect::{
        refused,
        same,
        works, //
    },
    hugetlb::{
        digest,
        huge_memfd,
        write,
        HugeMap, //
    },
    memory::reopen,
    run::Old, //
};
use anyhow::{
    bail,
    Context,
    Result, //
};
use liveupdate::{
    Session,
    Token, //
};
use rustix::{
    fs::{
        fallocate,
        ftruncate,
        FallocateFlags,
        MemfdFlags,
        OFlags, //
    },
    io::Errno, //
};
use std::{
    fs,
    os::fd::AsFd, //
};

/// What would change the huge pages of a file of four: name and answer.
fn changes(fd: impl AsFd) -> Vec<(&'static str, rustix::io::Result<()>)> {
    let fd = fd.as_fd();
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    vec![
        ("truncate", ftruncate(fd, M2)),
        ("grow", ftruncate(fd, 5 * M2)),
        ("punch", fallocate(fd, punch, 0, M2)),
        ("punch-part", fallocate(fd, punch, 5, 100)),
        (
            "fallocate",
            fallocate(fd, FallocateFlags::empty(), 0, 6 * M2),
        ),
        (
            "fallocate-keep-size",
            fallocate(fd, FallocateFlags::KEEP_SIZE, 4 * M2, M2),
        ),
        ("mmap", HugeMap::shared(fd, 7 * M2, M2).map(drop)),
    ]
}

pub(super) fn frozen(old: &mut Old<'_>) -> Result<()> {
    POOL.set(16)?;
    let fd = huge_memfd(M2, MemfdFlags::ALLOW_SEALING)?;
    write(&layout(4), &fd, M2)?;
    old.preserve(&fd, 1)?;
    for (name, result) in changes(&fd) {
        old.common.check(name, refused(result, &[Errno::PERM]));
    }
    pool(&mut old.common, "pool", POOL, [16, 12, 0, 0])?;
    old.common.check("same-size", works(ftruncate(&fd, 4 * M2)));
    old.common.check("unharmed", layout(4).verify(&fd));
    write(&layout(4), &fd, M2)?;
    let busy = old.new_session(".other")?.preserve(&fd, Token(1));
    old.common.check("twice", refused(busy, &[Errno::BUSY]));
    old.close_session();
    for (name, result) in changes(&fd) {
        old.common.check(&format!("{name}-thawed"), works(result));
    }
    drop(fd);
    pool(&mut old.common, "pool-closed", POOL, [16, 16, 0, 0])?;
    Ok(())
}

fn preserve_once(old: &Old<'_>, fd: impl AsFd) -> Result<Session> {
    let session = old.new_session("")?;
    session.preserve(fd, Token(1))?;
    Ok(session)
}

pub(super) fn abort(old: &mut Old<'_>) -> Result<()> {
    POOL.set(16)?;
    let fd = huge_memfd(M2, MemfdFlags::ALLOW_SEALING)?;
    write(&layout(4), &fd, M2)?;
    // Pinning may move huge pages out of the way of the next kernel, the first time.
    drop(preserve_once(old, &fd)?);
    let before = digest(&fd, 4 * M2, M2)?;
    for _ in 0..20 {
        drop(preserve_once(old, &fd)?);
    }
    pool(&mut old.common, "pool", POOL, [16, 12, 0, 0])?;
    old.common.check("content", layout(4).verify(&fd));
    old.common
        .check("same-pages", same(digest(&fd, 4 * M2, M2)?, before));
    let seal = rustix::fs::fcntl_add_seals(&fd, rustix::fs::SealFlags::WRITE);
    old.common.check("no-pins", works(seal));
    drop(fd);
    pool(&mut old.common, "pool-closed", POOL, [16, 16, 0, 0])?;
    Ok(())
}

pub(super) fn refuse(old: &mut Old<'_>) -> Result<()> {
    let session = old.new_session("")?;
    POOL.set(4)?;
    let fd = huge_memfd(M2, MemfdFlags::ALLOW_SEALING)?;
    ftruncate(&fd, 6 * M2)?;
    let short = session.preserve(&fd, Token(1));
    old.common
        .check("short-pool", refused(short, &[Errno::NOMEM]));
    let state = POOL.state()?;
    old.common
        .check("short-pool-counters", same([state.nr, state.resv], [4, 0]));
    drop(fd);
    pool(&mut old.common, "short-pool-closed", POOL, [4, 4, 0, 0])?;

    let fd = huge_memfd(M2, MemfdFlags::ALLOW_SEALING)?;
    write(&layout(2), &fd, M2)?;
    let read_only = reopen(&fd, OFlags::RDONLY)?;
    let result = session.preserve(&read_only, Token(2));
    old.common
        .check("read-only", refused(result, &[Errno::ACCESS]));

    let dir = "/tmp/huge";
    fs::create_dir_all(dir)?;
    let status = std::process::Command::new("mount")
        .args(["-t", "hugetlbfs", "-o", "size=4M", "none", dir])
        .status()
        .context("mount")?;
    if !status.success() {
        bail!("cannot mount hugetlbfs");
    }
    let path = format!("{dir}/file");
    let file = fs::File::options()
        .create(true)
        .truncate(true)
        .read(true)
        .write(true)
        .open(&path)?;
    write(&layout(1), &file, M2)?;
    fs::remove_file(&path)?;
    let result = session.preserve(&file, Token(3));
    old.common
        .check("mounted", refused(result, &[Errno::OPNOTSUPP]));
    drop((file, read_only, fd));
    pool(&mut old.common, "pool", POOL, [4, 4, 0, 0])?;
    Ok(())
}

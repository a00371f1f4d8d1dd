// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Pools of all sizes and kinds, and of the next kernel.

use super::{
    layout,
    pool,
    update::PAGES,
    M2,
    POOL, //
};
use crate::{
    expect::{
        is,
        refused,
        same, //
    },
    hugetlb::{
        digest,
        huge_memfd,
        write,
        Pool, //
    },
    pattern::Layout,
    run::{
        New,
        Old, //
    },
    sys, //
};
use anyhow::Result;
use rustix::{
    fs::MemfdFlags,
    io::Errno, //
};

/// One gibibyte.
const G1: u64 = 1 << 30;

fn gigantic() -> Layout {
    Layout::every(0x619a, G1, 0x1000, 16 << 20, 0x3001)
}

pub(super) fn gigantic_old(old: &mut Old<'_>) -> Result<()> {
    if !Pool(G1).exists() {
        return old.common.skip_all("no gigantic pages");
    }
    if Pool(G1).state()?.nr == 0 && Pool(G1).set(1)? == 0 {
        return old.common.skip_all("no gibibyte in one piece");
    }
    let nr = Pool(G1).state()?.nr;
    let fd = huge_memfd(G1, MemfdFlags::ALLOW_SEALING)?;
    write(&gigantic(), &fd, G1)?;
    old.preserve(&fd, 1)?;
    pool(&mut old.common, "pool", Pool(G1), [nr, nr - 1, 0, 0])?;
    old.common.note("pages", &digest(&fd, G1, G1)?)
}

pub(super) fn gigantic_new(new: &mut New<'_>) -> Result<()> {
    let before = Pool(G1).state()?;
    let fd = new.retrieve(1)?;
    new.common.check("content", gigantic().verify(&fd));
    let noted = new.common.noted("pages")?.unwrap_or_default();
    new.common
        .check("same-pages", same(digest(&fd, G1, G1)?, noted));
    let (nr, free) = (before.nr, before.free);
    pool(&mut new.common, "pool", Pool(G1), [nr + 1, free, 0, 0])?;
    new.finish()?;
    drop(fd);
    pool(
        &mut new.common,
        "pool-closed",
        Pool(G1),
        [nr + 1, free + 1, 0, 0],
    )?;
    new.common.check("shrinks", same(Pool(G1).set(nr)?, nr));
    Ok(())
}

/// All sizes up to 32 MiB that the kernel has, with a number for each.
fn sizes() -> Vec<(u64, u64)> {
    let sizes = (16..=25).map(|shift| 1u64 << shift);
    (1..)
        .zip(sizes.filter(|size| Pool(*size).exists()))
        .collect()
}

fn sized(token: u64, size: u64) -> Layout {
    Layout::full(token, 3 * size)
}

pub(super) fn sizes_old(old: &mut Old<'_>) -> Result<()> {
    for (token, size) in sizes() {
        let had = Pool(size).state()?.nr;
        let enough = Pool(size).set(had + 3)? >= 3;
        old.common
            .check(&format!("{size}.pool"), is(enough, "no huge pages"));
        let fd = huge_memfd(size, MemfdFlags::empty())?;
        write(&sized(token, size), &fd, size)?;
        old.preserve(&fd, token)?;
    }
    Ok(())
}

pub(super) fn sizes_new(new: &mut New<'_>) -> Result<()> {
    for (token, size) in sizes() {
        let before = Pool(size).state()?;
        let fd = new.retrieve(token)?;
        new.common
            .check(&format!("{size}.content"), sized(token, size).verify(&fd));
        let want = [before.nr + 3, before.free, 0, 0];
        pool(&mut new.common, &format!("{size}.pool"), Pool(size), want)?;
    }
    Ok(())
}

pub(super) fn surplus_old(old: &mut Old<'_>) -> Result<()> {
    let nr = POOL.state()?.nr;
    POOL.set(nr + 3)?;
    let fd = huge_memfd(M2, MemfdFlags::ALLOW_SEALING)?;
    write(&layout(3), &fd, M2)?;
    old.preserve(&fd, 1)
}

pub(super) fn surplus_new(new: &mut New<'_>) -> Result<()> {
    let before = POOL.state()?;
    let (nr, free) = (before.nr, before.free);
    let fd = new.retrieve(1)?;
    new.common.check("content", layout(3).verify(&fd));
    pool(&mut new.common, "pool", POOL, [nr + 3, free, 0, 3])?;
    new.finish()?;
    drop(fd);
    pool(&mut new.common, "pool-closed", POOL, [nr, free, 0, 0])?;
    Ok(())
}

pub(super) fn unretrieved_new(new: &mut New<'_>) -> Result<()> {
    let before = POOL.state()?;
    let free = sys::mem_free()?;
    let session = new.take_session("")?;
    session.finish().map_err(liveupdate::Error::from)?;
    let want = free + PAGES * M2 - sys::slack(1 << 20);
    let now = sys::wait_mem_free(want)?;
    let text = format!("{free} bytes were free, then {now}");
    new.common.check("memory", is(now >= want, &text));
    new.common.check("pool", same(POOL.state()?, before));
    Ok(())
}

pub(super) fn boot_pool_old(old: &mut Old<'_>) -> Result<()> {
    let before = POOL.state()?;
    let enough = is(before.free >= 8, "start with hugepages=8 or more");
    old.common.check("pool", enough);
    old.common.note("nr", &before.nr.to_string())?;
    let fd = huge_memfd(M2, MemfdFlags::ALLOW_SEALING)?;
    write(&layout(6), &fd, M2)?;
    old.preserve(&fd, 1)?;
    // A preservation that is taken back does not count.
    let other = huge_memfd(M2, MemfdFlags::ALLOW_SEALING)?;
    write(&layout(2), &other, M2)?;
    let session = old.new_session(".other")?;
    session.preserve(&other, liveupdate::Token(1))?;
    drop(session);
    if Pool(G1).exists() && Pool(G1).state()?.free > 0 {
        old.common
            .note("gigantic", &Pool(G1).state()?.nr.to_string())?;
        let fd = huge_memfd(G1, MemfdFlags::ALLOW_SEALING)?;
        write(&gigantic(), &fd, G1)?;
        old.preserve(&fd, 2)?;
    }
    Ok(())
}

pub(super) fn boot_pool_new(new: &mut New<'_>) -> Result<()> {
    let noted = |new: &New<'_>, key: &str| -> Result<u64> {
        let text = new.common.noted(key)?.unwrap_or_default();
        Ok(text.parse().unwrap_or(0))
    };
    let nr = noted(new, "nr")?;
    pool(&mut new.common, "booted", POOL, [nr - 6, nr - 6, 0, 0])?;
    let fd = new.retrieve(1)?;
    new.common.check("content", layout(6).verify(&fd));
    pool(&mut new.common, "retrieved", POOL, [nr, nr - 6, 0, 0])?;
    let gigantic_nr = noted(new, "gigantic")?;
    if gigantic_nr > 0 {
        let booted = [gigantic_nr - 1, gigantic_nr - 1, 0, 0];
        pool(&mut new.common, "gigantic-booted", Pool(G1), booted)?;
        let fd = new.retrieve(2)?;
        new.common.check("gigantic-content", gigantic().verify(&fd));
        let retrieved = [gigantic_nr, gigantic_nr - 1, 0, 0];
        pool(&mut new.common, "gigantic-retrieved", Pool(G1), retrieved)?;
    }
    Ok(())
}

pub(super) fn cma(old: &mut Old<'_>) -> Result<()> {
    if !Pool(G1).exists() || Pool(G1).set(1)? == 0 {
        return old
            .common
            .skip_all("no gibibyte in the area of hugetlb_cma=");
    }
    let fd = huge_memfd(G1, MemfdFlags::ALLOW_SEALING)?;
    write(&gigantic(), &fd, G1)?;
    let session = old.new_session(".cma")?;
    let result = session.preserve(&fd, liveupdate::Token(1));
    // What is pinned has to leave the area, and there is no other place that is large enough.
    old.common
        .check("refused", refused(result, &[Errno::NOMEM]));
    drop(session);
    old.common.check("content", gigantic().verify(&fd));
    drop(fd);
    pool(&mut old.common, "pool", Pool(G1), [1, 1, 0, 0])?;
    Ok(())
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What is handed over to the next kernel.

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
        works, //
    },
    hugetlb::{
        digest,
        huge_memfd,
        meminfo,
        vmstat,
        write,
        write_data,
        HugeMap,
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
    fs::{
        fallocate,
        fcntl_add_seals,
        fcntl_get_seals,
        fstat,
        ftruncate,
        seek,
        tell,
        FallocateFlags,
        MemfdFlags,
        SealFlags,
        SeekFrom, //
    },
    io::Errno, //
};

const PAGES: u64 = 5;

pub(super) fn basic_old(old: &mut Old<'_>) -> Result<()> {
    POOL.set(16)?;
    let fd = huge_memfd(M2, MemfdFlags::ALLOW_SEALING)?;
    write(&layout(PAGES), &fd, M2)?;
    pool(&mut old.common, "pool", POOL, [16, 16 - PAGES, 0, 0])?;
    old.preserve(&fd, 1)?;
    pool(
        &mut old.common,
        "pool-preserved",
        POOL,
        [16, 16 - PAGES, 0, 0],
    )?;
    old.common.note("pages", &digest(&fd, PAGES * M2, M2)?)?;
    old.common
        .check("still-readable", layout(PAGES).verify(&fd));
    Ok(())
}

pub(super) fn basic_new(new: &mut New<'_>) -> Result<()> {
    let before = POOL.state()?;
    let (nr, free) = (before.nr, before.free);
    let hugetlb = meminfo("Hugetlb")?;
    let stat = vmstat("nr_hugetlb")?;
    let fd = new.retrieve(1)?;
    new.common.check("content", layout(PAGES).verify(&fd));
    let noted = new.common.noted("pages")?.unwrap_or_default();
    new.common
        .check("same-pages", same(digest(&fd, PAGES * M2, M2)?, noted));
    pool(&mut new.common, "pool", POOL, [nr + PAGES, free, 0, 0])?;
    new.common
        .check("meminfo", same(meminfo("Hugetlb")?, hugetlb + PAGES * M2));
    new.common
        .check("vmstat", same(vmstat("nr_hugetlb")?, stat + PAGES * 512));
    new.finish()?;
    pool(
        &mut new.common,
        "pool-finished",
        POOL,
        [nr + PAGES, free, 0, 0],
    )?;
    new.common
        .check("content-finished", layout(PAGES).verify(&fd));
    drop(fd);
    pool(
        &mut new.common,
        "pool-closed",
        POOL,
        [nr + PAGES, free + PAGES, 0, 0],
    )?;
    new.common
        .check("vmstat-closed", same(vmstat("nr_hugetlb")?, stat));
    // The pages that came back are used again, and hold nothing of what was in them.
    let fd = huge_memfd(M2, MemfdFlags::empty())?;
    let all = Layout::part(0, (free + PAGES) * M2, 0..0);
    write(&Layout::part(0, all.size, 0..1), &fd, M2)?;
    fallocate(&fd, FallocateFlags::empty(), 0, all.size)?;
    write_data(&Layout::part(0, M2, 0..0), &fd, M2)?;
    let map = HugeMap::shared(&fd, all.size, M2)?;
    map.write(0, 1, |_, byte| byte.fill(0));
    drop(map);
    new.common.check("zeroed", all.verify(&fd));
    drop(fd);
    let left = same(POOL.set(nr)?, nr);
    new.common.check("shrinks", left);
    pool(&mut new.common, "pool-shrunk", POOL, [nr, free, 0, 0])?;
    Ok(())
}

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

/// A length that ends within a huge page, with a hole.
fn odd() -> Layout {
    Layout::ranges(0x0dd, 6 * M2 + 4096, [0..M2, 3 * M2 + 7..6 * M2])
}

pub(super) fn shape_old(old: &mut Old<'_>) -> Result<()> {
    POOL.set(40)?;
    let fd = huge_memfd(M2, MemfdFlags::ALLOW_SEALING)?;
    fallocate(&fd, FallocateFlags::empty(), 6 * M2, 4096)?;
    old.common
        .check("odd-length", same(fstat(&fd)?.st_size as u64, odd().size));
    {
        let map = HugeMap::shared_noreserve(&fd, 6 * M2, M2)?;
        for range in &odd().data {
            map.write(range.start, range.end, |at, buf| {
                crate::pattern::fill(odd().seed, at, buf);
            });
        }
    }
    old.preserve(&fd, 1)?;
    seek(&fd, SeekFrom::Start(12345))?;
    old.common.check("odd-content", odd().verify(&fd));

    let sealed = huge_memfd(M2, MemfdFlags::ALLOW_SEALING)?;
    write(&layout(2), &sealed, M2)?;
    fcntl_add_seals(&sealed, SealFlags::GROW)?;
    old.preserve(&sealed, 2)?;
    fcntl_add_seals(&sealed, SealFlags::SHRINK | SealFlags::SEAL)?;

    let write_sealed = huge_memfd(M2, MemfdFlags::ALLOW_SEALING)?;
    write(&layout(2), &write_sealed, M2)?;
    fcntl_add_seals(&write_sealed, SealFlags::WRITE | SealFlags::EXEC)?;
    old.preserve(&write_sealed, 3)?;

    let noexec = huge_memfd(M2, MemfdFlags::NOEXEC_SEAL)?;
    write(&layout(1), &noexec, M2)?;
    old.preserve(&noexec, 4)?;

    let unsealable = huge_memfd(M2, MemfdFlags::empty())?;
    old.preserve(&unsealable, 5)?;
    for (nr, fd) in (1..).zip([&fd, &sealed, &write_sealed, &noexec, &unsealable]) {
        let text = format!("{:?} {:o}", fcntl_get_seals(fd)?, fstat(fd)?.st_mode);
        old.common.note(&format!("{nr}.seals"), &text)?;
    }
    for fd in [fd, sealed, write_sealed, noexec, unsealable] {
        old.keep(fd);
    }
    Ok(())
}

pub(super) fn shape_new(new: &mut New<'_>) -> Result<()> {
    let layouts = [odd(), layout(2), layout(2), layout(1), layout(0)];
    for (nr, layout) in (1..).zip(layouts) {
        let fd = new.session()?.retrieve(liveupdate::Token(nr))?;
        new.common
            .check(&format!("{nr}.content"), layout.verify(&fd));
        let text = format!("{:?} {:o}", fcntl_get_seals(&fd)?, fstat(&fd)?.st_mode);
        let noted = new.common.noted(&format!("{nr}.seals"))?;
        new.common.check(
            &format!("{nr}.seals-and-mode"),
            same(text, noted.unwrap_or_default()),
        );
        if nr == 1 {
            new.common.check("position", same(tell(&fd)?, 12345));
            new.common.check("thaws", works(ftruncate(&fd, 7 * M2)));
            let longer = Layout::ranges(odd().seed, 7 * M2, odd().data);
            new.common.check("longer", longer.verify(&fd));
        }
        if nr == 3 {
            let map = HugeMap::shared(&fd, 2 * M2, M2);
            new.common
                .check("write-sealed", refused(map, &[Errno::PERM]));
        }
    }
    Ok(())
}

pub(super) fn mappings_old(old: &mut Old<'_>) -> Result<()> {
    POOL.set(16)?;
    let fd = huge_memfd(M2, MemfdFlags::ALLOW_SEALING)?;
    write(&layout(4), &fd, M2)?;
    old.preserve(&fd, 1)
}

pub(super) fn mappings_new(new: &mut New<'_>) -> Result<()> {
    let nr = POOL.set(4)?;
    let fd = new.retrieve(1)?;
    let (nr, free) = (nr + 4, nr);
    pool(&mut new.common, "pool", POOL, [nr, free, 0, 0])?;
    let shared = HugeMap::shared(&fd, 4 * M2, M2)?;
    pool(
        &mut new.common,
        "shared-reserves-nothing",
        POOL,
        [nr, free, 0, 0],
    )?;
    shared.write(5, 6, |_, byte| byte.fill(0x77));
    let private = HugeMap::private(&fd, 4 * M2, M2)?;
    pool(&mut new.common, "private-reserves", POOL, [nr, free, 4, 0])?;
    private.write(6, 7, |_, byte| byte.fill(0x78));
    pool(
        &mut new.common,
        "private-copies",
        POOL,
        [nr, free - 1, 3, 0],
    )?;
    new.common.check(
        "private-sees-shared",
        same([private.byte(5), private.byte(6)], [0x77, 0x78]),
    );
    let mut original = [0; 8];
    crate::pattern::fill(layout(4).seed, 0, &mut original);
    new.common
        .check("shared-unharmed", same(shared.byte(6), original[6]));
    drop(private);
    pool(&mut new.common, "private-gone", POOL, [nr, free, 0, 0])?;
    new.finish()?;
    ftruncate(&fd, 6 * M2)?;
    let more = HugeMap::shared(&fd, 6 * M2, M2)?;
    pool(&mut new.common, "growth-reserves", POOL, [nr, free, 2, 0])?;
    more.write(5 * M2, 5 * M2 + 1, |_, byte| byte.fill(1));
    pool(
        &mut new.common,
        "growth-allocates",
        POOL,
        [nr, free - 1, 1, 0],
    )?;
    drop(more);
    drop(shared);
    ftruncate(&fd, M2)?;
    pool(&mut new.common, "shrunk", POOL, [nr, free + 3, 0, 0])?;
    drop(fd);
    pool(&mut new.common, "closed", POOL, [nr, free + 4, 0, 0])?;
    Ok(())
}

pub(super) fn surplus_old(old: &mut Old<'_>) -> Result<()> {
    let nr = POOL.state()?.nr;
    POOL.set(nr + 3)?;
    sys::set("/sys/module/luo_hugetlb/parameters/surplus", "1")?;
    let fd = huge_memfd(M2, MemfdFlags::ALLOW_SEALING)?;
    write(&layout(3), &fd, M2)?;
    let preserved = old.preserve(&fd, 1);
    sys::set("/sys/module/luo_hugetlb/parameters/surplus", "0")?;
    preserved
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

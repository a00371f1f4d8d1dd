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
        HugeMap, //
    },
    pattern::Layout,
    run::{
        New,
        Old, //
    },
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

pub(super) const PAGES: u64 = 5;

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

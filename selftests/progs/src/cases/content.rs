// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Content, length and position of files that are all data.

use super::Case;
use crate::{
    expect::{
        refused,
        same,
        works, //
    },
    memory::{
        memfd,
        page, //
    },
    pattern::Layout,
    run::{
        New,
        Old, //
    }, //
};
use anyhow::Result;
use rustix::{
    fs::{
        fcntl_getfl,
        seek,
        tell,
        OFlags,
        SeekFrom, //
    },
    io::Errno, //
};

pub(super) const CASES: &[Case] = &[
    Case::update(
        "content.basic",
        "A few pages come back with their content, in the same physical pages, and stay usable",
        basic_old,
        basic_new,
    ),
    Case::update(
        "content.large",
        "A large file comes back with every byte, in the same physical pages",
        large_old,
        large_new,
    )
    .on_request(),
    Case::update(
        "content.odd",
        "Lengths that are not a multiple of a page, and none at all, are exact",
        odd_old,
        odd_new,
    ),
    Case::update(
        "content.position",
        "The file position is the one at the reboot, beyond the end too",
        position_old,
        position_new,
    ),
    Case::update(
        "content.many",
        "Hundreds of files in one session come back under their tokens, in any order",
        many_old,
        many_new,
    ),
];

fn basic() -> Layout {
    Layout::full(0xba51c, 37 * page())
}

fn basic_old(old: &mut Old<'_>) -> Result<()> {
    let fd = memfd("basic")?;
    basic().write(&fd)?;
    old.preserve(&fd, 1)?;
    old.note_pages(&fd, basic().size, 1)?;
    old.common.check("still-readable", basic().verify(&fd));
    Ok(())
}

fn basic_new(new: &mut New<'_>) -> Result<()> {
    let fd = new.retrieve(1)?;
    new.common.check("content", basic().verify(&fd));
    let pages = new.same_pages(&fd, basic().size, 1);
    new.common.check("same-pages", pages);
    let flags = fcntl_getfl(&fd)?;
    new.common
        .check("read-write", same(flags & OFlags::ACCMODE, OFlags::RDWR));
    let again = new.session()?.retrieve(liveupdate::Token(1))?;
    let (one, two) = (
        rustix::fs::fstat(&fd)?.st_ino,
        rustix::fs::fstat(&again)?.st_ino,
    );
    new.common.check("again-same-file", same(two, one));
    let unknown = refused(
        new.session()?.retrieve(liveupdate::Token(2)),
        &[Errno::NOENT],
    );
    new.common.check("unknown-token", unknown);
    new.finish()?;

    new.common
        .check("content-after-finish", basic().verify(&fd));
    let changed = Layout::full(0xba51d, basic().size + 3 * page());
    let grown = changed.write(&fd).map_err(|e| e.to_string());
    new.common.check(
        "grows-after-finish",
        grown.and_then(|()| changed.verify(&fd)),
    );
    new.common.check(
        "shrinks-after-finish",
        works(rustix::fs::ftruncate(&fd, page())),
    );
    Ok(())
}

fn large(size: u64) -> Layout {
    Layout::full(0x1a29e, size)
}

fn large_old(old: &mut Old<'_>) -> Result<()> {
    let layout = large(old.common.options.size);
    let fd = memfd("large")?;
    layout.write(&fd)?;
    old.preserve(&fd, 1)?;
    old.note_pages(&fd, layout.size, 1)
}

fn large_new(new: &mut New<'_>) -> Result<()> {
    let layout = large(new.common.options.size);
    let fd = new.retrieve(1)?;
    new.common.check("content", layout.verify(&fd));
    let pages = new.same_pages(&fd, layout.size, 1);
    new.common.check("same-pages", pages);
    Ok(())
}

fn odd() -> impl Iterator<Item = (u64, Layout)> {
    let page = page();
    let sizes = [
        0,
        1,
        7,
        page - 1,
        page,
        page + 1,
        3 * page - 9,
        (1 << 20) + 5,
    ];
    let layout = |(token, size)| (token, Layout::full(0x0dd + token, size));
    (1..).zip(sizes).map(layout)
}

fn odd_old(old: &mut Old<'_>) -> Result<()> {
    for (token, layout) in odd() {
        let fd = memfd("odd")?;
        layout.write(&fd)?;
        old.preserve(&fd, token)?;
    }
    Ok(())
}

fn odd_new(new: &mut New<'_>) -> Result<()> {
    for (token, layout) in odd() {
        let fd = new.retrieve(token)?;
        new.common
            .check(&format!("{}-bytes", layout.size), layout.verify(&fd));
        // What lies behind the end in the last page must not show when the file grows.
        let longer = Layout::part(layout.seed, layout.size + 2 * page(), 0..layout.size);
        rustix::fs::ftruncate(&fd, longer.size)?;
        let name = format!("{}-bytes-grown", layout.size);
        new.common.check(&name, longer.verify(&fd));
    }
    Ok(())
}

/// Position at preserve, and at the reboot.
const POSITIONS: [(u64, u64); 4] = [(0, 0), (100, 100), (0, 4097), (5000, 1 << 40)];

fn position_old(old: &mut Old<'_>) -> Result<()> {
    for (token, (before, after)) in (1..).zip(POSITIONS) {
        let fd = memfd("position")?;
        Layout::full(token, 2 * page()).write(&fd)?;
        seek(&fd, SeekFrom::Start(before))?;
        old.preserve(&fd, token)?;
        seek(&fd, SeekFrom::Start(after))?;
        old.keep(fd);
    }
    Ok(())
}

fn position_new(new: &mut New<'_>) -> Result<()> {
    for (token, (_, after)) in (1..).zip(POSITIONS) {
        let fd = new.retrieve(token)?;
        new.common
            .check(&format!("at-{after}"), same(tell(&fd)?, after));
    }
    Ok(())
}

const MANY: u64 = 300;

fn many(token: u64) -> Layout {
    Layout::full(token << 8, (token % 5) * page() + token)
}

fn many_old(old: &mut Old<'_>) -> Result<()> {
    for number in 0..MANY {
        let fd = memfd("many")?;
        many(number).write(&fd)?;
        old.preserve(&fd, u64::MAX - number)?;
    }
    Ok(())
}

fn many_new(new: &mut New<'_>) -> Result<()> {
    let mut all = Ok(());
    for number in (0..MANY).map(|i| i * 7 % MANY) {
        let fd = new.retrieve(u64::MAX - number)?;
        let one = many(number)
            .verify(&fd)
            .map_err(|why| format!("file {number}: {why}"));
        all = all.and(one);
    }
    new.common.check("content", all);
    Ok(())
}

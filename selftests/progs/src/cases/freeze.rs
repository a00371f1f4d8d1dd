// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Updates that the kernel refuses at the last moment.

use super::Case;
use crate::{
    expect::{
        refused,
        same,
        works,
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
    },
    sys::{
        hook,
        in_child,
        refused_reboot, //
    }, //
};
use anyhow::Result;
use rustix::{
    fs::{
        ftruncate,
        seek,
        SeekFrom, //
    },
    io::Errno, //
};
use std::os::fd::OwnedFd;

pub(super) const CASES: &[Case] = &[
    Case::update(
        "freeze.fails",
        "If a file cannot be frozen the reboot is refused, nothing changes, and the next attempt works",
        fails_old,
        fails_new,
    )
    .on_request(),
    Case::update(
        "freeze.poisoned",
        "Broken memory in a file of the second of three sessions refuses the reboot until it is closed",
        poisoned_old,
        poisoned_new,
    )
    .on_request(),
    Case::local(
        "freeze.poisoned-before",
        "A file with broken memory is not preserved",
        poisoned_before,
    )
    .on_request(),
];

fn layout(token: u64) -> Layout {
    Layout::full(0xf2ee3e + token, 5 * page() + token)
}

/// All is as it was after preserve.
fn still_preserved(files: &[(u64, OwnedFd)]) -> Check {
    for (token, fd) in files {
        layout(*token).verify(fd)?;
        refused(ftruncate(fd, 0), &[Errno::PERM]).map_err(|why| format!("truncate: {why}"))?;
    }
    Ok(())
}

fn three(old: &mut Old<'_>) -> Result<Vec<(u64, OwnedFd)>> {
    (1..=3)
        .map(|token| {
            let fd = memfd("freeze")?;
            layout(token).write(&fd)?;
            old.preserve(&fd, token)?;
            Ok((token, fd))
        })
        .collect()
}

fn fails_old(old: &mut Old<'_>) -> Result<()> {
    if !hook("reset")? {
        return old
            .common
            .skip_all("the kernel has no test hook to make a callback fail");
    }
    let mut files = three(old)?;
    for round in ["first", "second"] {
        hook("fail freeze 5")?;
        let answer = refused_reboot()?;
        old.common
            .check(&format!("{round}.refused"), same(answer, Errno::IO));
        old.common
            .check(&format!("{round}.still-preserved"), still_preserved(&files));
    }
    // The session takes more files, and a position that changed after the failure counts.
    let fd = memfd("freeze")?;
    layout(4).write(&fd)?;
    let more = old.preserve(&fd, 4).map_err(|e| format!("{e:#}"));
    old.common.check("takes-more", more);
    seek(&fd, SeekFrom::Start(99))?;
    files.push((4, fd));
    hook("reset")?;
    files.into_iter().for_each(|(_, fd)| old.keep(fd));
    Ok(())
}

fn fails_new(new: &mut New<'_>) -> Result<()> {
    for token in 1..=4 {
        let fd = new.retrieve(token)?;
        new.common
            .check(&format!("{token}.content"), layout(token).verify(&fd));
        let pos = if token == 4 { 99 } else { 0 };
        let position = same(rustix::fs::tell(&fd)?, pos);
        new.common.check(&format!("{token}.position"), position);
    }
    Ok(())
}

/// Marks a page of a file as broken, as the hardware would; false if the kernel cannot.
///
/// A child does it, since the kernel kills who has the page mapped.
pub(super) fn poison(fd: &OwnedFd, offset: u64) -> Result<bool> {
    let status = in_child(|| {
        let Ok(map) = Map::new(fd, 5 * page(), true) else {
            return 1;
        };
        map.touch();
        let address = map.address() as u64 + offset;
        // SAFETY: The page is one of the mapping's, and nobody reads it any more.
        let status = unsafe {
            let address = address as *mut libc::c_void;
            libc::madvise(address, page() as usize, libc::MADV_HWPOISON)
        };
        u8::from(status != 0)
    })?;
    Ok(status == 0 || status == 128 + libc::SIGBUS as u8)
}

/// Whether the kernel can mark memory as broken; the page is lost for it.
fn can_poison() -> Result<bool> {
    let fd = memfd("poison")?;
    layout(1).write(&fd)?;
    poison(&fd, 0)
}

fn poisoned_old(old: &mut Old<'_>) -> Result<()> {
    if !can_poison()? {
        return old
            .common
            .skip_all("the kernel cannot mark memory as broken");
    }
    // Frozen in this order: the case's session, the broken one, and one more.
    let files = three(old)?;
    let other = old.new_session(".poisoned")?;
    let bad = memfd("bad")?;
    layout(9).write(&bad)?;
    other.preserve(&bad, liveupdate::Token(9))?;
    let after = old.new_session(".after")?;
    let last = memfd("after")?;
    layout(10).write(&last)?;
    after.preserve(&last, liveupdate::Token(10))?;
    poison(&bad, 2 * page())?;
    let answer = refused_reboot()?;
    old.common.check("refused", same(answer, Errno::HWPOISON));
    old.common
        .check("others-still-preserved", still_preserved(&files));
    drop(other);
    old.keep(after);
    // The stage's own reboot is the second attempt.
    files.into_iter().for_each(|(_, fd)| old.keep(fd));
    Ok(())
}

fn poisoned_new(new: &mut New<'_>) -> Result<()> {
    for token in 1..=3 {
        let fd = new.retrieve(token)?;
        new.common
            .check(&format!("{token}.content"), layout(token).verify(&fd));
    }
    let gone = refused(
        new.take_session(".poisoned").map_err(|_| Errno::NOENT),
        &[Errno::NOENT],
    );
    new.common.check("closed-session-is-gone", gone);
    let after = new.take_session(".after")?;
    let last = layout(10).verify(after.retrieve(liveupdate::Token(10))?);
    new.common.check("last.content", last);
    Ok(())
}

fn poisoned_before(old: &mut Old<'_>) -> Result<()> {
    if !can_poison()? {
        return old
            .common
            .skip_all("the kernel cannot mark memory as broken");
    }
    let fd = memfd("bad")?;
    layout(1).write(&fd)?;
    // A pin keeps the page in the file; without one it is truncated away and nothing is broken.
    old.preserve(&fd, 1)?;
    poison(&fd, page())?;
    old.close_session();
    let session = old.new_session(".again")?;
    let result = session.preserve(&fd, liveupdate::Token(1));
    old.common
        .check("refused", refused(result, &[Errno::HWPOISON, Errno::IO]));
    let fine = memfd("fine")?;
    layout(2).write(&fine)?;
    let result = works(session.preserve(&fine, liveupdate::Token(2)));
    old.common.check("others-work", result);
    Ok(())
}

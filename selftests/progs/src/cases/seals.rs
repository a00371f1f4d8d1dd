// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Seals, and the mode that the executable ones go with.

use super::Case;
use crate::{
    expect::{
        refused,
        same,
        works,
        Check, //
    },
    memory::{
        memfd_with,
        page,
        Map, //
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
        fcntl_add_seals,
        fcntl_get_seals,
        fstat,
        MemfdFlags,
        SealFlags, //
    },
    io::Errno, //
};
use std::os::fd::{
    AsFd,
    OwnedFd, //
};

pub(super) const CASES: &[Case] = &[
    Case::update(
        "seals.plain",
        "Every set of seals of an executable memfd comes back as it was, and is in force",
        plain_old,
        plain_new,
    ),
    Case::update(
        "seals.none",
        "A memfd that was made without sealing cannot be sealed afterwards either",
        none_old,
        none_new,
    ),
    Case::update(
        "seals.noexec",
        "A memfd made with MFD_NOEXEC_SEAL comes back with its mode, its seals and writable",
        noexec_old,
        noexec_new,
    ),
    Case::update(
        "seals.exec-all",
        "F_SEAL_EXEC with all the seals it brings comes back with the same seals",
        exec_all_old,
        exec_all_new,
    ),
    Case::update(
        "seals.late",
        "Seals that were added after preserve come back",
        late_old,
        late_new,
    ),
];

const SEALS: [SealFlags; 5] = [
    SealFlags::SEAL,
    SealFlags::SHRINK,
    SealFlags::GROW,
    SealFlags::WRITE,
    SealFlags::FUTURE_WRITE,
];

/// `F_SEAL_EXEC`.
const EXEC: SealFlags = SealFlags::from_bits_retain(0x20);

/// Every set of [`SEALS`], with a token.
fn subsets() -> impl Iterator<Item = (u64, SealFlags)> {
    (0..1 << SEALS.len()).map(|bits: u64| {
        let chosen = SEALS.iter().enumerate().filter(|(i, _)| bits >> i & 1 == 1);
        (bits, chosen.map(|(_, seal)| *seal).collect())
    })
}

fn layout(token: u64) -> Layout {
    Layout::full(0x5ea1 + token, 2 * page() + 100)
}

fn sealed(token: u64, flags: MemfdFlags, seals: SealFlags) -> Result<OwnedFd> {
    let fd = memfd_with("seals", flags)?;
    layout(token).write(&fd)?;
    fcntl_add_seals(&fd, seals)?;
    Ok(fd)
}

fn old_sets(old: &mut Old<'_>, flags: MemfdFlags) -> Result<()> {
    for (token, seals) in subsets() {
        let fd = sealed(token, flags, seals)?;
        let (have, mode) = (fcntl_get_seals(&fd)?, fstat(&fd)?.st_mode);
        old.common
            .note(&format!("{token}.seals"), &line(have, mode))?;
        old.preserve(&fd, token)?;
    }
    Ok(())
}

fn line(seals: SealFlags, mode: u32) -> String {
    format!("seals {:#x}, mode {:o}", seals.bits(), mode & 0o7777)
}

fn new_sets(new: &mut New<'_>) -> Result<()> {
    let (mut content, mut exact, mut force) = (Ok(()), Ok(()), Ok(()));
    for (token, seals) in subsets() {
        let which = |result: Check| result.map_err(|why| format!("{seals:?}: {why}"));
        let fd = new.retrieve(token)?;
        content = content.and(which(layout(token).verify(&fd)));
        let before = new
            .common
            .noted(&format!("{token}.seals"))?
            .unwrap_or_default();
        let after = line(fcntl_get_seals(&fd)?, fstat(&fd)?.st_mode);
        exact = exact.and(which(same(after, before)));
        force = force.and(which(in_force(&fd, token, seals)));
    }
    new.common.check("content", content);
    new.common.check("exact", exact);
    new.common.check("in-force", force);
    Ok(())
}

/// What the seals forbid fails, and what they do not forbid works.
fn in_force(fd: impl AsFd, token: u64, seals: SealFlags) -> Check {
    let size = layout(token).size;
    let fd = fd.as_fd();
    let expect = |forbidden: bool, what: &str, result: rustix::io::Result<()>| {
        let seen = if forbidden {
            refused(result, &[Errno::PERM])
        } else {
            works(result)
        };
        seen.map_err(|why| format!("{what}: {why}"))
    };
    let no_write = seals.intersects(SealFlags::WRITE | SealFlags::FUTURE_WRITE);
    expect(
        no_write,
        "write",
        rustix::io::pwrite(fd, &[1], 0).map(|_| ()),
    )?;
    expect(
        no_write,
        "writable mapping",
        Map::new(fd, page(), true).map(|_| ()),
    )?;
    expect(false, "mapping", Map::new(fd, page(), false).map(|_| ()))?;
    let grow = seals.contains(SealFlags::GROW);
    expect(grow, "grow", rustix::fs::ftruncate(fd, size + 1))?;
    let shrink = seals.contains(SealFlags::SHRINK);
    expect(shrink, "shrink", rustix::fs::ftruncate(fd, 10))?;
    let seal = seals.contains(SealFlags::SEAL);
    expect(seal, "add a seal", fcntl_add_seals(fd, SealFlags::GROW))
}

fn plain_old(old: &mut Old<'_>) -> Result<()> {
    old_sets(old, MemfdFlags::ALLOW_SEALING | MemfdFlags::EXEC)
}

fn plain_new(new: &mut New<'_>) -> Result<()> {
    new_sets(new)
}

fn noexec_old(old: &mut Old<'_>) -> Result<()> {
    old_sets(old, MemfdFlags::NOEXEC_SEAL)
}

fn noexec_new(new: &mut New<'_>) -> Result<()> {
    // With all seals at once the format cannot tell the mode; it is kept apart below.
    new_sets(new)
}

fn none_old(old: &mut Old<'_>) -> Result<()> {
    let fd = memfd_with("none", MemfdFlags::EXEC)?;
    layout(1).write(&fd)?;
    old.preserve(&fd, 1)
}

fn none_new(new: &mut New<'_>) -> Result<()> {
    let fd = new.retrieve(1)?;
    new.common.check("content", layout(1).verify(&fd));
    new.common
        .check("exact", same(fcntl_get_seals(&fd)?, SealFlags::SEAL));
    let sealing = fcntl_add_seals(&fd, SealFlags::SHRINK);
    new.common
        .check("no-sealing", refused(sealing, &[Errno::PERM]));
    new.common
        .check("writable", works(layout(1).write_data(&fd)));
    Ok(())
}

fn exec_all_old(old: &mut Old<'_>) -> Result<()> {
    let flags = MemfdFlags::ALLOW_SEALING | MemfdFlags::EXEC;
    let fd = sealed(1, flags, EXEC)?;
    let all =
        EXEC | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::FUTURE_WRITE;
    old.common
        .check("brings-all", same(fcntl_get_seals(&fd)?, all));
    old.preserve(&fd, 1)
}

fn exec_all_new(new: &mut New<'_>) -> Result<()> {
    let fd = new.retrieve(1)?;
    new.common.check("content", layout(1).verify(&fd));
    new.common
        .check("exact", same(fcntl_get_seals(&fd)?.bits(), 0x3e));
    new.common.check(
        "in-force",
        in_force(&fd, 1, SealFlags::all() - SealFlags::SEAL),
    );
    let mode = fstat(&fd)?.st_mode & 0o777;
    let chmod = rustix::fs::fchmod(&fd, rustix::fs::Mode::from_raw_mode(mode ^ 0o100));
    new.common
        .check("mode-is-fixed", refused(chmod, &[Errno::PERM]));
    Ok(())
}

/// Seals that can be added while the memory is pinned, for each way to make a memfd.
const LATE: [(MemfdFlags, &[SealFlags]); 5] = [
    (MemfdFlags::ALLOW_SEALING, &[SealFlags::SHRINK]),
    (
        MemfdFlags::ALLOW_SEALING,
        &[SealFlags::GROW, SealFlags::SEAL],
    ),
    (MemfdFlags::ALLOW_SEALING, &[SealFlags::FUTURE_WRITE]),
    (
        MemfdFlags::NOEXEC_SEAL,
        &[SealFlags::SHRINK, SealFlags::GROW],
    ),
    (MemfdFlags::NOEXEC_SEAL, &[SealFlags::SEAL]),
];

fn late_old(old: &mut Old<'_>) -> Result<()> {
    for (token, (flags, seals)) in (1..).zip(LATE) {
        let fd = sealed(token, flags, SealFlags::empty())?;
        old.preserve(&fd, token)?;
        let added = seals
            .iter()
            .try_for_each(|seal| fcntl_add_seals(&fd, *seal));
        old.common
            .check(&format!("{token}.can-be-added"), works(added));
        let line = line(fcntl_get_seals(&fd)?, fstat(&fd)?.st_mode);
        old.common.note(&format!("{token}.seals"), &line)?;
    }
    let fd = sealed(9, MemfdFlags::ALLOW_SEALING, SealFlags::empty())?;
    old.preserve(&fd, 9)?;
    let write = fcntl_add_seals(&fd, SealFlags::WRITE);
    old.common
        .check("no-write-seal-while-pinned", refused(write, &[Errno::BUSY]));
    Ok(())
}

fn late_new(new: &mut New<'_>) -> Result<()> {
    for (token, _) in (1..).zip(LATE) {
        let fd = new.retrieve(token)?;
        let before = new
            .common
            .noted(&format!("{token}.seals"))?
            .unwrap_or_default();
        let after = line(fcntl_get_seals(&fd)?, fstat(&fd)?.st_mode);
        new.common
            .check(&format!("{token}.exact"), same(after, before));
        new.common
            .check(&format!("{token}.content"), layout(token).verify(&fd));
    }
    let fd = new.retrieve(9)?;
    let write = fcntl_add_seals(&fd, SealFlags::WRITE);
    new.common
        .check("pinned-until-finish", refused(write, &[Errno::BUSY]));
    new.finish()?;
    let write = fcntl_add_seals(&fd, SealFlags::WRITE);
    new.common.check("write-seal-after-finish", works(write));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seals_do_what_the_checks_expect_of_them() {
        for (token, seals) in subsets() {
            let fd = sealed(token, MemfdFlags::ALLOW_SEALING, seals).unwrap();
            layout(token).verify(&fd).unwrap();
            in_force(&fd, token, seals).unwrap();
            // The other way round something is noticed, unless nothing is there to be noticed.
            let fd = sealed(token, MemfdFlags::ALLOW_SEALING, seals).unwrap();
            let other = seals.symmetric_difference(SealFlags::SHRINK);
            assert!(in_force(&fd, token, other).is_err(), "{seals:?}");
        }
    }
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What is handed over of a page table was damaged on its way, and the page table itself was not.
//!
//! A program on the host does that between the kernels: see `iommu.toml`.

use super::receive::{
    check_no_orphan,
    check_translation,
    no_manifest_new,
    IOMMUFD, //
};
use crate::{
    cases::vfio::{
        receive::look,
        stopped::{
            check_running,
            check_stopped, //
        },
        PATIENCE, //
    },
    expect::refused,
    memory::{
        memfd,
        Map, //
    },
    run::New, //
};
use anyhow::Result;
use liveupdate::Token;
use rustix::io::Errno;
use std::{
    os::fd::OwnedFd,
    sync::atomic::Ordering, //
};

/// So much memory is used up that what was freed last is in it.
const MUCH: u64 = 64 << 20;

/// Memory full of what would lead a device astray if it were a page table.
fn use_memory() -> Result<OwnedFd> {
    let fd = memfd("much")?;
    rustix::fs::ftruncate(&fd, MUCH)?;
    let map = Map::new(&fd, MUCH, true)?;
    for at in (0..MUCH).step_by(8) {
        map.word(at).store(!0 << 12 | 3, Ordering::Relaxed);
    }
    Ok(fd)
}

/// It is refused, for good. The card goes on with the page table, of which nothing was freed, until the session is
/// finished, and is stopped by that. All else is as if nothing had been damaged.
fn refused_new(new: &mut New<'_>, why: Errno) -> Result<()> {
    let (_memory, ring) = look(new)?;
    for name in ["refused", "stays-refused"] {
        let answer = new.session()?.retrieve(Token(IOMMUFD));
        new.common.check(name, refused(answer, &[why]));
    }
    let _much = use_memory()?;
    check_running(new)?;
    let now = ring.received();
    new.common.check("goes-on", ring.wait(now + 10, PATIENCE));
    check_translation(new, "refused")?;

    new.finish()?;
    check_stopped(new, &ring)?;
    check_no_orphan(new)?;
    let received = ring.received();
    new.common.check("frames-then", ring.verify(received));
    check_translation(new, "finished")
}

/// It contradicts itself, or a checksum does not fit.
pub(super) fn invalid_new(new: &mut New<'_>) -> Result<()> {
    refused_new(new, Errno::INVAL)
}

/// It is of another version, or nothing that is known.
pub(super) fn unknown_new(new: &mut New<'_>) -> Result<()> {
    refused_new(new, Errno::OPNOTSUPP)
}

/// It names memory that was not preserved, or names it twice.
pub(super) fn missing_new(new: &mut New<'_>) -> Result<()> {
    refused_new(new, Errno::IO)
}

/// Who knows what was mapped takes the card over all the same.
pub(super) fn taken_new(new: &mut New<'_>) -> Result<()> {
    no_manifest_new(new, Errno::INVAL)
}

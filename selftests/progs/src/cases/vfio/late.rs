// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The handler of a device comes when its session is about to be finished.
//!
//! The kernel has looked for it in vain by then, so that nobody was asked to stop the device. It has to look again
//! before it frees anything.

use super::{
    receive::{
        self,
        look_at,
        DEVICE,
        MEMORY, //
    },
    stopped::{
        check_running,
        check_stopped, //
    },
};
use crate::{
    expect::{
        is,
        works, //
    },
    hugetlb::huge_memfd,
    memory::HUGE,
    run::{
        New,
        Old, //
    },
    sys::{
        module_loaded,
        set, //
    },
    vfio::igb::Ring, //
};
use anyhow::Result;
use liveupdate::{
    IncomingSession,
    Token, //
};
use rustix::fs::MemfdFlags;
use std::{
    fs,
    os::{
        fd::OwnedFd,
        unix::fs::PermissionsExt, //
    }, //
};

/// A file whose handler does not come. The kernel asks for it after it has asked for that of the device.
const OTHER: u64 = 3;

/// What the kernel runs when a handler is missing. For that of the other file, it loads that of the device.
const HELPER: &str = "/tmp/late";
const SCRIPT: &str = "#!/bin/sh
case \"$*\" in
*luo-file-rs-hugetlb-v1*) insmod /lu/stage/1/modules/*luo_vfio_pci.ko ;;
esac
exit 1
";

pub(super) fn old(old: &mut Old<'_>) -> Result<()> {
    let running = receive::run(old)?;
    old.preserve(running.device.fd(), DEVICE)?;
    let other = huge_memfd(HUGE, MemfdFlags::empty())?;
    rustix::fs::ftruncate(&other, HUGE)?;
    old.preserve(&other, OTHER)?;
    running.leave(old)
}

/// Retrieves the memory, and has the handler come in time to be late.
fn take(new: &mut New<'_>) -> Result<(IncomingSession, OwnedFd, Ring)> {
    let session = new.take_session("")?;
    let memory = session.retrieve(Token(MEMORY))?;
    let (memory, ring) = look_at(new, memory)?;
    check_running(new)?;
    fs::write(HELPER, SCRIPT)?;
    fs::set_permissions(HELPER, fs::Permissions::from_mode(0o755))?;
    set("/proc/sys/kernel/modprobe", HELPER)?;
    let missing = !module_loaded("luo_vfio_pci");
    new.common
        .check("missing", is(missing, "the handler is there"));
    Ok((session, memory, ring))
}

/// The handler is there, and has stopped the device.
fn check_late(new: &mut New<'_>, ring: &Ring) -> Result<()> {
    let loaded = module_loaded("luo_vfio_pci");
    new.common
        .check("loaded", is(loaded, "the handler did not come"));
    check_stopped(new, ring)
}

pub(super) fn new(new: &mut New<'_>) -> Result<()> {
    let (session, _memory, ring) = take(new)?;
    let finished = session.finish().map_err(|failed| failed.error);
    new.common.check("finishes", works(finished));
    check_late(new, &ring)
}

/// Who closes the session does not learn whether it is finished.
pub(super) fn closed_new(new: &mut New<'_>) -> Result<()> {
    let (session, _memory, ring) = take(new)?;
    drop(session);
    check_late(new, &ring)
}

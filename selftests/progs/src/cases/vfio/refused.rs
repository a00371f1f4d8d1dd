// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What fails in the old kernel leaves the device as it is.

use super::{
    super::freeze::poison,
    receive::{
        run,
        DEVICE,
        MEMORY, //
    }, //
};
use crate::{
    expect::{
        is,
        refused,
        same, //
    },
    memory::{
        memfd,
        page, //
    },
    run::Old,
    sys,
    vfio::{
        igb,
        PciDevice, //
    }, //
};
use anyhow::Result;
use liveupdate::{
    vfio::{
        self,
        Interrupts, //
    },
    Token, //
};
use rustix::io::Errno;
use std::{
    os::fd::AsFd,
    process::Command, //
};

/// Everything that is refused.
pub(super) fn again_old(old: &mut Old<'_>) -> Result<()> {
    let unbound = PciDevice::find(igb::MODEL)?.open()?;
    let answer = old.session()?.preserve(&unbound, Token(9));
    drop(unbound);
    old.common
        .check("unbound", refused(answer, &[Errno::OPNOTSUPP]));
    old.close_session();

    let running = run(old)?;
    let settings = igb::settings(&running.registers);
    old.preserve(running.device.fd(), DEVICE)?;
    let eventfd = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC)?;
    // The arm64 machine has no MSI: interrupt tables of an ITS would not survive.
    let device = running.device.fd();
    let events = [eventfd.as_fd()];
    vfio::enable(device, Interrupts::Msix, &events)
        .or_else(|_| vfio::enable(device, Interrupts::Intx, &events))?;
    let answer = sys::refused_reboot()?;
    old.common.check("interrupts", same(answer, Errno::BUSY));
    vfio::silence(device)?;

    // The file after it cannot be frozen: by then the device is.
    let bad = memfd("bad")?;
    rustix::io::pwrite(&bad, &[1; 5 * 4096], 0)?;
    old.preserve(&bad, 3)?;
    poison(&bad, page())?;
    let answer = sys::refused_reboot()?;
    old.common
        .check("other-file", same(answer, Errno::HWPOISON));
    running.check_unchanged(old, &settings);

    // And all of it once more, as if nothing had happened.
    old.close_session();
    old.preserve(&running.memory, MEMORY)?;
    old.preserve(running.device.fd(), DEVICE)?;
    running.leave(old)
}

/// A kernel that is none is loaded while the device is preserved.
pub(super) fn load_old(old: &mut Old<'_>) -> Result<()> {
    let running = run(old)?;
    let settings = igb::settings(&running.registers);
    old.preserve(running.device.fd(), DEVICE)?;
    let status = Command::new("lu-load").arg("/proc/self/exe").status()?;
    // Which one depends on the machine.
    let answer = status.code().map(Errno::from_raw_os_error);
    let refused = matches!(answer, Some(Errno::NOEXEC | Errno::INVAL));
    old.common
        .check("load", is(refused, &format!("the answer is {answer:?}")));
    running.check_unchanged(old, &settings);
    running.leave(old)
}

/// The session is closed, and what is handed over in the end is memory alone.
pub(super) fn aborted_old(old: &mut Old<'_>) -> Result<()> {
    let running = run(old)?;
    let settings = igb::settings(&running.registers);
    old.preserve(running.device.fd(), DEVICE)?;
    old.close_session();
    running.check_unchanged(old, &settings);
    old.preserve(&running.memory, MEMORY)?;
    running.leave(old)
}

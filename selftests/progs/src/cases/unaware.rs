// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A kernel that was loaded in the older way, which tells it nothing of preserved memory.

use super::Case;
use crate::{
    expect::{
        same,
        works, //
    },
    memory::memfd,
    run::Old,
    sys, //
};
use anyhow::Result;
use rustix::io::Errno;
use std::ptr;

pub(super) const CASES: &[Case] = &[Case::local(
    "unaware.load",
    "What was loaded with kexec_load() is not started while something is preserved",
    load,
)
.on_request()];

/// `struct kexec_segment`
#[repr(C)]
struct Segment {
    buf: *const u8,
    bufsz: usize,
    mem: usize,
    memsz: usize,
}

/// Where the image goes, and what there is of it.
const PLACE: usize = 16 << 20;
static IMAGE: [u8; 4096] = [0; 4096];

/// Loads something that is no kernel, which this call does not mind.
fn kexec_load() -> rustix::io::Result<()> {
    let segment = Segment {
        buf: IMAGE.as_ptr(),
        bufsz: IMAGE.len(),
        mem: PLACE,
        memsz: IMAGE.len(),
    };
    // SAFETY: There is one segment, and its buffer is as long as it says.
    let status =
        unsafe { libc::syscall(libc::SYS_kexec_load, PLACE, 1, ptr::from_ref(&segment), 0) };
    sys::answer(status)
}

fn load(old: &mut Old<'_>) -> Result<()> {
    let file = memfd("file")?;
    rustix::io::pwrite(&file, &[1; 4096], 0)?;
    old.preserve(&file, 1)?;
    old.common.check("loaded", works(kexec_load()));
    let answer = sys::refused_reboot()?;
    old.common.check("refused", same(answer, Errno::INVAL));

    // The session is as good as before.
    old.close_session();
    old.preserve(&file, 1)?;
    Ok(())
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Memory that only the guest may see: a few instructions of a guest write it before the update, and
//! read it after.

use super::PAGES;
use crate::{
    expect::{
        refused,
        same, //
    },
    gmem::{
        Vm,
        DEFAULT,
        SW_PROTECTED, //
    },
    memory::{
        page,
        Map, //
    },
    run::{
        New,
        Old, //
    },
};
use anyhow::Result;
use liveupdate::guest_memfd;
use rustix::io::Errno;
use std::os::fd::AsFd;

/// `GUEST_MEMFD_FLAG_MMAP`: without the other one, mappings have no memory in them.
const MMAP: u64 = 1 << 0;

/// The value that is written.
const VALUE: u16 = 0xbeef;

/// `mov word ptr [0x8000], 0xbeef; hlt`, of which only the host's copy is ever seen.
pub(super) const WRITE: &[u8] = &[0xc7, 0x06, 0x00, 0x80, 0xef, 0xbe, 0xf4];
/// `mov ax, [0x8000]; out 0x10, ax; hlt`.
const READ: &[u8] = &[0xa1, 0x00, 0x80, 0xe7, 0x10, 0xf4];

/// Whether there are such VMs.
fn supported() -> bool {
    cfg!(target_arch = "x86_64") && Vm::new(SW_PROTECTED).is_ok()
}

/// Runs `code` in a VM whose page 8 is private: what it put out, if anything.
pub(super) fn run(vm: &Vm, memory: impl AsFd, code: &[u8]) -> Result<Option<u16>> {
    #[cfg(target_arch = "x86_64")]
    {
        use crate::guest::{
            Guest,
            Stop, //
        };

        match Guest::private(vm, memory, PAGES, 8, code)?.run()? {
            Stop::Out(number) => Ok(Some(number)),
            Stop::Halt => Ok(None),
            Stop::Fault(address) => anyhow::bail!("the guest has no memory at {address:#x}"),
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        let _ = (vm, memory, code);
        anyhow::bail!("there are no such VMs")
    }
}

pub(super) fn old(old: &mut Old<'_>) -> Result<()> {
    if !supported() {
        return old.common.skip_all("KVM has no VMs of this type");
    }
    let vm = Vm::new(SW_PROTECTED)?;
    let memory = vm.memory(PAGES * page(), 0)?;
    let wrote = run(&vm, &memory, WRITE)?;
    old.common.check("wrote", same(wrote, None));
    old.preserve(&memory, 1)?;
    // With memory that the host could map, if there were any for it.
    let mapped = vm.memory(PAGES * page(), MMAP)?;
    old.preserve(&mapped, 2)
}

pub(super) fn new(new: &mut New<'_>) -> Result<()> {
    let memory = new.retrieve(1)?;
    let map = Map::new(&memory, PAGES * page(), false);
    new.common
        .check("no-mapping", refused(map, &[Errno::NODEV]));
    let default = Vm::new(DEFAULT)?;
    let result = guest_memfd::link(&memory, &default);
    new.common
        .check("no-ordinary-vm", refused(result, &[Errno::INVAL]));

    let mapped = new.retrieve(2)?;
    let map = Map::new(&mapped, PAGES * page(), false)?;
    let probed = crate::gmem::probe(&map, 0);
    new.common
        .check("not-for-the-host", refused(probed, &[Errno::FAULT]));

    let vm = Vm::new(SW_PROTECTED)?;
    let view = guest_memfd::link(&memory, &vm)?;
    let read = run(&vm, &view, READ)?;
    new.common.check("read", same(read, Some(VALUE)));
    Ok(())
}

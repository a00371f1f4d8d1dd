// SPDX-License-Identifier: GPL-2.0-only

//! Preserves guest_memfd files of KVM over a live update.
//!
//! # What is preserved
//!
//! * Data, in the same physical pages, size and flags. Holes stay holes.
//! * What kind of VM the memory is for.
//!
//! # What is refused
//!
//! * `EOPNOTSUPP`: memory of a VM whose private memory the host cannot hand over (SEV, SNP, TDX, pKVM).
//! * `EHWPOISON`: memory of the file is broken. This is checked again just before the jump.
//! * `EFBIG`: the file has 2^32 pages or more.
//! * `EBUSY`: the file is preserved already. `EINTR`: the caller is being killed.
//!
//! # While it is preserved
//!
//! Memory that is there can be used, also by the guest. No memory is added or taken away: `fallocate()`
//! fails with `EPERM`, `KVM_RUN` with `EFAULT` and `KVM_EXIT_MEMORY_FAULT` when the guest touches a hole;
//! there is `SIGBUS` in a mapping. A VMM allocates all memory before, or stops its vCPUs.
//!
//! # What it needs
//!
//! KVM, initialized: with `ENODEV` it is not loaded. On x86 that is done by `kvm_amd` or `kvm_intel`, which
//! cannot be unloaded before this module.
//!
//! # Afterwards
//!
//! The file that is retrieved has the memory, but no VM. `LUO_GUEST_MEMFD_LINK` in
//! `luo/include/uapi/linux/luo_guest_memfd.h` makes a file for a VM. Memory that only the guest may see is
//! zeroed before it is freed, if nobody retrieves it or that fails.

mod guest_memfd;
#[path = "../rust/guest_memfd/mod.rs"]
mod kvm;

use guest_memfd::GuestMemfdFiles;
use kernel::prelude::*;
use kvm::Kvm;
use luo::liveupdate::Registration;

module! {
    type: LuoGuestMemfd,
    name: "luo_guest_memfd",
    authors: ["liveupdate-rs"],
    description: "Live update of guest_memfd files",
    license: "GPL",
    alias: ["luo-file-rs-guest-memfd-v1"],
}

luo::handler_module!(
    LuoGuestMemfd,
    GuestMemfdFiles,
    Kvm::get().and_then(|kvm| Ok(Some((Registration::new()?, kvm)))),
    Kvm
);

// SPDX-License-Identifier: GPL-2.0-only

//! Preserves iommufd files over a live update: the page table that devices go on using.
//!
//! # What is preserved
//!
//! * The page table, in the memory that it is in, for devices that are preserved after it. IOMMUs use it
//!   all the time, from the old kernel on until something else is attached in the new one.
//! * What was mapped.
//!
//! # What is refused
//!
//! When it is preserved, with a message that says why:
//!
//! * `EOPNOTSUPP`: there is more than one page table, or memory that is not mapped from a file, or nested
//!   translation, PASIDs, faults, virtual IOMMUs; the IOMMU's driver does not support it; or a device has
//!   no IOMMU. `ENXIO`: there is no page table.
//!
//! Just before the jump, which does not happen then:
//!
//! * `EFAULT`: something is mapped that is not preserved. The message has the addresses. So memory has to
//!   be preserved first.
//!
//! # While it is preserved
//!
//! Everything that would change what is mapped or attached fails with `EBUSY`.
//!
//! # Afterwards
//!
//! The file that is retrieved is no iommufd: it tells what was mapped. Whoever has it opens a new iommufd,
//! maps the same there, and attaches the device: that replaces the old page table in one step. The old one
//! is freed when the session is finished and no device uses it any more.

mod handler;
#[path = "../rust/iommu/mod.rs"]
mod iommu;

use handler::IommuFiles;
use kernel::prelude::*;

module! {
    type: LuoIommu,
    name: "luo_iommu",
    authors: ["liveupdate-rs"],
    description: "Live update of page tables of IOMMUs",
    license: "GPL",
    alias: ["luo-file-rs-iommufd-v1"],
}

luo::handler_module!(LuoIommu, IommuFiles, iommu::register().map(Some));

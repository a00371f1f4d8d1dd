// SPDX-License-Identifier: GPL-2.0-only

//! Preserves the files of VFIO PCI devices over a live update, while the devices go on running.
//!
//! # What is preserved
//!
//! * The device itself: it is not reset, goes on as a bus master, and keeps its configuration, its BARs
//!   and its address.
//! * What the kernel emulates of its configuration space.
//!
//! # What is refused
//!
//! When it is preserved, with a message that says why:
//!
//! * `EOPNOTSUPP`: the file is not of the character device (`/dev/vfio/devices`), or not bound; the
//!   device is behind an IOMMU and its iommufd is not preserved, or nothing is attached to it, or its IOMMU
//!   cannot go on translating; it is a virtual function, has such, may use address translation services, or
//!   shares its IOMMU group with other devices.
//! * `EINVAL`: the device sleeps. `EBUSY`: it is preserved already.
//!
//! Just before the jump, which does not happen then:
//!
//! * `EBUSY`: interrupts are enabled, or there are ioeventfds or dma-bufs of it; its iommufd is not preserved
//!   any more. `EINVAL`: it sleeps.
//!
//! # While it is preserved
//!
//! Nothing changes. Once it is frozen, everything that is done with the file fails with `EIO`, and memory
//! of the device that is mapped raises `SIGBUS`.
//!
//! # Afterwards
//!
//! The device is bound to vfio-pci as any other (`vfio-pci.ids=`, `driver_override`), but cannot be opened.
//! The file that is retrieved has to be bound, and memory has to be mapped again; from then on it is
//! used as before. A device that is not bound when the session is finished is stopped, and so is one that
//! nobody retrieves, before anything else of the session is freed: so memory that it writes to belongs into
//! the same session. If what was preserved of a device cannot be read, nobody knows which one that is: then all are
//! stopped that nobody has retrieved by then.
//!
//! `ENODEV`: it is not bound to vfio-pci, which can be made up for; or it is gone, or another one.

mod handler;
#[path = "../rust/vfio/mod.rs"]
mod vfio;

use handler::VfioPciFiles;
use kernel::prelude::*;

module! {
    type: LuoVfioPci,
    name: "luo_vfio_pci",
    authors: ["liveupdate-rs"],
    description: "Live update of VFIO PCI devices",
    license: "GPL",
    alias: ["luo-file-rs-vfio-pci-v1"],
}

luo::handler_module!(LuoVfioPci, VfioPciFiles, vfio::register().map(Some));

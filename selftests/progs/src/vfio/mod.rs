// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! PCI devices in VFIO, and small drivers for those that QEMU has.

pub mod descriptor;
mod device;
pub mod frame;
pub mod igb;
pub mod manifest;
pub mod nvme;
mod pci;
mod space;
pub mod trace;

pub use self::{
    device::{
        Device,
        Registers, //
    },
    pci::{
        Model,
        PciDevice, //
    },
    space::{
        Access,
        Space, //
    },
};

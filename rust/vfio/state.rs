// SPDX-License-Identifier: GPL-2.0-only

//! What vfio-pci knows of a device.

use kernel::prelude::*;
use luo::{
    abi::vfio_pci::{
        ConfigSer,
        VfioPciSer, //
    },
    bindings, //
};

// The flags are handed over as they are.
const _: () = {
    assert!(VfioPciSer::RESET_WORKS as u32 == bindings::LUO_HELPER_VFIO_RESET_WORKS);
    assert!(VfioPciSer::PCI_2_3 as u32 == bindings::LUO_HELPER_VFIO_PCI_2_3);
    assert!(VfioPciSer::NOINTX as u32 == bindings::LUO_HELPER_VFIO_NOINTX);
    assert!(VfioPciSer::VIRQ_DISABLED as u32 == bindings::LUO_HELPER_VFIO_VIRQ_DISABLED);
};

/// What vfio-pci knows of a device, with room for the largest configuration space.
pub(crate) struct DeviceState(KBox<bindings::vfio_pci_core_state>);

impl DeviceState {
    /// One that says nothing.
    pub(crate) fn new() -> Result<Self> {
        Ok(Self(KBox::init(pin_init::init_zeroed(), GFP_KERNEL)?))
    }

    pub(super) fn as_raw(&self) -> *const bindings::vfio_pci_core_state {
        &raw const *self.0
    }

    pub(super) fn as_raw_mut(&mut self) -> *mut bindings::vfio_pci_core_state {
        &raw mut *self.0
    }

    /// Size of the configuration space in bytes.
    pub(crate) fn cfg_size(&self) -> u16 {
        self.0.cfg_size
    }

    /// [`VfioPciSer::RESET_WORKS`] and the others.
    pub(crate) fn flags(&self) -> u16 {
        self.0.flags
    }

    /// Sets the size of the configuration space and the flags.
    pub(crate) fn set(&mut self, cfg_size: u16, flags: u16) {
        self.0.cfg_size = cfg_size;
        self.0.flags = flags;
    }

    /// The piece of the configuration space at `offset`.
    pub(crate) fn piece(&self, offset: usize) -> ConfigSer {
        let pick = |bytes| <[u8]>::get(bytes, offset..).unwrap_or(&[]);
        // CAST: The array is small.
        ConfigSer::new(offset as u32, pick(&self.0.map), pick(&self.0.vconfig))
    }

    /// Sets the piece of the configuration space at `offset`.
    pub(crate) fn set_piece(&mut self, offset: usize, map: &[u8], seen: &[u8]) {
        copy(&mut self.0.map, offset, map);
        copy(&mut self.0.vconfig, offset, seen);
    }
}

fn copy(to: &mut [u8], offset: usize, from: &[u8]) {
    let to = to.get_mut(offset..).unwrap_or(&mut []);
    for (to, from) in to.iter_mut().zip(from) {
        *to = *from;
    }
}

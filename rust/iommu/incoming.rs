// SPDX-License-Identifier: GPL-2.0-only

//! Page tables that the previous kernel left in use.

use kernel::prelude::*;
use luo::{
    abi::iommu::{
        DeviceSer,
        Header,
        COMPATIBLE, //
    },
    bindings,
    kho::{
        IncomingPages,
        PAGE, //
    },
    orphan::Orphan, //
};

/// A device that may use a page table of the previous kernel.
#[derive(Clone, Copy)]
pub(crate) struct Device(DeviceSer);

impl Device {
    /// That of a record.
    pub(crate) fn new(raw: &DeviceSer) -> Self {
        Self(*raw)
    }

    /// Whether it does. If it is not there any more, its place is blocked.
    fn is_pending(self) -> bool {
        // SAFETY: FFI call that is defined for any address.
        unsafe { bindings::luo_helper_iommu_pending(self.0.domain, self.0.bdf) }
    }

    /// Keeps it from using memory, if it does.
    pub(crate) fn stop(self) {
        // SAFETY: As above.
        unsafe { bindings::luo_helper_iommu_stop(self.0.domain, self.0.bdf) };
    }
}

/// The page table of a file. It is freed when this is dropped, if no device uses it any more, and else never.
pub(crate) struct HeldTables {
    pages: Option<IncomingPages>,
    devices: KVec<Device>,
}

impl HeldTables {
    /// The page table in `pages`, and the devices that the header names.
    pub(crate) fn new(pages: IncomingPages, header: &Header) -> Result<Self> {
        let mut devices = KVec::with_capacity(header.devices().len(), GFP_KERNEL)?;
        for raw in header.devices() {
            devices.push(Device::new(raw), GFP_KERNEL)?;
        }
        Ok(Self {
            pages: Some(pages),
            devices,
        })
    }

    /// Its pages.
    pub(super) fn pages(&self) -> Option<&IncomingPages> {
        self.pages.as_ref()
    }

    /// Whether a device uses it.
    pub(crate) fn is_in_use(&self) -> bool {
        self.devices.iter().any(|device| device.is_pending())
    }
}

impl Drop for HeldTables {
    fn drop(&mut self) {
        let in_use = self.is_in_use();
        match self.pages.take() {
            Some(pages) if !in_use => pages.release(),
            Some(_) => pr_err!(
                "a device still uses the previous kernel's page table, which is kept until the next boot\n"
            ),
            None => {}
        }
    }
}

impl Orphan for HeldTables {
    fn compatible(&self) -> &'static str {
        COMPATIBLE.to_str().unwrap_or("")
    }

    fn bytes(&self) -> u64 {
        self.pages
            .as_ref()
            .map_or(0, |pages| pages.len() << PAGE.shift())
    }

    fn try_release(&mut self) -> bool {
        !self.is_in_use()
    }
}

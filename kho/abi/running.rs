// SPDX-License-Identifier: GPL-2.0-only OR BSD-3-Clause

//! What the kernel itself hands over about devices that go on running: state that their files share.
//!
//! The PCI core and the IOMMU core read it at boot, long before any module is loaded. This is only as much of it
//! as takes to find all of its pages.
//!
//! C headers: [`include/linux/kho/abi/pci.h`](srctree/include/linux/kho/abi/pci.h) and
//! [`include/linux/kho/abi/iommu.h`](srctree/include/linux/kho/abi/iommu.h)

use super::{
    Error,
    Result, //
};
use core::{
    ffi::CStr,
    mem::{
        offset_of,
        size_of, //
    }, //
};
use zerocopy_derive::{
    FromBytes,
    Immutable,
    IntoBytes,
    KnownLayout, //
};

/// The beginning of the kernel's `struct pci_ser`: the devices, and the bridges above them.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
pub struct PciSer {
    /// Size of an entry in bytes.
    pub entry_size: u32,
    /// Number of entries.
    pub nr: u32,
}

impl PciSer {
    /// The name of this format in the Live Update Orchestrator.
    pub const COMPATIBLE: &CStr = c"pci-running-v1";
    /// Size of all of it in bytes.
    pub const SIZE: u64 = 32 << 10;
    /// Size of an entry in bytes.
    const ENTRY: u32 = 48;
    /// Number of entries, most of which are not in use.
    pub const NR: u32 = (Self::SIZE as u32 - size_of::<Self>() as u32) / Self::ENTRY;

    /// Checks what the next kernel stops at if it is wrong.
    pub fn check(&self) -> Result {
        if self.entry_size != Self::ENTRY {
            return Err(Error::Version);
        }
        if self.nr != Self::NR {
            return Err(Error::Count);
        }
        Ok(())
    }
}

/// The beginning of the kernel's `struct iommu_ser`: the IOMMUs that go on translating. Behind it are, at
/// [`TranslatingSer::PAGES_AT`], the addresses of the pages of their tables of devices.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
pub struct TranslatingSer {
    /// Size of all of it in bytes.
    pub size: u32,
    /// Number of pages.
    pub nr_pages: u32,
}

const _: () = assert!(size_of::<PciSer>() == 8);
const _: () = assert!(size_of::<TranslatingSer>() == 8);
const _: () = assert!(offset_of!(TranslatingSer, nr_pages) == 4);

impl TranslatingSer {
    /// The name of this format in the Live Update Orchestrator.
    pub const COMPATIBLE: &CStr = c"iommu-translating-v1";
    /// Size of all of it in bytes.
    pub const SIZE: u64 = 16 << 10;
    /// Room for pages.
    const MAX_PAGES: u32 = 1343;
    /// Where their addresses begin: behind 64 IOMMUs and 256 devices.
    pub const PAGES_AT: usize = size_of::<Self>() + 64 * 24 + 256 * 16;

    /// Number of pages, if there is room for so many.
    pub fn check(&self) -> Result<usize> {
        if u64::from(self.size) != Self::SIZE {
            return Err(Error::Version);
        }
        if self.nr_pages > Self::MAX_PAGES {
            return Err(Error::Count);
        }
        usize::try_from(self.nr_pages).map_err(|_| Error::Count)
    }
}

const _: () = assert!(
    TranslatingSer::PAGES_AT + TranslatingSer::MAX_PAGES as usize * size_of::<u64>()
        == TranslatingSer::SIZE as usize
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_refused() {
        let pci = |entry_size, nr| PciSer { entry_size, nr }.check();
        assert_eq!(pci(48, 682), Ok(()));
        assert_eq!(pci(48, 681), Err(Error::Count));
        assert_eq!(pci(48, 683), Err(Error::Count));
        assert_eq!(pci(48, u32::MAX), Err(Error::Count));
        assert_eq!(pci(20, 1), Err(Error::Version));
        let iommu = |size, nr_pages| TranslatingSer { size, nr_pages }.check();
        assert_eq!(iommu(16384, 1343), Ok(1343));
        assert_eq!(iommu(16384, 1344), Err(Error::Count));
        assert_eq!(iommu(4096, 0), Err(Error::Version));
    }
}

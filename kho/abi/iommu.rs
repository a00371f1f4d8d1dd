// SPDX-License-Identifier: GPL-2.0-only OR BSD-3-Clause

//! What is handed over of an iommufd file: the page table that devices go on using.
//!
//! The header says what the page table is like and which devices use it. It points to two arrays: of
//! [`TableSer`], with every page of the page table, and of [`AreaSer`], with what was mapped. Each record has
//! a checksum of its own.
//!
//! The page table is in the hardware's format, and is in use. Nothing writes to it.

mod entry;

pub use self::entry::{
    Entry,
    Lookup, //
};

use super::{
    extents::Checksum,
    vmalloc::{
        CheckedVmalloc,
        KhoVmalloc, //
    },
    Error,
    PageSize,
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

/// The name of this format in the Live Update Orchestrator.
pub const COMPATIBLE: &CStr = c"rs-iommufd-v1";

/// What describes one file.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
pub struct IommuSer {
    /// [`IommuSer::sum`] of all that follows.
    pub checksum: u64,
    /// [`IommuSer::MAGIC`].
    pub magic: u32,
    /// [`IommuSer::VERSION`].
    pub version: u16,
    /// Size of this header in bytes.
    pub len: u16,
    /// Format of the page table: [`IommuSer::VTD_SECOND_STAGE`].
    pub format: u16,
    /// Levels of the page table.
    pub levels: u16,
    /// Number of areas.
    pub nr_areas: u32,
    /// Number of pages of the page table; the first one is the top.
    pub nr_tables: u64,
    /// The last address that can be mapped.
    pub last: u64,
    /// The array of [`TableSer`].
    pub tables: KhoVmalloc,
    /// The array of [`AreaSer`].
    pub areas: KhoVmalloc,
    /// Number of devices.
    pub nr_devices: u32,
    /// Must be zero.
    pub reserved: u32,
    /// The devices; those that are not there are zero.
    pub devices: [DeviceSer; IommuSer::MAX_DEVICES],
}

/// A device that goes on using the page table.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
pub struct DeviceSer {
    /// PCI domain.
    pub domain: u32,
    /// Bus, device and function.
    pub bdf: u16,
    /// Must be zero.
    pub reserved: u16,
}

const _: () = assert!(size_of::<DeviceSer>() == 8);
const _: () = assert!(size_of::<IommuSer>() == 336);
const _: () = assert!(offset_of!(IommuSer, magic) == 8);
const _: () = assert!(offset_of!(IommuSer, format) == 16);
const _: () = assert!(offset_of!(IommuSer, nr_areas) == 20);
const _: () = assert!(offset_of!(IommuSer, nr_tables) == 24);
const _: () = assert!(offset_of!(IommuSer, last) == 32);
const _: () = assert!(offset_of!(IommuSer, tables) == 40);
const _: () = assert!(offset_of!(IommuSer, areas) == 56);
const _: () = assert!(offset_of!(IommuSer, nr_devices) == 72);
const _: () = assert!(offset_of!(IommuSer, devices) == 80);

impl IommuSer {
    /// "LUIO", read as bytes.
    pub const MAGIC: u32 = u32::from_le_bytes(*b"LUIO");
    /// This version.
    pub const VERSION: u16 = 1;
    /// Size of the header.
    pub const LEN: u16 = size_of::<Self>() as u16;
    /// The most devices.
    pub const MAX_DEVICES: usize = 32;
    /// The most areas: more than there is address space for with pages.
    pub const MAX_AREAS: u32 = 1 << 24;
    /// The second stage of Intel's VT-d, in pages of 4 KiB.
    pub const VTD_SECOND_STAGE: u16 = 1;

    /// What [`IommuSer::checksum`] must be.
    #[must_use]
    pub fn sum(&self) -> u64 {
        Checksum::of_sealed(self)
    }
}

/// A page of the page table.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
pub struct TableSer {
    /// [`TableSer::sum`] of what follows.
    pub checksum: u64,
    /// Its page number.
    pub pfn: u64,
}

const _: () = assert!(size_of::<TableSer>() == 16);

impl TableSer {
    /// The record of a page.
    #[must_use]
    pub fn new(pfn: u64) -> Self {
        let mut this = Self { checksum: 0, pfn };
        this.checksum = this.sum();
        this
    }

    /// What [`TableSer::checksum`] must be.
    #[must_use]
    pub fn sum(&self) -> u64 {
        Checksum::of_sealed(self)
    }

    /// Whether the checksum fits.
    #[must_use]
    pub fn is_intact(&self) -> bool {
        self.checksum == self.sum()
    }
}

/// A range of addresses that was mapped to a file.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
pub struct AreaSer {
    /// [`AreaSer::sum`] of all that follows.
    pub checksum: u64,
    /// Its first address.
    pub iova: u64,
    /// Its length in bytes.
    pub length: u64,
    /// Where in the file it begins, in bytes.
    pub offset: u64,
    /// The file's token in the session, if [`AreaSer::TOKEN`] is set.
    pub token: u64,
    /// [`AreaSer::READ`] and the others.
    pub flags: u32,
    /// Must be zero.
    pub reserved: u32,
    /// Must be zero.
    pub unused: [u64; 2],
}

const _: () = assert!(size_of::<AreaSer>() == 64);

impl AreaSer {
    /// Devices may read.
    pub const READ: u32 = 1 << 0;
    /// Devices may write.
    pub const WRITE: u32 = 1 << 1;
    /// The file is preserved in the same session.
    pub const TOKEN: u32 = 1 << 2;
    /// All flags of this version.
    pub const FLAGS: u32 = Self::READ | Self::WRITE | Self::TOKEN;

    /// What [`AreaSer::checksum`] must be.
    #[must_use]
    pub fn sum(&self) -> u64 {
        Checksum::of_sealed(self)
    }

    /// Whether the checksum fits.
    #[must_use]
    pub fn is_intact(&self) -> bool {
        self.checksum == self.sum()
    }

    /// Sets the token of its file, or that it is not known.
    pub fn set_token(&mut self, token: Option<u64>) {
        self.flags = match token {
            Some(_) => self.flags | Self::TOKEN,
            None => self.flags & !Self::TOKEN,
        };
        self.token = token.unwrap_or(0);
        self.checksum = self.sum();
    }

    /// The last address of it, if it is one that comes after `before` and reaches up to `last` at most.
    pub fn parse(&self, before: Option<u64>, last: u64, page: PageSize) -> Result<u64> {
        if !self.is_intact() {
            return Err(Error::Checksum);
        }
        if self.flags & !Self::FLAGS != 0 || self.reserved != 0 || self.unused != [0; 2] {
            return Err(Error::UnknownFlags);
        }
        if self.flags & Self::TOKEN == 0 && self.token != 0 {
            return Err(Error::UnknownFlags);
        }
        let end = self.length.checked_sub(1);
        let end = end.and_then(|more| self.iova.checked_add(more));
        let end = end.filter(|end| *end <= last).ok_or(Error::Size)?;
        if self.offset.checked_add(self.length).is_none()
            || !page.is_aligned(self.iova)
            || !page.is_aligned(self.length)
            || !page.is_aligned(self.offset)
        {
            return Err(Error::Size);
        }
        if before.is_some_and(|before| self.iova <= before) {
            return Err(Error::IndexOverlap);
        }
        Ok(end)
    }
}

/// A header that is consistent in itself.
///
/// # Invariants
///
/// The format is known, `levels` fits it, the arrays have as many records as they are said to have, and
/// there are at least one page and at most [`IommuSer::MAX_DEVICES`] devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    levels: u16,
    nr_areas: u32,
    nr_tables: u64,
    last: u64,
    tables: CheckedVmalloc,
    areas: Option<CheckedVmalloc>,
    nr_devices: usize,
    devices: [DeviceSer; IommuSer::MAX_DEVICES],
}

impl Header {
    /// Checks all that can be checked without the arrays.
    pub fn parse(raw: &IommuSer, page: PageSize) -> Result<Self> {
        if raw.magic != IommuSer::MAGIC
            || raw.version != IommuSer::VERSION
            || raw.len != IommuSer::LEN
        {
            return Err(Error::Version);
        }
        if raw.checksum != raw.sum() {
            return Err(Error::Checksum);
        }
        if raw.format != IommuSer::VTD_SECOND_STAGE || raw.reserved != 0 {
            return Err(Error::UnknownFlags);
        }
        if page.bytes() != Lookup::PAGE || !Lookup::LEVELS.contains(&raw.levels) {
            return Err(Error::PageSize);
        }
        if raw.last > Lookup::last(raw.levels) {
            return Err(Error::Size);
        }
        if raw.nr_areas > IommuSer::MAX_AREAS {
            return Err(Error::Count);
        }
        let nr_devices = usize::try_from(raw.nr_devices).map_err(|_| Error::Count)?;
        let unused = raw.devices.get(nr_devices..).ok_or(Error::Count)?;
        if unused.iter().any(|device| *device != DeviceSer::default())
            || raw.devices.iter().any(|device| device.reserved != 0)
        {
            return Err(Error::UnknownFlags);
        }
        let nr_tables = raw.nr_tables;
        let tables = raw
            .tables
            .parse_records::<TableSer>(nr_tables, nr_tables, page)?
            .ok_or(Error::Count)?;
        let nr = u64::from(raw.nr_areas);
        let areas = raw.areas.parse_records::<AreaSer>(nr, nr, page)?;

        // INVARIANT: checked above.
        Ok(Self {
            levels: raw.levels,
            nr_areas: raw.nr_areas,
            nr_tables,
            last: raw.last,
            tables,
            areas,
            nr_devices,
            devices: raw.devices,
        })
    }

    /// Levels of the page table.
    #[inline]
    #[must_use]
    pub fn levels(&self) -> u16 {
        self.levels
    }

    /// The last address that can be mapped.
    #[inline]
    #[must_use]
    pub fn last(&self) -> u64 {
        self.last
    }

    /// Number of areas.
    #[inline]
    #[must_use]
    pub fn nr_areas(&self) -> u32 {
        self.nr_areas
    }

    /// Number of pages of the page table.
    #[inline]
    #[must_use]
    pub fn nr_tables(&self) -> u64 {
        self.nr_tables
    }

    /// The array of pages.
    #[inline]
    #[must_use]
    pub fn tables(&self) -> &CheckedVmalloc {
        &self.tables
    }

    /// The array of areas, if there are any.
    #[inline]
    #[must_use]
    pub fn areas(&self) -> Option<&CheckedVmalloc> {
        self.areas.as_ref()
    }

    /// The devices.
    #[inline]
    #[must_use]
    pub fn devices(&self) -> &[DeviceSer] {
        self.devices.get(..self.nr_devices).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;

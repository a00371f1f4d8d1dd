// SPDX-License-Identifier: GPL-2.0-only OR BSD-3-Clause

//! The format of a memfd with huge pages (`MFD_HUGETLB`), which is this project's own.
//!
//! A header ([`HugetlbSer`]) in a page of its own points to a list of [`extents`](super::extents), in
//! which each folio is a huge page.
//!
//! The header has a checksum of itself, and one of the records.
//!
//! The layout is a contract with every kernel that writes or reads [`COMPATIBLE`]: any change needs
//! another string.

use super::{
    check_file,
    extents::{
        Checksum,
        Class,
        ExtentList,
        RawList, //
    },
    memfd::Seals,
    vmalloc::KhoVmalloc,
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
pub const COMPATIBLE: &CStr = c"rs-hugetlb-v1";

/// What describes one file.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
pub struct HugetlbSer {
    /// [`HugetlbSer::checksum`] of all that follows.
    pub checksum: u64,
    /// File position in bytes.
    pub pos: u64,
    /// File size in bytes; not always a multiple of the size of a huge page.
    pub size: u64,
    /// Number of huge pages in all extents.
    pub nr_pages: u64,
    /// [`Checksum`] of the records.
    pub extents_checksum: u64,
    /// Seals, see [`Seals`].
    pub seals: u32,
    /// See [`HugetlbSer::NOEXEC`] and the others.
    pub flags: u32,
    /// Number of records.
    pub nr_extents: u32,
    /// Base two logarithm of the number of pages in a huge page.
    pub order: u8,
    /// Base two logarithm of the size of a page.
    pub page_shift: u8,
    /// Must be zero.
    pub reserved: u16,
    /// The array of [`ExtentSer`](super::extents::ExtentSer); all zero if there is none.
    pub extents: KhoVmalloc,
}

const _: () = assert!(size_of::<HugetlbSer>() == 72);
const _: () = assert!(offset_of!(HugetlbSer, checksum) == 0);
const _: () = assert!(offset_of!(HugetlbSer, pos) == 8);
const _: () = assert!(offset_of!(HugetlbSer, size) == 16);
const _: () = assert!(offset_of!(HugetlbSer, nr_pages) == 24);
const _: () = assert!(offset_of!(HugetlbSer, extents_checksum) == 32);
const _: () = assert!(offset_of!(HugetlbSer, seals) == 40);
const _: () = assert!(offset_of!(HugetlbSer, flags) == 44);
const _: () = assert!(offset_of!(HugetlbSer, nr_extents) == 48);
const _: () = assert!(offset_of!(HugetlbSer, order) == 52);
const _: () = assert!(offset_of!(HugetlbSer, page_shift) == 53);
const _: () = assert!(offset_of!(HugetlbSer, reserved) == 54);
const _: () = assert!(offset_of!(HugetlbSer, extents) == 56);

impl HugetlbSer {
    /// The file cannot be executed: its mode has no such permission.
    pub const NOEXEC: u32 = 1 << 0;
    /// The huge pages are to be surplus pages, which are freed with the file.
    pub const SURPLUS: u32 = 1 << 1;
    /// All flags of this version.
    pub const FLAGS: u32 = Self::NOEXEC | Self::SURPLUS;

    /// What [`HugetlbSer::checksum`] must be.
    #[must_use]
    pub fn sum(&self) -> u64 {
        Checksum::of_sealed(self)
    }
}

/// A header that is consistent in itself.
///
/// # Invariants
///
/// `pos` and `size` are at most [`i64::MAX`]. The order of `list` is at least 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    raw: HugetlbSer,
    seals: Seals,
    list: ExtentList,
}

impl Header {
    /// Checks all that can be checked without the array.
    pub fn parse(raw: &HugetlbSer, page: PageSize) -> Result<Self> {
        if raw.checksum != raw.sum() {
            return Err(Error::Checksum);
        }
        if raw.flags & !HugetlbSer::FLAGS != 0 || raw.reserved != 0 {
            return Err(Error::UnknownFlags);
        }
        let seals = Seals::from_bits(raw.seals)?;
        if raw.order == 0 {
            return Err(Error::Order);
        }
        check_file(raw.pos, raw.size)?;
        let list = RawList {
            size: raw.size,
            nr_pages: raw.nr_pages,
            checksum: raw.extents_checksum,
            nr_extents: raw.nr_extents,
            order: raw.order,
            page_shift: raw.page_shift,
            extents: raw.extents,
            class: Class::Shared,
        };
        let list = ExtentList::parse(&list, page)?;

        // INVARIANT: checked above.
        Ok(Self {
            raw: *raw,
            seals,
            list,
        })
    }

    /// File position in bytes.
    #[inline]
    pub fn pos(&self) -> u64 {
        self.raw.pos
    }

    /// File size in bytes.
    #[inline]
    pub fn size(&self) -> u64 {
        self.raw.size
    }

    /// The seals to add.
    #[inline]
    pub fn seals(&self) -> Seals {
        self.seals
    }

    /// Whether the file can be executed.
    #[inline]
    pub fn is_executable(&self) -> bool {
        self.raw.flags & HugetlbSer::NOEXEC == 0
    }

    /// Whether the huge pages are surplus pages.
    #[inline]
    pub fn is_surplus(&self) -> bool {
        self.raw.flags & HugetlbSer::SURPLUS != 0
    }

    /// Base two logarithm of the number of pages in a huge page.
    #[inline]
    pub fn order(&self) -> u32 {
        u32::from(self.raw.order)
    }

    /// The list of huge pages.
    #[inline]
    pub fn list(&self) -> &ExtentList {
        &self.list
    }
}

#[cfg(test)]
mod tests;

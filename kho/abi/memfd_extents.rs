// SPDX-License-Identifier: GPL-2.0-only OR BSD-3-Clause

//! A second format of a memfd, which is this project's own: one record for each run of pages.
//!
//! A header ([`MemfdExtentsSer`]) in a page of its own points to a list of [`extents`](super::extents), in
//! units of pages: a run of pages that follow one another both in the file and in memory is one record,
//! whatever its length. The memory of a run is preserved in pieces that are as large as their alignment
//! allows (`kho_preserve_pages()`); they are not the folios that the pages were in. A page beyond the end of
//! the file is in no extent, even if it is in a folio with others that are.
//!
//! All pages are valid and dirty.
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
pub const COMPATIBLE: &CStr = c"rs-memfd-v1";

/// What describes one file.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
pub struct MemfdExtentsSer {
    /// [`MemfdExtentsSer::sum`] of all that follows.
    pub checksum: u64,
    /// File position in bytes.
    pub pos: u64,
    /// File size in bytes.
    pub size: u64,
    /// Number of pages in all extents.
    pub nr_pages: u64,
    /// [`Checksum`] of the records.
    pub extents_checksum: u64,
    /// Seals, see [`Seals`].
    pub seals: u32,
    /// See [`MemfdExtentsSer::NOEXEC`].
    pub flags: u32,
    /// Number of records.
    pub nr_extents: u32,
    /// Must be zero.
    pub reserved: [u8; 3],
    /// Base two logarithm of the size of a page.
    pub page_shift: u8,
    /// The array of [`ExtentSer`](super::extents::ExtentSer); all zero if there is none.
    pub extents: KhoVmalloc,
}

const _: () = assert!(size_of::<MemfdExtentsSer>() == 72);
const _: () = assert!(offset_of!(MemfdExtentsSer, checksum) == 0);
const _: () = assert!(offset_of!(MemfdExtentsSer, pos) == 8);
const _: () = assert!(offset_of!(MemfdExtentsSer, size) == 16);
const _: () = assert!(offset_of!(MemfdExtentsSer, nr_pages) == 24);
const _: () = assert!(offset_of!(MemfdExtentsSer, extents_checksum) == 32);
const _: () = assert!(offset_of!(MemfdExtentsSer, seals) == 40);
const _: () = assert!(offset_of!(MemfdExtentsSer, flags) == 44);
const _: () = assert!(offset_of!(MemfdExtentsSer, nr_extents) == 48);
const _: () = assert!(offset_of!(MemfdExtentsSer, reserved) == 52);
const _: () = assert!(offset_of!(MemfdExtentsSer, page_shift) == 55);
const _: () = assert!(offset_of!(MemfdExtentsSer, extents) == 56);

impl MemfdExtentsSer {
    /// The file cannot be executed: its mode has no such permission.
    pub const NOEXEC: u32 = 1 << 0;
    /// All flags of this version.
    pub const FLAGS: u32 = Self::NOEXEC;

    /// What [`MemfdExtentsSer::checksum`] must be.
    #[must_use]
    pub fn sum(&self) -> u64 {
        Checksum::of_sealed(self)
    }
}

/// A header that is consistent in itself.
///
/// # Invariants
///
/// `pos` and `size` are at most [`i64::MAX`]. The order of `list` is zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    raw: MemfdExtentsSer,
    seals: Seals,
    list: ExtentList,
}

impl Header {
    /// Checks all that can be checked without the array.
    pub fn parse(raw: &MemfdExtentsSer, page: PageSize) -> Result<Self> {
        if raw.checksum != raw.sum() {
            return Err(Error::Checksum);
        }
        if raw.flags & !MemfdExtentsSer::FLAGS != 0 || raw.reserved != [0; 3] {
            return Err(Error::UnknownFlags);
        }
        let seals = Seals::from_bits(raw.seals)?;
        check_file(raw.pos, raw.size)?;
        let list = RawList {
            size: raw.size,
            nr_pages: raw.nr_pages,
            checksum: raw.extents_checksum,
            nr_extents: raw.nr_extents,
            order: 0,
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

    /// Whether the mode of the file lets anybody execute it.
    #[inline]
    pub fn is_executable(&self) -> bool {
        self.raw.flags & MemfdExtentsSer::NOEXEC == 0
    }

    /// The list of runs of pages.
    #[inline]
    pub fn list(&self) -> &ExtentList {
        &self.list
    }
}

#[cfg(test)]
mod tests;

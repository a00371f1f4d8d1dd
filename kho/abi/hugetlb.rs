// SPDX-License-Identifier: GPL-2.0-only OR BSD-3-Clause

//! The format of a memfd with huge pages (`MFD_HUGETLB`), which is this project's own.
//!
//! A header ([`HugetlbSer`]) in a page of its own points, through a [`KhoVmalloc`], to an array of
//! extents ([`ExtentSer`]) in ascending order of index. An extent is a run of huge pages that follow one
//! another both in the file and in memory, so that a file in one piece needs one record whatever its
//! size. An index that is in no extent is a hole.
//!
//! All huge pages of a file have one size, `1 << order` pages. KHO keeps each of them as a
//! preservation of its own of this order.
//!
//! The header has a checksum of itself, and one of the records. Both find damage, not malice: what
//! the numbers say is checked all the same, by [`Header::parse`] and [`ExtentChecker`].
//!
//! The layout is a contract with every kernel that writes or reads [`COMPATIBLE`]: any change needs
//! another string.

mod check;
mod spans;

pub use self::{
    check::{
        Extent,
        ExtentChecker, //
    },
    spans::{
        Spans,
        SpansChecker, //
    }, //
};

use super::{
    check_file,
    memfd::Seals,
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
use zerocopy::IntoBytes as _;
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
    /// The array of [`ExtentSer`]; all zero if there is none.
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
        let mut sum = Checksum::new();
        let (_, rest) = self.as_bytes().split_at(size_of::<u64>());
        sum.add_bytes(rest);
        sum.get()
    }
}

/// A run of huge pages.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
pub struct ExtentSer {
    /// Page number of the first page.
    pub pfn: u64,
    /// Index of the first huge page in the file, in huge pages.
    pub index: u32,
    /// Number of huge pages; not zero.
    pub nr: u32,
}

const _: () = assert!(size_of::<ExtentSer>() == 16);
const _: () = assert!(offset_of!(ExtentSer, pfn) == 0);
const _: () = assert!(offset_of!(ExtentSer, index) == 8);
const _: () = assert!(offset_of!(ExtentSer, nr) == 12);

impl ExtentSer {
    /// Adds the huge page of `1 << order` pages at `pfn` with the given index, if it follows directly.
    #[inline]
    #[must_use]
    pub fn extend(&mut self, pfn: u64, index: u32, order: u32) -> bool {
        let follows = |extent: &Self| {
            let pages = u64::from(extent.nr).checked_mul(1u64.checked_shl(order)?)?;
            let more = extent.nr.checked_add(1)?;
            let fits = extent.nr != 0
                && extent.pfn.checked_add(pages)? == pfn
                && extent.index.checked_add(extent.nr)? == index;
            fits.then_some(more)
        };
        match follows(self) {
            Some(nr) => {
                self.nr = nr;
                true
            }
            None => false,
        }
    }
}

/// A sum that any one changed word changes, and words that swap places nearly always do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checksum(u64);

impl Checksum {
    /// The sum of nothing.
    #[inline]
    #[must_use]
    pub const fn new() -> Self {
        Self(0x6c75_6f5f_6874_6c62)
    }

    /// Adds a word.
    #[inline]
    pub fn add(&mut self, word: u64) {
        // An odd factor: each step can be undone, so that it loses nothing.
        self.0 = (self.0.rotate_left(25) ^ word).wrapping_mul(0xd6e8_feb8_6659_fd93);
    }

    /// Adds a record.
    #[inline]
    pub fn add_extent(&mut self, extent: &ExtentSer) {
        self.add(extent.pfn);
        self.add(u64::from(extent.nr) << 32 | u64::from(extent.index));
    }

    /// Adds bytes, the last of them filled up with zeros to a word.
    pub fn add_bytes(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(size_of::<u64>()) {
            let mut word = [0; size_of::<u64>()];
            for (to, from) in word.iter_mut().zip(chunk) {
                *to = *from;
            }
            self.add(u64::from_le_bytes(word));
        }
    }

    /// The sum.
    #[inline]
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl Default for Checksum {
    fn default() -> Self {
        Self::new()
    }
}

/// A header that is consistent in itself.
///
/// # Invariants
///
/// `pos` and `size` are at most [`i64::MAX`]. `order` is at least 1, and `1 << order` pages have a size
/// in bytes that is at most [`i64::MAX`]. `nr_pages` is at most the number of huge pages in the file, and
/// that is at most [`u32::MAX`]. `nr_extents` is at most `nr_pages`, zero if and only if that is, and if
/// `extents` is [`None`]; otherwise that many records fit in what `extents` describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    raw: HugetlbSer,
    seals: Seals,
    /// Huge pages from the start of the file to its end.
    end: u32,
    extents: Option<CheckedVmalloc>,
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
        if u32::from(raw.page_shift) != page.shift() {
            return Err(Error::PageSize);
        }
        let shift = u32::from(raw.order) + page.shift();
        if raw.order == 0 || shift >= i64::BITS - 1 {
            return Err(Error::Order);
        }
        check_file(raw.pos, raw.size)?;
        let end = u32::try_from(raw.size.div_ceil(1 << shift)).map_err(|_| Error::Size)?;
        if raw.nr_pages > u64::from(end)
            || u64::from(raw.nr_extents) > raw.nr_pages
            || (raw.nr_extents == 0) != (raw.nr_pages == 0)
        {
            return Err(Error::Count);
        }
        let nr = u64::from(raw.nr_extents);
        let extents = raw.extents.parse_records::<ExtentSer>(nr, nr, page)?;

        // INVARIANT: checked above.
        Ok(Self {
            raw: *raw,
            seals,
            end,
            extents,
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

    /// Whether there is a huge page for each part of the file.
    #[inline]
    pub fn is_full(&self) -> bool {
        self.raw.nr_pages == u64::from(self.end)
    }

    /// Base two logarithm of the number of pages in a huge page.
    #[inline]
    pub fn order(&self) -> u32 {
        u32::from(self.raw.order)
    }

    /// Number of records in the array.
    #[inline]
    pub fn nr_extents(&self) -> u32 {
        self.raw.nr_extents
    }

    /// Number of huge pages in all extents.
    #[inline]
    pub fn nr_pages(&self) -> u64 {
        self.raw.nr_pages
    }

    /// Where the array is; [`None`] if there are no huge pages.
    #[inline]
    pub fn extents(&self) -> Option<&CheckedVmalloc> {
        self.extents.as_ref()
    }
}

#[cfg(test)]
mod tests;

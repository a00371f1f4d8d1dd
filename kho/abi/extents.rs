// SPDX-License-Identifier: GPL-2.0-only OR BSD-3-Clause

//! Lists of folios that several formats have in common.
//!
//! A header points, through a [`KhoVmalloc`], to an array of extents ([`ExtentSer`]) in ascending order
//! of index. An extent is a run of folios, so that a file in one piece needs one record whatever its
//! size. An index that is in no extent is a hole.
//!
//! All folios of a list have one size, `1 << order` pages. Unless a format says something else, KHO keeps
//! each of them as a preservation of its own of this order.
//!
//! The list has a checksum in the header, which finds damage, not malice: what the numbers say is
//! checked all the same, by [`ExtentList::parse`] and [`ExtentChecker`].

mod check;
mod checksum;
mod spans;

pub use self::{
    check::{
        Extent,
        ExtentChecker,
        RecordChecker,
        SumChecker, //
    },
    checksum::Checksum,
    spans::{
        Spans,
        SpansChecker, //
    }, //
};

use super::{
    check_file,
    vmalloc::{
        CheckedVmalloc,
        KhoVmalloc, //
    },
    Error,
    PageSize,
    Result, //
};
use core::mem::{
    offset_of,
    size_of, //
};
use zerocopy_derive::{
    FromBytes,
    Immutable,
    IntoBytes,
    KnownLayout, //
};

/// What kind of memory an extent is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Class {
    /// The host may look at it.
    Shared = 0,
    /// Only the guest may look at it, although the host could: software protects it.
    PrivatePlain = 1,
    /// Encrypted with a key of the guest. Reserved: nobody writes or reads it.
    PrivateEncrypted = 2,
    /// Not in the direct map of the host. Reserved: nobody writes or reads it.
    NotInDirectMap = 3,
}

impl Class {
    const fn from_number(number: u64) -> Option<Self> {
        Some(match number {
            0 => Self::Shared,
            1 => Self::PrivatePlain,
            2 => Self::PrivateEncrypted,
            3 => Self::NotInDirectMap,
            _ => return None,
        })
    }
}

/// A run of folios of one size that follow one another both in the file and in memory.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
pub struct ExtentSer {
    /// Bits 0-51 page number of the first page, bits 52-57 must be zero, bits 58-63 [`Class`].
    pub pfn: u64,
    /// Index of the first folio in the file, in folios.
    pub index: u32,
    /// Number of folios; not zero.
    pub nr: u32,
}

const _: () = assert!(size_of::<ExtentSer>() == 16);
const _: () = assert!(offset_of!(ExtentSer, pfn) == 0);
const _: () = assert!(offset_of!(ExtentSer, index) == 8);
const _: () = assert!(offset_of!(ExtentSer, nr) == 12);

impl ExtentSer {
    const CLASS_SHIFT: u32 = 58;

    /// One folio with the given index. `pfn` has at most 52 bits, as addresses have 64.
    #[inline]
    #[must_use]
    pub const fn new(class: Class, pfn: u64, index: u32) -> Self {
        Self {
            pfn: pfn | (class as u64) << Self::CLASS_SHIFT,
            index,
            nr: 1,
        }
    }

    /// Page number of the first page, which may have more than 52 bits if the record is damaged.
    #[inline]
    #[must_use]
    pub const fn first(&self) -> u64 {
        self.pfn & ((1 << Self::CLASS_SHIFT) - 1)
    }

    /// What kind of memory this is, if it is known.
    #[inline]
    #[must_use]
    pub const fn class(&self) -> Option<Class> {
        Class::from_number(self.pfn >> Self::CLASS_SHIFT)
    }

    /// A run of `nr` folios from the given index on. `pfn` has at most 52 bits, as addresses have 64.
    #[inline]
    #[must_use]
    pub const fn run(class: Class, pfn: u64, index: u32, nr: u32) -> Self {
        Self {
            nr,
            ..Self::new(class, pfn, index)
        }
    }

    /// Adds another one of folios of `1 << order` pages, if it follows directly.
    #[inline]
    #[must_use]
    pub fn extend(&mut self, next: &Self, order: u32) -> bool {
        let follows = |extent: &Self| {
            let pages = u64::from(extent.nr).checked_mul(1u64.checked_shl(order)?)?;
            let more = extent.nr.checked_add(next.nr)?;
            let fits = extent.nr != 0
                && extent.pfn.checked_add(pages)? == next.pfn
                && extent.index.checked_add(extent.nr)? == next.index;
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

/// What a header says of its list.
#[derive(Clone, Copy, Debug)]
pub struct RawList {
    /// File size in bytes.
    pub size: u64,
    /// Number of folios in all extents.
    pub nr_pages: u64,
    /// [`Checksum`] of the records.
    pub checksum: u64,
    /// Number of records.
    pub nr_extents: u32,
    /// Base two logarithm of the number of pages in a folio.
    pub order: u8,
    /// Base two logarithm of the size of a page.
    pub page_shift: u8,
    /// The array of [`ExtentSer`]; all zero if there is none.
    pub extents: KhoVmalloc,
    /// What all extents must be.
    pub class: Class,
}

/// A list whose description is consistent in itself.
///
/// # Invariants
///
/// `1 << order` pages have a size in bytes that is at most [`i64::MAX`]. `nr_pages` is at most `end`, the
/// number of folios in the file. `nr_extents` is at most `nr_pages`, zero if and only if that is, and if
/// `extents` is [`None`]; otherwise that many records fit in what `extents` describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExtentList {
    order: u32,
    end: u32,
    nr_pages: u64,
    nr_extents: u32,
    checksum: u64,
    extents: Option<CheckedVmalloc>,
    class: Class,
}

impl ExtentList {
    /// Checks all that can be checked without the array.
    pub fn parse(raw: &RawList, page: PageSize) -> Result<Self> {
        if u32::from(raw.page_shift) != page.shift() {
            return Err(Error::PageSize);
        }
        let shift = u32::from(raw.order) + page.shift();
        if shift >= i64::BITS - 1 {
            return Err(Error::Order);
        }
        check_file(0, raw.size)?;
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
            order: raw.order.into(),
            end,
            nr_pages: raw.nr_pages,
            nr_extents: raw.nr_extents,
            checksum: raw.checksum,
            extents,
            class: raw.class,
        })
    }

    /// Whether there is a folio for each part of the file.
    #[inline]
    pub fn is_full(&self) -> bool {
        self.nr_pages == u64::from(self.end)
    }

    /// Base two logarithm of the number of pages in a folio.
    #[inline]
    pub fn order(&self) -> u32 {
        self.order
    }

    /// What kind of memory it is.
    #[inline]
    pub fn class(&self) -> Class {
        self.class
    }

    /// Number of records in the array.
    #[inline]
    pub fn nr_extents(&self) -> u32 {
        self.nr_extents
    }

    /// Number of folios in all extents.
    #[inline]
    pub fn nr_pages(&self) -> u64 {
        self.nr_pages
    }

    /// Where the array is; [`None`] if there are no folios.
    #[inline]
    pub fn extents(&self) -> Option<&CheckedVmalloc> {
        self.extents.as_ref()
    }
}

// SPDX-License-Identifier: GPL-2.0-only OR BSD-3-Clause

//! Checks the records of a file one after the other, in constant memory.

use super::{
    super::{
        Error,
        PageSize,
        Result, //
    },
    Checksum,
    Class,
    ExtentList,
    ExtentSer, //
};

/// A run of folios whose record has passed every check.
///
/// # Invariants
///
/// `pfn` is not zero and a multiple of `1 << order`, as is the page number of each folio. All of
/// these have physical addresses that fit in 64 bits, and the sum of `index` and `nr` fits in 32 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    pfn: u64,
    index: u32,
    nr: u32,
    order: u32,
}

impl Extent {
    /// Page number and index, in folios, of each folio.
    #[inline]
    pub fn pages(&self) -> impl Iterator<Item = (u64, u32)> + '_ {
        // No overflow, by the type invariants.
        (0..self.nr).map(|i| (self.pfn + (u64::from(i) << self.order), self.index + i))
    }

    /// Page number of the first page.
    #[inline]
    pub fn pfn(&self) -> u64 {
        self.pfn
    }

    /// Index of the first folio in the file, in folios.
    #[inline]
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Number of folios.
    #[inline]
    pub fn nr(&self) -> u32 {
        self.nr
    }
}

/// Checks records in the order in which they are stored.
///
/// A folio that appears twice is found when it is restored: KHO does not know it any more then.
#[derive(Clone, Debug)]
pub struct ExtentChecker {
    page: PageSize,
    order: u32,
    /// Number of folios in the file.
    end: u32,
    class: Class,
    /// The first index that is not occupied.
    next: u32,
    /// Huge pages and records that are still to come.
    pages: u64,
    extents: u32,
    sum: Checksum,
    expected: u64,
}

impl ExtentChecker {
    /// Starts with the first record of the list.
    #[inline]
    pub fn new(list: &ExtentList, page: PageSize) -> Self {
        Self {
            page,
            order: list.order(),
            end: list.end,
            class: list.class,
            next: 0,
            pages: list.nr_pages(),
            extents: list.nr_extents(),
            sum: Checksum::new(),
            expected: list.checksum,
        }
    }

    /// Checks one record.
    #[inline]
    pub fn check(&mut self, record: &ExtentSer) -> Result<Extent> {
        self.extents = self.extents.checked_sub(1).ok_or(Error::Count)?;
        self.sum.add_extent(record);
        let ExtentSer { index, nr, .. } = *record;
        let pfn = record.first();
        if record.class() != Some(self.class) {
            return Err(Error::Class);
        }
        if nr == 0 {
            return Err(Error::Count);
        }
        if index < self.next {
            return Err(Error::IndexOverlap);
        }
        let next = index.checked_add(nr).filter(|next| *next <= self.end);
        let next = next.ok_or(Error::IndexOutside)?;
        self.pages = self.pages.checked_sub(nr.into()).ok_or(Error::Count)?;

        // No overflow: a file has at most 2^63 bytes, and all of this fits in it.
        let pages = u64::from(nr) << self.order;
        let mask = (1u64 << self.order) - 1;
        let last = pfn.checked_add(pages - 1).ok_or(Error::Pfn)?;
        if pfn == 0 || pfn & mask != 0 || self.page.phys(last).is_none() {
            return Err(Error::Pfn);
        }
        self.next = next;

        // INVARIANT: checked above.
        Ok(Extent {
            pfn,
            index,
            nr,
            order: self.order,
        })
    }

    /// Checks that there were as many records and folios as the header says, and that no record was
    /// changed.
    #[inline]
    pub fn end(&self) -> Result {
        if self.extents != 0 || self.pages != 0 {
            return Err(Error::Count);
        }
        if self.sum.get() != self.expected {
            return Err(Error::Checksum);
        }
        Ok(())
    }
}

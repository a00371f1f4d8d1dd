// SPDX-License-Identifier: GPL-2.0-only OR BSD-3-Clause

//! Checks the records of a file one after the other, in constant memory.

use super::{
    super::{
        Error,
        PageSize,
        Result, //
    },
    Checksum,
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

/// Checks records in the order in which they are stored, but not whether they are what was stored.
///
/// A folio that appears twice is found when it is restored: KHO does not know it any more then.
#[derive(Clone, Debug)]
pub struct RecordChecker {
    order: u32,
    /// Number of folios in the file.
    end: u32,
    /// What page numbers may not have set: they are multiples of the size of a folio.
    mask: u64,
    /// The last page that has an address.
    last: u64,
    /// The class, where a record has it.
    class: u64,
    /// The first index that is not occupied.
    next: u32,
    /// Folios and records that are still to come.
    pages: u64,
    extents: u32,
}

impl RecordChecker {
    /// Starts with the first record of the list.
    #[inline]
    pub fn new(list: &ExtentList, page: PageSize) -> Self {
        Self {
            order: list.order(),
            end: list.end,
            // No overflow: a folio has at most 2^63 bytes.
            mask: (1u64 << list.order()) - 1,
            last: page.last_page(),
            class: ExtentSer::new(list.class, 0, 0).pfn,
            next: 0,
            pages: list.nr_pages(),
            extents: list.nr_extents(),
        }
    }

    /// Checks one record.
    ///
    /// A file in which no two pages are neighbours has as many records as pages: there is nothing in here that
    /// could be done once for the list.
    #[inline]
    pub fn check(&mut self, record: &ExtentSer) -> Result<Extent> {
        self.extents = self.extents.checked_sub(1).ok_or(Error::Count)?;
        let ExtentSer { index, nr, .. } = *record;
        // Only the right class leaves nothing of it.
        let pfn = record.pfn ^ self.class;
        if pfn >> ExtentSer::CLASS_SHIFT != 0 {
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

        // Nothing is lost: a file has at most 2^63 bytes, and all of this fits in it.
        let pages = u64::from(nr).wrapping_shl(self.order);
        let last = pfn.checked_add(pages.wrapping_sub(1));
        let last = last.ok_or(Error::Pfn)?;
        if pfn == 0 || pfn & self.mask != 0 || last > self.last {
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

    /// Checks that there were as many records and folios as the header says.
    #[inline]
    pub fn end(&self) -> Result {
        match (self.extents, self.pages) {
            (0, 0) => Ok(()),
            _ => Err(Error::Count),
        }
    }
}

/// Checks that no record was changed.
#[derive(Clone, Debug)]
pub struct SumChecker {
    sum: Checksum,
    expected: u64,
}

impl SumChecker {
    /// Starts before the first record of the list.
    #[inline]
    pub fn new(list: &ExtentList) -> Self {
        Self {
            sum: Checksum::new(),
            expected: list.checksum,
        }
    }

    /// Adds the next record.
    #[inline]
    pub fn add(&mut self, record: &ExtentSer) {
        self.sum.add_extent(record);
    }

    /// Checks the sum of all records.
    #[inline]
    pub fn end(&self) -> Result {
        if self.sum.get() == self.expected {
            Ok(())
        } else {
            Err(Error::Checksum)
        }
    }
}

/// Checks records in the order in which they are stored, all that [`RecordChecker`] and [`SumChecker`] do.
#[derive(Clone, Debug)]
pub struct ExtentChecker {
    records: RecordChecker,
    sum: SumChecker,
}

impl ExtentChecker {
    /// Starts with the first record of the list.
    #[inline]
    pub fn new(list: &ExtentList, page: PageSize) -> Self {
        Self {
            records: RecordChecker::new(list, page),
            sum: SumChecker::new(list),
        }
    }

    /// Checks one record.
    #[inline]
    pub fn check(&mut self, record: &ExtentSer) -> Result<Extent> {
        self.sum.add(record);
        self.records.check(record)
    }

    /// Checks that there were as many records and folios as the header says, and that no record was
    /// changed.
    #[inline]
    pub fn end(&self) -> Result {
        self.records.end()?;
        self.sum.end()
    }
}

// SPDX-License-Identifier: GPL-2.0-only OR BSD-3-Clause

//! Checks the records of a memfd one after the other, in constant memory.

use super::{
    super::{
        Error,
        PageSize,
        Result, //
    },
    FolioSer,
    Header, //
};

/// One folio whose record has passed every check.
///
/// # Invariants
///
/// `order` is what KHO has recorded for `pfn`; both `pfn` and `index` are multiples of `1 << order`.
/// `pfn` is not zero and its physical address fits in 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Folio {
    pfn: u64,
    index: u64,
    order: u32,
    flags: u16,
}

impl Folio {
    /// Page number of the first page.
    #[inline]
    pub fn pfn(&self) -> u64 {
        self.pfn
    }

    /// Index of the first page in the file.
    #[inline]
    pub fn index(&self) -> u64 {
        self.index
    }

    /// Base two logarithm of the number of pages.
    #[inline]
    pub fn order(&self) -> u32 {
        self.order
    }

    /// Whether the content is valid. If not, it must be zeroed: it may be anybody's old data.
    #[inline]
    pub fn is_uptodate(&self) -> bool {
        self.flags & FolioSer::UPTODATE != 0
    }

    /// Whether the folio holds data of the user.
    #[inline]
    pub fn is_dirty(&self) -> bool {
        self.flags & FolioSer::DIRTY != 0
    }
}

/// Checks records in the order in which they are stored.
///
/// A page number that appears twice is found in one of two ways. If each folio is restored before
/// the next record is checked, KHO does not know the page any more when it appears again, so that
/// the second record is refused with [`Error::NotPreserved`]. If all records are checked first, a
/// duplicate passes here and must be caught when it is restored.
///
/// ```
/// use kho::abi::{memfd::{FolioChecker, FolioSer, Header, MemfdSer}, vmalloc::KhoVmalloc, PageSize};
///
/// let page = PageSize::new(12).unwrap();
/// let folios = KhoVmalloc { first: 0x1000, total_pages: 1, ..Default::default() };
/// let raw = MemfdSer { size: 8192, nr_folios: 2, folios, ..Default::default() };
/// let mut checker = FolioChecker::new(&Header::parse(&raw, page)?, page, 9);
///
/// let record = FolioSer::new(0x123, FolioSer::FLAGS, 0).unwrap();
/// let folio = checker.check(&record, |_pfn| Some(0))?.unwrap();
/// assert_eq!((folio.pfn(), folio.index()), (0x123, 0));
/// // The same record again: the folio would overlap.
/// assert!(checker.check(&record, |_pfn| Some(0)).is_err());
/// # Ok::<(), kho::abi::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct FolioChecker {
    page: PageSize,
    /// Number of pages in the file; at most 2^51.
    end: u64,
    /// The first index that is not occupied.
    next: u64,
    max_order: u32,
}

impl FolioChecker {
    /// Starts with the first record of the file with this header. `max_order` is the order of the
    /// largest folio that can be in a file (`MAX_PAGECACHE_ORDER`).
    #[inline]
    pub fn new(header: &Header, page: PageSize, max_order: u32) -> Self {
        Self {
            page,
            end: page.pages(header.size()),
            next: 0,
            // No shift below can overflow.
            max_order: if max_order < 32 { max_order } else { 31 },
        }
    }

    /// Checks one record. The answer is [`None`] for a record without a page number, which the
    /// kernel's own handler skips as well.
    ///
    /// `order` tells the order of what was preserved and waits to be restored at a page number. It
    /// is asked only for page numbers that have a physical address.
    #[inline]
    pub fn check(
        &mut self,
        record: &FolioSer,
        order: impl FnOnce(u64) -> Option<u32>,
    ) -> Result<Option<Folio>> {
        let pfn = record.pfn();
        if pfn == 0 {
            return Ok(None);
        }
        let flags = record.flags();
        if flags & !FolioSer::FLAGS != 0 {
            return Err(Error::UnknownFlags);
        }
        let index = record.index();
        if index >= self.end {
            return Err(Error::IndexOutside);
        }
        if index < self.next {
            return Err(Error::IndexOverlap);
        }
        if self.page.phys(pfn).is_none() {
            return Err(Error::Pfn);
        }

        let order = order(pfn).ok_or(Error::NotPreserved)?;
        if order > self.max_order {
            return Err(Error::Order);
        }
        let pages = 1u64 << order;
        if pfn & (pages - 1) != 0 {
            return Err(Error::Pfn);
        }
        if index & (pages - 1) != 0 {
            return Err(Error::IndexUnaligned);
        }
        // The last folio may reach beyond the end of the file. No overflow: `index` is below `end`.
        self.next = index + pages;

        // INVARIANT: checked above.
        Ok(Some(Folio {
            pfn,
            index,
            order,
            flags,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            super::vmalloc::KhoVmalloc,
            MemfdSer, //
        },
        *,
    };
    use zerocopy::FromBytes as _;

    const PAGE: PageSize = match PageSize::new(12) {
        Some(page) => page,
        None => panic!(),
    };

    /// A checker for a file of `pages` pages and one byte less.
    fn checker(pages: u64) -> FolioChecker {
        let raw = MemfdSer {
            size: pages * 4096 - 1,
            nr_folios: 1,
            folios: KhoVmalloc {
                first: 0x1000,
                total_pages: 1,
                ..Default::default()
            },
            ..Default::default()
        };
        FolioChecker::new(&Header::parse(&raw, PAGE).unwrap(), PAGE, 9)
    }

    fn record(pfn: u64, index: u64) -> FolioSer {
        FolioSer::new(pfn, FolioSer::FLAGS, index).unwrap()
    }

    fn raw(word: u64, index: u64) -> FolioSer {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&word.to_le_bytes());
        bytes[8..].copy_from_slice(&index.to_le_bytes());
        FolioSer::read_from_bytes(&bytes).unwrap()
    }

    #[test]
    fn ascending_folios_of_mixed_orders_with_holes_pass() {
        let mut checker = checker(1500);
        for (pfn, index, order) in [(7, 0, 0), (9, 3, 0), (512, 512, 9), (8, 1024, 3)] {
            let folio = checker.check(&record(pfn, index), |_| Some(order));
            let folio = folio.unwrap().unwrap();
            assert_eq!(
                (folio.pfn(), folio.index(), folio.order()),
                (pfn, index, order)
            );
            assert!(folio.is_dirty() && folio.is_uptodate());
        }
    }

    #[test]
    fn the_last_folio_may_reach_beyond_the_end() {
        assert!(checker(513).check(&record(1024, 512), |_| Some(9)).is_ok());
    }

    #[test]
    fn a_record_without_a_page_number_is_skipped() {
        let skipped = checker(1).check(&raw(0xfff << 52, u64::MAX), |_| unreachable!());
        assert_eq!(skipped, Ok(None));
    }

    #[test]
    fn every_contradiction_is_refused() {
        let check = |record, order| checker(1024).check(&record, |_| order).unwrap_err();
        assert_eq!(check(raw(1 | 4 << 52, 0), Some(0)), Error::UnknownFlags);
        assert_eq!(check(record(1, 1024), Some(0)), Error::IndexOutside);
        assert_eq!(check(record(1, u64::MAX), Some(0)), Error::IndexOutside);
        assert_eq!(check(record(1, 0), None), Error::NotPreserved);
        assert_eq!(check(record(1024, 0), Some(10)), Error::Order);
        assert_eq!(check(record(1024, 0), Some(u32::MAX)), Error::Order);
        assert_eq!(check(record(3, 0), Some(1)), Error::Pfn);
        assert_eq!(check(record(2, 1), Some(1)), Error::IndexUnaligned);
    }

    #[test]
    fn overlaps_and_disorder_are_refused() {
        let mut checker = checker(1024);
        checker.check(&record(512, 512), |_| Some(9)).unwrap();
        for index in [0, 511, 512, 1023] {
            let result = checker.check(&record(1, index), |_| Some(0));
            assert_eq!(result, Err(Error::IndexOverlap));
        }
    }

    #[test]
    fn page_numbers_without_an_address_are_refused_unasked() {
        let page = PageSize::new(14).unwrap();
        let raw = MemfdSer {
            size: 1,
            ..Default::default()
        };
        let mut checker = FolioChecker::new(&Header::parse(&raw, page).unwrap(), page, 9);
        let result = checker.check(&record(1 << 50, 0), |_| unreachable!());
        assert_eq!(result, Err(Error::Pfn));
    }

    #[test]
    fn a_duplicate_is_refused_once_the_first_is_restored() {
        let mut waiting = Some(0);
        let mut checker = checker(2);
        assert!(checker.check(&record(5, 0), |_| waiting.take()).is_ok());
        let again = checker.check(&record(5, 1), |_| waiting.take());
        assert_eq!(again, Err(Error::NotPreserved));
    }
}

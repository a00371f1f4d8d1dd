// SPDX-License-Identifier: GPL-2.0-only OR BSD-3-Clause

//! Splits a file into chunks to be pinned one after the other.
//!
//! Pinning needs one pointer for each folio. In chunks, the memory for that is bounded whatever the
//! file size. The kernel pins whole folios, so a chunk whose edge lies inside a folio pins more than
//! was asked for, and the next chunk must start where that folio ends: started at the edge, it would
//! pin the folio a second time.

use super::PageSize;
use core::num::NonZeroU32;

/// Where the next chunk starts. See [`PinCursor::chunk`].
///
/// ```
/// use core::num::NonZeroU32;
/// use kho::abi::{pin::PinCursor, PageSize};
///
/// // 6 pages in chunks of 4, the second folio being a huge one of 4 pages at index 0..4.
/// let page = PageSize::new(12).unwrap();
/// let mut cursor = PinCursor::new(6 * 4096, page, NonZeroU32::new(2).unwrap()).unwrap();
/// let chunk = cursor.chunk().unwrap();
/// assert_eq!((chunk.start, chunk.last, chunk.max_folios), (0, 8191, 2));
/// assert!(cursor.advance(0, 2));
/// assert_eq!(cursor.chunk().unwrap().start, 4 * 4096);
/// ```
#[derive(Clone, Debug)]
pub struct PinCursor {
    /// File size in bytes, at most [`i64::MAX`].
    size: u64,
    /// Index of the first page that is not pinned.
    next: u64,
    chunk: NonZeroU32,
    page: PageSize,
}

/// What to ask for in one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PinChunk {
    /// Offset of the first byte.
    pub start: u64,
    /// Offset of the last byte, which is part of the chunk.
    pub last: u64,
    /// The number of folios that there can be at most.
    pub max_folios: u32,
}

impl PinCursor {
    /// Starts at the beginning of a file of `size` bytes, to be pinned `chunk` pages at a time.
    /// [`None`] if no file can have this size.
    #[inline]
    pub const fn new(size: u64, page: PageSize, chunk: NonZeroU32) -> Option<Self> {
        if size > i64::MAX.unsigned_abs() {
            return None;
        }
        Some(Self {
            size,
            next: 0,
            chunk,
            page,
        })
    }

    /// The next chunk, or [`None`] if the whole file is pinned.
    #[inline]
    pub fn chunk(&self) -> Option<PinChunk> {
        let end = self.page.pages(self.size);
        let left = end.checked_sub(self.next).filter(|left| *left != 0)?;
        // CAST: not more than `chunk`, which is a `u32`.
        let max_folios = left.min(u64::from(self.chunk.get())) as u32;
        // No overflow: `next` is below `end`, so `start` is below `size`, which has a bit to spare.
        let start = self.next << self.page.shift();
        let stop = start + (u64::from(max_folios) << self.page.shift());
        Some(PinChunk {
            start,
            last: stop.min(self.size) - 1,
            max_folios,
        })
    }

    /// Records that everything up to and including the folio of `1 << order` pages at `index` is
    /// pinned. Returns `false`, and stays where it is, if that folio is none that the last chunk can
    /// have ended with.
    #[inline]
    #[must_use]
    pub fn advance(&mut self, index: u64, order: u32) -> bool {
        let Some(end) = 1u64
            .checked_shl(order)
            .and_then(|pages| index.checked_add(pages))
        else {
            return false;
        };
        if index < self.next || index - self.next >= u64::from(self.chunk.get()) {
            return false;
        }
        self.next = end;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: PageSize = match PageSize::new(12) {
        Some(page) => page,
        None => panic!(),
    };

    fn cursor(size: u64, chunk: u32) -> PinCursor {
        PinCursor::new(size, PAGE, NonZeroU32::new(chunk).unwrap()).unwrap()
    }

    /// Pins a file whose folios all have the order `order`, as the kernel would.
    fn pin(size: u64, chunk: u32, order: u32) -> (u64, u64) {
        let mut cursor = cursor(size, chunk);
        let mut chunks = 0;
        let mut folios = 0;
        let mut pinned = 0;
        while let Some(chunk) = cursor.chunk() {
            let first = chunk.start >> 12 >> order;
            let last = chunk.last >> 12 >> order;
            assert_eq!(
                first << order,
                pinned,
                "a folio was pinned twice or left out"
            );
            assert!(last - first < u64::from(chunk.max_folios));
            assert!(cursor.advance(last << order, order));
            pinned = (last + 1) << order;
            folios += last - first + 1;
            chunks += 1;
        }
        assert!(pinned >= PAGE.pages(size));
        (chunks, folios)
    }

    #[test]
    fn an_empty_file_has_no_chunk() {
        assert_eq!(cursor(0, 16).chunk(), None);
    }

    #[test]
    fn the_last_chunk_ends_with_the_file() {
        let mut cursor = cursor(5 * 4096 + 1, 4);
        let chunk = |start, last, max_folios| {
            Some(PinChunk {
                start,
                last,
                max_folios,
            })
        };
        assert_eq!(cursor.chunk(), chunk(0, 4 * 4096 - 1, 4));
        assert!(cursor.advance(3, 0));
        assert_eq!(cursor.chunk(), chunk(4 * 4096, 5 * 4096, 2));
        assert!(cursor.advance(5, 0));
        assert_eq!(cursor.chunk(), None);
    }

    #[test]
    fn chunks_need_not_fit_folios() {
        for size in [1, 4096, 4097, 3 << 20, (3 << 20) + 5, 7 << 21] {
            for chunk in [1, 2, 3, 511, 512, 513, 1000, 4096] {
                for order in [0, 1, 4, 9] {
                    let (_, folios) = pin(size, chunk, order);
                    assert_eq!(folios, size.div_ceil(4096 << order));
                }
            }
        }
    }

    #[test]
    fn sixteen_tebibytes_are_pinned_in_order() {
        assert_eq!(pin(1 << 44, 1 << 16, 0), (1 << 16, 1 << 32));
        assert_eq!(pin(1 << 44, 1 << 16, 9), (1 << 16, 1 << 23));
        assert_eq!(pin((1 << 44) - 1, 1 << 16, 18), (1 << 14, 1 << 14));
    }

    #[test]
    fn the_largest_file_does_not_overflow() {
        let mut cursor = cursor(i64::MAX.unsigned_abs(), u32::MAX);
        cursor.next = (1 << 51) - 1;
        let chunk = cursor.chunk().unwrap();
        assert_eq!(chunk.max_folios, 1);
        assert_eq!(chunk.last, i64::MAX.unsigned_abs() - 1);
        assert!(cursor.advance((1 << 51) - 1, 0));
        assert_eq!(cursor.chunk(), None);
        assert!(PinCursor::new(1 << 63, PAGE, NonZeroU32::MIN).is_none());
    }

    #[test]
    fn what_cannot_have_been_pinned_is_refused() {
        let mut cursor = cursor(100 * 4096, 8);
        assert!(cursor.advance(4, 2));
        assert!(!cursor.advance(4, 2));
        assert!(!cursor.advance(16, 0));
        assert!(!cursor.advance(u64::MAX, 0));
        assert!(!cursor.advance(8, 64));
        assert!(cursor.advance(15, 0));
    }
}

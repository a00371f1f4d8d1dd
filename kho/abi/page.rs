// SPDX-License-Identifier: GPL-2.0-only OR BSD-3-Clause

//! The page size, which both kernels share.

/// The size of a page, a power of two.
///
/// KHO works between kernels of one page size only, so this is the reader's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageSize {
    /// # Invariants
    ///
    /// Between [`PageSize::MIN_SHIFT`] and [`PageSize::MAX_SHIFT`].
    shift: u32,
}

impl PageSize {
    /// 4 KiB pages.
    pub const MIN_SHIFT: u32 = 12;
    /// 64 KiB pages.
    pub const MAX_SHIFT: u32 = 16;

    /// A page size of `1 << shift` bytes, if a supported machine has it.
    #[inline]
    pub const fn new(shift: u32) -> Option<Self> {
        if shift >= Self::MIN_SHIFT && shift <= Self::MAX_SHIFT {
            // INVARIANT: checked above.
            Some(Self { shift })
        } else {
            None
        }
    }

    /// Base two logarithm of the size.
    #[inline]
    pub const fn shift(self) -> u32 {
        self.shift
    }

    /// Size in bytes.
    #[inline]
    pub const fn bytes(self) -> u64 {
        1 << self.shift
    }

    /// Whether a page can start at the address `phys`.
    #[inline]
    pub const fn is_aligned(self, phys: u64) -> bool {
        phys & (self.bytes() - 1) == 0
    }

    /// Number of pages that `bytes` bytes touch.
    #[inline]
    pub const fn pages(self, bytes: u64) -> u64 {
        bytes.div_ceil(self.bytes())
    }

    /// The last page whose physical address 64 bits hold.
    #[inline]
    pub const fn last_page(self) -> u64 {
        u64::MAX >> self.shift
    }

    /// Physical address of the page `pfn`, or [`None`] if 64 bits do not hold it.
    #[inline]
    pub const fn phys(self, pfn: u64) -> Option<u64> {
        if pfn <= self.last_page() {
            Some(pfn << self.shift)
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_page_sizes_that_exist() {
        assert!(PageSize::new(11).is_none());
        assert_eq!(PageSize::new(12).unwrap().bytes(), 4096);
        assert_eq!(PageSize::new(16).unwrap().bytes(), 65536);
        assert!(PageSize::new(17).is_none());
        assert!(PageSize::new(64).is_none());
    }

    #[test]
    fn pages_are_rounded_up() {
        let page = PageSize::new(12).unwrap();
        assert_eq!(page.pages(0), 0);
        assert_eq!(page.pages(1), 1);
        assert_eq!(page.pages(4096), 1);
        assert_eq!(page.pages(4097), 2);
        assert_eq!(page.pages(u64::MAX), 1 << 52);
    }

    #[test]
    fn addresses_do_not_wrap() {
        let page = PageSize::new(14).unwrap();
        assert_eq!(page.phys(1), Some(1 << 14));
        assert_eq!(page.phys((1 << 50) - 1), Some(u64::MAX << 14));
        assert_eq!(page.phys(1 << 50), None);
    }
}

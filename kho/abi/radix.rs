// SPDX-License-Identifier: GPL-2.0-only OR BSD-3-Clause

//! KHO's tree of preserved memory.
//!
//! It is a set of keys. A key is an address and an order in one number: the page number without its lowest
//! `order` bits, which are zero, and above these a single bit whose position says the order. Leaves are
//! bitmaps, nodes are tables of physical addresses, and both are pages.
//!
//! C header: [`include/linux/kho/abi/kexec_handover.h`](srctree/include/linux/kho/abi/kexec_handover.h)

use super::PageSize;

/// The shape of the tree, which depends on the page size only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    page: PageSize,
}

impl Shape {
    /// The shape for a page size.
    #[inline]
    pub const fn new(page: PageSize) -> Self {
        Self { page }
    }

    /// Number of bits in a leaf, as a power of two.
    #[inline]
    pub const fn leaf_shift(self) -> u32 {
        self.page.shift() + 3
    }

    /// Number of entries of a node, as a power of two.
    #[inline]
    pub const fn node_shift(self) -> u32 {
        self.page.shift() - 3
    }

    /// Number of bits of a key.
    const fn key_bits(self) -> u32 {
        64 - self.page.shift() + 1
    }

    /// Number of levels of nodes above the leaves.
    #[inline]
    pub const fn levels(self) -> u32 {
        (self.key_bits() - self.leaf_shift()).div_ceil(self.node_shift())
    }

    /// The first key below entry `index` of a node that is `level` levels above the leaves, and whose own
    /// first key is `start`. [`None`] if there is no such key.
    #[inline]
    pub const fn child(self, start: u64, level: u32, index: u64) -> Option<u64> {
        if level == 0 || level > self.levels() || index >> self.node_shift() != 0 {
            return None;
        }
        let shift = self.leaf_shift() + (level - 1) * self.node_shift();
        // The nodes have room for keys with more bits than there are.
        if shift >= 64 || index > u64::MAX >> shift {
            return None;
        }
        let key = start | index << shift;
        if key >> self.key_bits() != 0 {
            return None;
        }
        Some(key)
    }

    /// The key of a page number and an order, if there is one.
    #[inline]
    pub const fn key(self, pfn: u64, order: u32) -> Option<u64> {
        let bits = 64 - self.page.shift();
        if order >= bits || pfn >> bits != 0 || pfn & ((1 << order) - 1) != 0 {
            return None;
        }
        Some(1 << (bits - order) | pfn >> order)
    }

    /// The page number and the order of a key, if it is one.
    #[inline]
    pub const fn decode(self, key: u64) -> Option<(u64, u32)> {
        let bits = 64 - self.page.shift();
        if key == 0 {
            return None;
        }
        let top = key.ilog2();
        // The lowest bit would be an order of all memory.
        if top > bits || top == 0 {
            return None;
        }
        let order = bits - top;
        Some(((key ^ 1 << top) << order, order))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(shift: u32) -> Shape {
        Shape::new(PageSize::new(shift).unwrap())
    }

    #[test]
    fn shapes_are_those_of_c() {
        let numbers = |shift| {
            let shape = shape(shift);
            (shape.leaf_shift(), shape.node_shift(), shape.levels())
        };
        assert_eq!(numbers(12), (15, 9, 5));
        assert_eq!(numbers(14), (17, 11, 4));
        assert_eq!(numbers(16), (19, 13, 3));
    }

    #[test]
    fn keys_are_those_of_c() {
        let shape = shape(12);
        assert_eq!(shape.key(0x1234, 0), Some(1 << 52 | 0x1234));
        assert_eq!(shape.key(0x1200, 9), Some(1 << 43 | 0x9));
        assert_eq!(shape.key(0x1234, 9), None);
        assert_eq!(shape.key(1 << 52, 0), None);
        assert_eq!(shape.key(0, 52), None);
        for (pfn, order) in [
            (0, 0),
            (1, 0),
            (0x1200, 9),
            (0x40000, 18),
            ((1 << 52) - 1, 0),
        ] {
            assert_eq!(
                shape.decode(shape.key(pfn, order).unwrap()),
                Some((pfn, order))
            );
        }
        for key in [0, 1, 1 << 53, u64::MAX] {
            assert_eq!(shape.decode(key), None);
        }
    }

    #[test]
    fn children_are_where_c_looks_for_them() {
        let shape = shape(12);
        let key = shape.key(0x1234_5678, 0).unwrap();
        let mut start = 0;
        for level in (1..=shape.levels()).rev() {
            let shift = 15 + (level - 1) * 9;
            start = shape.child(start, level, key >> shift & 511).unwrap();
        }
        assert_eq!(start, key & !0x7fff);
        assert_eq!(shape.child(0, 5, 511), None);
        assert_eq!(shape.child(0, 6, 0), None);
        assert_eq!(shape.child(0, 1, 512), None);
    }
}

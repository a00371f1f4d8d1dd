// SPDX-License-Identifier: GPL-2.0-only OR BSD-3-Clause

//! How many huge pages of each size are preserved on each node.
//!
//! The next kernel reads this at boot, long before any module is loaded, and allocates that many huge
//! pages less for `hugepages=`. So this is the kernel's own format, in a KHO subtree of its own.
//!
//! C header: [`include/linux/kho/abi/hugetlb.h`](srctree/include/linux/kho/abi/hugetlb.h)

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

/// The name of the KHO subtree.
pub const SUBTREE: &CStr = c"hugetlb-pools-v1";

/// How many entries there are room for: as many as fit in the smallest page.
const ENTRIES: usize = 255;

/// The kernel's `struct hugetlb_pool_ser`.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
pub struct PoolSer {
    /// Number of huge pages.
    pub nr_pages: u64,
    /// Base two logarithm of the number of pages in a huge page.
    pub order: u32,
    /// The node they are on.
    pub nid: i32,
}

/// The kernel's `struct hugetlb_pools_ser`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct PoolsSer {
    nr: u32,
    reserved: u32,
    pools: [PoolSer; ENTRIES],
}

const _: () = assert!(size_of::<PoolSer>() == 16);
const _: () = assert!(offset_of!(PoolSer, order) == 8);
const _: () = assert!(offset_of!(PoolSer, nid) == 12);
const _: () = assert!(size_of::<PoolsSer>() <= 4096);
const _: () = assert!(offset_of!(PoolsSer, pools) == 8);

impl PoolsSer {
    /// No huge pages.
    pub const fn new() -> Self {
        const EMPTY: PoolSer = PoolSer {
            nr_pages: 0,
            order: 0,
            nid: 0,
        };
        Self {
            nr: 0,
            reserved: 0,
            pools: [EMPTY; ENTRIES],
        }
    }

    fn find(&mut self, order: u32, nid: i32) -> Option<&mut PoolSer> {
        let used = self.nr as usize;
        let mut pools = self.pools.iter_mut().take(used);
        pools.find(|pool| (pool.order, pool.nid) == (order, nid))
    }

    /// Counts one more huge page. False if there is no room for its size and node.
    #[must_use]
    pub fn add(&mut self, order: u32, nid: i32) -> bool {
        if let Some(pool) = self.find(order, nid) {
            pool.nr_pages = pool.nr_pages.saturating_add(1);
            return true;
        }
        let Some(free) = self.pools.get_mut(self.nr as usize) else {
            return false;
        };
        *free = PoolSer {
            nr_pages: 1,
            order,
            nid,
        };
        // No overflow: there was a place with this number.
        self.nr += 1;
        true
    }

    /// Counts one less. Its entry stays.
    pub fn remove(&mut self, order: u32, nid: i32) {
        if let Some(pool) = self.find(order, nid) {
            pool.nr_pages = pool.nr_pages.saturating_sub(1);
        }
    }

    /// All entries.
    pub fn entries(&self) -> impl Iterator<Item = &PoolSer> {
        self.pools.iter().take(self.nr as usize)
    }
}

impl Default for PoolsSer {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;
    use zerocopy::IntoBytes as _;

    #[test]
    fn bytes_are_those_of_c() {
        let mut pools = PoolsSer::new();
        assert!(pools.add(18, 1));
        assert!(pools.add(9, 0));
        assert!(pools.add(9, 0));
        let bytes = pools.as_bytes();
        assert_eq!(bytes[..8], [2, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(
            bytes[8..24],
            [1, 0, 0, 0, 0, 0, 0, 0, 18, 0, 0, 0, 1, 0, 0, 0]
        );
        assert_eq!(
            bytes[24..40],
            [2, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0]
        );
        assert!(bytes[40..].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn what_is_removed_does_not_count() {
        let mut pools = PoolsSer::new();
        assert!(pools.add(9, 0));
        assert!(pools.add(9, 1));
        pools.remove(9, 0);
        pools.remove(9, 0);
        pools.remove(18, 0);
        let counts: Vec<_> = pools.entries().map(|pool| pool.nr_pages).collect();
        assert_eq!(counts, [0, 1]);
    }

    #[test]
    fn there_is_room_for_so_many_and_no_more() {
        let mut pools = PoolsSer::new();
        assert!((0..ENTRIES as i32).all(|nid| pools.add(9, nid)));
        assert!(!pools.add(9, ENTRIES as i32));
        assert!(pools.add(9, 0));
    }
}

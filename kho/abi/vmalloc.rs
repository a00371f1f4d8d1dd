// SPDX-License-Identifier: GPL-2.0-only OR BSD-3-Clause

//! KHO's description of preserved vmalloc memory.
//!
//! [`KhoVmalloc`] points to a list of pages ("chunks"). The first word of a chunk is the physical
//! address of the next chunk, the others are the physical addresses of the memory, ended by a zero
//! if there are fewer than fit.
//!
//! [`ChunkWalk`] checks the whole list before the kernel follows it. It finds everything but a page
//! that is listed twice, which would take memory proportional to the list.
//!
//! C header: [`include/linux/kho/abi/kexec_handover.h`](srctree/include/linux/kho/abi/kexec_handover.h)

use super::{
    Error,
    PageSize,
    Result, //
};
use core::mem::{
    offset_of,
    size_of,
    size_of_val, //
};
use zerocopy_derive::{
    FromBytes,
    Immutable,
    IntoBytes,
    KnownLayout, //
};

/// The kernel's `struct kho_vmalloc`.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
pub struct KhoVmalloc {
    /// Physical address of the first chunk, in bytes; 0 if there is no memory.
    pub first: u64,
    /// Size of the memory in pages.
    pub total_pages: u32,
    /// [`KhoVmalloc::ALLOC`] and [`KhoVmalloc::HUGE_VMAP`].
    pub flags: u16,
    /// Base two logarithm of the number of pages behind each address in the list.
    pub order: u16,
}

const _: () = assert!(size_of::<KhoVmalloc>() == 16);
const _: () = assert!(offset_of!(KhoVmalloc, first) == 0);
const _: () = assert!(offset_of!(KhoVmalloc, total_pages) == 8);
const _: () = assert!(offset_of!(KhoVmalloc, flags) == 12);
const _: () = assert!(offset_of!(KhoVmalloc, order) == 14);

impl KhoVmalloc {
    /// The memory came from `vmalloc()`.
    pub const ALLOC: u16 = 1 << 0;
    /// The memory may be mapped with huge pages.
    pub const HUGE_VMAP: u16 = 1 << 1;

    /// The most pages that the kernel restores: it allocates one pointer for each, and an
    /// allocation of more than `INT_MAX` bytes warns.
    const MAX_PAGES: u32 = i32::MAX.unsigned_abs() / 8;

    /// `vmap()` computes the size of a mapping unit in an `int`.
    const MAX_UNIT_SHIFT: u32 = 30;

    /// Whether this describes no memory at all.
    #[inline]
    pub fn is_null(&self) -> bool {
        *self == Self::default()
    }

    /// Checks that this describes memory of at least `need` bytes, and not much more than `most`.
    ///
    /// A writer may have allocated by doubling, so up to twice `most` is accepted. The bound keeps
    /// a damaged description from making the reader allocate without limit.
    pub fn parse(&self, need: u64, most: u64, page: PageSize) -> Result<CheckedVmalloc> {
        let order = u32::from(self.order);
        if self.flags & !(Self::ALLOC | Self::HUGE_VMAP) != 0 {
            return Err(Error::UnknownFlags);
        }
        if self.first == 0 || !page.is_aligned(self.first) {
            return Err(Error::Array);
        }
        if order + page.shift() > Self::MAX_UNIT_SHIFT {
            return Err(Error::Array);
        }
        let unit = 1u32 << order;
        if self.total_pages == 0
            || self.total_pages > Self::MAX_PAGES
            || self.total_pages & (unit - 1) != 0
        {
            return Err(Error::Array);
        }

        let total = u64::from(self.total_pages);
        let limit = page
            .pages(most)
            .saturating_mul(2)
            .saturating_add(u64::from(unit));
        if total < page.pages(need) || total > limit {
            return Err(Error::Array);
        }
        // INVARIANT: checked above.
        Ok(CheckedVmalloc { raw: *self, unit })
    }

    /// Checks that this describes memory for `nr` records of type `T`, and not much more than `most`
    /// records need; or nothing at all if `nr` is zero.
    pub fn parse_records<T>(
        &self,
        nr: u64,
        most: u64,
        page: PageSize,
    ) -> Result<Option<CheckedVmalloc>> {
        let size = size_of::<T>() as u64;
        match nr {
            0 if self.is_null() => Ok(None),
            0 => Err(Error::Array),
            nr => {
                let need = nr.checked_mul(size).ok_or(Error::Count)?;
                self.parse(need, most.saturating_mul(size), page).map(Some)
            }
        }
    }
}

/// A description that is consistent in itself; the list it points to is not checked yet.
///
/// # Invariants
///
/// `raw.first` is not zero and page aligned; `unit` is `1 << raw.order`, and `raw.total_pages` is a
/// positive multiple of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckedVmalloc {
    raw: KhoVmalloc,
    unit: u32,
}

impl CheckedVmalloc {
    /// The description, to give to the kernel once the list is checked.
    #[inline]
    pub fn as_raw(&self) -> &KhoVmalloc {
        &self.raw
    }

    /// Size of the memory in bytes.
    #[inline]
    pub fn bytes(&self, page: PageSize) -> u64 {
        u64::from(self.raw.total_pages) * page.bytes()
    }

    /// Starts checking the list.
    pub fn walk(&self, page: PageSize) -> ChunkWalk {
        ChunkWalk {
            next: self.raw.first,
            left: self.raw.total_pages,
            unit: self.unit,
            order: u32::from(self.raw.order),
            page,
        }
    }
}

/// Checks the list of chunks, one at a time.
///
/// It ends on any input: a chunk that has a successor must be full, so that a list that runs in a
/// circle has more pages than it says.
#[derive(Clone, Debug)]
pub struct ChunkWalk {
    next: u64,
    left: u32,
    unit: u32,
    order: u32,
    page: PageSize,
}

impl ChunkWalk {
    /// The physical address of the chunk to read next, or [`None`] if all are checked.
    ///
    /// `order` tells the order of what was preserved and waits to be restored at a page number.
    pub fn chunk(&self, order: impl FnOnce(u64) -> Option<u32>) -> Result<Option<u64>> {
        if self.next == 0 {
            return if self.left == 0 {
                Ok(None)
            } else {
                Err(Error::ArrayPages)
            };
        }
        if !self.page.is_aligned(self.next) {
            return Err(Error::ArrayPages);
        }
        match order(self.next >> self.page.shift()) {
            Some(0) => Ok(Some(self.next)),
            Some(_) => Err(Error::ArrayPages),
            None => Err(Error::NotPreserved),
        }
    }

    /// Checks the content of the chunk that [`ChunkWalk::chunk`] named: `words` is that page.
    pub fn check(&mut self, words: &[u64], mut order: impl FnMut(u64) -> Option<u32>) -> Result {
        if size_of_val(words) as u64 != self.page.bytes() {
            return Err(Error::ArrayPages);
        }
        let (next, entries) = words.split_first().ok_or(Error::ArrayPages)?;
        let used = entries.iter().take_while(|phys| **phys != 0).count();
        let (used, unused) = entries.split_at(used);
        if unused.iter().any(|phys| *phys != 0) || (*next != 0 && !unused.is_empty()) {
            return Err(Error::ArrayPages);
        }

        // A power of two.
        let align = u64::from(self.unit) * self.page.bytes();
        for phys in used {
            if phys & (align - 1) != 0 {
                return Err(Error::ArrayPages);
            }
            self.left = self.left.checked_sub(self.unit).ok_or(Error::ArrayPages)?;
            match order(phys >> self.page.shift()) {
                Some(found) if found == self.order => {}
                Some(_) => return Err(Error::ArrayPages),
                None => return Err(Error::NotPreserved),
            }
        }
        self.next = *next;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        vec,
        vec::Vec, //
    };
    use zerocopy::IntoBytes as _;

    const PAGE: PageSize = match PageSize::new(12) {
        Some(page) => page,
        None => panic!(),
    };

    fn desc(total_pages: u32, order: u16) -> KhoVmalloc {
        KhoVmalloc {
            first: 0x1000,
            total_pages,
            flags: KhoVmalloc::ALLOC,
            order,
        }
    }

    fn chunk(next: u64, phys: &[u64]) -> Vec<u64> {
        let mut words = vec![0; 512];
        words[0] = next;
        words[1..=phys.len()].copy_from_slice(phys);
        words
    }

    #[test]
    fn bytes_are_those_of_c() {
        let raw = KhoVmalloc {
            first: 0x1122_3344_5566_7000,
            total_pages: 0x0a0b_0c0d,
            flags: KhoVmalloc::ALLOC | KhoVmalloc::HUGE_VMAP,
            order: 9,
        };
        assert_eq!(
            raw.as_bytes(),
            [0x00, 0x70, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11, 0x0d, 0x0c, 0x0b, 0x0a, 3, 0, 9, 0]
        );
    }

    #[test]
    fn a_good_description_passes() {
        let checked = desc(3, 0).parse(2 * 4096 + 1, 3 * 4096, PAGE).unwrap();
        assert_eq!(checked.bytes(PAGE), 3 * 4096);
        // Grown by doubling, and rounded up to a huge page.
        assert!(desc(6, 0).parse(1, 3 * 4096, PAGE).is_ok());
        assert!(desc(512, 9).parse(1, 4096, PAGE).is_ok());
    }

    #[test]
    fn bad_descriptions_are_refused() {
        let parse = |raw: KhoVmalloc| raw.parse(4096, 4096, PAGE).unwrap_err();
        assert_eq!(
            parse(KhoVmalloc {
                first: 0,
                ..desc(1, 0)
            }),
            Error::Array
        );
        assert_eq!(
            parse(KhoVmalloc {
                first: 0x1008,
                ..desc(1, 0)
            }),
            Error::Array
        );
        assert_eq!(
            parse(KhoVmalloc {
                flags: 4,
                ..desc(1, 0)
            }),
            Error::UnknownFlags
        );
        assert_eq!(parse(desc(0, 0)), Error::Array);
        assert_eq!(parse(desc(3, 1)), Error::Array);
        assert_eq!(parse(desc(4, 0)), Error::Array);
        assert_eq!(parse(desc(1 << 19, 19)), Error::Array);
        assert_eq!(parse(desc(1, u16::MAX)), Error::Array);
        assert_eq!(
            desc(u32::MAX, 0).parse(4096, u64::MAX, PAGE).unwrap_err(),
            Error::Array
        );
        assert_eq!(
            desc(1, 0).parse(4097, 8192, PAGE).unwrap_err(),
            Error::Array
        );
    }

    #[test]
    fn a_list_of_two_chunks_is_walked_to_its_end() {
        let checked = desc(512, 0).parse(1, 512 * 4096, PAGE).unwrap();
        let mut walk = checked.walk(PAGE);
        let full: Vec<u64> = (0..511).map(|i| 0x10_0000 + i * 4096).collect();

        assert_eq!(walk.chunk(|_| Some(0)), Ok(Some(0x1000)));
        walk.check(&chunk(0x2000, &full), |_| Some(0)).unwrap();
        assert_eq!(walk.chunk(|_| Some(0)), Ok(Some(0x2000)));
        walk.check(&chunk(0, &[0x80_0000]), |_| Some(0)).unwrap();
        assert_eq!(walk.chunk(|_| None), Ok(None));
    }

    #[test]
    fn an_empty_last_chunk_is_what_c_writes_for_a_full_list() {
        let mut walk = desc(511, 0).parse(1, 511 * 4096, PAGE).unwrap().walk(PAGE);
        let full: Vec<u64> = (0..511).map(|i| 0x10_0000 + i * 4096).collect();
        walk.check(&chunk(0x2000, &full), |_| Some(0)).unwrap();
        walk.check(&chunk(0, &[]), |_| Some(0)).unwrap();
        assert_eq!(walk.chunk(|_| None), Ok(None));
    }

    #[test]
    fn damaged_lists_are_refused() {
        let walk = || desc(2, 0).parse(1, 8192, PAGE).unwrap().walk(PAGE);
        let all = |_| Some(0);
        let array = Err(Error::ArrayPages);

        assert_eq!(walk().chunk(|_| None), Err(Error::NotPreserved));
        assert_eq!(walk().chunk(|_| Some(1)), Err(Error::ArrayPages));
        assert_eq!(walk().check(&[], all), array);
        // A circle: not full, but with a successor.
        assert_eq!(walk().check(&chunk(0x1000, &[0x3000]), all), array);
        // Too many pages, a gap, a misaligned page, one of another order, one not preserved.
        assert_eq!(
            walk().check(&chunk(0, &[0x3000, 0x4000, 0x5000]), all),
            array
        );
        assert_eq!(walk().check(&chunk(0, &[0x3000, 0, 0x4000]), all), array);
        assert_eq!(walk().check(&chunk(0, &[0x3008]), all), array);
        assert_eq!(walk().check(&chunk(0, &[0x3000]), |_| Some(1)), array);
        assert_eq!(
            walk().check(&chunk(0, &[0x3000]), |_| None),
            Err(Error::NotPreserved)
        );
        // Too few pages in all.
        let mut short = walk();
        short.check(&chunk(0, &[0x3000]), all).unwrap();
        assert_eq!(short.chunk(all), Err(Error::ArrayPages));
    }
}

// SPDX-License-Identifier: GPL-2.0-only OR BSD-3-Clause

//! The page table of the second stage of Intel's VT-d.
//!
//! It is only read, and only in tables that are known to be its own: an entry that leads elsewhere ends the
//! lookup.

use core::ops::RangeInclusive;

/// What an entry says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// Nothing is mapped.
    Empty,
    /// The next table is at this address.
    Table(u64),
    /// Memory.
    Leaf {
        /// The address that was looked up is here.
        phys: u64,
        /// How many bytes follow that are mapped by the same entry, with the first.
        left: u64,
        /// Devices may read.
        read: bool,
        /// Devices may write.
        write: bool,
    },
}

/// Looks an address up, from the top on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lookup {
    iova: u64,
    /// Level of the next table; 0 is that of the smallest pages.
    level: u16,
}

impl Lookup {
    /// Size of a table and of the smallest page.
    pub const PAGE: u64 = 1 << Self::PAGE_SHIFT;
    /// How many levels there can be.
    pub const LEVELS: RangeInclusive<u16> = 3..=5;

    const PAGE_SHIFT: u32 = 12;
    const STRIDE: u32 = 9;
    const READ: u64 = 1 << 0;
    const WRITE: u64 = 1 << 1;
    const LARGE: u64 = 1 << 7;
    const ADDRESS: u64 = ((1 << 52) - 1) & !(Self::PAGE - 1);

    /// The last address that a page table can map.
    #[must_use]
    pub const fn last(levels: u16) -> u64 {
        let bits = Self::PAGE_SHIFT + Self::STRIDE * levels as u32;
        // Not more than five levels, which is less than a word has bits.
        match 1u64.checked_shl(bits) {
            Some(size) => size.wrapping_sub(1),
            None => u64::MAX,
        }
    }

    /// Starts at the top of a page table.
    #[must_use]
    pub const fn new(iova: u64, levels: u16) -> Self {
        Self {
            iova,
            level: levels.saturating_sub(1),
        }
    }

    fn shift(self) -> u32 {
        Self::PAGE_SHIFT + Self::STRIDE * u32::from(self.level)
    }

    /// Which entry of the table it is.
    #[must_use]
    pub fn index(self) -> usize {
        let index = self.iova.checked_shr(self.shift()).unwrap_or(0);
        // CAST: Nine bits.
        (index & ((1 << Self::STRIDE) - 1)) as usize
    }

    /// What the entry `raw` says. After [`Entry::Table`], this is for the next table.
    pub fn step(&mut self, raw: u64) -> Entry {
        if raw & (Self::READ | Self::WRITE) == 0 {
            return Entry::Empty;
        }
        let phys = raw & Self::ADDRESS;
        if self.level != 0 && raw & Self::LARGE == 0 {
            self.level = self.level.saturating_sub(1);
            return Entry::Table(phys);
        }
        let size = 1u64.checked_shl(self.shift()).unwrap_or(0);
        let mask = size.wrapping_sub(1);
        let offset = self.iova & mask;
        Entry::Leaf {
            phys: phys & !mask | offset,
            left: size.wrapping_sub(offset),
            read: raw & Self::READ != 0,
            write: raw & Self::WRITE != 0,
        }
    }
}

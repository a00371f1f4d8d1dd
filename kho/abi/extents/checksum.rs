// SPDX-License-Identifier: GPL-2.0-only OR BSD-3-Clause

//! The checksum of headers and lists.

use super::ExtentSer;
use core::mem::size_of;
use zerocopy::{
    Immutable,
    IntoBytes, //
};

/// A sum that any one changed word changes, and words that swap places nearly always do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checksum(u64);

impl Checksum {
    /// The sum of nothing.
    #[inline]
    #[must_use]
    pub const fn new() -> Self {
        Self(0x6c75_6f5f_6874_6c62)
    }

    /// The sum of a structure that begins with its own: of all but the first word.
    #[must_use]
    pub fn of_sealed<T: IntoBytes + Immutable>(raw: &T) -> u64 {
        let mut sum = Self::new();
        if let Some((_, rest)) = raw.as_bytes().split_at_checked(size_of::<u64>()) {
            sum.add_bytes(rest);
        }
        sum.get()
    }

    /// Adds a word.
    #[inline]
    pub fn add(&mut self, word: u64) {
        // An odd factor: each step can be undone, so that it loses nothing.
        self.0 = (self.0.rotate_left(25) ^ word).wrapping_mul(0xd6e8_feb8_6659_fd93);
    }

    /// Adds a record.
    #[inline]
    pub fn add_extent(&mut self, extent: &ExtentSer) {
        self.add(extent.pfn);
        self.add(u64::from(extent.nr) << 32 | u64::from(extent.index));
    }

    /// The sum of records.
    #[cfg(test)]
    pub(crate) fn of_extents(extents: &[ExtentSer]) -> u64 {
        let mut sum = Self::new();
        extents.iter().for_each(|extent| sum.add_extent(extent));
        sum.get()
    }

    /// Adds bytes, the last of them filled up with zeros to a word.
    pub fn add_bytes(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(size_of::<u64>()) {
            let mut word = [0; size_of::<u64>()];
            for (to, from) in word.iter_mut().zip(chunk) {
                *to = *from;
            }
            self.add(u64::from_le_bytes(word));
        }
    }

    /// The sum.
    #[inline]
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl Default for Checksum {
    fn default() -> Self {
        Self::new()
    }
}

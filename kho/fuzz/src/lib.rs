// SPDX-License-Identifier: GPL-2.0-only OR BSD-3-Clause

//! What the fuzz targets share: the formats, and a reader of the fuzzer's bytes.

// A copy of `kho/abi` and `kho/walk`, see build.rs.
include!(concat!(env!("OUT_DIR"), "/kho.rs"));

use abi::PageSize;

/// Takes values from the fuzzer's bytes, zeros once they are used up.
#[derive(Debug)]
pub struct Input<'a>(pub &'a [u8]);

impl Input<'_> {
    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next `N` bytes.
    pub fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let (taken, rest) = self.0.split_at(N.min(self.0.len()));
        self.0 = rest;
        let mut bytes = [0; N];
        bytes[..taken.len()].copy_from_slice(taken);
        bytes
    }

    /// The next byte.
    pub fn u8(&mut self) -> u8 {
        let [byte] = self.bytes();
        byte
    }

    /// The next two bytes.
    pub fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.bytes())
    }

    /// The next eight bytes.
    pub fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.bytes())
    }

    /// One of the page sizes that exist.
    pub fn page(&mut self) -> PageSize {
        let shift = [12, 14, 16][usize::from(self.u8() % 3)];
        PageSize::new(shift).expect("a page size that exists")
    }
}

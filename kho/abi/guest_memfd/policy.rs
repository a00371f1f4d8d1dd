// SPDX-License-Identifier: GPL-2.0-only OR BSD-3-Clause

//! Memory policies of a file: from which nodes its holes are filled.
//!
//! The header points to an array of [`PolicySer`], in ascending order. A page that is in none has the default
//! policy. Each record has a checksum of its own.
//!
//! A policy decides where memory comes from, and says nothing of what is in it. So whatever is wrong with
//! the records, there is no reason to refuse the file.

mod checked;

pub use self::checked::{
    Policy,
    PolicyChecker,
    PolicyList, //
};

use super::super::extents::Checksum;
use core::mem::{
    offset_of,
    size_of, //
};
use zerocopy_derive::{
    FromBytes,
    Immutable,
    IntoBytes,
    KnownLayout, //
};

/// A set of memory nodes, as many as Linux can be built for.
#[repr(transparent)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
pub struct Nodes([u64; Nodes::WORDS]);

impl Nodes {
    /// Number of words.
    pub const WORDS: usize = 16;

    /// The set whose first 64 nodes are in the first word.
    #[must_use]
    pub const fn new(words: [u64; Self::WORDS]) -> Self {
        Self(words)
    }

    /// The words.
    #[must_use]
    pub const fn words(&self) -> &[u64; Self::WORDS] {
        &self.0
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    /// Whether a node is in it.
    #[must_use]
    pub fn contains(&self, node: u16) -> bool {
        let word = self.0.get(usize::from(node / 64));
        word.is_some_and(|word| word >> (node % 64) & 1 != 0)
    }

    /// Those that are in both.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        let mut both = *self;
        for (word, other) in both.0.iter_mut().zip(&other.0) {
            *word &= other;
        }
        both
    }
}

/// The policy of a run of pages.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
pub struct PolicySer {
    /// [`PolicySer::sum`] of all that follows.
    pub checksum: u64,
    /// The first page.
    pub index: u32,
    /// Number of pages; not zero.
    pub nr: u32,
    /// `MPOL_*` and `MPOL_F_*`, as `mbind()` takes them.
    pub mode: u16,
    /// As `set_mempolicy_home_node()` takes it, or [`PolicySer::NO_HOME`].
    pub home_node: u16,
    /// Must be zero.
    pub reserved: u32,
    /// As `get_mempolicy()` returns them.
    pub nodes: Nodes,
    /// Must be zero.
    pub unused: [u64; 13],
}

const _: () = assert!(size_of::<PolicySer>() == 256);
const _: () = assert!(offset_of!(PolicySer, checksum) == 0);
const _: () = assert!(offset_of!(PolicySer, index) == 8);
const _: () = assert!(offset_of!(PolicySer, nr) == 12);
const _: () = assert!(offset_of!(PolicySer, mode) == 16);
const _: () = assert!(offset_of!(PolicySer, home_node) == 18);
const _: () = assert!(offset_of!(PolicySer, reserved) == 20);
const _: () = assert!(offset_of!(PolicySer, nodes) == 24);
const _: () = assert!(offset_of!(PolicySer, unused) == 152);

impl PolicySer {
    /// There is no home node.
    pub const NO_HOME: u16 = u16::MAX;

    /// What [`PolicySer::checksum`] must be.
    #[must_use]
    pub fn sum(&self) -> u64 {
        Checksum::of_sealed(self)
    }

    /// Whether the checksum fits.
    #[must_use]
    pub fn is_intact(&self) -> bool {
        self.checksum == self.sum()
    }
}

#[cfg(test)]
mod tests;

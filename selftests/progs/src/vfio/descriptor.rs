// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The ring of descriptors in which an igb says what it has received.
//!
//! The program in the guest and one on the host that looks into the guest's memory both have this file.

/// Number of descriptors.
pub const SLOTS: u64 = 4096;

/// Length of one, which is two words.
pub const LEN: u64 = 16;

/// Whether the second word of a descriptor says that it was written back: the frame is in memory, all of it.
#[must_use]
pub fn is_done(word: u64) -> bool {
    const DONE: u64 = 0b11;
    word & DONE == DONE
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The tiny guest: a few instructions that change memory all the time and check themselves.
//!
//! Between two heartbeats it changes 4096 words at random places and keeps the sum of all words up to
//! date in a register. After every 32nd heartbeat it adds up all words and compares; an error goes to
//! the fault register. A vector register holds the heartbeat a second time, so that a lost FPU state is
//! noticed as well. It knows its addresses from a ledger that the VMM fills in.

use anyhow::Result;
use vm_memory::{
    Bytes,
    GuestAddress, //
};

use crate::arch::RAM_BASE;
use crate::memory::Memory;

#[cfg(target_arch = "aarch64")]
std::arch::global_asm!(include_str!("tiny_aarch64.s"));
#[cfg(target_arch = "x86_64")]
std::arch::global_asm!(include_str!("tiny_x86_64.s"));

const LEDGER: u64 = 0x1_0000;
const CODE: u64 = 0x1_1000;
const DATA: u64 = 0x20_0000;

/// The address that the guest is started with.
pub(crate) fn ledger() -> u64 {
    RAM_BASE + LEDGER
}

fn code() -> &'static [u8] {
    extern "C" {
        static tiny_guest: u8;
        static tiny_guest_end: u8;
    }
    // SAFETY: both are labels around read-only bytes of this program, the second behind the first.
    unsafe {
        let len = (&raw const tiny_guest_end).offset_from_unsigned(&raw const tiny_guest);
        std::slice::from_raw_parts(&raw const tiny_guest, len)
    }
}

/// Puts the guest into memory and returns where it begins.
pub(crate) fn load(memory: &Memory) -> Result<u64> {
    let map = memory.map();
    let words = (memory.size() - DATA) / 8;
    // Heartbeat, sum, first word, number of words, full checks, random state.
    let ledger = [0, 0, RAM_BASE + DATA, words, 0, 0x1234_5678_9abc_def1];
    for (number, value) in ledger.into_iter().enumerate() {
        map.write_obj::<u64>(value, GuestAddress(RAM_BASE + LEDGER + number as u64 * 8))?;
    }
    map.write_slice(code(), GuestAddress(RAM_BASE + CODE))?;
    Ok(RAM_BASE + CODE)
}

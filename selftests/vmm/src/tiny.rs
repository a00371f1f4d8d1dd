// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The tiny guest: a few instructions that change memory all the time and check themselves.
//!
//! Between two heartbeats it changes 4096 words at random places and keeps the sum of all words up to
//! date in a register. After every 32nd heartbeat it adds up all words and compares; an error goes to
//! the fault register. A vector register holds the heartbeat a second time, so that a lost FPU state is
//! noticed as well; so is a counter of its CPU that goes back. It knows its addresses from a ledger that the VMM fills in.
//!
//! With memory that has holes, it uses one page in eight, and one more of them after each heartbeat. With
//! private memory it runs in such memory, and after every 8th heartbeat it has one page converted, from
//! private to shared and back in turns: what it wrote is there before, and nothing is there afterwards.

use anyhow::Result;
use vm_memory::{
    Bytes,
    GuestAddress, //
};

use crate::arch::RAM_BASE;
use crate::memory::{
    Memory,
    PAGE, //
};

#[cfg(target_arch = "aarch64")]
std::arch::global_asm!(include_str!("tiny_aarch64.s"));
#[cfg(target_arch = "x86_64")]
std::arch::global_asm!(include_str!("tiny_x86_64.s"));

/// From where memory begins: where a guest finds what it has to know, and its instructions.
pub(crate) const LEDGER: u64 = 0x1_0000;
pub(crate) const CODE: u64 = 0x1_1000;
/// Where its data begins; below, everything is shared with the host.
pub(crate) const DATA: u64 = 0x20_0000;
/// Of so many pages it uses one, if there are to be holes.
const SPARSE: u64 = 8;
const WORDS: u64 = PAGE / 8;

/// What the fault register is told.
pub(crate) fn fault(number: u64) -> String {
    let what = match number {
        1 => "its memory has another sum",
        2 => "a vector register has changed",
        3 => "the page that it converts has changed",
        4 => "a conversion was refused",
        5 => "a converted page is not empty",
        6 => "its clock went back",
        7 => "a frame has changed",
        8 => "a frame is missing, or came twice",
        _ => "of an unknown kind",
    };
    format!("the guest found an error of kind {number}: {what}")
}

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

/// Where the guest's hypercall is, from its beginning.
#[cfg(target_arch = "x86_64")]
fn hypercall() -> Option<u64> {
    extern "C" {
        static tiny_guest: u8;
        static tiny_guest_hypercall: u8;
    }
    // SAFETY: both are labels in the same read-only bytes of this program, the second behind the first.
    let offset =
        unsafe { (&raw const tiny_guest_hypercall).offset_from_unsigned(&raw const tiny_guest) };
    Some(offset as u64)
}

/// There are no VMs with private memory that it could be needed for.
#[cfg(target_arch = "aarch64")]
fn hypercall() -> Option<u64> {
    None
}

/// Puts the guest into memory and returns where it begins.
pub(crate) fn load(memory: &Memory, sparse: bool) -> Result<u64> {
    let map = memory.map();
    let mut size = memory.size() - DATA;
    let mut window = 0;
    if memory.backend().is_private() {
        // The page to convert, and that of the code.
        size -= 2 * PAGE;
        window = RAM_BASE + DATA + size;
    }
    let pages = size / PAGE;
    let (words, most, growth, distance) = if sparse {
        (WORDS, pages / SPARSE * WORDS, WORDS, SPARSE * PAGE)
    } else {
        (pages * WORDS, pages * WORDS, 0, PAGE)
    };
    let ledger = [
        0, // heartbeat
        0, // sum
        RAM_BASE + DATA,
        words,
        0, // full checks
        0x1234_5678_9abc_def1,
        most,
        growth,
        distance,
        window,
        0, // what is in the page at `window`
        RAM_BASE + CODE + hypercall().unwrap_or(0),
        0, // conversions
        0, // the CPU's counter at the last heartbeat
    ];
    for (number, value) in ledger.into_iter().enumerate() {
        map.write_obj::<u64>(value, GuestAddress(RAM_BASE + LEDGER + number as u64 * 8))?;
    }
    map.write_slice(code(), GuestAddress(RAM_BASE + CODE))?;
    Ok(RAM_BASE + CODE)
}

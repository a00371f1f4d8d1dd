// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A guest with a network card of its own: a few instructions that take numbered frames out of a ring.
//!
//! Each frame has to be the one that is due, and every byte of it as it was sent; an error goes to the fault
//! register. The slot is given back to the card then, and every eighth frame is a heartbeat. It never waits for an
//! interrupt. It knows its addresses from a ledger that the VMM fills in, which also has the number of the next frame:
//! what is behind it in the ring came while the guest did not run.

use anyhow::{
    ensure,
    Result, //
};
use progs::vfio::descriptor::{
    is_done,
    LEN, //
};
use vm_memory::{
    Bytes,
    GuestAddress, //
};

use crate::arch::{
    self,
    RAM_BASE, //
};
use crate::memory::Memory;
use crate::tiny::{
    CODE,
    DATA,
    LEDGER, //
};

#[cfg(target_arch = "aarch64")]
std::arch::global_asm!(include_str!("receiver_aarch64.s"));
#[cfg(target_arch = "x86_64")]
std::arch::global_asm!(include_str!("receiver_x86_64.s"));

/// Frames that the ring has room for.
pub(crate) const SLOTS: u32 = 512;
/// Room for a frame.
const BUFFER: u64 = 2048;
/// The ring, and behind it the buffers: all of it is in one huge page, if memory is made of those.
pub(crate) const RING: u64 = RAM_BASE + DATA;
const BUFFERS: u64 = RING + SIZE / 2;
pub(crate) const SIZE: u64 = 2 << 20;

const NEXT: u64 = RAM_BASE + LEDGER + 8;
const DELTA: u64 = RAM_BASE + LEDGER + 40;

fn code() -> &'static [u8] {
    extern "C" {
        static receiver: u8;
        static receiver_end: u8;
    }
    // SAFETY: both are labels around read-only bytes of this program, the second behind the first.
    unsafe {
        let len = (&raw const receiver_end).offset_from_unsigned(&raw const receiver);
        std::slice::from_raw_parts(&raw const receiver, len)
    }
}

fn second(slot: u64) -> GuestAddress {
    GuestAddress(RING + slot * LEN + 8)
}

/// Puts the guest into memory and returns where it begins.
pub(crate) fn load(memory: &Memory) -> Result<u64> {
    ensure!(
        memory.end() >= RING + SIZE,
        "the guest's memory is too small for a ring"
    );
    let map = memory.map();
    let ledger = [
        0, // heartbeat
        0, // number of the next frame
        RING,
        BUFFERS,
        arch::CARD,
        0, // see `fill`
        u64::from(SLOTS) - 1,
    ];
    for (number, value) in (0..).zip(ledger) {
        map.write_obj::<u64>(value, GuestAddress(RAM_BASE + LEDGER + number * 8))?;
    }
    map.write_slice(code(), GuestAddress(RAM_BASE + CODE))?;
    Ok(RAM_BASE + CODE)
}

/// Has all descriptors point to their buffers, for a card that finds memory so much further on than the guest.
pub(crate) fn fill(memory: &Memory, delta: u64) -> Result<()> {
    let map = memory.map();
    map.write_obj(delta, GuestAddress(DELTA))?;
    for slot in 0..u64::from(SLOTS) {
        let buffer = (BUFFERS + slot * BUFFER).wrapping_add(delta);
        map.write_obj(buffer, GuestAddress(RING + slot * LEN))?;
        map.write_obj(0u64, second(slot))?;
    }
    Ok(())
}

/// The number of frames that the guest took, and of those that wait for it.
pub(crate) fn progress(memory: &Memory) -> Result<(u64, u64)> {
    let map = memory.map();
    let taken: u64 = map.read_obj(GuestAddress(NEXT))?;
    let mut waiting = 0;
    while waiting < u64::from(SLOTS) {
        let slot = taken.wrapping_add(waiting) % u64::from(SLOTS);
        if !is_done(map.read_obj(second(slot))?) {
            break;
        }
        waiting += 1;
    }
    Ok((taken, waiting))
}

/// Changes one byte of the last frame that waits for the guest, to show that it is noticed.
pub(crate) fn damage(memory: &Memory) -> Result<()> {
    let (taken, waiting) = progress(memory)?;
    ensure!(waiting > 0, "no frame waits that could be changed");
    let slot = taken.wrapping_add(waiting - 1) % u64::from(SLOTS);
    let address = GuestAddress(BUFFERS + slot * BUFFER + BUFFER / 16);
    let byte: u8 = memory.map().read_obj(address)?;
    Ok(memory.map().write_obj(byte ^ 0x10, address)?)
}

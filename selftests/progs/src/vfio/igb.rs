// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The receiving side of an Intel 82576 ("igb"), which QEMU has.
//!
//! Everything is in one file in memory: first the ring of descriptors, from the second huge page on the
//! buffers. The ring is filled once and never again, so that each frame has its own place, and what came when
//! can be told afterwards.

use super::{
    descriptor::{
        self,
        is_done, //
    },
    frame,
    Model,
    Registers, //
};
use crate::{
    expect::Check,
    memory::{
        page,
        Map,
        HUGE, //
    }, //
};
use anyhow::{
    ensure,
    Result, //
};
use std::{
    ops::Range,
    sync::atomic::Ordering,
    thread,
    time::{
        Duration,
        Instant, //
    }, //
};

/// QEMU's.
pub const MODEL: Model = Model {
    vendor: 0x8086,
    device: 0x10c9,
};

/// Another of QEMU's, an 82574 ("e1000e"), which is older, and alike in what is used here.
pub const OLDER: Model = Model {
    vendor: 0x8086,
    device: 0x10d3,
};

pub use super::descriptor::SLOTS;

/// Room for a frame.
const BUFFER: u64 = 2048;
/// Length of the file.
pub const SIZE: u64 = HUGE + SLOTS * BUFFER;

/// Registers.
const CTRL: usize = 0x0000;
const STATUS: usize = 0x0008;
const MDIC: usize = 0x0020;
const RCTL: usize = 0x0100;
const IMC: usize = 0x150c;
const EIMC: usize = 0x1528;
const RDBAL: usize = 0x2800;
const RDBAH: usize = 0x2804;
const RDLEN: usize = 0x2808;
const SRRCTL: usize = 0x280c;
const RDH: usize = 0x2810;
const RDT: usize = 0x2818;
const RXDCTL: usize = 0x2828;
/// Frames that were missed.
const MPC: usize = 0x4010;

const CTRL_SET_LINK_UP: u32 = 1 << 6;
const STATUS_LINK_UP: u32 = 1 << 1;
/// Has the PHY, number 1, write to its register 0: negotiate, and start anew.
const MDIC_NEGOTIATE: u32 = 1 << 26 | 1 << 21 | 0x1200;
/// Receive, whoever it is for, and take the checksum away.
const RCTL_ALL: u32 = 1 << 1 | 1 << 3 | 1 << 4 | 1 << 15 | 1 << 26;
/// One buffer for each descriptor, of two KiB.
const SRRCTL_ONE_BUFFER: u32 = 1 << 25 | 2;
const RXDCTL_ENABLE: u32 = 1 << 25;

/// The file, mapped.
#[derive(Debug)]
pub struct Ring {
    map: Map,
    /// Where in the second word of a descriptor it says that it is done.
    done: u32,
}

impl Ring {
    /// That of a file of [`SIZE`] bytes.
    pub fn new(map: Map) -> Self {
        Self { map, done: 0 }
    }

    /// The same for an [`OLDER`] card, whose descriptors have another layout. Frames cannot be verified.
    pub fn older(map: Map) -> Self {
        Self { map, done: 32 }
    }

    /// Has all descriptors point to their buffers. Returns where the ring is in physical memory.
    pub fn fill(&self) -> Result<u64> {
        let pfns = self.map.pfns()?;
        self.fill_with(|offset| pfns[(offset / page()) as usize] * page() + offset % page());
        self.place()
    }

    /// Where the ring is in physical memory.
    pub fn place(&self) -> Result<u64> {
        let pfns = self
            .map
            .pfns_of(0..(SLOTS * descriptor::LEN).div_ceil(page()))?;
        let start = pfns.first().copied().unwrap_or_default();
        ensure!(
            (start..).zip(&pfns).all(|(expected, pfn)| expected == *pfn),
            "the ring is in pieces: no huge page"
        );
        Ok(start * page())
    }

    /// Has all descriptors point to their buffers, where the file is mapped for the device from `base` on.
    pub fn fill_at(&self, base: u64) {
        self.fill_with(|offset| base + offset);
    }

    fn fill_with(&self, at: impl Fn(u64) -> u64) {
        for slot in 0..SLOTS {
            self.point(slot, at(HUGE + slot * BUFFER));
            let back = slot * descriptor::LEN + 8;
            self.map.word(back).store(0, Ordering::Relaxed);
        }
    }

    /// Has a descriptor point to an address.
    pub fn point(&self, slot: u64, to: u64) {
        self.map
            .word(slot * descriptor::LEN)
            .store(to, Ordering::Relaxed);
    }

    /// What the device wrote back into a descriptor.
    fn back(&self, slot: u64) -> u64 {
        let word = self.map.word(slot * descriptor::LEN + 8);
        word.load(Ordering::Acquire)
    }

    /// Number of frames that the device says are here.
    pub fn received(&self) -> u64 {
        let done = |slot: &u64| is_done(self.back(*slot) >> self.done);
        (0..SLOTS).take_while(done).count() as u64
    }

    /// The first `count` frames are here, in order, and every byte of them is right.
    pub fn verify(&self, count: u64) -> Check {
        self.verify_range(0..count)
    }

    /// The same of those with certain numbers.
    pub fn verify_range(&self, slots: Range<u64>) -> Check {
        for slot in slots {
            self.verify_one(slot, slot)?;
        }
        Ok(())
    }

    fn verify_one(&self, slot: u64, number: u64) -> Check {
        let back = self.back(slot);
        let len = back >> 32 & 0xffff;
        if !is_done(back) || len != frame::LEN as u64 {
            return Err(format!("slot {slot} says {back:#x}, {len} bytes"));
        }
        let right = frame::frame(number);
        for (nr, bytes) in right.chunks_exact(8).enumerate() {
            let word = self.map.word(HUGE + slot * BUFFER + nr as u64 * 8);
            let seen = word.load(Ordering::Relaxed).to_ne_bytes();
            if seen != bytes {
                let at = nr * 8;
                return Err(format!(
                    "byte {at} of slot {slot}: {seen:x?}, not {bytes:x?} of frame {number}"
                ));
            }
        }
        Ok(())
    }

    /// If a frame is in its place, checks it, and has its descriptor used again, with the same buffer. Where the
    /// file is mapped for the device is `base`.
    pub fn take(&self, number: u64, base: u64, registers: &Registers) -> Result<bool, String> {
        let slot = number % SLOTS;
        if !is_done(self.back(slot)) {
            return Ok(false);
        }
        self.verify_one(slot, number)?;
        let back = self.map.word(slot * descriptor::LEN + 8);
        back.store(0, Ordering::Relaxed);
        self.point(slot, base + HUGE + slot * BUFFER);
        // The write to the register comes after those to memory: devices are mapped uncached.
        registers.write(RDT, slot as u32);
        Ok(true)
    }

    /// Nothing has ever come to descriptors from `first` on.
    pub fn untouched_from(&self, first: u64) -> Check {
        for slot in first..SLOTS {
            let word = |at| self.map.word(at).load(Ordering::Relaxed);
            let back = word(slot * descriptor::LEN + 8);
            let data = (0..BUFFER / 8).find(|nr| word(HUGE + slot * BUFFER + nr * 8) != 0);
            if back != 0 || data.is_some() {
                return Err(format!("slot {slot} says {back:#x}, and has {data:?}"));
            }
        }
        Ok(())
    }

    /// Waits until at least `count` frames are here.
    pub fn wait(&self, count: u64, patience: Duration) -> Check {
        let start = Instant::now();
        while self.received() < count {
            if start.elapsed() > patience {
                let received = self.received();
                return Err(format!("{received} frames after {patience:?}, not {count}"));
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Keeps it mapped for as long as the process lives.
    pub fn leak(self) {
        self.map.leak();
    }
}

/// Starts to receive into a ring of [`SLOTS`] descriptors at a physical address.
pub fn start(registers: &Registers, ring: u64) -> Check {
    start_with(registers, ring, SLOTS as u32)
}

/// Starts to receive into a ring of so many descriptors, a multiple of eight.
pub fn start_with(registers: &Registers, ring: u64, slots: u32) -> Check {
    registers.write(IMC, !0);
    registers.write(EIMC, !0);
    registers.write(CTRL, registers.read(CTRL) | CTRL_SET_LINK_UP);
    registers.write(MDIC, MDIC_NEGOTIATE);
    let begin = Instant::now();
    while registers.read(STATUS) & STATUS_LINK_UP == 0 {
        if begin.elapsed() > Duration::from_secs(20) {
            return Err("the link does not come up".into());
        }
        thread::sleep(Duration::from_millis(20));
    }
    registers.write(RDBAL, ring as u32);
    registers.write(RDBAH, (ring >> 32) as u32);
    registers.write(RDLEN, slots * descriptor::LEN as u32);
    registers.write(SRRCTL, SRRCTL_ONE_BUFFER);
    registers.write(RDH, 0);
    registers.write(RXDCTL, registers.read(RXDCTL) | RXDCTL_ENABLE);
    registers.write(RDT, slots - 1);
    registers.write(RCTL, RCTL_ALL);
    Ok(())
}

/// The registers that only a reset or a driver changes, as text.
pub fn settings(registers: &Registers) -> String {
    [CTRL, RCTL, RDBAL, RDBAH, RDLEN, SRRCTL, RDT, RXDCTL]
        .map(|offset| format!("{offset:#x}={:#x}", registers.read(offset)))
        .join(" ")
}

/// Which descriptor is next.
pub fn head(registers: &Registers) -> u64 {
    registers.read(RDH).into()
}

/// How many frames found no room.
pub fn missed(registers: &Registers) -> u32 {
    registers.read(MPC)
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A driver for NVMe controllers, with one pair of queues for reads and writes.
//!
//! Everything that the controller uses is in one file in memory: the queues in the first huge page, and
//! from the second one on the data. Each request has a number and a place for its data that no other one
//! has. What the driver has to remember is in the file, too, so that another kernel's driver can go on.

use super::{
    Model,
    Registers, //
};
use crate::{
    clock,
    expect::{
        is,
        same,
        Check, //
    },
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
    sync::atomic::Ordering,
    thread,
    time::{
        Duration,
        Instant, //
    }, //
};

/// QEMU's.
pub const MODEL: Model = Model {
    vendor: 0x1b36,
    device: 0x0010,
};

/// Bytes that a request reads or writes.
pub const BLOCK: u64 = 4096;
/// Number of requests that there can be in all.
pub const REQUESTS: u64 = 1024;
/// Length of the file.
pub const SIZE: u64 = HUGE + REQUESTS * BLOCK;

/// Where the queues are, and how many entries they have.
const ADMIN_SQ: u64 = 0x0000;
const ADMIN_CQ: u64 = 0x1000;
const ADMIN_ENTRIES: u64 = 32;
const SQ: u64 = 0x2000;
const CQ: u64 = 0x4000;
/// Number of entries of the queues for requests: one less can be under way.
pub const ENTRIES: u64 = 128;

/// Number of requests that were submitted, and of those whose completion was taken.
const SUBMITTED: u64 = 0x8000;
const TAKEN: u64 = 0x8008;
/// For each request, how many completions it had.
const COMPLETIONS: u64 = 0x9000;

/// Registers.
const CAP: usize = 0x00;
const CC: usize = 0x14;
const CSTS: usize = 0x1c;
const AQA: usize = 0x24;
const ASQ: usize = 0x28;
const ACQ: usize = 0x30;
const DOORBELLS: usize = 0x1000;

/// Enabled, with entries of 64 and of 16 bytes.
const CC_ENABLED: u32 = 1 | 6 << 16 | 4 << 20;
const CSTS_READY: u32 = 1;

/// Commands.
const CREATE_SQ: u64 = 1;
const CREATE_CQ: u64 = 5;
const WRITE: u64 = 1;
const READ: u64 = 2;
/// Bytes that the controller counts in; QEMU's default.
const SECTOR: u64 = 512;

/// The vector that tells of completions of requests. Those of the commands that make queues have the first.
pub const VECTOR: u32 = 1;

const PATIENCE: Duration = Duration::from_secs(20);

/// What is to be done with which block.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// Write it.
    pub write: bool,
    /// The block's number on the disk.
    pub block: u64,
}

/// The file, mapped.
#[derive(Debug)]
pub struct Queues {
    map: Map,
    /// The number of each page, as the controller knows it.
    pfns: Vec<u64>,
}

impl Queues {
    /// Those of a file of [`SIZE`] bytes, which stays where it is.
    pub fn new(map: Map) -> Result<Self> {
        let this = Self {
            pfns: map.pfns()?,
            map,
        };
        for offset in (0..COMPLETIONS).step_by(page() as usize) {
            ensure!(
                this.at(offset) == this.at(0) + offset,
                "the queues are in pieces: no huge page"
            );
        }
        Ok(this)
    }

    /// The same where the file is mapped for the controller from `base` on.
    pub fn new_at(map: Map, base: u64) -> Self {
        let first = base / page();
        Self {
            map,
            pfns: (first..first + SIZE / page()).collect(),
        }
    }

    /// Where a byte of the file is for the controller.
    fn at(&self, offset: u64) -> u64 {
        self.pfns[(offset / page()) as usize] * page() + offset % page()
    }

    fn get(&self, offset: u64) -> u64 {
        self.map.word(offset).load(Ordering::Acquire)
    }

    fn set(&self, offset: u64, value: u64) {
        self.map.word(offset).store(value, Ordering::Release);
    }

    fn set_all(&self, offset: u64, values: &[u64]) {
        for (nr, value) in (0..).zip(values) {
            self.set(offset + nr * 8, *value);
        }
    }

    /// Number of requests that were submitted.
    pub fn submitted(&self) -> u64 {
        self.get(SUBMITTED)
    }

    /// Number of requests whose completion was taken.
    pub fn taken(&self) -> u64 {
        self.get(TAKEN)
    }

    /// The completion with a number, if it is there. Its queue has one bit that differs from one pass to the
    /// next.
    fn completion(&self, queue: u64, entries: u64, number: u64) -> Option<u64> {
        let word = self.get(queue + number % entries * 16 + 8);
        (word >> 48 & 1 != (number / entries) & 1).then_some(word)
    }

    /// Number of requests that are completed, whether that was taken or not.
    pub fn completed(&self) -> u64 {
        let taken = self.taken();
        let there = |nr: &u64| self.completion(CQ, ENTRIES, *nr).is_some();
        taken + (taken..taken + ENTRIES).take_while(there).count() as u64
    }

    /// Where the data of a request is.
    fn data(number: u64) -> u64 {
        HUGE + number * BLOCK
    }

    /// The data of a request.
    pub fn read(&self, number: u64) -> Vec<u8> {
        (0..BLOCK / 8)
            .flat_map(|nr| self.get(Self::data(number) + nr * 8).to_ne_bytes())
            .collect()
    }

    /// Sets it.
    pub fn write(&self, number: u64, bytes: &[u8]) {
        for (nr, chunk) in (0..).zip(bytes.chunks_exact(8)) {
            let word = u64::from_ne_bytes(chunk.try_into().unwrap_or_default());
            self.set(Self::data(number) + nr * 8, word);
        }
    }

    /// Waits until at least `count` requests are completed, for as long as the host takes for `patience`.
    pub fn wait(&self, count: u64, patience: Duration) -> Check {
        let all = clock::wait(patience, || self.completed() >= count);
        if all.map_err(|error| format!("the host does not tell the time: {error}"))? {
            return Ok(());
        }
        let completed = self.completed();
        Err(format!(
            "{completed} completions after {patience:?}, not {count}"
        ))
    }

    /// How many completions of a request were taken.
    pub fn completions(&self, number: u64) -> u64 {
        self.get(COMPLETIONS + number * 8)
    }

    /// The completions that were taken are of as many requests, all of which were submitted.
    pub fn each_once(&self) -> Check {
        let mut count = 0;
        for number in 0..REQUESTS {
            let seen = self.completions(number);
            let most = u64::from(number < self.submitted());
            is(
                seen <= most,
                &format!("request {number} was completed {seen} times, not {most}"),
            )?;
            count += seen;
        }
        same(count, self.taken())
    }

    /// Keeps it mapped for as long as the process lives.
    pub fn leak(self) {
        self.map.leak();
    }
}

/// A controller that is enabled.
#[derive(Debug)]
pub struct Controller {
    registers: Registers,
}

impl Controller {
    /// One that is enabled already.
    pub fn new(registers: Registers) -> Self {
        Self { registers }
    }

    /// Enables one, and makes the queues for requests. Their completions come with interrupts if asked to.
    pub fn start(registers: Registers, queues: &Queues, interrupts: bool) -> Result<Self> {
        let this = Self { registers };
        this.registers.write(CC, 0);
        this.wait_ready(false)?;
        let sizes = ADMIN_ENTRIES as u32 - 1;
        this.registers.write(AQA, sizes << 16 | sizes);
        this.write_long(ASQ, queues.at(ADMIN_SQ));
        this.write_long(ACQ, queues.at(ADMIN_CQ));
        this.registers.write(CC, CC_ENABLED);
        this.wait_ready(true)?;
        let size = ENTRIES - 1;
        let vector = if interrupts {
            u64::from(VECTOR) << 16 | 2
        } else {
            0
        };
        // Both are queue 1, in one piece, and the second one reports to the first.
        let (place, report) = (size << 16 | 1, 1 << 16);
        let make_cq = [
            CREATE_CQ,
            0,
            0,
            queues.at(CQ),
            0,
            place | (vector | 1) << 32,
        ];
        let make_sq = [
            CREATE_SQ,
            0,
            0,
            queues.at(SQ),
            0,
            place | (report | 1) << 32,
        ];
        this.command(queues, 0, &make_cq)?;
        this.command(queues, 1, &make_sq)?;
        Ok(this)
    }

    fn wait_ready(&self, ready: bool) -> Result<()> {
        let start = Instant::now();
        while (self.registers.read(CSTS) & CSTS_READY != 0) != ready {
            ensure!(start.elapsed() < PATIENCE, "the controller is not ready");
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    fn write_long(&self, offset: usize, value: u64) {
        self.registers.write(offset, value as u32);
        self.registers.write(offset + 4, (value >> 32) as u32);
    }

    /// Tells the controller how far the driver has come with a queue.
    fn doorbell(&self, index: usize, value: u64) {
        let stride = 4 << (self.registers.read(CAP + 4) & 0xf);
        self.registers
            .write(DOORBELLS + index * stride, value as u32);
    }

    /// Has the controller do what makes a queue. These commands are counted by the caller.
    fn command(&self, queues: &Queues, number: u64, words: &[u64; 6]) -> Result<()> {
        queues.set_all(ADMIN_SQ + number * 64, words);
        self.doorbell(0, number + 1);
        let start = Instant::now();
        let status = loop {
            if let Some(word) = queues.completion(ADMIN_CQ, ADMIN_ENTRIES, number) {
                break word >> 49;
            }
            ensure!(start.elapsed() < PATIENCE, "command {number} does not end");
            thread::sleep(Duration::from_millis(10));
        };
        self.doorbell(1, number + 1);
        ensure!(status == 0, "command {number} failed with {status:#x}");
        Ok(())
    }

    /// Submits requests, whose data is set if they write.
    pub fn submit(&self, queues: &Queues, requests: &[Request]) {
        let mut number = queues.submitted();
        for request in requests {
            let free = ENTRIES - 1 - (number - queues.taken());
            assert!(number < REQUESTS && free > 0, "there is no room");
            let code = if request.write { WRITE } else { READ };
            let words = [
                code | number << 16 | 1 << 32,
                0,
                0,
                queues.at(Queues::data(number)),
                0,
                request.block * (BLOCK / SECTOR),
                BLOCK / SECTOR - 1,
                0,
            ];
            queues.set_all(SQ + number % ENTRIES * 64, &words);
            number += 1;
        }
        queues.set(SUBMITTED, number);
        self.doorbell(2, number % ENTRIES);
    }

    /// Takes the completions that are there.
    ///
    /// # Errors
    ///
    /// If one is of no request, or says that the request failed.
    pub fn take(&self, queues: &Queues) -> Check {
        let mut taken = queues.taken();
        while let Some(word) = queues.completion(CQ, ENTRIES, taken) {
            let (number, status) = (word >> 32 & 0xffff, word >> 49);
            if number >= queues.submitted() || status != 0 {
                return Err(format!("request {number} was answered with {status:#x}"));
            }
            let count = COMPLETIONS + number * 8;
            queues.set(count, queues.get(count) + 1);
            taken += 1;
        }
        queues.set(TAKEN, taken);
        self.doorbell(3, taken % ENTRIES);
        Ok(())
    }

    /// The registers that only a reset or a driver changes, as text.
    pub fn settings(&self) -> String {
        [CC, CSTS, AQA, ASQ, ASQ + 4, ACQ, ACQ + 4]
            .map(|offset| format!("{offset:#x}={:#x}", self.registers.read(offset)))
            .join(" ")
    }
}

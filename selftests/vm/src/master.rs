// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Lets a card use memory when no kernel does.
//!
//! The old kernel stops all cards that it does not hand over. What its IOMMU would do with one that is not
//! stopped is seen if that is undone, with QEMU's socket for tests, before there is another kernel.

use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use anyhow::Result;

use crate::between::{
    hexadecimal,
    wait,
    Memory, //
};

/// The command register, and bits of it: the card decodes its registers, and may use memory.
const COMMAND: u64 = 4;
const MEMORY_AND_MASTER: u64 = 6;

/// The old kernel has nothing to do any more when it says that it has ended but to leave.
const MOMENT: Duration = Duration::from_millis(300);

/// How often it is done, a moment after each other.
const TIMES: u32 = 5;

/// Which card.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// The socket of QEMU's option -qtest.
    #[arg(long)]
    qtest: PathBuf,
    /// The console, which tells that the old kernel has ended.
    #[arg(long)]
    log: PathBuf,
    /// Physical address of the card's configuration space.
    #[arg(long, value_parser = hexadecimal)]
    card: u64,
}

/// Waits for the old kernel's end, and does it before there is another one.
///
/// # Errors
///
/// If QEMU does not do it.
pub fn main(options: &Options) -> Result<()> {
    let mut memory = Memory::connect(&options.qtest)?;
    wait(&options.log);
    thread::sleep(MOMENT);
    let address = options.card + COMMAND;
    // The next kernel reads the register, and writes it back: a write in between would be lost.
    for _ in 0..TIMES {
        memory.command(&format!("writew {address:#x} {MEMORY_AND_MASTER:#x}"))?;
        thread::sleep(MOMENT);
    }
    Ok(())
}

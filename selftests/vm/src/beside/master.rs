// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Lets a card use memory that was kept from it.
//!
//! The old kernel stops all cards that it does not hand over. What its IOMMU would do with one that is not
//! stopped is seen if that is undone, with QEMU's socket for tests, before there is another kernel. And a kernel that
//! stops a card too late is seen if what it did in time is undone.

use std::fs;
use std::path::{
    Path,
    PathBuf, //
};
use std::thread;
use std::time::Duration;

use anyhow::Result;

use super::between::{
    configuration,
    function,
    Memory, //
};
use super::Machine;

/// The command register, and bits of it: the card decodes its registers, and may use memory.
const COMMAND: u64 = 4;
const MEMORY_AND_MASTER: u64 = 6;

/// The old kernel has nothing to do any more when it says that it has ended but to leave.
const MOMENT: Duration = Duration::from_millis(300);

/// How often it is done between the kernels, a moment after each other.
const TIMES: u32 = 5;

/// Which card.
#[derive(Debug, clap::Args)]
pub struct Options {
    #[command(flatten)]
    machine: Machine,
    /// The card, such as 1:0.0.
    #[arg(long, value_parser = function)]
    card: u64,
    /// Wait until there is something in this file, and remove it when it is done, instead of waiting for the old
    /// kernel's end.
    #[arg(long)]
    when: Option<PathBuf>,
}

/// Waits, and does it.
pub(super) fn main(options: &Options) -> Result<()> {
    let (mut qmp, mut memory) = options.machine.connect()?;
    let address = configuration(&mut qmp)? + options.card + COMMAND;
    // It takes one at a time.
    drop(qmp);
    if let Some(when) = &options.when {
        return once(when, &mut memory, address);
    }
    options.machine.wait();
    thread::sleep(MOMENT);
    // The next kernel reads the register, and writes it back: a write in between would be lost.
    for _ in 0..TIMES {
        allow(&mut memory, address)?;
        thread::sleep(MOMENT);
    }
    Ok(())
}

fn once(when: &Path, memory: &mut Memory, address: u64) -> Result<()> {
    // Removed before it is written to, it could be gone before the machine has opened it.
    while !fs::metadata(when).is_ok_and(|file| file.len() > 0) {
        thread::sleep(Duration::from_millis(5));
    }
    allow(memory, address)?;
    Ok(fs::remove_file(when)?)
}

fn allow(memory: &mut Memory, address: u64) -> Result<()> {
    memory.command(&format!("writew {address:#x} {MEMORY_AND_MASTER:#x}"))?;
    Ok(())
}

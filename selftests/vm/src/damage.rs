// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Damages what one kernel tells the next about preserved memory, when there is none of them.
//!
//! The machine is stopped when the old kernel has said its last words, and memory is changed with QEMU's socket
//! for tests. The old kernel has to have left KHO's root in the state directory, as `fdt`.

use std::fs;
use std::path::PathBuf;

use anyhow::{
    Context,
    Result, //
};
use kho::abi::root::Root;
use serde_json::json;

use crate::between::{
    hexadecimal,
    Memory,
    Sockets, //
};

/// Pointers in a node of KHO's tree of preserved memory.
const POINTERS: u64 = 512;
/// Where in its root are those of single pages: bit 52 of a key says so, and a root has its bits from 51 on.
const SINGLE: u64 = 2;
/// What a leaf of single pages stands for.
const LEAF_SHIFT: u64 = 27;

/// What is wrong.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Damage {
    /// A pointer to something that does not begin where a page does.
    Odd,
    /// A pointer to where no machine has memory.
    Nowhere,
    /// A pointer to the root.
    Loop,
    /// Preserved pages behind the end of memory.
    Beyond,
    /// Preserved pages at an address before that, where there is no memory.
    Hole,
}

/// What to damage, and where.
#[derive(Debug, clap::Args)]
pub struct Options {
    #[command(flatten)]
    sockets: Sockets,
    /// Directory with the old kernel's `fdt`.
    #[arg(long)]
    state: PathBuf,
    /// Physical address at which there is no memory.
    #[arg(long, value_parser = hexadecimal, default_value = "0x0")]
    hole: u64,
    /// What is to be wrong.
    #[arg(value_enum)]
    damage: Damage,
}

/// The tree, in the machine's memory.
struct Tree(Memory);

impl Tree {
    fn pointer(&mut self, node: u64, index: u64) -> Result<u64> {
        let address = node + index * 8;
        self.0.command(&format!("readq {address:#x}"))
    }

    fn set(&mut self, node: u64, index: u64, to: u64) -> Result<()> {
        let address = node + index * 8;
        self.0.command(&format!("writeq {address:#x} {to:#x}"))?;
        Ok(())
    }

    fn damage(&mut self, root: u64, damage: Damage, hole: u64) -> Result<()> {
        let last = POINTERS - 1;
        match damage {
            Damage::Odd => self.set(root, last, root + 8),
            Damage::Nowhere => self.set(root, last, 1 << 45),
            Damage::Loop => self.set(root, last, root),
            Damage::Beyond => {
                let single = self.pointer(root, SINGLE)?;
                let low = self.pointer(single, 0)?;
                self.set(single, last, low)
            }
            Damage::Hole => {
                let mut node = self.pointer(root, SINGLE)?;
                for _ in 0..3 {
                    node = self.pointer(node, 0)?;
                }
                let mut leaf = 0;
                for index in (0..POINTERS).rev() {
                    leaf = self.pointer(node, index)?;
                    if leaf != 0 {
                        break;
                    }
                }
                self.set(node, hole >> LEAF_SHIFT, leaf)
            }
        }
    }
}

/// Waits for the old kernel's end, and does it before there is another one.
///
/// # Errors
///
/// If QEMU does not do it, or the old kernel has not left its root.
pub fn main(options: &Options) -> Result<()> {
    let (mut qmp, memory) = options.sockets.stop()?;
    let fdt = fs::read(options.state.join("fdt")).context("KHO's root")?;
    let root = Root::parse(&fdt).map_err(|error| anyhow::anyhow!("KHO's root: {error:?}"))?;
    Tree(memory).damage(root.memory_map, options.damage, options.hole)?;
    qmp.execute("cont", json!({}))?;
    Ok(())
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Damages what one kernel tells the next about preserved memory, when there is none of them.
//!
//! The machine is stopped when the old kernel has said its last words, and memory is changed with QEMU's socket
//! for tests. The old kernel has to have left KHO's root in the state directory, as `fdt`.

use anyhow::{
    bail,
    Result, //
};
use kho::abi::root::Root;
use serde_json::json;

use super::between::{
    hexadecimal,
    Memory, //
};
use super::Machine;

/// Pointers in a node of KHO's tree of preserved memory.
const POINTERS: u64 = 512;
/// Where in its root are those of single pages: bit 52 of a key says so, and a root has its bits from 51 on.
const SINGLE: u64 = 2;
/// What a leaf of single pages stands for, and how many pages that is, one bit for each.
const LEAF_SHIFT: u64 = 27;
const LEAF_BITS: u64 = 1 << 15;
/// Which bit of a key says that it stands for a single page, and where the bits of the highest level begin.
const SINGLE_BIT: u64 = 52;
const ROOT_SHIFT: u64 = 51;
/// Bits of a key that each level has, and the levels between the root and what points to leaves.
const LEVEL_BITS: u64 = 9;
const LEVELS: u64 = 4;
/// Larger blocks than this nobody preserves.
const MAX_ORDER: u64 = 18;

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
    /// A page of a larger block that is preserved a second time, by itself.
    Twice,
}

/// What to damage, and where.
#[derive(Debug, clap::Args)]
pub struct Options {
    #[command(flatten)]
    machine: Machine,
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

    /// The leaf that has a key, if there is one.
    fn leaf(&mut self, root: u64, key: u64) -> Result<Option<u64>> {
        let mut node = root;
        for level in 0..=LEVELS {
            let index = key >> (ROOT_SHIFT - level * LEVEL_BITS) & (POINTERS - 1);
            node = self.pointer(node, index)?;
            if node == 0 {
                return Ok(None);
            }
        }
        Ok(Some(node))
    }

    /// The second page of a larger block, and the leaf for single pages that has its neighbours.
    fn inside_a_block(&mut self, root: u64) -> Result<(u64, u64)> {
        for order in 1..=MAX_ORDER {
            let Some(leaf) = self.leaf(root, 1 << (SINGLE_BIT - order))? else {
                continue;
            };
            for word in 0..LEAF_BITS / 64 {
                let bits = self.pointer(leaf, word)?;
                if bits == 0 {
                    continue;
                }
                let page = (word * 64 + u64::from(bits.trailing_zeros())) << order;
                if let Some(leaf) = self.leaf(root, 1 << SINGLE_BIT | page)? {
                    return Ok((page + 1, leaf));
                }
            }
        }
        bail!("no single page is preserved near a larger block")
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
            Damage::Twice => {
                let (page, leaf) = self.inside_a_block(root)?;
                let (word, bit) = (page % LEAF_BITS / 64, page % 64);
                let bits = self.pointer(leaf, word)?;
                self.set(leaf, word, bits | 1 << bit)
            }
        }
    }
}

/// Waits for the old kernel's end, and does it before there is another one.
pub(super) fn main(options: &Options) -> Result<()> {
    let (mut qmp, memory) = options.machine.stop()?;
    let fdt = options.machine.root()?;
    let root = Root::parse(&fdt).map_err(|error| anyhow::anyhow!("KHO's root: {error:?}"))?;
    Tree(memory).damage(root.memory_map, options.damage, options.hole)?;
    qmp.execute("cont", json!({}))?;
    Ok(())
}

// SPDX-License-Identifier: GPL-2.0-only OR BSD-3-Clause

//! What is preserved, and which of it something refers to.

use super::{
    Fault,
    Memory,
    Order,
    Result, //
};
use crate::abi::{
    radix::Shape,
    Error,
    PageSize, //
};
use std::{
    boxed::Box,
    collections::{
        BTreeMap,
        BTreeSet, //
    },
    vec,
    vec::Vec, //
};

/// The pieces of one leaf: a bit each, in the order of the page numbers.
#[derive(Debug)]
struct Leaf {
    pfn: u64,
    order: u32,
    set: Box<[u64]>,
    claimed: Box<[u64]>,
}

impl Leaf {
    /// The positions of the bits of these words.
    fn bits(words: impl Iterator<Item = u64>) -> impl Iterator<Item = u64> {
        words.zip(0u64..).flat_map(|(word, at)| {
            let mut rest = word;
            std::iter::from_fn(move || {
                let bit = rest.trailing_zeros();
                rest &= rest.checked_sub(1)?;
                Some(at * 64 + u64::from(bit))
            })
        })
    }

    /// The page number of a bit.
    fn nth(&self, bit: u64) -> u64 {
        // No overflow: the last bit has one, too.
        self.pfn + (bit << self.order)
    }
}

fn ones(words: &[u64]) -> u64 {
    words.iter().map(|word| u64::from(word.count_ones())).sum()
}

/// KHO's tree of preserved memory. Something that refers to a piece of it claims it.
#[derive(Debug)]
pub struct Preserved {
    shape: Shape,
    page: PageSize,
    /// By the upper bits of their keys.
    leaves: BTreeMap<u64, Leaf>,
    /// The orders that there are, a bit each.
    orders: u64,
    nodes: BTreeSet<u64>,
}

impl Preserved {
    /// Reads the tree whose root is at this address.
    ///
    /// # Errors
    ///
    /// If it cannot be read, or is no tree.
    pub fn read(memory: &mut dyn Memory, root: u64, page: PageSize) -> Result<Self> {
        let shape = Shape::new(page);
        let mut tree = Self {
            shape,
            page,
            leaves: BTreeMap::new(),
            orders: 0,
            nodes: BTreeSet::new(),
        };
        tree.node(memory, root, shape.levels(), 0)?;
        Ok(tree)
    }

    /// Reads a node or, on level 0, a leaf.
    fn node(&mut self, memory: &mut dyn Memory, phys: u64, level: u32, start: u64) -> Result {
        if !self.page.is_aligned(phys) {
            return Err(Error::Pfn.into());
        }
        // Whoever has been here before would come again and again.
        if !self.nodes.insert(phys) {
            return Err(Fault::Twice(phys));
        }
        let size = usize::try_from(self.page.bytes()).map_err(|_| Error::PageSize)?;
        let mut bytes = vec![0; size];
        let result = memory.read(phys, &mut bytes);
        result.map_err(|error| Fault::Read(phys, error))?;
        let (words, _) = bytes.as_chunks();
        let words: Box<[u64]> = words.iter().map(|word| u64::from_le_bytes(*word)).collect();

        let Some(below) = level.checked_sub(1) else {
            return self.leaf(words, start);
        };
        for (word, index) in words.iter().zip(0u64..).filter(|(word, _)| **word != 0) {
            let start = self.shape.child(start, level, index).ok_or(Error::Pfn)?;
            self.node(memory, *word, below, start)?;
        }
        Ok(())
    }

    fn leaf(&mut self, words: Box<[u64]>, start: u64) -> Result {
        if words.iter().all(|word| *word == 0) {
            return Ok(());
        }
        // The first leaf is for pieces that are larger than any memory.
        let (pfn, order) = self.shape.decode(start).ok_or(Error::Pfn)?;
        let index = start >> self.shape.leaf_shift();
        self.orders |= 1u64.checked_shl(order).unwrap_or(0);
        let leaf = Leaf {
            pfn,
            order,
            claimed: vec![0; words.len()].into(),
            set: words,
        };
        self.leaves.insert(index, leaf);
        Ok(())
    }

    /// Where the bit of a piece is.
    fn find(&self, pfn: u64, order: u32) -> Option<(u64, usize, u64)> {
        let key = self.shape.key(pfn, order)?;
        let shift = self.shape.leaf_shift();
        let bit = key & ((1 << shift) - 1);
        Some((
            key >> shift,
            usize::try_from(bit / 64).ok()?,
            1 << (bit % 64),
        ))
    }

    fn has(&self, pfn: u64, order: u32) -> bool {
        let found = self.find(pfn, order).and_then(|(leaf, at, mask)| {
            let word = self.leaves.get(&leaf)?.set.get(at)?;
            Some(word & mask != 0)
        });
        found.unwrap_or(false)
    }

    /// The order of what is preserved at a page number: of several, the smallest, as in the kernel.
    #[must_use]
    pub fn order_at(&self, pfn: u64) -> Option<u32> {
        Leaf::bits([self.orders].into_iter())
            .filter_map(|order| u32::try_from(order).ok())
            .find(|order| self.has(pfn, *order))
    }

    /// Claims a piece. [`None`] if there is none, false if it was claimed before.
    pub fn claim(&mut self, pfn: u64, order: u32) -> Option<bool> {
        let (leaf, at, mask) = self.find(pfn, order)?;
        let leaf = self.leaves.get_mut(&leaf)?;
        if leaf.set.get(at)? & mask == 0 {
            return None;
        }
        let claimed = leaf.claimed.get_mut(at)?;
        let first = *claimed & mask == 0;
        *claimed |= mask;
        Some(first)
    }

    /// The page numbers of the pieces of an order that nobody claimed.
    pub fn unclaimed(&self, order: u32) -> impl Iterator<Item = u64> + '_ {
        let leaves = self.leaves.values().filter(move |leaf| leaf.order == order);
        leaves.flat_map(|leaf| {
            let words = leaf.set.iter().zip(&leaf.claimed);
            Leaf::bits(words.map(|(set, claimed)| set & !claimed)).map(|bit| leaf.nth(bit))
        })
    }

    /// The number of pages of the tree itself, which are not in it.
    #[must_use]
    pub fn nodes(&self) -> u64 {
        self.nodes.len() as u64
    }

    /// How many pieces of each order there are, and how many of them something refers to.
    #[must_use]
    pub fn counts(&self) -> Vec<Order> {
        let mut orders: BTreeMap<u32, (u64, u64)> = BTreeMap::new();
        for leaf in self.leaves.values() {
            let (count, referenced) = orders.entry(leaf.order).or_default();
            *count += ones(&leaf.set);
            *referenced += ones(&leaf.claimed);
        }
        let order = |(order, (count, referenced))| Order {
            order,
            size: self.page.bytes().checked_shl(order).unwrap_or(u64::MAX),
            count,
            referenced,
        };
        orders.into_iter().map(order).collect()
    }

    /// The first page that is preserved more than once, in pieces of different sizes.
    #[must_use]
    pub fn overlap(&self) -> Option<u64> {
        let mut runs: Vec<(u64, u64)> = Vec::new();
        for leaf in self.leaves.values() {
            for bit in Leaf::bits(leaf.set.iter().copied()) {
                let start = leaf.nth(bit);
                let end = start.saturating_add(1 << leaf.order);
                match runs.last_mut() {
                    Some((_, last)) if *last == start => *last = end,
                    _ => runs.push((start, end)),
                }
            }
        }
        runs.sort_unstable();
        let mut end = 0;
        for (start, next) in runs {
            if start < end {
                return Some(start);
            }
            end = next;
        }
        None
    }
}

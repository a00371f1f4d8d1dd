// SPDX-License-Identifier: GPL-2.0-only

//! Whether a new page table leads to the same memory as the previous kernel's.

use super::Item;
use core::ops::ControlFlow;
use kernel::prelude::*;
use luo::{
    abi::iommu::{
        Entry,
        Header,
        Lookup, //
    },
    kho::PageReader, //
};

/// The previous kernel's page table, and what was mapped in it.
pub(super) struct Comparison<'a> {
    reader: PageReader<'a>,
    top: u64,
    levels: u16,
    /// First address and length of each area that was not compared yet, in reverse order.
    areas: VVec<(u64, u64)>,
}

impl<'a> Comparison<'a> {
    /// `top` is where the page table begins, and `areas` are all of them in the order of addresses.
    pub(super) fn new(
        reader: PageReader<'a>,
        top: u64,
        header: &Header,
        mut areas: VVec<(u64, u64)>,
    ) -> Self {
        areas.reverse();
        Self {
            reader,
            top,
            levels: header.levels(),
            areas,
        }
    }

    /// Where an address leads, and how many bytes follow.
    fn translate(&self, iova: u64) -> Option<(u64, u64)> {
        let mut lookup = Lookup::new(iova, self.levels);
        let mut table = self.top;
        for _ in 0..self.levels {
            let raw = self.reader.word(table, lookup.index())?;
            match lookup.step(raw) {
                Entry::Empty => return None,
                Entry::Table(next) => table = next,
                Entry::Leaf { phys, left, .. } => return Some((phys, left)),
            }
        }
        None
    }

    /// Compares what comes next in the new page table. Breaks with the first address that differs.
    pub(super) fn step(&mut self, item: &Item) -> ControlFlow<u64> {
        let (mut iova, mut phys, mut left) = (item.iova, item.phys, item.size);
        if item.is_table {
            return ControlFlow::Continue(());
        }
        while left != 0 {
            let Some((start, length)) = self.areas.pop() else {
                return ControlFlow::Break(iova);
            };
            if start != iova {
                return ControlFlow::Break(start.min(iova));
            }
            let Some((was, contiguous)) = self.translate(iova) else {
                return ControlFlow::Break(iova);
            };
            let size = left.min(length).min(contiguous);
            if was != phys || size == 0 {
                return ControlFlow::Break(iova);
            }
            iova = iova.saturating_add(size);
            phys = phys.saturating_add(size);
            left = left.saturating_sub(size);
            if size < length {
                let rest = (iova, length.saturating_sub(size));
                // There is room: one was just taken out.
                if self.areas.push_within_capacity(rest).is_err() {
                    return ControlFlow::Break(iova);
                }
            }
        }
        ControlFlow::Continue(())
    }

    /// The new page table has ended. Breaks with the first address that is missing in it.
    pub(super) fn end(&self) -> ControlFlow<u64> {
        match self.areas.last() {
            None => ControlFlow::Continue(()),
            Some((iova, _)) => ControlFlow::Break(*iova),
        }
    }
}

// SPDX-License-Identifier: GPL-2.0-only OR BSD-3-Clause

//! Lists that are handed over: of LUO in blocks, and of handlers in arrays.

use super::{
    Fault,
    Result,
    Walk, //
};
use crate::abi::{
    luo::{
        BlockSer,
        MAX_BLOCKS, //
    },
    vmalloc::CheckedVmalloc,
    Error, //
};
use std::vec::Vec;
use zerocopy::FromBytes;

/// As much of a list as could be read, and how many pages it takes.
#[derive(Debug)]
pub(super) struct Entries<T> {
    pub(super) entries: Vec<T>,
    pub(super) pages: u64,
}

impl Walk<'_> {
    /// Reads a list in blocks. What was read before something was found to be wrong stays there.
    pub(super) fn blocks<T: FromBytes>(&mut self, head: u64) -> (Entries<T>, Result) {
        let mut list = Entries {
            entries: Vec::new(),
            pages: 0,
        };
        let result = self.add_blocks(head, &mut list);
        (list, result)
    }

    fn add_blocks<T: FromBytes>(&mut self, head: u64, list: &mut Entries<T>) -> Result {
        let mut next = head;
        for _ in 0..MAX_BLOCKS {
            if next == 0 {
                return Ok(());
            }
            self.claim(next, Some(0))?;
            list.pages += 1;
            let page = self.read_page(next)?;
            let (header, mut rest) = BlockSer::read_from_prefix(&page).map_err(|_| Error::Block)?;
            for _ in 0..header.check::<T>(self.page)? {
                let (entry, left) = T::read_from_prefix(rest).map_err(|_| Error::Block)?;
                list.entries.push(entry);
                rest = left;
            }
            next = header.next;
        }
        Err(Error::Block.into())
    }

    /// Takes the pages of an array and those that list them. Returns the addresses of the former, in their
    /// order, and the number of all.
    pub(super) fn array(&mut self, array: &CheckedVmalloc) -> Result<(Vec<u64>, u64)> {
        let order = u32::from(array.as_raw().order);
        let mut walk = array.walk(self.page);
        let (mut pages, mut lists) = (Vec::new(), 0u64);
        while let Some(chunk) = walk.chunk(|pfn| self.preserved.order_at(pfn))? {
            self.claim(chunk, Some(0))?;
            lists += 1;
            let bytes = self.read_page(chunk)?;
            let (words, _) = bytes.as_chunks();
            let words: Vec<u64> = words.iter().map(|word| u64::from_le_bytes(*word)).collect();
            walk.check(&words, |pfn| self.preserved.order_at(pfn))?;
            let used = words.iter().skip(1).take_while(|phys| **phys != 0);
            for phys in used {
                self.claim(*phys, Some(order))?;
                let unit = 0..1u64.checked_shl(order).ok_or(Error::Order)?;
                for page in unit {
                    let offset = page.checked_mul(self.page.bytes());
                    let phys = offset.and_then(|offset| phys.checked_add(offset));
                    pages.push(phys.ok_or(Error::Pfn)?);
                }
            }
        }
        let all = lists + pages.len() as u64;
        Ok((pages, all))
    }

    /// Reads the records of an array, a page at a time. No record is in two pages.
    pub(super) fn records<T: FromBytes>(
        &mut self,
        pages: &[u64],
        count: u64,
        mut each: impl FnMut(&mut Self, T) -> Result,
    ) -> Result {
        let mut left = count;
        for phys in pages {
            if left == 0 {
                break;
            }
            let page = self.read_page(*phys)?;
            let mut rest = page.as_slice();
            while let (Ok((record, next)), 1..) = (T::read_from_prefix(rest), left) {
                each(self, record)?;
                rest = next;
                left -= 1;
            }
        }
        match left {
            0 => Ok(()),
            _ => Err(Fault::Format(Error::Array)),
        }
    }
}

// SPDX-License-Identifier: GPL-2.0-only

//! The list of the folios of a file that are handed over, as extents.

use super::PreservedVec;
use crate::abi::{
    extents::{
        Checksum,
        Class,
        ExtentSer, //
    },
    vmalloc::KhoVmalloc,
};
use kernel::prelude::*;

/// A list of extents that grows folio by folio.
///
/// The folios themselves belong to whoever has the list.
pub struct PreservedExtents {
    list: PreservedVec<ExtentSer>,
    /// The last extent, as long as it may become longer; none if it is empty.
    run: ExtentSer,
    nr: u64,
    order: u32,
    class: Class,
    sum: Checksum,
}

impl PreservedExtents {
    /// An empty list of folios that have `1 << order` pages each.
    pub fn new(order: u32, class: Class) -> Self {
        Self {
            list: PreservedVec::new(),
            run: ExtentSer::default(),
            nr: 0,
            order,
            class,
            sum: Checksum::new(),
        }
    }

    /// For how many folios there is room; at least one. As many calls of [`Self::push`] succeed.
    pub fn room(&mut self) -> Result<usize> {
        // Each may need a record.
        Ok(self.list.room()?.len())
    }

    /// Adds the folio at the page `pfn`, with an index greater than that of the one before.
    #[inline]
    pub fn push(&mut self, pfn: u64, index: u32) -> Result {
        let next = ExtentSer::new(self.class, pfn, index);
        if !self.run.extend(&next, self.order) {
            self.flush()?;
            self.run = next;
        }
        self.nr += 1;
        Ok(())
    }

    /// Makes records of extents that cannot be joined, in ascending order. There must be [room](Self::room)
    /// for all of them: what is more is lost.
    pub fn push_runs(&mut self, runs: impl Iterator<Item = ExtentSer>) {
        let mut done = 0;
        if let Ok(room) = self.list.room() {
            for (slot, run) in room.iter_mut().zip(runs) {
                slot.write(run);
                self.sum.add_extent(&run);
                self.nr += u64::from(run.nr);
                done += 1;
            }
        }
        self.list.commit(done);
    }

    /// Makes a record of the last extent.
    fn flush(&mut self) -> Result {
        if self.run.nr != 0 {
            let slot = self.list.room()?.first_mut().ok_or(ENOMEM)?;
            slot.write(self.run);
            self.list.commit(1);
            self.sum.add_extent(&self.run);
            self.run = ExtentSer::default();
        }
        Ok(())
    }

    /// Ends the list. What it says of itself is right from here on.
    pub fn finish(&mut self) -> Result {
        self.flush()?;
        // Room that was never used is not handed over.
        if self.list.is_empty() {
            self.list = PreservedVec::new();
        }
        Ok(())
    }

    /// Number of folios.
    pub fn nr_pages(&self) -> u64 {
        self.nr
    }

    /// Base two logarithm of the number of pages in a folio.
    pub fn order(&self) -> u32 {
        self.order
    }

    /// Number of records.
    pub fn nr_extents(&self) -> Result<u32> {
        u32::try_from(self.list.len()).map_err(|_| EFBIG)
    }

    /// Checksum of the records.
    pub fn checksum(&self) -> u64 {
        self.sum.get()
    }

    /// Memory of the list, in bytes.
    pub fn bytes(&self) -> u64 {
        self.list.bytes()
    }

    /// The description of the list that the next kernel needs.
    pub fn describe(&self) -> KhoVmalloc {
        self.list.describe()
    }

    /// The records, for the test hook.
    #[cfg(CONFIG_LIVEUPDATE_TEST)]
    pub(crate) fn records(&self) -> &PreservedVec<ExtentSer> {
        &self.list
    }

    /// Checksum of the records as they are now, for the test hook.
    #[cfg(CONFIG_LIVEUPDATE_TEST)]
    pub fn test_checksum(&self) -> u64 {
        let mut sum = Checksum::new();
        let _ = self.list.try_for_each(|page| {
            page.iter().for_each(|extent| sum.add_extent(extent));
            Ok(())
        });
        sum.get()
    }

    /// Calls `f` with each extent, until it fails.
    pub fn try_for_each_extent(&self, mut f: impl FnMut(&ExtentSer) -> Result) -> Result {
        self.list
            .try_for_each(|page| page.iter().try_for_each(&mut f))?;
        if self.run.nr != 0 {
            f(&self.run)?;
        }
        Ok(())
    }

    /// Calls `f` with the page number of each folio, until it fails.
    pub fn try_for_each(&self, mut f: impl FnMut(u64) -> Result) -> Result {
        self.try_for_each_extent(|extent| {
            (0..extent.nr).try_for_each(|i| {
                // One record may stand for all memory of a guest.
                if i % 1024 == 0 {
                    crate::interrupted();
                }
                f(extent.first() + (u64::from(i) << self.order))
            })
        })
    }
}

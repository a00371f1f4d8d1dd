// SPDX-License-Identifier: GPL-2.0-only

//! What is made of runs: folios, and places in a file for them.

use super::super::{
    incoming::{
        take_run,
        waiting_order, //
    },
    RestoreError,
    PAGE, //
};
use crate::{
    abi,
    bindings,
    memfd::NewMemfd, //
};
use kernel::{
    ffi::c_ulong,
    prelude::*, //
};

/// Why folios did not get into a file; the record that this is said of may be a few after the right one.
pub(super) enum Stopped {
    /// Nothing waits to be restored there.
    NotThere,
    /// They could not be put into it.
    Refused(Error),
}

impl Stopped {
    pub(super) fn at(self, record: u64) -> RestoreError {
        match self {
            // It waits no more if it was named twice.
            Self::NotThere => RestoreError::Record(record, abi::Error::NotPreserved),
            Self::Refused(err) => RestoreError::Insert(record, err),
        }
    }
}

/// What is left of a run.
pub(super) struct Run {
    pub(super) pfn: u64,
    pub(super) index: u64,
    pub(super) left: u64,
}

impl Run {
    /// The order of the first folio, and how many of it follow one another.
    fn next(&self, max_order: u32) -> (u32, u64) {
        // In memory and in the file, pages are at multiples of the same powers of two, up to this one.
        let most = (self.pfn ^ self.index).trailing_zeros().min(max_order);
        let order = self.index.trailing_zeros().min(most);
        // There is at least one page.
        let order = order.min(self.left.checked_ilog2().unwrap_or(0));
        match order {
            // The page cache takes many single pages at once, and large folios one by one: not worth it for two.
            1 if most == 1 => (0, self.left),
            1 => (0, 2),
            _ if order == most => (order, self.left >> order),
            _ => (order, 1),
        }
    }

    /// Goes on behind so many pages, which are not more than are left.
    fn advance(&mut self, pages: u64) {
        self.pfn = self.pfn.saturating_add(pages);
        self.index = self.index.saturating_add(pages);
        self.left = self.left.saturating_sub(pages);
    }
}

/// Folios that are put into a file in one call.
const BATCH: usize = 64;

/// Folios on their way into a file.
///
/// The first `nr` were restored. The `singles` that follow are single pages that are not yet.
#[derive(Zeroable)]
pub(super) struct Batch {
    folios: [*mut bindings::folio; BATCH],
    phys: [u64; BATCH],
    indices: [c_ulong; BATCH],
    nr: usize,
    singles: usize,
}

impl Batch {
    /// Adds a single page.
    ///
    /// # Safety
    ///
    /// As [`Batch::flush`], once the page is restored.
    #[inline]
    pub(super) unsafe fn put_single(
        &mut self,
        pfn: u64,
        index: u64,
        file: &NewMemfd,
        restored: &mut u64,
    ) -> Result<(), Stopped> {
        let at = self.nr.wrapping_add(self.singles);
        if let (Some(phys), Some(slot)) = (self.phys.get_mut(at), self.indices.get_mut(at)) {
            // Each page number that was checked has an address.
            *phys = PAGE.phys(pfn).unwrap_or(u64::MAX);
            // CAST: The kernel has 64 bits.
            *slot = index as c_ulong;
            self.singles = self.singles.wrapping_add(1);
        }
        if at.wrapping_add(1) >= BATCH {
            // SAFETY: The caller guarantees it.
            unsafe { self.flush(file, restored) }?;
        }
        Ok(())
    }

    /// Adds the pages of a run.
    ///
    /// # Safety
    ///
    /// As [`Batch::flush`], once the pages are restored.
    pub(super) unsafe fn put_run(
        &mut self,
        mut run: Run,
        max_order: u32,
        file: &NewMemfd,
        restored: &mut u64,
    ) -> Result<(), Stopped> {
        self.restore_singles(restored)?;
        while run.left != 0 {
            match self.take(&mut run, max_order) {
                0 => return Err(Stopped::NotThere),
                // Their references are ours, whatever comes.
                pages => *restored = restored.saturating_add(pages),
            }
            if self.nr == BATCH {
                // SAFETY: The caller guarantees it.
                unsafe { self.flush(file, restored) }?;
            }
        }
        Ok(())
    }

    /// Restores folios of the start of `run`, as long as they have one size and there is room.
    ///
    /// Returns how many pages they have, and goes on behind them. The caller gets the references.
    fn take(&mut self, run: &mut Run, max_order: u32) -> u64 {
        let (mut order, nr) = run.next(max_order);
        let mut taken = self.take_some(run, order, nr);
        if taken == 0 {
            // A folio is on one node, which may end before it does.
            let Some(smaller) = waiting_order(run.pfn).filter(|smaller| *smaller < order) else {
                return 0;
            };
            order = smaller;
            taken = self.take_some(run, order, 1);
        }
        let pages = (taken as u64) << order;
        run.advance(pages);
        pages
    }

    fn take_some(&mut self, run: &Run, order: u32, nr: u64) -> usize {
        let folios = self.folios.get_mut(self.nr..).unwrap_or_default();
        let nr = usize::try_from(nr).map_or(folios.len(), |nr| nr.min(folios.len()));
        let folios = folios.get_mut(..nr).unwrap_or_default();
        let taken = take_run(run.pfn, order, folios);
        let indices = self.indices.get_mut(self.nr..).unwrap_or_default();
        let mut index = run.index;
        for slot in indices.iter_mut().take(taken) {
            // CAST: The kernel has 64 bits.
            *slot = index as c_ulong;
            index = index.saturating_add(1 << order);
        }
        self.nr = self.nr.saturating_add(taken);
        taken
    }

    /// Restores single pages that are not yet. The caller gets the references.
    fn restore_singles(&mut self, restored: &mut u64) -> Result<(), Stopped> {
        if self.singles == 0 {
            return Ok(());
        }
        let phys = self.phys.get(self.nr..).unwrap_or_default();
        let phys = phys.get(..self.singles).unwrap_or_default();
        let folios = self.folios.get_mut(self.nr..).unwrap_or_default();
        let nr = phys.len().min(folios.len());
        // SAFETY: There are that many addresses, of which any is allowed, and there is room for that many
        // folios.
        let taken = unsafe {
            // CAST: At most `BATCH`.
            bindings::kho_try_restore_folios(phys.as_ptr(), nr as u32, 0, folios.as_mut_ptr())
        } as usize;
        // Their references are ours, whatever comes.
        *restored = restored.saturating_add(taken as u64);
        self.nr = self.nr.saturating_add(taken);
        if taken != self.singles {
            return Err(Stopped::NotThere);
        }
        self.singles = 0;
        Ok(())
    }

    /// Puts all to their places. The references stay with the caller.
    ///
    /// # Safety
    ///
    /// Nothing uses what waits to be restored, and the indices are in the file, in order, and not in use.
    pub(super) unsafe fn flush(
        &mut self,
        file: &NewMemfd,
        restored: &mut u64,
    ) -> Result<(), Stopped> {
        self.restore_singles(restored)?;
        let folios = self.folios.get(..self.nr).unwrap_or_default();
        let indices = self.indices.get(..self.nr).unwrap_or_default();
        // SAFETY: The caller guarantees it. All pages that were preserved are valid.
        let result = unsafe { file.insert(folios, indices) };
        self.nr = 0;
        crate::interrupted();
        result.map_err(|(_, err)| Stopped::Refused(err))
    }
}

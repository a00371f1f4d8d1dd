// SPDX-License-Identifier: GPL-2.0-only

//! The pages of a file that were handed over as runs.
//!
//! KHO keeps a run in pieces that are as large as their alignment in memory allows. What they become is for
//! this kernel to decide: folios that are as large as their alignment in memory and in the file, and the
//! file, allow.

use super::{
    incoming::{
        take_split,
        waiting_order, //
    },
    incoming_extents::{
        for_each_record,
        Extents,
        Kept, //
    },
    Abi,
    Incoming,
    IncomingVec,
    RestoreError,
    PAGE, //
};
use crate::{
    abi::{
        self,
        extents::{
            Extent,
            ExtentChecker,
            ExtentList,
            ExtentSer, //
        },
        vmalloc::KhoVmalloc, //
    },
    bindings,
    memfd::NewMemfd, //
};
use core::ops::ControlFlow;
use kernel::{
    ffi::c_ulong,
    prelude::*, //
};

/// Pages of a file as the previous kernel describes them.
///
/// If this is dropped, all are freed that can be identified.
pub struct IncomingRuns(Extents);

impl IncomingRuns {
    /// Takes over what the list at `desc` names. Anything may be wrong with it.
    ///
    /// A header arrives once, in an [`Incoming`], which is used up for this.
    pub fn new<T: Abi>(header: Incoming<T>, desc: impl FnOnce(&T) -> KhoVmalloc) -> Self {
        let desc = desc(&header);
        // SAFETY: The header is used up.
        Self(unsafe { Extents::new(desc, Kept::Pieces, None) })
    }

    /// Checks the list, but not yet what is in it.
    pub fn check(mut self, list: &ExtentList) -> Result<ListedRuns, RestoreError> {
        self.0.check(list)?;
        Ok(ListedRuns(self.0))
    }
}

/// Pages with a list that is in order. If this is dropped, all are freed.
pub struct ListedRuns(Extents);

/// Checks that there is a whole number of pieces where a record says.
fn check_pieces(extent: &Extent) -> Result<(), abi::Error> {
    let (mut pfn, mut left) = (extent.pfn(), u64::from(extent.nr()));
    while left != 0 {
        let order = waiting_order(pfn).ok_or(abi::Error::NotPreserved)?;
        let pages = 1u64.checked_shl(order).filter(|pages| *pages <= left);
        let pages = pages.ok_or(abi::Error::Order)?;
        // No overflow: these are pages of the extent.
        pfn += pages;
        left -= pages;
    }
    Ok(())
}

/// Checks all records, and that everything waits that they name, but for single pages: there may be many,
/// and what is not there is found when it is restored.
fn check_records(records: &IncomingVec<ExtentSer>, list: &ExtentList) -> Result<(), RestoreError> {
    let mut checker = ExtentChecker::new(list, PAGE);
    let flow = for_each_record(records, list, |nr, record| {
        let checked = checker.check(record);
        let checked = checked.and_then(|extent| match extent.nr() {
            1 => Ok(()),
            _ => check_pieces(&extent),
        });
        match checked {
            Ok(()) => ControlFlow::Continue(()),
            Err(err) => ControlFlow::Break(RestoreError::Record(nr, err)),
        }
    });
    match flow {
        ControlFlow::Break(err) => Err(err),
        ControlFlow::Continue(()) => checker.end().map_err(RestoreError::List),
    }
}

impl ListedRuns {
    /// Checks all records, before anything is restored, and puts folios of at most `1 << max_order` pages
    /// into `file`.
    ///
    /// If it fails, all are freed, in part when the file is.
    pub fn insert_into(
        mut self,
        file: &NewMemfd,
        list: &ExtentList,
        max_order: u32,
    ) -> Result<HeldRuns, RestoreError> {
        check_records(&self.0.list, list)?;

        let batch = KBox::init(pin_init::init_zeroed::<Batch>(), GFP_KERNEL);
        let mut batch = batch.map_err(RestoreError::Create)?;
        let max_order = max_order.min(file.max_folio_order());
        let restored = &mut self.0.restored;
        let mut last = 0;
        let flow = for_each_record(&self.0.list, list, |nr, record| {
            last = nr;
            // It was checked, and is in memory that is ours.
            let (pfn, index) = (record.first(), record.index.into());
            let put = if record.nr == 1 {
                // SAFETY: All records were checked, and the batch has only what is taken for them.
                unsafe { batch.put_single(pfn, index, file, restored) }
            } else {
                let left = record.nr.into();
                // SAFETY: As above.
                unsafe { batch.put_run(Run { pfn, index, left }, max_order, file, restored) }
            };
            match put {
                Ok(()) => ControlFlow::Continue(()),
                Err(Stopped::NotThere) => {
                    // It waits no more if it was named twice.
                    let err = abi::Error::NotPreserved;
                    ControlFlow::Break(RestoreError::Record(nr, err))
                }
                Err(Stopped::Refused(err)) => ControlFlow::Break(RestoreError::Insert(nr, err)),
            }
        });
        if let ControlFlow::Break(err) = flow {
            return Err(err);
        }
        // SAFETY: As above.
        match unsafe { batch.flush(file, restored) } {
            Ok(()) => Ok(HeldRuns(self.0)),
            Err(Stopped::NotThere) => Err(RestoreError::Record(last, abi::Error::NotPreserved)),
            Err(Stopped::Refused(err)) => Err(RestoreError::Insert(last, err)),
        }
    }
}

/// Why folios did not get into a file; the record that this is said of may be a few after the right one.
enum Stopped {
    /// Nothing waits to be restored there.
    NotThere,
    /// They could not be put into it.
    Refused(Error),
}

/// What is left of a run.
struct Run {
    pfn: u64,
    index: u64,
    left: u64,
}

impl Run {
    /// The order of the first folio, and how many of it follow one another.
    fn next(&self, max_order: u32) -> (u32, u64) {
        // In memory and in the file, pages are at multiples of the same powers of two, up to this one.
        let most = (self.pfn ^ self.index).trailing_zeros().min(max_order);
        let order = self.index.trailing_zeros().min(most);
        // There is at least one page.
        let order = order.min(self.left.checked_ilog2().unwrap_or(0));
        let nr = if order == most { self.left >> order } else { 1 };
        (order, nr)
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
struct Batch {
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
    unsafe fn put_single(
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
    unsafe fn put_run(
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
            // The next piece may be smaller than the alignment allows, where memory of a node ends.
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
        let taken = take_split(run.pfn, order, folios);
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
    unsafe fn flush(&mut self, file: &NewMemfd, restored: &mut u64) -> Result<(), Stopped> {
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

/// The folios of a restored file, each with a reference that keeps it where it is.
///
/// As long as this exists, devices of the previous kernel may still write to the memory: it is not
/// migrated, swapped out or given to anybody else, even if the file is truncated or closed.
pub struct HeldRuns(#[expect(dead_code, reason = "owned")] Extents);

// SPDX-License-Identifier: GPL-2.0-only

//! The pages of a file that are handed over as runs, whatever folios they are in.
//!
//! The mapping of the file is frozen, so that only the kernel itself might take a page out of it or
//! replace it: reclaim, migration, compaction, collapse into huge pages. All of these give up if somebody
//! has a reference of the folio, so that no pin is needed to keep it where it is. A pin is needed to bring it
//! there: it allocates what is missing, reads what was swapped out, and moves what is in memory that has to
//! stay movable, as the scratch areas of KHO have. So folios are pinned only where there is such a page,
//! until there are references.

use super::{
    PreservedExtents,
    PAGE, //
};
use crate::{
    abi::extents::{
        Class,
        ExtentSer, //
    },
    bindings::{
        self,
        kho_run, //
    },
    health::BrokenPages,
    pin::PinBuffer,
    shmem::Shmem, //
};
use core::num::NonZeroU32;
use kernel::{
    error::to_result,
    prelude::*, //
};

/// How often a folio that reclaim takes away while it is looked up is looked up again.
const RETRIES: u32 = 16;

/// Runs that are preserved in one call.
const BATCH: usize = 256;

/// All pages of a file, each folio with a reference, and preserved, and the list of them.
///
/// # Invariants
///
/// This owns a reference of each folio that has a page of `extents` or of the first `nr` of `runs`. In a
/// record and in a run there are pages of whole folios, but for the last one, of which only the first pages
/// may be. What is in `extents` is preserved, each record as the run that it is.
pub struct PreservedRuns {
    extents: PreservedExtents,
    runs: KBox<[kho_run; BATCH]>,
    nr: usize,
    /// The index in the file of the first of `runs`.
    first: u32,
    /// Before any of them was looked at.
    broken: BrokenPages,
}

impl PreservedRuns {
    /// Preserves all pages of `file`, filling its holes. Where it is necessary, `chunk` pages are pinned at
    /// a time.
    ///
    /// The mapping of `file` must be frozen, or `EIO` is returned, or `EAGAIN`.
    pub fn new(file: Shmem<'_>, chunk: NonZeroU32) -> Result<Self> {
        let end = u32::try_from(PAGE.pages(file.size())).map_err(|_| EFBIG)?;
        // INVARIANT: There are no pages.
        let mut this = Self {
            extents: PreservedExtents::new(0, Class::Shared),
            runs: KBox::init(pin_init::init_zeroed(), GFP_KERNEL)?,
            nr: 0,
            first: 0,
            broken: BrokenPages::count(),
        };
        let mut buffer = PinBuffer::new();
        let mut next = 0u64;
        let mut retries = 0;
        while next < u64::from(end) {
            let before = next;
            let mut result = this.take(file, &mut next, end);
            if result == Err(EAGAIN) {
                let last = file.size().saturating_sub(1);
                let pinned =
                    buffer.pin_range(file.file(), next << PAGE.shift(), last, chunk.get())?;
                result = this.take(file, &mut next, end);
                drop(pinned);
            }
            retries = if next == before { retries + 1 } else { 0 };
            match result {
                Err(err) if err != EAGAIN || retries > RETRIES => return Err(err),
                _ => {}
            }
            if crate::interrupted() {
                return Err(EINTR);
            }
        }
        this.preserve(this.nr)?;
        this.extents.finish()?;
        Ok(this)
    }

    /// Takes references of what follows, as far as it is where it can stay.
    fn take(&mut self, file: Shmem<'_>, next: &mut u64, end: u32) -> Result {
        // The last one may become longer.
        if self.nr == BATCH {
            self.preserve(BATCH - 1)?;
        }
        // CAST: At most `BATCH`.
        let mut nr = self.nr as u32;
        // SAFETY: The file is alive, and in shared memory. There are that many runs.
        let ret = unsafe {
            bindings::luo_helper_take_runs(
                file.as_ptr(),
                next,
                end.into(),
                self.runs.as_mut_ptr(),
                &raw mut nr,
                BATCH as u32,
            )
        };
        // INVARIANT: The function took the references, of whole folios in the order of the file.
        self.nr = (nr as usize).min(BATCH);
        to_result(ret)
    }

    /// Preserves the first `nr` runs.
    fn preserve(&mut self, nr: usize) -> Result {
        let mut done = 0;
        let mut result = Ok(());
        while done < nr && result.is_ok() {
            result = self.preserve_some(done, nr).map(|some| done += some);
        }
        // INVARIANT: Those are in `extents` now.
        if let Some(runs) = self.runs.get_mut(..self.nr) {
            // Not more than there are.
            runs.rotate_left(done);
        }
        self.nr -= done;
        result.inspect_err(|err| {
            if *err == EINVAL {
                pr_err!("memory that the next kernel needs for itself cannot be preserved\n");
            }
        })
    }

    /// Preserves runs from `done` to `nr`, as many as there is room for in the list; how many is returned.
    fn preserve_some(&mut self, done: usize, nr: usize) -> Result<usize> {
        let room = self.extents.room()?;
        let runs = self.runs.get(done..nr).ok_or(EINVAL)?;
        let runs = runs.get(..room).unwrap_or(runs);
        // SAFETY: There are that many runs.
        // CAST: At most `BATCH`.
        to_result(unsafe { bindings::kho_preserve_runs(runs.as_ptr(), runs.len() as u32) })?;
        // INVARIANT: They are preserved.
        self.extents.push_runs(runs.iter().map(|run| {
            // CAST: A file has less than 2^32 pages.
            let next = ExtentSer::run(
                Class::Shared,
                run.pfn as u64,
                self.first,
                run.nr_pages as u32,
            );
            self.first = self.first.wrapping_add(next.nr);
            next
        }));
        Ok(runs.len())
    }

    /// The list of them.
    pub fn list(&self) -> &PreservedExtents {
        &self.extents
    }

    /// Memory of the pages and of their list, in bytes.
    pub fn bytes(&self) -> u64 {
        (self.extents.nr_pages() << PAGE.shift()).saturating_add(self.extents.bytes())
    }

    /// Fails with `EHWPOISON` if memory broke since it was preserved.
    pub fn check_health(&self) -> Result {
        if self.broken.is_unchanged() {
            return Ok(());
        }
        self.extents.try_for_each_extent(|extent| {
            // SAFETY: By the type invariants, we have references of the folios.
            let poisoned =
                unsafe { bindings::luo_helper_run_poisoned(extent.first(), extent.nr.into()) };
            if poisoned {
                return Err(EHWPOISON);
            }
            Ok(())
        })
    }
}

impl Drop for PreservedRuns {
    fn drop(&mut self) {
        let _ = self.extents.try_for_each_extent(|extent| {
            let run = kho_run {
                // CAST: The kernel has 64 bits.
                pfn: extent.first() as usize,
                nr_pages: extent.nr as usize,
            };
            // SAFETY: By the type invariants the run is preserved, and the references are ours. They
            // are given back once.
            unsafe {
                bindings::kho_unpreserve_runs(&raw const run, 1);
                bindings::luo_helper_put_run(extent.first(), extent.nr.into());
            }
            crate::interrupted();
            Ok(())
        });
        for run in self.runs.iter().take(self.nr) {
            // SAFETY: By the type invariants, the references are ours. They are given back once.
            unsafe { bindings::luo_helper_put_run(run.pfn as u64, run.nr_pages as u64) };
        }
    }
}

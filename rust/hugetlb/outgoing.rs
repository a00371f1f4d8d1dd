// SPDX-License-Identifier: GPL-2.0-only

//! The huge pages of a file that are handed over.

use super::{
    pools::Counted,
    Hugetlb, //
};
use crate::{
    abi::{
        hugetlb::{
            Checksum,
            ExtentSer, //
        },
        vmalloc::KhoVmalloc, //
    },
    bindings,
    kho::{
        PreservedVec,
        PAGE, //
    },
    pin::{
        PinBuffer,
        Pinned, //
    }, //
};
use kernel::{
    error::to_result,
    prelude::*, //
};

/// Huge pages that are pinned, and preserved, in one call.
const BATCH: usize = 64;

/// All huge pages of a file, pinned and preserved, and the list of them.
///
/// # Invariants
///
/// For each huge page of each record, and of `run`, there is a pinned folio of `1 << order` pages, which
/// this owns the pin of and which is marked as preserved.
pub struct PreservedHugePages {
    extents: PreservedVec<ExtentSer>,
    /// The last extent, as long as it may become longer; none if it is empty.
    run: ExtentSer,
    nr: u32,
    order: u32,
    sum: Checksum,
    /// The first so many huge pages are counted for the pool of the next kernel.
    counted: Option<(Counted, u32)>,
}

impl PreservedHugePages {
    /// Preserves all huge pages of `file`, filling its holes. Unless they are to be surplus pages of the
    /// next kernel, it is told at boot how many they are.
    ///
    /// The size of `file` must not change meanwhile, or `EIO` is returned.
    pub fn new(file: Hugetlb<'_>, surplus: bool) -> Result<Self> {
        let order = file.order();
        let size = file.size();
        let shift = order.checked_add(PAGE.shift()).filter(|shift| *shift < 63);
        let shift = shift.ok_or(EFBIG)?;
        let end = u32::try_from(size.div_ceil(1 << shift)).map_err(|_| EFBIG)?;
        let mut this = Self {
            extents: PreservedVec::new(),
            run: ExtentSer::default(),
            nr: 0,
            order,
            sum: Checksum::new(),
            counted: if surplus {
                None
            } else {
                Some((Counted::new()?, 0))
            },
        };
        let mut buffer = PinBuffer::new();
        while this.nr < end {
            let start = u64::from(this.nr) << shift;
            let max = end.saturating_sub(this.nr).min(BATCH as u32);
            let pinned = buffer.pin_range(file.file(), start, size.saturating_sub(1), max)?;
            this.add(file, pinned)?;
            // SAFETY: FFI call without requirements but that it may sleep.
            if unsafe { bindings::luo_helper_interrupted() } {
                return Err(EINTR);
            }
        }
        this.flush()?;
        this.count()?;
        Ok(this)
    }

    /// Adds huge pages that follow, up to the first error.
    fn add(&mut self, file: Hugetlb<'_>, mut pinned: Pinned<'_>) -> Result {
        while !pinned.is_empty() {
            let room = self.extents.room()?;
            let mut pfns = [0u64; BATCH];
            // Each may need a record.
            let nr = pinned.len().min(room.len()).min(BATCH);
            let mut done = 0;
            // SAFETY: There are at least `nr` folios, all pinned, and as many numbers. The file is
            // alive, and has huge pages.
            let ret = unsafe {
                bindings::luo_helper_hugetlb_preserve(
                    pinned.as_mut_ptr(),
                    // CAST: At most `BATCH`.
                    nr as u32,
                    file.as_ptr(),
                    u64::from(self.nr) << self.order,
                    pfns.as_mut_ptr(),
                    &raw mut done,
                )
            };
            let done = (done as usize).min(nr);
            // INVARIANT: The folios are preserved, and their pins go over to us.
            pinned.take(done);
            let mut used = 0;
            let mut room = room.iter_mut();
            for pfn in pfns.iter().take(done) {
                if !self.run.extend(*pfn, self.nr, self.order) {
                    let next = ExtentSer {
                        pfn: *pfn,
                        index: self.nr,
                        nr: 1,
                    };
                    let full = core::mem::replace(&mut self.run, next);
                    if full.nr != 0 {
                        self.sum.add_extent(&full);
                        // There is a place: they are at most as many as there are huge pages.
                        if let Some(slot) = room.next() {
                            slot.write(full);
                            used += 1;
                        }
                    }
                }
                self.nr += 1;
            }
            self.extents.commit(used);
            to_result(ret)?;
        }
        Ok(())
    }

    /// Adds the last record.
    fn flush(&mut self) -> Result {
        if self.run.nr != 0 {
            let slot = self.extents.room()?.first_mut().ok_or(ENOMEM)?;
            slot.write(self.run);
            self.extents.commit(1);
            self.sum.add_extent(&self.run);
            self.run = ExtentSer::default();
        }
        Ok(())
    }

    /// Counts all huge pages for the pool of the next kernel.
    fn count(&mut self) -> Result {
        let order = self.order;
        let Some((counted, mut nr)) = self.counted.take() else {
            return Ok(());
        };
        let result = self.try_for_each(|folio| {
            // SAFETY: By the type invariants, the folio is pinned.
            counted.add(order, unsafe { bindings::luo_helper_folio_nid(folio) })?;
            nr += 1;
            Ok(())
        });
        self.counted = Some((counted, nr));
        result
    }

    /// Number of huge pages.
    pub fn nr_pages(&self) -> u32 {
        self.nr
    }

    /// Base two logarithm of the number of pages in a huge page.
    pub fn order(&self) -> u32 {
        self.order
    }

    /// Number of records.
    pub fn nr_extents(&self) -> Result<u32> {
        u32::try_from(self.extents.len()).map_err(|_| EFBIG)
    }

    /// Checksum of the records.
    pub fn checksum(&self) -> u64 {
        self.sum.get()
    }

    /// Memory of the huge pages and of their list, in bytes.
    pub fn bytes(&self) -> u64 {
        (u64::from(self.nr) << self.order << PAGE.shift()).saturating_add(self.extents.bytes())
    }

    /// The description of the list that the next kernel needs.
    pub fn describe(&self) -> KhoVmalloc {
        self.extents.describe()
    }

    /// The list, for the test hook.
    #[cfg(CONFIG_LIVEUPDATE_TEST)]
    pub(crate) fn records(&self) -> &PreservedVec<ExtentSer> {
        &self.extents
    }

    /// Calls `f` for each huge page, until it fails.
    ///
    /// What `f` gets is a folio that is pinned and preserved, by the type invariants.
    fn try_for_each(&self, mut f: impl FnMut(*mut bindings::folio) -> Result) -> Result {
        let mut all = |extent: &ExtentSer| {
            (0..extent.nr).try_for_each(|i| {
                let pfn = extent.pfn + (u64::from(i) << self.order);
                // SAFETY: By the type invariants there is a folio.
                f(unsafe { bindings::luo_helper_pfn_folio(pfn) })
            })
        };
        self.extents.try_for_each(|page| {
            // SAFETY: FFI call without requirements but that it may sleep.
            let _ = unsafe { bindings::luo_helper_interrupted() };
            page.iter().try_for_each(&mut all)
        })?;
        all(&self.run)
    }

    /// Fails with `EHWPOISON` if memory broke since it was preserved.
    pub fn check_health(&self) -> Result {
        if !cfg!(CONFIG_MEMORY_FAILURE) {
            return Ok(());
        }
        self.try_for_each(|folio| {
            // SAFETY: By the type invariants, the folio is pinned.
            match unsafe { bindings::luo_helper_folio_poisoned(folio) } {
                true => Err(EHWPOISON),
                false => Ok(()),
            }
        })
    }
}

impl Drop for PreservedHugePages {
    fn drop(&mut self) {
        let mut counted = self.counted.take();
        let _ = self.try_for_each(|folio| {
            if let Some((counted, left @ 1..)) = &mut counted {
                // SAFETY: By the type invariants, the folio is pinned.
                counted.remove(self.order, unsafe { bindings::luo_helper_folio_nid(folio) });
                *left -= 1;
            }
            // SAFETY: By the type invariants, we preserved and pinned the folio, and nobody unpinned it
            // but this, once.
            unsafe {
                bindings::kho_unpreserve_folio(folio);
                bindings::unpin_folio(folio);
            }
            Ok(())
        });
    }
}

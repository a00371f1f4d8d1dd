// SPDX-License-Identifier: GPL-2.0-only

//! The huge pages of a file that are handed over.

use super::{
    pools::Counted,
    Hugetlb, //
};
use crate::{
    abi::extents::Class,
    bindings,
    kho::{
        PreservedExtents,
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
/// For each huge page of `extents` there is a pinned folio, which this owns the pin of and which is
/// marked as preserved.
pub struct PreservedHugePages {
    extents: PreservedExtents,
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
            extents: PreservedExtents::new(order, Class::Shared),
            counted: if surplus {
                None
            } else {
                Some((Counted::new()?, 0))
            },
        };
        let mut buffer = PinBuffer::new();
        let mut next = 0;
        while next < end {
            let start = u64::from(next) << shift;
            let max = end.saturating_sub(next).min(BATCH as u32);
            let pinned = buffer.pin_range(file.file(), start, size.saturating_sub(1), max)?;
            this.add(file, pinned, &mut next)?;
            // SAFETY: FFI call without requirements but that it may sleep.
            if unsafe { bindings::luo_helper_interrupted() } {
                return Err(EINTR);
            }
        }
        this.extents.finish()?;
        this.count()?;
        Ok(this)
    }

    /// Adds huge pages that follow from `next` on, up to the first error.
    fn add(&mut self, file: Hugetlb<'_>, mut pinned: Pinned<'_>, next: &mut u32) -> Result {
        while !pinned.is_empty() {
            let mut pfns = [0u64; BATCH];
            let nr = pinned.len().min(self.extents.room()?).min(BATCH);
            let mut done = 0;
            // SAFETY: There are at least `nr` folios, all pinned, and as many numbers. The file is
            // alive, and has huge pages.
            let ret = unsafe {
                bindings::luo_helper_hugetlb_preserve(
                    pinned.as_mut_ptr(),
                    // CAST: At most `BATCH`.
                    nr as u32,
                    file.as_ptr(),
                    u64::from(*next) << self.extents.order(),
                    pfns.as_mut_ptr(),
                    &raw mut done,
                )
            };
            let done = (done as usize).min(nr);
            // INVARIANT: The folios are preserved, and their pins go over to us.
            pinned.take(done);
            for pfn in pfns.iter().take(done) {
                // There is room.
                self.extents.push(*pfn, *next)?;
                *next += 1;
            }
            to_result(ret)?;
        }
        Ok(())
    }

    /// Counts all huge pages for the pool of the next kernel.
    fn count(&mut self) -> Result {
        let order = self.extents.order();
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

    /// The list of them.
    pub fn list(&self) -> &PreservedExtents {
        &self.extents
    }

    /// Memory of the huge pages and of their list, in bytes.
    pub fn bytes(&self) -> u64 {
        (self.extents.nr_pages() << self.extents.order() << PAGE.shift())
            .saturating_add(self.extents.bytes())
    }

    /// Calls `f` for each huge page, until it fails.
    ///
    /// What `f` gets is a folio that is pinned and preserved, by the type invariants.
    fn try_for_each(&self, mut f: impl FnMut(*mut bindings::folio) -> Result) -> Result {
        self.extents.try_for_each(|pfn| {
            // SAFETY: By the type invariants there is a folio.
            f(unsafe { bindings::luo_helper_pfn_folio(pfn) })
        })
    }

    /// Fails with `EHWPOISON` if memory broke since it was preserved, and with `EOPNOTSUPP` if it got tags.
    pub fn check_health(&self) -> Result {
        self.try_for_each(|folio| {
            // SAFETY: By the type invariants, the folio is pinned.
            to_result(unsafe { bindings::luo_helper_hugetlb_check(folio) })
        })
    }
}

impl Drop for PreservedHugePages {
    fn drop(&mut self) {
        let mut counted = self.counted.take();
        let order = self.extents.order();
        let _ = self.try_for_each(|folio| {
            if let Some((counted, left @ 1..)) = &mut counted {
                // SAFETY: By the type invariants, the folio is pinned.
                counted.remove(order, unsafe { bindings::luo_helper_folio_nid(folio) });
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

// SPDX-License-Identifier: GPL-2.0-only

//! The memory of a guest that is handed over.

use super::{
    FrozenGuestMemfd,
    GuestMemfd, //
};
use kernel::{
    error::to_result,
    ffi::c_ulong,
    prelude::*, //
};
use luo::{
    abi::{
        extents::Class,
        guest_memfd::policy::Policy, //
    },
    bindings,
    coco::HostAccess,
    health::BrokenPages,
    kho::{
        PreservedExtents,
        PAGE, //
    },
    test::{
        mistake,
        Mistake, //
    }, //
};

const BATCH: usize = bindings::LUO_HELPER_GMEM_BATCH as usize;

/// All pages of a file, preserved, and the list of them.
///
/// # Invariants
///
/// Each page of `extents` is a folio that is in the file, and is marked as preserved, which is ours to
/// undo. As the file is frozen it stays there, and nothing moves it: KVM does not allow that.
pub(crate) struct PreservedPages {
    extents: PreservedExtents,
    /// For pages that were never used.
    access: Option<HostAccess>,
    /// Before any of them was looked at.
    broken: BrokenPages,
    // Last: the memory may go only when it is not preserved any more.
    frozen: FrozenGuestMemfd,
}

impl PreservedPages {
    /// Freezes `file` and preserves all its pages. Holes stay holes.
    ///
    /// Fails with `EOPNOTSUPP` if the host would have to clear memory that it may not touch.
    pub(crate) fn new(file: GuestMemfd<'_>, class: Class) -> Result<Self> {
        let mut this = Self {
            extents: PreservedExtents::new(0, class),
            access: HostAccess::to(class),
            broken: BrokenPages::count(),
            frozen: file.freeze()?,
        };
        let mut next = 0;
        while this.add(&mut next)? {
            if luo::interrupted() {
                return Err(EINTR);
            }
        }
        this.extents.finish()?;
        this.check_count()?;
        Ok(this)
    }

    /// Adds pages from the index `next` on, up to the first error. Returns whether there were any.
    fn add(&mut self, next: &mut u64) -> Result<bool> {
        let mut pfns = [0u64; BATCH];
        let mut indices = [0u64; BATCH];
        let (mut done, mut nr_unused) = (0, 0);
        let unused = match self.access {
            _ if mistake(Mistake::NotCleared) => bindings::LUO_HELPER_GMEM_UNUSED_KEEP,
            Some(_) => bindings::LUO_HELPER_GMEM_UNUSED_CLEAR,
            None => bindings::LUO_HELPER_GMEM_UNUSED_REFUSE,
        };
        let max = self.extents.room()?.min(BATCH);
        // SAFETY: The file is alive and frozen, and there is room for `BATCH` numbers.
        let ret = unsafe {
            bindings::luo_helper_gmem_preserve(
                self.frozen.file.as_ptr(),
                // CAST: The kernel has 64 bits.
                *next as c_ulong,
                // CAST: At most `BATCH`.
                max as u32,
                unused,
                pfns.as_mut_ptr(),
                indices.as_mut_ptr(),
                &raw mut done,
                &raw mut nr_unused,
            )
        };
        if let Some(access) = self.access.filter(|_| nr_unused != 0) {
            access.used();
        }
        let mut result = to_result(ret);
        for (pfn, index) in pfns.iter().zip(&indices).take(done as usize) {
            // INVARIANT: It was just preserved. There is room in the list.
            let pushed = u32::try_from(*index)
                .map_err(|_| EFBIG)
                .and_then(|index| self.extents.push(*pfn, index));
            if let Err(err) = pushed {
                // SAFETY: It was just preserved, and is not in the list.
                unsafe {
                    bindings::kho_unpreserve_folio(bindings::luo_helper_pfn_folio(*pfn));
                }
                result = Err(err);
            }
            *next = index.saturating_add(1);
        }
        result.map(|()| done != 0)
    }

    /// The list of them.
    pub(crate) fn list(&self) -> &PreservedExtents {
        &self.extents
    }

    /// Memory of the pages and of their list, in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        (self.extents.nr_pages() << PAGE.shift()).saturating_add(self.extents.bytes())
    }

    /// The first memory policy that is not before the page `index`, in a file of `end` pages. They stay as
    /// they are.
    pub(crate) fn policy(&self, index: u32, end: u32) -> Result<Option<Policy>> {
        self.frozen.policy(index, end)
    }

    /// Fails with `EIO` if the file has other pages than those that are preserved.
    fn check_count(&self) -> Result {
        if self.frozen.nr_pages() == self.extents.nr_pages() {
            Ok(())
        } else {
            Err(EIO)
        }
    }

    /// Fails with `EHWPOISON` if memory broke since it was preserved, or with `EIO` if pages were added.
    pub(crate) fn check_health(&self) -> Result {
        self.check_count()?;
        if self.broken.is_unchanged() {
            return Ok(());
        }
        self.extents.try_for_each(|pfn| {
            // SAFETY: By the type invariants, there is a folio.
            match unsafe {
                bindings::luo_helper_folio_poisoned(bindings::luo_helper_pfn_folio(pfn))
            } {
                true => Err(EHWPOISON),
                false => Ok(()),
            }
        })
    }
}

impl Drop for PreservedPages {
    fn drop(&mut self) {
        let _ = self.extents.try_for_each(|pfn| {
            // SAFETY: By the type invariants, we preserved the folio, and it is still there.
            unsafe { bindings::kho_unpreserve_folio(bindings::luo_helper_pfn_folio(pfn)) };
            Ok(())
        });
    }
}

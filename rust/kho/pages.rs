// SPDX-License-Identifier: GPL-2.0-only

//! Single pages that something other than the CPU goes on using, such as those of a page table.
//!
//! They are not ours to free as soon as nobody wants them: somebody has to know that they are not in use any
//! more.

use super::{
    incoming::{
        take_folio,
        Taken, //
    },
    Abi,
    Incoming,
    IncomingList,
    PreservedVec,
    PAGE, //
};
use crate::{
    abi::{
        self,
        iommu::TableSer,
        vmalloc::{
            CheckedVmalloc,
            KhoVmalloc, //
        }, //
    },
    bindings, //
};
use core::mem::ManuallyDrop;
use kernel::{
    error::to_result,
    prelude::*, //
};

/// Order of the largest preservation that is looked for.
const MAX_ORDER: u32 = 30;

/// Whether the page `pfn` is preserved for the next kernel. If so, how many pages are from it on by the same
/// preservation.
///
/// Any number may be asked for.
pub fn is_preserved(pfn: u64) -> Option<u64> {
    for order in 0..=MAX_ORDER {
        let mask = (1u64 << order) - 1;
        let phys = PAGE.phys(pfn & !mask)?;
        // SAFETY: FFI call that is defined for any address.
        let found = unsafe { bindings::kho_outgoing_order(phys) };
        // What starts there may be smaller, and end before the page.
        let size = u32::try_from(found).ok().and_then(|n| 1u64.checked_shl(n));
        if let Some(left) = size.and_then(|size| size.checked_sub(pfn & mask)) {
            if left != 0 {
                return Some(left);
            }
        }
    }
    None
}

/// Pages that are preserved, and the list of them.
///
/// # Invariants
///
/// For each record, the page is preserved by this.
pub struct PreservedPages(PreservedVec<TableSer>);

impl PreservedPages {
    /// No pages.
    pub fn new() -> Self {
        // INVARIANT: There are no records.
        Self(PreservedVec::new())
    }

    /// Preserves a page.
    ///
    /// # Safety
    ///
    /// The page must be a folio of its own, and must not be freed before this is dropped.
    pub unsafe fn push(&mut self, phys: u64) -> Result {
        let pfn = phys >> PAGE.shift();
        let room = self.0.room()?;
        let slot = room.first_mut().ok_or(ENOMEM)?;
        // SAFETY: The caller guarantees that there is a folio.
        to_result(unsafe { bindings::kho_preserve_folio(bindings::luo_helper_pfn_folio(pfn)) })?;
        slot.write(TableSer::new(pfn));
        // INVARIANT: It is preserved.
        self.0.commit(1);
        Ok(())
    }

    /// Number of pages.
    pub fn len(&self) -> u64 {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Memory of the pages and of their list, in bytes.
    pub fn bytes(&self) -> u64 {
        (self.len() << PAGE.shift()).saturating_add(self.0.bytes())
    }

    /// The description of the list that the next kernel needs.
    pub fn describe(&self) -> KhoVmalloc {
        self.0.describe()
    }
}

impl Default for PreservedPages {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for PreservedPages {
    fn drop(&mut self) {
        let _ = self.0.try_for_each(|page| {
            for record in page {
                // SAFETY: By the type invariants it was preserved, and whoever called `push()` has kept it.
                unsafe {
                    let folio = bindings::luo_helper_pfn_folio(record.pfn);
                    bindings::kho_unpreserve_folio(folio);
                }
            }
            crate::interrupted();
            Ok(())
        });
    }
}

/// Pages that arrived.
///
/// Dropping this leaves the pages alone, for as long as this kernel runs: only [`Self::release`] frees them.
///
/// # Invariants
///
/// The pages of the first `taken` records of the list were restored, and we own a reference of each. The list
/// was checked if there are any.
pub struct IncomingPages {
    list: IncomingList<TableSer>,
    taken: u64,
}

impl IncomingPages {
    /// Takes over the list that a header has. Anything may be wrong with it.
    pub fn take<T: Abi>(
        header: &mut Incoming<T>,
        which: impl FnOnce(&mut T) -> &mut KhoVmalloc,
    ) -> Self {
        // INVARIANT: None was restored.
        Self {
            list: IncomingList::take(header, which),
            taken: 0,
        }
    }

    /// Checks the list, and restores all `nr` pages in it, so that nobody else can get one.
    ///
    /// This is to be called once.
    pub fn check(&mut self, list: &CheckedVmalloc, nr: u64) -> Result<(), abi::Error> {
        if self.taken != 0 {
            return Err(abi::Error::Array);
        }
        self.list.check(Some(list))?;
        let taken = &mut self.taken;
        self.list.try_for_each(nr, |record| {
            if !record.is_intact() {
                return Err(abi::Error::Checksum);
            }
            take_folio(record.pfn, 0).ok_or(abi::Error::NotPreserved)?;
            // INVARIANT: It was just restored, in the order of the list.
            *taken += 1;
            Ok(())
        })
    }

    /// Number of pages that were restored.
    pub fn len(&self) -> u64 {
        self.taken
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.taken == 0
    }

    /// Calls `f` with the page number of each, until it fails.
    pub fn try_for_each(&self, mut f: impl FnMut(u64) -> Result) -> Result {
        self.list.try_for_each(self.taken, |record| f(record.pfn))
    }

    /// Lets the words of these pages be read, and of no others.
    pub fn reader(&self) -> Result<PageReader<'_>> {
        let nr = usize::try_from(self.taken).map_err(|_| ENOMEM)?;
        let mut pfns = VVec::with_capacity(nr, GFP_KERNEL)?;
        self.try_for_each(|pfn| Ok(pfns.push(pfn, GFP_KERNEL)?))?;
        // SAFETY: There are so many numbers, and the function compares two of them.
        unsafe {
            bindings::sort_nonatomic(
                pfns.as_mut_ptr().cast(),
                pfns.len(),
                size_of::<u64>(),
                Some(compare),
                None,
            );
        }
        // INVARIANT: These are the records whose pages were restored, and they were just sorted.
        Ok(PageReader { pfns, _pages: self })
    }

    /// Frees the pages. Nothing may use them any more.
    pub fn release(self) {
        let _ = self.list.try_for_each(self.taken, |record| {
            // SAFETY: By the type invariants it was restored, and our reference is released here only.
            unsafe {
                let folio = bindings::luo_helper_pfn_folio(record.pfn);
                bindings::luo_helper_folio_put(folio);
            }
            Ok::<(), Error>(())
        });
        crate::interrupted();
    }
}

/// # Safety
///
/// Both must be valid and aligned, and nobody may write to them.
unsafe extern "C" fn compare(a: *const c_void, b: *const c_void) -> c_int {
    // SAFETY: The caller guarantees it.
    let (a, b) = unsafe { (*a.cast::<u64>(), *b.cast::<u64>()) };
    // CAST: -1, 0 or 1.
    a.cmp(&b) as c_int
}

/// Reads pages that arrived.
///
/// # Invariants
///
/// `pfns` are those of pages that were restored, in ascending order.
pub struct PageReader<'a> {
    pfns: VVec<u64>,
    // The pages stay as long as this.
    _pages: &'a IncomingPages,
}

impl PageReader<'_> {
    /// A word of the page at an address, if it is one of these.
    ///
    /// Devices may be reading it, and nobody writes to it.
    pub fn word(&self, phys: u64, index: usize) -> Option<u64> {
        if !PAGE.is_aligned(phys) || self.pfns.binary_search(&(phys >> PAGE.shift())).is_err() {
            return None;
        }
        // SAFETY: By the type invariants it was restored, with this order; it is kept again.
        let page = ManuallyDrop::new(unsafe { Taken::again(phys, 0)? });
        page.as_slice::<u64>().get(index).copied()
    }
}

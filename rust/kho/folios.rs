// SPDX-License-Identifier: GPL-2.0-only

//! The folios of a file that are handed over.

use super::{
    Abi,
    PreservedVec,
    PAGE, //
};
use crate::{
    abi::{
        memfd::FolioSer,
        pin::PinCursor,
        vmalloc::KhoVmalloc, //
    },
    bindings,
    pin::{
        PinBuffer,
        PinnedFolio, //
    },
    shmem::Shmem,
};
use core::num::NonZeroU32;
use kernel::prelude::*;

/// How often a folio that reclaim takes away while it is pinned is looked up again.
const RETRIES: u32 = 16;

/// Where the helper puts the order of a folio.
const ORDER_BITS: u32 = bindings::LUO_HELPER_ORDER_BITS;

/// A record of one folio in a list that is handed over.
///
/// # Safety
///
/// The page number and index of what [`FolioRecord::new`] returned are those it was given.
pub unsafe trait FolioRecord: Abi {
    /// A record for valid and dirty memory, or [`None`] if a number does not fit.
    fn new(pfn: u64, index: u64) -> Option<Self>;
    /// Page number; 0 if there is no folio.
    fn pfn(&self) -> u64;
    /// Index in the file, in pages.
    fn index(&self) -> u64;
    /// Whether the memory is valid.
    fn is_uptodate(&self) -> bool;
    /// Whether the record could be one: nothing is set that must not be.
    fn is_plausible(&self) -> bool;
}

// SAFETY: `FolioSer` stores both numbers unchanged, or refuses them.
unsafe impl FolioRecord for FolioSer {
    #[inline]
    fn new(pfn: u64, index: u64) -> Option<Self> {
        Self::new(pfn, Self::FLAGS, index)
    }

    #[inline]
    fn pfn(&self) -> u64 {
        self.pfn()
    }

    #[inline]
    fn index(&self) -> u64 {
        self.index()
    }

    #[inline]
    fn is_uptodate(&self) -> bool {
        self.flags() & Self::UPTODATE != 0
    }

    #[inline]
    fn is_plausible(&self) -> bool {
        self.pfn() != 0 && self.flags() & !Self::FLAGS == 0
    }
}

/// All folios of a file, pinned and preserved, and the list of them.
///
/// # Invariants
///
/// For each record there is a pinned folio at its page number, which this owns the pin of and which
/// is marked as preserved. A pinned folio is not split, so that its order stays what it was.
pub struct PreservedFolios<R: FolioRecord> {
    records: PreservedVec<R>,
    pages: u64,
}

impl<R: FolioRecord> PreservedFolios<R> {
    /// Preserves all folios of `file`, filling its holes. `chunk` pages are pinned at a time.
    ///
    /// The size of `file` must not change meanwhile, or `EIO` is returned.
    pub fn new(file: Shmem<'_>, chunk: NonZeroU32) -> Result<Self> {
        let mut this = Self {
            records: PreservedVec::new(),
            pages: 0,
        };
        let mut cursor = PinCursor::new(file.size(), PAGE, chunk).ok_or(EFBIG)?;
        let mut buffer = PinBuffer::new();
        let mut retries = 0;

        while let Some(chunk) = cursor.chunk() {
            if this.pages != chunk.start >> PAGE.shift() {
                return Err(EIO);
            }
            let mut last = None;
            for folio in buffer.pin(file, chunk)? {
                let index = this.pages;
                match this.add(file, folio) {
                    Ok(order) => last = Some((index, order)),
                    Err(EAGAIN) if retries < RETRIES => {
                        retries += 1;
                        break;
                    }
                    Err(err) => return Err(err),
                }
            }
            if let Some((index, order)) = last {
                retries = 0;
                if !cursor.advance(index, order) {
                    return Err(EIO);
                }
            }
            // SAFETY: FFI call without requirements but that it may sleep.
            if unsafe { bindings::luo_helper_interrupted() } {
                return Err(EINTR);
            }
        }
        Ok(this)
    }

    /// Adds the folio that follows, and returns its order.
    #[inline]
    fn add(&mut self, file: Shmem<'_>, folio: PinnedFolio) -> Result<u32> {
        let index = self.pages;
        self.records.reserve_one()?;

        // SAFETY: The folio is pinned and the file is alive.
        let word = unsafe {
            bindings::luo_helper_folio_preserve(folio.as_ptr(), file.as_ptr(), index)
            //
        };
        if word < 0 {
            // CAST: An error number.
            return Err(Error::from_errno(word as i32));
        }
        let order = (word & ((1 << ORDER_BITS) - 1)) as u32;
        let Some(record) = R::new((word >> ORDER_BITS) as u64, index) else {
            // SAFETY: It was just preserved, and is pinned.
            unsafe { bindings::kho_unpreserve_folio(folio.as_ptr()) };
            return Err(EFBIG);
        };

        // INVARIANT: The folio is preserved, and its pin goes over to us.
        self.records.push_reserved(record);
        folio.into_raw();
        self.pages += 1 << order;
        Ok(order)
    }

    /// Number of folios.
    pub fn len(&self) -> u64 {
        self.records.len()
    }

    /// Whether there are no folios.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Memory of the folios and of their list, in bytes.
    pub fn bytes(&self) -> u64 {
        (self.pages << PAGE.shift()).saturating_add(self.records.bytes())
    }

    /// The description of the list that the next kernel needs.
    pub fn describe(&self) -> KhoVmalloc {
        self.records.describe()
    }

    /// Fails with `EHWPOISON` if memory broke since it was preserved.
    pub fn check_health(&self) -> Result {
        if !cfg!(CONFIG_MEMORY_FAILURE) {
            return Ok(());
        }
        self.records.try_for_each(|page| {
            for record in page {
                // SAFETY: By the type invariants, there is a folio that we pinned.
                let poisoned = unsafe {
                    bindings::luo_helper_folio_poisoned(bindings::luo_helper_pfn_folio(
                        record.pfn(),
                    ))
                };
                if poisoned {
                    return Err(EHWPOISON);
                }
            }
            Ok(())
        })
    }

    /// The list, for the test hook.
    #[cfg(CONFIG_LIVEUPDATE_TEST)]
    pub(crate) fn records(&self) -> &PreservedVec<R> {
        &self.records
    }
}

impl<R: FolioRecord> Drop for PreservedFolios<R> {
    fn drop(&mut self) {
        let _ = self.records.try_for_each(|page| {
            for record in page {
                // SAFETY: By the type invariants, there is a folio that we preserved and pinned,
                // and that nobody unpinned but this, once.
                unsafe {
                    let folio = bindings::luo_helper_pfn_folio(record.pfn());
                    bindings::kho_unpreserve_folio(folio);
                    bindings::unpin_folio(folio);
                }
            }
            // SAFETY: FFI call without requirements but that it may sleep.
            let _ = unsafe { bindings::luo_helper_interrupted() };
            Ok(())
        });
    }
}

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
    health::BrokenPages,
    pin::{
        PinBuffer,
        Pinned, //
    },
    shmem::Shmem,
};
use core::{
    mem::MaybeUninit,
    num::NonZeroU32, //
};
use kernel::{
    error::to_result,
    prelude::*, //
};

/// How often a folio that reclaim takes away while it is pinned is looked up again.
const RETRIES: u32 = 16;

/// Where the helper puts the order of a folio.
const ORDER_BITS: u32 = bindings::LUO_HELPER_ORDER_BITS;
const ORDER_MASK: u64 = (1 << ORDER_BITS) - 1;

/// Folios that are preserved in one call.
const BATCH: usize = 64;

/// A record of one folio in a list that is handed over.
///
/// # Safety
///
/// The page number and index of what [`FolioRecord::new`] returned are those it was given.
pub unsafe trait FolioRecord: Abi {
    /// A record for valid and dirty memory. `pfn` has at most 52 bits, as addresses have 64.
    fn new(pfn: u64, index: u64) -> Self;
    /// Page number; 0 if there is no folio.
    fn pfn(&self) -> u64;
    /// Index in the file, in pages.
    fn index(&self) -> u64;
    /// Whether the memory is valid.
    fn is_uptodate(&self) -> bool;
    /// Whether the record could be one: nothing is set that must not be.
    fn is_plausible(&self) -> bool;
}

// SAFETY: `FolioSer` stores both numbers unchanged.
unsafe impl FolioRecord for FolioSer {
    #[inline]
    fn new(pfn: u64, index: u64) -> Self {
        // There is a record for each page number of 52 bits.
        Self::new(pfn & ((1 << 52) - 1), Self::FLAGS, index).unwrap_or_default()
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
    /// Before any of them was looked at.
    broken: BrokenPages,
}

impl<R: FolioRecord> PreservedFolios<R> {
    /// Preserves all folios of `file`, filling its holes. `chunk` pages are pinned at a time.
    ///
    /// The size of `file` must not change meanwhile, or `EIO` is returned.
    pub fn new(file: Shmem<'_>, chunk: NonZeroU32) -> Result<Self> {
        let mut this = Self {
            records: PreservedVec::new(),
            pages: 0,
            broken: BrokenPages::count(),
        };
        let mut cursor = PinCursor::new(file.size(), PAGE, chunk).ok_or(EFBIG)?;
        let mut buffer = PinBuffer::new();
        let mut retries = 0;

        while let Some(chunk) = cursor.chunk() {
            if this.pages != chunk.start >> PAGE.shift() {
                return Err(EIO);
            }
            let pinned = buffer.pin(file, chunk)?;
            let before = this.pages;
            match this.add(file, pinned, &mut cursor) {
                Err(EAGAIN) if this.pages != before => retries = 0,
                Err(EAGAIN) if retries < RETRIES => retries += 1,
                Err(err) => return Err(err),
                Ok(()) => retries = 0,
            }
            // SAFETY: FFI call without requirements but that it may sleep.
            if unsafe { bindings::luo_helper_interrupted() } {
                return Err(EINTR);
            }
        }
        Ok(this)
    }

    /// Adds folios that follow, up to the first error.
    fn add(&mut self, file: Shmem<'_>, mut pinned: Pinned<'_>, cursor: &mut PinCursor) -> Result {
        while !pinned.is_empty() {
            let room = self.records.room()?;
            let mut words = [const { MaybeUninit::<u64>::uninit() }; BATCH];
            let nr = pinned.len().min(room.len()).min(BATCH);
            let mut done = 0;
            // SAFETY: There are at least `nr` folios, all pinned, and as many words. The file is
            // alive, and in shared memory.
            let ret = unsafe {
                bindings::luo_helper_folios_preserve(
                    pinned.as_mut_ptr(),
                    // CAST: At most `BATCH`.
                    nr as u32,
                    file.as_ptr(),
                    self.pages,
                    words.as_mut_ptr().cast(),
                    &raw mut done,
                )
            };
            let done = (done as usize).min(nr);
            let mut index = self.pages;
            let mut last = None;
            let mut in_step = true;
            for (slot, word) in room[..done].iter_mut().zip(&words[..done]) {
                // SAFETY: The function wrote the first `done` words.
                let word = unsafe { word.assume_init() };
                slot.write(R::new(word >> ORDER_BITS, index));
                // CAST: So many bits are left.
                let order = (word & ORDER_MASK) as u32;
                last = Some(index);
                // Behind a large folio, the next may be farther away than a chunk is long.
                if order != 0 {
                    last = None;
                    in_step &= cursor.advance(index, order);
                }
                index = index.wrapping_add(1 << order);
            }
            // INVARIANT: The folios are preserved, and their pins go over to us.
            pinned.take(done);
            self.records.commit(done);
            self.pages = index;

            if let Some(index) = last {
                in_step &= cursor.advance(index, 0);
            }
            if !in_step {
                return Err(EIO);
            }
            to_result(ret)?;
        }
        Ok(())
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
        if self.broken.is_unchanged() {
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

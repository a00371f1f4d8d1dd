// SPDX-License-Identifier: GPL-2.0-only

//! Folios of a file, pinned so that they stay where they are.
//!
//! C header: [`include/linux/mm.h`](srctree/include/linux/mm.h)

use crate::{
    abi::pin::PinChunk,
    bindings,
    shmem::Shmem, //
};
use kernel::{
    fs::File,
    prelude::*, //
};

/// Room for the folios of one chunk, which is used for one chunk after the other.
pub struct PinBuffer {
    folios: VVec<*mut bindings::folio>,
}

impl PinBuffer {
    /// A buffer that has no memory yet.
    pub const fn new() -> Self {
        Self {
            folios: VVec::new(),
        }
    }

    /// Pins the folios from the start of `chunk` on, allocating those that are missing: as many as the
    /// chunk may have, and not more than up to its end if all are single pages.
    pub fn pin(&mut self, file: Shmem<'_>, chunk: PinChunk) -> Result<Pinned<'_>> {
        // The number of folios bounds the work, and with large ones a call gets farther.
        let last = file.size().max(1) - 1;
        self.pin_range(file.file(), chunk.start, last, chunk.max_folios)
    }

    /// Pins the folios of a file that has memory, from `start` to `last` or until they are `max`,
    /// allocating those that are missing.
    pub(crate) fn pin_range(
        &mut self,
        file: &File,
        start: u64,
        last: u64,
        max: u32,
    ) -> Result<Pinned<'_>> {
        self.folios.clear();
        self.folios.reserve(max as usize, GFP_KERNEL)?;

        let start = i64::try_from(start).map_err(|_| EFBIG)?;
        let last = i64::try_from(last).map_err(|_| EFBIG)?;
        let mut offset = 0;
        // SAFETY: The file is alive, and there is room for `max` folios. Other files are refused.
        let nr = unsafe {
            bindings::memfd_pin_folios(
                file.as_ptr(),
                start,
                last,
                self.folios.as_mut_ptr(),
                max,
                &raw mut offset,
            )
        };
        if nr < 0 {
            // CAST: An error number.
            return Err(Error::from_errno(nr as i32));
        }
        if nr == 0 {
            return Err(EIO);
        }
        // SAFETY: The function wrote `nr` pointers, which is not more than there is room for.
        unsafe { self.folios.inc_len(nr as usize) };
        // INVARIANT: The folios were just pinned for us.
        Ok(Pinned {
            folios: &mut self.folios,
        })
    }
}

impl Default for PinBuffer {
    fn default() -> Self {
        Self::new()
    }
}

/// The folios of one chunk. Those that are not taken are unpinned when this is dropped.
///
/// # Invariants
///
/// All `folios` are pinned, and the pins are ours to release.
pub struct Pinned<'a> {
    folios: &'a mut [*mut bindings::folio],
}

impl Pinned<'_> {
    /// Number of folios that were not taken.
    #[inline]
    pub fn len(&self) -> usize {
        self.folios.len()
    }

    /// Whether all folios were taken.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.folios.is_empty()
    }

    /// The folios, to be read only.
    #[inline]
    pub(crate) fn as_mut_ptr(&mut self) -> *mut *mut bindings::folio {
        self.folios.as_mut_ptr()
    }

    /// Gives the pins of the first `nr` folios to the caller.
    #[inline]
    pub(crate) fn take(&mut self, nr: usize) {
        let folios = core::mem::take(&mut self.folios);
        let nr = nr.min(folios.len());
        self.folios = &mut folios[nr..];
    }
}

impl Drop for Pinned<'_> {
    fn drop(&mut self) {
        for folio in self.folios.iter() {
            // SAFETY: By the type invariants, we own the pin.
            unsafe { bindings::unpin_folio(*folio) };
        }
    }
}

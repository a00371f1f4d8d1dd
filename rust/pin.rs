// SPDX-License-Identifier: GPL-2.0-only

//! Folios of a file, pinned so that they stay where they are.
//!
//! C header: [`include/linux/mm.h`](srctree/include/linux/mm.h)

use crate::{
    abi::pin::PinChunk,
    bindings,
    shmem::Shmem, //
};
use core::{
    mem::ManuallyDrop,
    ptr::NonNull, //
};
use kernel::prelude::*;

/// A folio with a pin that this owns.
///
/// # Invariants
///
/// The folio is pinned, and the pin is ours to release.
#[repr(transparent)]
pub struct PinnedFolio(NonNull<bindings::folio>);

impl PinnedFolio {
    /// The raw folio.
    #[inline]
    pub(crate) fn as_ptr(&self) -> *mut bindings::folio {
        self.0.as_ptr()
    }

    /// Gives the pin to the caller.
    #[inline]
    pub(crate) fn into_raw(self) -> NonNull<bindings::folio> {
        ManuallyDrop::new(self).0
    }
}

impl Drop for PinnedFolio {
    fn drop(&mut self) {
        // SAFETY: By the type invariants, we own the pin.
        unsafe { bindings::unpin_folio(self.as_ptr()) };
    }
}

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

    /// Pins the folios of `chunk`, allocating those that are missing.
    pub fn pin(&mut self, file: Shmem<'_>, chunk: PinChunk) -> Result<Pinned<'_>> {
        self.folios.clear();
        self.folios.reserve(chunk.max_folios as usize, GFP_KERNEL)?;

        let start = i64::try_from(chunk.start).map_err(|_| EFBIG)?;
        let last = i64::try_from(chunk.last).map_err(|_| EFBIG)?;
        let mut offset = 0;
        // SAFETY: The file is alive, and there is room for `max_folios` folios.
        let nr = unsafe {
            bindings::memfd_pin_folios(
                file.as_ptr(),
                start,
                last,
                self.folios.as_mut_ptr(),
                chunk.max_folios,
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
            folios: self.folios.iter(),
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
    folios: core::slice::Iter<'a, *mut bindings::folio>,
}

impl Iterator for Pinned<'_> {
    type Item = PinnedFolio;

    #[inline]
    fn next(&mut self) -> Option<PinnedFolio> {
        // INVARIANT: The pin goes from us to the new value.
        self.folios
            .next()
            .and_then(|folio| NonNull::new(*folio))
            .map(PinnedFolio)
    }
}

impl Drop for Pinned<'_> {
    fn drop(&mut self) {
        self.for_each(drop);
    }
}

// SPDX-License-Identifier: GPL-2.0-only

//! Memory that was handed over.

use super::{
    Abi,
    PAGE, //
};
use crate::bindings;
use core::{
    marker::PhantomData,
    ops::Deref,
    ptr::NonNull, //
};
use kernel::{
    page::PAGE_SIZE,
    prelude::*, //
};

/// The order of the preservation that starts at the page `pfn` and was not restored yet.
///
/// Any number may be asked for.
#[inline]
pub(crate) fn waiting_order(pfn: u64) -> Option<u32> {
    let phys = PAGE.phys(pfn)?;
    // SAFETY: FFI call that is defined for any address.
    let order = unsafe { bindings::kho_incoming_order(phys) };
    u32::try_from(order).ok()
}

/// Restores the preservation that starts at the page `pfn`, if there is one.
///
/// The caller owns one reference of the folio.
#[inline]
pub(crate) fn take_folio(pfn: u64) -> Option<NonNull<bindings::folio>> {
    let phys = PAGE.phys(pfn)?;
    // SAFETY: FFI call that is defined for any address.
    NonNull::new(unsafe { bindings::luo_helper_take_folio(phys) })
}

/// Restores the preservation that was found to start at the page `pfn`.
///
/// The caller owns one reference of the folio. This warns if there is nothing, but does no harm.
#[inline]
pub(crate) fn take_waiting(pfn: u64) -> Option<NonNull<bindings::folio>> {
    let phys = PAGE.phys(pfn)?;
    // SAFETY: FFI call that is defined for any address.
    NonNull::new(unsafe { bindings::kho_restore_folio(phys) })
}

/// Frees the preservation that starts at the page `pfn`, if there is one.
#[inline]
pub(crate) fn free(pfn: u64) {
    if let Some(folio) = take_folio(pfn) {
        // SAFETY: We own a reference.
        unsafe { bindings::luo_helper_folio_put(folio.as_ptr()) };
    }
}

/// Memory that waits to be restored, and that can be read where it is.
///
/// # Invariants
///
/// When this was made, KHO knew a preservation that starts at `pfn` and is at least `pages` long,
/// and it was in the direct map at `ptr`. Nothing else in this kernel restores it.
pub(crate) struct Waiting {
    ptr: NonNull<u8>,
    pfn: u64,
    bytes: usize,
}

impl Waiting {
    /// Finds what was preserved at `phys`.
    pub(crate) fn find(phys: u64) -> Option<Self> {
        if phys % PAGE.bytes() != 0 {
            return None;
        }
        let pfn = phys >> PAGE.shift();
        let order = waiting_order(pfn)?;
        // SAFETY: FFI call that only computes. What KHO preserves is RAM, so it is mapped.
        let ptr = unsafe { bindings::luo_helper_phys_to_virt(phys) };
        // INVARIANT: Just checked.
        Some(Self {
            ptr: NonNull::new(ptr.cast())?,
            pfn,
            bytes: PAGE_SIZE.checked_shl(order)?,
        })
    }

    /// Size in bytes.
    pub(crate) fn len(&self) -> usize {
        self.bytes
    }

    /// The content, without a part at the end that is smaller than a `T`.
    pub(crate) fn as_slice<T: Abi>(&self) -> &[T] {
        const { assert!(align_of::<T>() <= PAGE_SIZE && size_of::<T>() != 0) };
        // SAFETY: By the type invariants, the memory is mapped and nobody writes to it; it is page
        // aligned, and any bytes are a valid `T`.
        unsafe {
            core::slice::from_raw_parts(self.ptr.cast().as_ptr(), self.bytes / size_of::<T>())
        }
    }

    /// Restores the memory and gives it to the page allocator.
    pub(crate) fn free(self) {
        free(self.pfn);
    }
}

/// A `T` that the previous kernel put into a preserved box.
///
/// It is freed when this is dropped, which happens once: there is no way to get it twice.
pub struct Incoming<T: Abi> {
    /// [`None`] only while it is dropped.
    memory: Option<Waiting>,
    value: T,
    _p: PhantomData<T>,
}

impl<T: Abi> Incoming<T> {
    /// Takes the memory that the previous kernel said to be at `phys`.
    ///
    /// # Safety
    ///
    /// This may be called only once for an address.
    pub(crate) unsafe fn from_phys(phys: u64) -> Result<Self> {
        let memory = Waiting::find(phys).ok_or(EIO)?;
        let value = *memory.as_slice::<T>().first().ok_or(EINVAL)?;
        Ok(Self {
            memory: Some(memory),
            value,
            _p: PhantomData,
        })
    }
}

impl<T: Abi> Deref for Incoming<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T: Abi> Drop for Incoming<T> {
    fn drop(&mut self) {
        if let Some(memory) = self.memory.take() {
            memory.free();
        }
    }
}

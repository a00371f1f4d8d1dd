// SPDX-License-Identifier: GPL-2.0-only

//! Memory that was handed over.

use super::{
    Abi,
    PAGE, //
};
use crate::{
    abi::vmalloc::KhoVmalloc,
    bindings, //
};
use core::{
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

/// Restores the preservation that starts at the page `pfn`, if there is one of at most `max_order`.
///
/// The caller owns one reference of the folio.
#[inline]
pub(crate) fn take_folio(pfn: u64, max_order: u32) -> Option<NonNull<bindings::folio>> {
    let phys = PAGE.phys(pfn)?;
    let mut folio = core::ptr::null_mut();
    // SAFETY: There is one address, any is allowed, and room for one folio.
    match unsafe { bindings::kho_try_restore_folios(&raw const phys, 1, max_order, &raw mut folio) }
    {
        1 => NonNull::new(folio),
        _ => None,
    }
}

/// Restores folios of `1 << order` pages from the page `pfn` on, whatever pieces they were preserved in: as many
/// as are there, and as `folios` has room for.
///
/// The caller owns one reference of each. The others still wait.
#[inline]
pub(crate) fn take_run(pfn: u64, order: u32, folios: &mut [*mut bindings::folio]) -> usize {
    let (Some(phys), Ok(nr)) = (PAGE.phys(pfn), u32::try_from(folios.len())) else {
        return 0;
    };
    // SAFETY: Any address is allowed, and there is room for that many folios.
    let taken = unsafe { bindings::kho_try_restore_run(phys, order, nr, folios.as_mut_ptr()) };
    taken as usize
}

/// Frees the preservation that starts at the page `pfn`, if there is one of at most `max_order`.
#[inline]
pub(crate) fn free(pfn: u64, max_order: u32) {
    if let Some(folio) = take_folio(pfn, max_order) {
        // SAFETY: We own a reference.
        unsafe { bindings::luo_helper_folio_put(folio.as_ptr()) };
    }
}

/// Where preserved memory is mapped, and how large it is.
///
/// # Invariants
///
/// `bytes` at `ptr`, which is page aligned, are in the direct map.
struct Mapped {
    ptr: NonNull<u8>,
    bytes: usize,
}

impl Mapped {
    /// # Safety
    ///
    /// At `phys`, there is memory of at least the given order.
    unsafe fn new(phys: u64, order: u32) -> Option<Self> {
        // SAFETY: FFI call that only computes. The caller guarantees that it is RAM, so it is mapped.
        let ptr = unsafe { bindings::luo_helper_phys_to_virt(phys) };
        // INVARIANT: The caller guarantees it.
        Some(Self {
            ptr: NonNull::new(ptr.cast())?,
            bytes: PAGE_SIZE.checked_shl(order)?,
        })
    }
}

/// Memory that waits to be restored.
///
/// # Invariants
///
/// When this was made, KHO knew a preservation that starts at `phys`, which is page aligned, has the
/// order `order`, and is as large as `mapped`. No other starts there.
pub(crate) struct Waiting {
    phys: u64,
    order: u32,
    mapped: Mapped,
}

impl Waiting {
    /// Finds what was preserved at `phys`.
    pub(crate) fn find(phys: u64) -> Option<Self> {
        if phys % PAGE.bytes() != 0 {
            return None;
        }
        let order = waiting_order(phys >> PAGE.shift())?;
        // INVARIANT: Just checked.
        Some(Self {
            phys,
            order,
            // SAFETY: KHO preserves RAM, and says that there is this much.
            mapped: unsafe { Mapped::new(phys, order)? },
        })
    }

    /// Size in bytes.
    pub(crate) fn len(&self) -> usize {
        self.mapped.bytes
    }

    /// Looks at the content, without a part at the end that is smaller than a `T`.
    ///
    /// It is a glance, and what is done because of it must be right for any content: if the previous
    /// kernel gave the memory to two, the other may take it meanwhile. Only [`Waiting::take`] makes
    /// sure that it stays.
    pub(crate) fn peek<T: Abi>(&self) -> impl Iterator<Item = T> + '_ {
        const { assert!(align_of::<T>() <= PAGE_SIZE && size_of::<T>() != 0) };
        let first: NonNull<T> = self.mapped.ptr.cast();
        (0..self.mapped.bytes / size_of::<T>()).map(move |nr| {
            // SAFETY: By the type invariants this is in the direct map and aligned. Any bytes are a
            // valid `T`, and as the read is volatile it does not matter whether they change.
            unsafe { first.add(nr).read_volatile() }
        })
    }

    /// Restores the memory, if it still waits.
    pub(crate) fn take(self) -> Option<Taken> {
        // INVARIANT: It is ours now.
        take_folio(self.phys >> PAGE.shift(), self.order).map(|folio| Taken {
            folio,
            mapped: self.mapped,
        })
    }
}

/// Memory that was restored: nobody else can get it. It is freed when this is dropped.
///
/// # Invariants
///
/// This owns a reference of `folio`, which is as large as `mapped` and is mapped there. There is no
/// other reference, and nobody writes to it.
pub(crate) struct Taken {
    folio: NonNull<bindings::folio>,
    mapped: Mapped,
}

impl Taken {
    /// The content, without a part at the end that is smaller than a `T`.
    pub(crate) fn as_slice<T: Abi>(&self) -> &[T] {
        const { assert!(align_of::<T>() <= PAGE_SIZE && size_of::<T>() != 0) };
        // SAFETY: By the type invariants, the memory is mapped and aligned, and nobody writes to it.
        // Any bytes are a valid `T`.
        unsafe {
            core::slice::from_raw_parts(
                self.mapped.ptr.cast().as_ptr(),
                self.mapped.bytes / size_of::<T>(),
            )
        }
    }

    /// Keeps the memory. [`Taken::again`] gets it back.
    pub(crate) fn keep(self) {
        core::mem::forget(self);
    }

    /// The memory that [`Taken::keep`] was called for.
    ///
    /// # Safety
    ///
    /// A `Taken` of the memory at `phys`, of the order `order`, was kept. This is called once for it,
    /// or the result is kept again before the next call.
    pub(crate) unsafe fn again(phys: u64, order: u32) -> Option<Self> {
        // SAFETY: The caller guarantees that there is a folio.
        let folio = unsafe { bindings::luo_helper_pfn_folio(phys >> PAGE.shift()) };
        // INVARIANT: The reference was kept for us.
        Some(Self {
            folio: NonNull::new(folio)?,
            // SAFETY: The caller guarantees it.
            mapped: unsafe { Mapped::new(phys, order)? },
        })
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        // SAFETY: By the type invariants, we own a reference.
        unsafe { bindings::luo_helper_folio_put(self.folio.as_ptr()) };
    }
}

/// A `T` that the previous kernel put into a preserved box.
///
/// It is freed when this is dropped, which happens once: there is no way to get it twice.
pub struct Incoming<T: Abi> {
    _memory: Taken,
    value: T,
}

impl<T: Abi> Incoming<T> {
    /// Takes the memory that the previous kernel said to be at `phys`.
    ///
    /// Fails with `EIO` if nothing waits there.
    pub(crate) fn from_phys(phys: u64) -> Result<Self> {
        let waiting = Waiting::find(phys).ok_or(EIO)?;
        if waiting.len() < size_of::<T>() {
            return Err(EINVAL);
        }
        let memory = waiting.take().ok_or(EIO)?;
        let value = *memory.as_slice::<T>().first().ok_or(EINVAL)?;
        Ok(Self {
            _memory: memory,
            value,
        })
    }
}

impl<T: Abi> Incoming<T> {
    /// Takes a description out of it. There is none left for whoever comes next.
    pub(crate) fn take_list(
        &mut self,
        which: impl FnOnce(&mut T) -> &mut KhoVmalloc,
    ) -> KhoVmalloc {
        core::mem::take(which(&mut self.value))
    }
}

impl<T: Abi> Deref for Incoming<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

// SPDX-License-Identifier: GPL-2.0-only

//! Memory that is handed over.

use super::Abi;
use crate::{
    abi::vmalloc::KhoVmalloc,
    bindings, //
};
use core::{
    marker::PhantomData,
    mem::MaybeUninit,
    ops::{
        Deref,
        DerefMut, //
    },
    ptr::NonNull, //
};
use kernel::{
    error::from_err_ptr,
    page::PAGE_SIZE,
    prelude::*, //
};

/// Zeroed memory that the next kernel will see.
///
/// # Invariants
///
/// `ptr` came from `kho_alloc_preserve()`, is valid for reads and writes of at least the size that
/// was asked for, and is owned by this value.
struct Memory {
    ptr: NonNull<u8>,
}

// SAFETY: It is plain memory, and `kho_unpreserve_free()` may be called from any thread.
unsafe impl Send for Memory {}
// SAFETY: There are no methods that change the memory through a shared reference.
unsafe impl Sync for Memory {}

impl Memory {
    fn new(size: usize) -> Result<Self> {
        // SAFETY: FFI call without requirements; it may sleep, as all of this module.
        let ptr = from_err_ptr(unsafe { bindings::kho_alloc_preserve(size) })?;
        // INVARIANT: It was just allocated.
        Ok(Self {
            ptr: NonNull::new(ptr.cast()).ok_or(ENOMEM)?,
        })
    }

    fn phys(&self) -> u64 {
        // SAFETY: By the type invariants this is memory of the page allocator, in the direct map.
        unsafe { bindings::luo_helper_virt_to_phys(self.ptr.as_ptr().cast()) }
    }

    /// Gives up ownership. The result goes to [`Memory::from_raw`].
    fn into_raw(self) -> NonNull<u8> {
        let ptr = self.ptr;
        core::mem::forget(self);
        ptr
    }

    /// # Safety
    ///
    /// `ptr` must come from [`Memory::into_raw`], which is undone by this.
    unsafe fn from_raw(ptr: NonNull<u8>) -> Self {
        // INVARIANT: It held before `into_raw()`.
        Self { ptr }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: By the type invariants, this came from `kho_alloc_preserve()` and nobody else
        // uses it.
        unsafe { bindings::kho_unpreserve_free(self.ptr.as_ptr().cast()) };
    }
}

/// A `T` that the next kernel will see at the same physical address.
///
/// # Invariants
///
/// `memory` holds a valid `T`.
pub struct PreservedBox<T: Abi> {
    memory: Memory,
    _p: PhantomData<T>,
}

impl<T: Abi> PreservedBox<T> {
    /// Allocates memory for `value` and marks it as preserved.
    pub fn new(value: T) -> Result<Self> {
        const { assert!(align_of::<T>() <= PAGE_SIZE) };
        let memory = Memory::new(size_of::<T>())?;
        // SAFETY: The memory is large enough and page aligned.
        unsafe { memory.ptr.cast::<T>().write(value) };
        // INVARIANT: Just written.
        Ok(Self {
            memory,
            _p: PhantomData,
        })
    }

    /// Physical address, which the next kernel must be told.
    pub fn phys(&self) -> u64 {
        self.memory.phys()
    }
}

impl<T: Abi> Deref for PreservedBox<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: By the type invariants.
        unsafe { self.memory.ptr.cast().as_ref() }
    }
}

impl<T: Abi> DerefMut for PreservedBox<T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: By the type invariants, and we have exclusive access.
        unsafe { self.memory.ptr.cast().as_mut() }
    }
}

/// Words of a chunk of the page list, the first of which is the address of the next chunk.
const WORDS: usize = PAGE_SIZE / size_of::<u64>();

/// A list of `T` in pages that the next kernel will see.
///
/// It is described by a [`KhoVmalloc`], as if it were memory from `vmalloc()`, and is read as such.
/// The pages are allocated one by one as the list grows: nothing is copied, no address space is
/// used up, and there is no memory but that which is handed over.
///
/// # Invariants
///
/// - `first` and the chunks linked from it, and the pages listed in them, came from
///   [`Memory::into_raw`], each once. `last` is the last of the chunks.
/// - All pages before the current one are full. The current page is `page`, and `left` elements are
///   free in it.
/// - `pages` pages are listed, and `used` of them in the last chunk, after its first word.
pub struct PreservedVec<T: Abi> {
    first: Option<NonNull<u8>>,
    last: NonNull<u64>,
    used: usize,
    page: NonNull<T>,
    left: usize,
    pages: u32,
    _p: PhantomData<T>,
}

// SAFETY: It owns plain memory; `T` is `Send`.
unsafe impl<T: Abi> Send for PreservedVec<T> {}
// SAFETY: Methods with a shared reference only read; `T` is `Sync`.
unsafe impl<T: Abi> Sync for PreservedVec<T> {}

impl<T: Abi> PreservedVec<T> {
    /// Elements in a page.
    pub const PER_PAGE: usize = {
        assert!(PAGE_SIZE % size_of::<T>() == 0);
        PAGE_SIZE / size_of::<T>()
    };

    /// An empty list, which has no memory.
    pub fn new() -> Self {
        // INVARIANT: There are no pages.
        Self {
            first: None,
            last: NonNull::dangling(),
            used: WORDS - 1,
            page: NonNull::dangling(),
            left: 0,
            pages: 0,
            _p: PhantomData,
        }
    }

    /// Number of elements.
    #[inline]
    pub fn len(&self) -> u64 {
        u64::from(self.pages) * Self::PER_PAGE as u64 - self.left as u64
    }

    /// Whether there are no elements.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Memory that is handed over, in bytes, without the page list.
    pub fn bytes(&self) -> u64 {
        u64::from(self.pages) * PAGE_SIZE as u64
    }

    /// Room for the next elements, in as many as there are, which is at least one. They count once
    /// [`PreservedVec::commit`] is called.
    pub fn room(&mut self) -> Result<&mut [MaybeUninit<T>]> {
        if self.left == 0 {
            self.grow()?;
        }
        // SAFETY: By the type invariants, `left` elements are free at the end of `page`.
        Ok(unsafe {
            let free = self.page.add(Self::PER_PAGE - self.left);
            core::slice::from_raw_parts_mut(free.cast().as_ptr(), self.left)
        })
    }

    /// Makes `nr` elements out of what was written to [`PreservedVec::room`]. What was not written
    /// is zero.
    pub fn commit(&mut self, nr: usize) {
        self.left -= nr.min(self.left);
    }

    #[cold]
    fn grow(&mut self) -> Result {
        let pages = self.pages.checked_add(1).ok_or(EFBIG)?;
        let page = Memory::new(PAGE_SIZE)?;

        if self.used == WORDS - 1 {
            let chunk = Memory::new(PAGE_SIZE)?;
            let phys = chunk.phys();
            let chunk = chunk.into_raw();
            if self.first.is_none() {
                self.first = Some(chunk);
            } else {
                // SAFETY: `last` is a chunk of ours, and its first word is the link.
                unsafe { self.last.write(phys) };
            }
            // INVARIANT: The new chunk is linked, and empty as its memory is zeroed.
            self.last = chunk.cast();
            self.used = 0;
        }

        // SAFETY: `used` is less than `WORDS - 1`, so that this is within the chunk.
        unsafe { self.last.add(1 + self.used).write(page.phys()) };
        // INVARIANT: The page is listed, and the one before it was full.
        self.page = page.into_raw().cast();
        self.used += 1;
        self.left = Self::PER_PAGE;
        self.pages = pages;
        Ok(())
    }

    /// The description that the next kernel needs.
    pub fn describe(&self) -> KhoVmalloc {
        let Some(first) = self.first else {
            return KhoVmalloc::default();
        };
        KhoVmalloc {
            // SAFETY: By the type invariants this is memory of the page allocator.
            first: unsafe { bindings::luo_helper_virt_to_phys(first.as_ptr().cast()) },
            total_pages: self.pages,
            flags: KhoVmalloc::ALLOC,
            order: 0,
        }
    }

    /// Where the element with the number `nr` is.
    #[cfg(CONFIG_LIVEUPDATE_TEST)]
    pub(crate) fn record_ptr(&self, nr: u64) -> Option<NonNull<T>> {
        if nr >= self.len() {
            return None;
        }
        let nr = usize::try_from(nr).ok()?;
        let (mut page, at) = (nr / Self::PER_PAGE, nr % Self::PER_PAGE);
        let mut chunk = self.first?.cast::<u64>();
        while page >= WORDS - 1 {
            // SAFETY: By the type invariants, a full chunk with pages after it has a successor.
            chunk = phys_to_virt(unsafe { chunk.read() }).cast();
            page -= WORDS - 1;
        }
        // SAFETY: By the type invariants the page is listed here, and has that many elements.
        unsafe { Some(phys_to_virt(chunk.add(1 + page).read()).cast().add(at)) }
    }

    /// Where the first page of elements is.
    #[cfg(CONFIG_LIVEUPDATE_TEST)]
    pub(crate) fn phys_of_page(&self) -> Option<u64> {
        let chunk = self.first?.cast::<u64>();
        // SAFETY: By the type invariants this is a chunk, and the word is the address of a page.
        Some(unsafe { chunk.add(1).read() })
    }

    /// Calls `f` for each element in order, which it may change.
    pub fn for_each_mut(&mut self, mut f: impl FnMut(&mut T)) {
        let mut left = self.len();
        let mut chunk = self.first.map(NonNull::cast::<u64>);
        while let Some(words) = chunk {
            // SAFETY: By the type invariants this is a chunk, which has `WORDS` words.
            let words = unsafe { core::slice::from_raw_parts(words.as_ptr(), WORDS) };
            for phys in words[1..].iter().take_while(|phys| **phys != 0) {
                let nr = left.min(Self::PER_PAGE as u64) as usize;
                let page = phys_to_virt(*phys).cast::<T>();
                // SAFETY: By the type invariants this is a page of elements, `nr` of them in use. Nobody
                // else has a reference, as this has an exclusive one of the list.
                unsafe { core::slice::from_raw_parts_mut(page.as_ptr(), nr) }
                    .iter_mut()
                    .for_each(&mut f);
                left -= nr as u64;
            }
            chunk = (words[0] != 0).then(|| phys_to_virt(words[0]).cast());
        }
    }

    /// Calls `f` for each page of elements in order, until it fails.
    pub fn try_for_each(&self, mut f: impl FnMut(&[T]) -> Result) -> Result {
        let mut left = self.len();
        let mut chunk = self.first.map(NonNull::cast::<u64>);
        while let Some(words) = chunk {
            // SAFETY: By the type invariants this is a chunk, which has `WORDS` words.
            let words = unsafe { core::slice::from_raw_parts(words.as_ptr(), WORDS) };
            for phys in words[1..].iter().take_while(|phys| **phys != 0) {
                let nr = left.min(Self::PER_PAGE as u64) as usize;
                let page = phys_to_virt(*phys).cast::<T>();
                // SAFETY: By the type invariants this is a page of elements, `nr` of them in use.
                f(unsafe { core::slice::from_raw_parts(page.as_ptr(), nr) })?;
                left -= nr as u64;
            }
            chunk = (words[0] != 0).then(|| phys_to_virt(words[0]).cast());
        }
        Ok(())
    }
}

impl<T: Abi> Default for PreservedVec<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Abi> Drop for PreservedVec<T> {
    fn drop(&mut self) {
        let mut chunk = self.first;
        while let Some(memory) = chunk {
            // SAFETY: By the type invariants this is a chunk, which has `WORDS` words.
            let words = unsafe { core::slice::from_raw_parts(memory.cast().as_ptr(), WORDS) };
            for phys in words[1..].iter().take_while(|phys: &&u64| **phys != 0) {
                // SAFETY: By the type invariants, pages come from `into_raw()`, each listed once.
                drop(unsafe { Memory::from_raw(phys_to_virt(*phys)) });
            }
            chunk = (words[0] != 0).then(|| phys_to_virt(words[0]));
            // SAFETY: As above, for chunks; `words` is not used any more.
            drop(unsafe { Memory::from_raw(memory) });
        }
    }
}

/// The address in the direct map of memory that this kernel allocated.
fn phys_to_virt(phys: u64) -> NonNull<u8> {
    // SAFETY: FFI call that only computes.
    let ptr = unsafe { bindings::luo_helper_phys_to_virt(phys) };
    // The direct map never holds address zero, so that the fallback is never taken.
    NonNull::new(ptr.cast()).unwrap_or(NonNull::dangling())
}

#[kernel::macros::kunit_tests(luo_preserved_vec)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_found_where_they_were_put() -> Result {
        // SAFETY: FFI call without requirements.
        if !unsafe { bindings::kho_is_enabled() } {
            return Ok(());
        }
        // So many that the page list needs a second chunk.
        let nr = (PreservedVec::<u64>::PER_PAGE * WORDS + 3) as u64;
        let mut list = PreservedVec::<u64>::new();
        assert!(list.describe().is_null());
        for value in 0..nr {
            list.room()?[0].write(value);
            list.commit(1);
        }
        assert_eq!(list.len(), nr);
        assert_eq!(list.describe().total_pages as usize, WORDS + 1);

        let mut next = 0;
        list.try_for_each(|page| {
            for value in page {
                assert_eq!(*value, next);
                next += 1;
            }
            Ok(())
        })?;
        assert_eq!(next, nr);
        Ok(())
    }
}

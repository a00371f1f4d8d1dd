// SPDX-License-Identifier: GPL-2.0-only

//! Lists that were handed over.

use super::{
    incoming::{
        take_folio,
        waiting_order,
        Taken,
        Waiting, //
    },
    Abi,
    PAGE, //
};
use crate::abi::{
    self,
    vmalloc::{
        CheckedVmalloc,
        KhoVmalloc, //
    }, //
};
use core::{
    marker::PhantomData,
    mem,
    ops::ControlFlow, //
};

/// A list of `T` that the previous kernel had in vmalloc memory, or in a
/// [`PreservedVec`](super::PreservedVec), which looks the same.
///
/// It is read page by page where it is. It is not mapped again, so that its size has no limit but
/// memory.
///
/// All of its memory is freed when this is dropped. If the list is damaged, as much is freed as looks
/// like a part of it.
///
/// # Invariants
///
/// If the list is followed from `desc.first` on, the first `chunks` chunks and the first `pages` pages
/// of elements were restored, and each is a [`Taken`] that was kept. Those pages are listed in those
/// chunks. If `complete`, there are no others.
pub struct IncomingVec<T: Abi> {
    desc: KhoVmalloc,
    chunks: u64,
    pages: u64,
    complete: bool,
    _p: PhantomData<T>,
}

impl<T: Abi> IncomingVec<T> {
    /// Takes over the memory that `desc` describes. It may say anything.
    ///
    /// # Safety
    ///
    /// This may be called only once for a description that arrived.
    pub(crate) unsafe fn new(desc: KhoVmalloc) -> Self {
        // INVARIANT: Nothing was restored.
        Self {
            desc,
            chunks: 0,
            pages: 0,
            complete: false,
            _p: PhantomData,
        }
    }

    /// Checks that every page of the list and of its description is preserved memory of the right
    /// size, and restores it: from then on, no record in it can name it, and nobody else can change
    /// it. Until this succeeded, nothing can be read.
    ///
    /// This is to be called once.
    pub fn check(&mut self, desc: &CheckedVmalloc) -> Result<(), abi::Error> {
        if *desc.as_raw() != self.desc || self.chunks != 0 {
            return Err(abi::Error::Array);
        }
        let order = u32::from(self.desc.order);
        let mut walk = desc.walk(PAGE);
        while let Some(phys) = walk.chunk(waiting_order)? {
            let chunk = Waiting::find(phys).and_then(Waiting::take);
            let chunk = chunk.ok_or(abi::Error::NotPreserved)?;
            let pages = &mut self.pages;
            let result = walk.check(chunk.as_slice(), |pfn| match waiting_order(pfn) {
                Some(found) if found == order => {
                    // INVARIANT: Pages are checked in the order that they are listed in, and the
                    // reference is not released.
                    take_folio(pfn, order).map(|_| {
                        *pages += 1;
                        order
                    })
                }
                other => other,
            });
            // INVARIANT: As above.
            chunk.keep();
            self.chunks += 1;
            result?;
        }
        self.complete = true;
        Ok(())
    }

    /// Calls `f` with each page of elements, in order, and the position of the first of them.
    ///
    /// Ends when `f` breaks.
    pub fn for_each_page<B>(&self, f: impl FnMut(u64, &[T]) -> ControlFlow<B>) -> ControlFlow<B> {
        self.for_each_page_from(0, f)
    }

    /// As [`Self::for_each_page`], but starts with the element at the position `from`, and so perhaps
    /// with a part of a page.
    pub fn for_each_page_from<B>(
        &self,
        from: u64,
        mut f: impl FnMut(u64, &[T]) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        let per_page = PAGE.bytes() << u32::from(self.desc.order).min(31);
        let per_page = per_page / mem::size_of::<T>() as u64;
        let mut position = 0u64;
        let mut next = self.desc.first;
        let chunks = if self.complete { self.chunks } else { 0 };
        for _ in 0..chunks {
            // SAFETY: By the type invariants it was kept, and it is kept again.
            let Some(chunk) = (unsafe { Taken::again(next, 0) }) else {
                break;
            };
            let chunk = mem::ManuallyDrop::new(chunk);
            let Some((link, entries)) = chunk.as_slice::<u64>().split_first() else {
                break;
            };
            for phys in entries.iter().take_while(|phys| **phys != 0) {
                let next = position.saturating_add(per_page);
                if next > from {
                    // SAFETY: As above.
                    let Some(page) = (unsafe { Taken::again(*phys, self.desc.order.into()) })
                    else {
                        break;
                    };
                    let page = mem::ManuallyDrop::new(page);
                    let first = from.max(position);
                    // CAST: Less than there are in a page.
                    let skip = (first - position) as usize;
                    f(first, page.as_slice::<T>().get(skip..).unwrap_or_default())?;
                }
                position = next;
            }
            next = *link;
        }
        ControlFlow::Continue(())
    }

    /// Calls `f` with each page of elements and the position of the first of them, and then frees
    /// the page.
    ///
    /// A page that [`IncomingVec::check`] did not get to may be memory of somebody else. It counts as one
    /// of the list if `is_ours` says so of any of its elements, and otherwise stays as it is.
    pub fn drain(&mut self, is_ours: impl Fn(T) -> bool, mut f: impl FnMut(u64, &[T])) {
        let mut position = 0u64;
        let mut next = mem::take(&mut self.desc.first);
        // INVARIANT: Nothing is listed any more.
        let mut chunks = mem::take(&mut self.chunks);
        let mut pages = mem::take(&mut self.pages);

        while next != 0 {
            let chunk = if chunks != 0 {
                chunks -= 1;
                // SAFETY: By the type invariants it was kept, and nobody else gets it back.
                unsafe { Taken::again(next, 0) }
            } else {
                self.find_chunk(next, &is_ours).and_then(Waiting::take)
            };
            let Some(chunk) = chunk else {
                break;
            };
            let Some((link, entries)) = chunk.as_slice::<u64>().split_first() else {
                break;
            };
            for phys in entries.iter().take_while(|phys| **phys != 0) {
                let page = if pages != 0 {
                    pages -= 1;
                    // SAFETY: As above.
                    unsafe { Taken::again(*phys, self.desc.order.into()) }
                } else {
                    self.find_page(*phys, &is_ours).and_then(Waiting::take)
                };
                if let Some(page) = page {
                    let elements = page.as_slice::<T>();
                    f(position, elements);
                    position = position.saturating_add(elements.len() as u64);
                }
            }
            // A circle ends here too: what was taken does not wait any more.
            next = *link;
        }
    }

    /// Finds a page of elements that nobody took.
    fn find_page(&self, phys: u64, is_ours: &impl Fn(T) -> bool) -> Option<Waiting> {
        let bytes = PAGE.bytes().checked_shl(self.desc.order.into());
        Waiting::find(phys)
            .filter(|page| Some(page.len() as u64) == bytes && page.peek().any(is_ours))
    }

    /// Finds a chunk that nobody took. One with no page of ours may be memory of somebody else, and so
    /// may be what it seems to link to.
    fn find_chunk(&self, phys: u64, is_ours: &impl Fn(T) -> bool) -> Option<Waiting> {
        Waiting::find(phys).filter(|chunk| {
            chunk.len() as u64 == PAGE.bytes()
                && chunk
                    .peek::<u64>()
                    .skip(1)
                    .take_while(|phys| *phys != 0)
                    .any(|phys| self.find_page(phys, is_ours).is_some())
        })
    }
}

impl<T: Abi> Drop for IncomingVec<T> {
    fn drop(&mut self) {
        self.drain(|_| false, |_, _| {});
    }
}

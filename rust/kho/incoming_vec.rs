// SPDX-License-Identifier: GPL-2.0-only

//! Lists that were handed over.

use super::{
    incoming::{
        waiting_order,
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
    ops::ControlFlow, //
};

/// A list of `T` that the previous kernel had in vmalloc memory, or in a
/// [`PreservedVec`](super::PreservedVec), which looks the same.
///
/// It is read page by page where it is. It is not mapped again, so that its size has no limit but
/// memory.
///
/// All of its memory is freed when this is dropped. If the list is damaged, as much is freed as can
/// be identified beyond doubt.
pub struct IncomingVec<T: Abi> {
    desc: KhoVmalloc,
    /// Whether [`IncomingVec::check`] found every page of the list in order.
    checked: bool,
    /// Whether there is anything left to free.
    full: bool,
    _p: PhantomData<T>,
}

impl<T: Abi> IncomingVec<T> {
    /// Takes over the memory that `desc` describes. It may say anything.
    ///
    /// # Safety
    ///
    /// This may be called only once for a description that arrived.
    pub(crate) unsafe fn new(desc: KhoVmalloc) -> Self {
        Self {
            desc,
            checked: false,
            full: true,
            _p: PhantomData,
        }
    }

    /// Checks that every page of the list and of its description is preserved memory of the right
    /// size. Until this succeeded, nothing can be read.
    pub fn check(&mut self, desc: &CheckedVmalloc) -> Result<(), abi::Error> {
        if *desc.as_raw() != self.desc {
            return Err(abi::Error::Array);
        }
        let mut walk = desc.walk(PAGE);
        while let Some(phys) = walk.chunk(waiting_order)? {
            let chunk = Waiting::find(phys).ok_or(abi::Error::NotPreserved)?;
            walk.check(chunk.as_slice(), waiting_order)?;
        }
        self.checked = true;
        Ok(())
    }

    /// Calls `f` with each page of elements, in order, and the position of the first of them.
    ///
    /// Ends when `f` breaks, or when memory is not what [`IncomingVec::check`] found.
    pub fn for_each_page<B>(
        &self,
        mut f: impl FnMut(u64, &[T]) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        let mut position = 0u64;
        let mut next = if self.checked { self.desc.first } else { 0 };
        while let Some(chunk) = Waiting::find(next).filter(|_| next != 0) {
            let Some((link, entries)) = chunk.as_slice::<u64>().split_first() else {
                break;
            };
            for phys in entries.iter().take_while(|phys| **phys != 0) {
                let Some(page) = Waiting::find(*phys) else {
                    return ControlFlow::Continue(());
                };
                let elements = page.as_slice::<T>();
                f(position, elements)?;
                position = position.saturating_add(elements.len() as u64);
            }
            next = *link;
        }
        ControlFlow::Continue(())
    }

    /// Calls `f` with each page of elements and the position of the first of them, and then frees
    /// the page.
    ///
    /// In a list that is not checked, `f` must tell whether the page really is one of the list. If
    /// it is not, it stays as it is: it may be memory of somebody else.
    pub fn drain(&mut self, mut f: impl FnMut(u64, &[T]) -> bool) {
        let mut position = 0u64;
        let mut next = if self.full { self.desc.first } else { 0 };
        self.full = false;
        while let Some(chunk) = Waiting::find(next).filter(|_| next != 0) {
            let Some((link, entries)) = chunk.as_slice::<u64>().split_first() else {
                break;
            };
            let mut is_chunk = self.checked;
            for phys in entries.iter().take_while(|phys| **phys != 0) {
                let Some(page) = Waiting::find(*phys).filter(|page| self.has_order(page)) else {
                    continue;
                };
                let elements = page.as_slice::<T>();
                let is_page = f(position, elements) || self.checked;
                position = position.saturating_add(elements.len() as u64);
                if is_page {
                    page.free();
                    is_chunk = true;
                }
            }
            // A page with nothing of ours in it may belong to anybody: leave it, and what it seems
            // to link to. As every other chunk is freed, a circle ends here too.
            if !is_chunk {
                break;
            }
            next = *link;
            chunk.free();
        }
    }

    fn has_order(&self, page: &Waiting) -> bool {
        Some(page.len() as u64) == PAGE.bytes().checked_shl(self.desc.order.into())
    }
}

impl<T: Abi> Drop for IncomingVec<T> {
    fn drop(&mut self) {
        if self.checked {
            self.drain(|_, _| true);
        }
    }
}

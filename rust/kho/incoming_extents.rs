// SPDX-License-Identifier: GPL-2.0-only

//! The folios of a file that were handed over as extents.

use super::{
    incoming::{
        take_folio,
        take_split,
        waiting_order, //
    },
    Abi,
    Failed,
    Incoming,
    IncomingVec,
    RestoreError,
    PAGE, //
};
use crate::{
    abi::{
        self,
        extents::{
            Class,
            ExtentChecker,
            ExtentList,
            ExtentSer,
            Spans,
            SpansChecker, //
        },
        vmalloc::KhoVmalloc, //
    },
    bindings,
    coco::HostAccess, //
};
use core::{
    ops::ControlFlow,
    ptr::{
        self,
        NonNull, //
    }, //
};
use kernel::prelude::*;

/// A new file that restored folios are put into.
pub trait ExtentFile {
    /// Puts a folio to its place. The page cache takes a reference of its own.
    ///
    /// # Safety
    ///
    /// The caller has the only reference of the folio, which is not in use, and its content is valid.
    unsafe fn insert(&self, folio: NonNull<bindings::folio>, index: u32) -> Result;
}

/// What KHO keeps of an extent.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kept {
    /// Each folio.
    Folios,
    /// Pieces that are as large as their alignment allows, out of which any folios are made.
    Pieces,
}

/// Folios that wait to be restored. All are freed when this is dropped.
///
/// The list of them is kept until the end: it tells which folios there are.
pub(super) struct Extents {
    pub(super) list: IncomingVec<ExtentSer>,
    kept: Kept,
    /// That many folios from the start of the list were restored, and we have a reference of each.
    /// None is as long as the list was not checked.
    pub(super) restored: u64,
    /// That many of them are in a file.
    inserted: u64,
    /// As soon as it was parsed.
    pub(super) described: Option<ExtentList>,
    /// If this may be what only a guest may see, which is not left in free memory: permission to zero it.
    scrub: Option<HostAccess>,
}

/// Frees what waits to be restored at the start of `extent`, as long as it is of one size.
///
/// The record may say anything: this ends at the first page that nothing was preserved at.
fn free_waiting(extent: &ExtentSer, scrub: Option<HostAccess>) {
    let mut pfn = extent.first();
    let Some(order) = waiting_order(pfn) else {
        return;
    };
    let scrub = scrub.or_else(|| HostAccess::to_scrub(extent.class()?));
    for _ in 0..extent.nr {
        if waiting_order(pfn) != Some(order) {
            break;
        }
        if let Some(folio) = take_folio(pfn, order) {
            // SAFETY: It was just restored, so that the only reference is ours, and nobody uses it.
            unsafe { free(folio, scrub) };
        }
        let Some(next) = 1u64.checked_shl(order).and_then(|n| pfn.checked_add(n)) else {
            break;
        };
        pfn = next;
    }
}

/// Frees what waits to be restored of `extent`, piece by piece.
///
/// The record may say anything: this ends at the first page that nothing was preserved at.
fn free_pieces(extent: &ExtentSer) {
    if extent.nr == 0 {
        return;
    }
    let mut folios = [ptr::null_mut(); 32];
    let (mut pfn, mut left) = (extent.first(), u64::from(extent.nr));
    while left != 0 {
        let Some(order) = waiting_order(pfn) else {
            break;
        };
        if 1u64.checked_shl(order).is_none_or(|pages| pages > left) {
            break;
        }
        let order = order.min(crate::max_folio_order());
        let nr = usize::try_from(left >> order).map_or(folios.len(), |nr| nr.min(folios.len()));
        let Some(room) = folios.get_mut(..nr) else {
            break;
        };
        let taken = take_split(pfn, order, room);
        if taken == 0 {
            break;
        }
        for folio in room.iter().take(taken) {
            // SAFETY: It was just restored, and the reference is ours.
            unsafe { bindings::luo_helper_folio_put(*folio) };
        }
        let pages = (taken as u64) << order;
        pfn = pfn.saturating_add(pages);
        left = left.saturating_sub(pages);
        crate::interrupted();
    }
}

/// Gives a folio back, without its content if it is to be scrubbed.
///
/// # Safety
///
/// A reference of the folio is the caller's, and goes. If it is scrubbed, nobody else uses it.
unsafe fn free(folio: NonNull<bindings::folio>, scrub: Option<HostAccess>) {
    if let Some(access) = scrub {
        // SAFETY: The caller guarantees that nobody uses it.
        unsafe { access.zero(folio) };
        crate::interrupted();
    }
    // SAFETY: The caller guarantees that there is a reference.
    unsafe { bindings::luo_helper_folio_put(folio.as_ptr()) };
}

impl Extents {
    /// If nothing was restored, and the lengths of the records cannot be right, but can be made from where
    /// they start: what makes them.
    fn spans(&self) -> Option<Spans> {
        let list = self
            .described
            .filter(|list| self.restored == 0 && list.is_full())?;
        let mut checker = SpansChecker::new(&list);
        let _ = for_each_record(&self.list, &list, |_, record| {
            checker.push(record);
            ControlFlow::<()>::Continue(())
        });
        checker.end().then(|| Spans::new(&list))
    }
}

impl Drop for Extents {
    fn drop(&mut self) {
        let mut spans = self.spans();
        // How many records there are is known if they were found to be right.
        let known = self
            .described
            .filter(|_| self.restored != 0 || spans.is_some());
        let nr = known.map_or(u64::MAX, |list| list.nr_extents().into());
        let mut restored = self.restored;
        let order = self.described.map_or(0, |list| list.order());
        let scrub = self.scrub;
        let kept = self.kept;
        let mut release = |extent: &ExtentSer| {
            // CAST: At most a `u32`.
            let ours = restored.min(extent.nr.into()) as u32;
            restored = restored.saturating_sub(ours.into());
            let mut rest = *extent;
            if kept == Kept::Pieces {
                // SAFETY: The list was checked and cannot have changed since, folios were made of these
                // pages, and our references of them are released here only.
                unsafe { bindings::luo_helper_put_run(rest.first(), ours.into()) };
                rest.pfn = rest.pfn.wrapping_add(ours.into());
                rest.nr = rest.nr.wrapping_sub(ours);
                free_pieces(&rest);
                return;
            }
            for _ in 0..ours {
                // SAFETY: FFI call that only computes.
                let folio = unsafe { bindings::luo_helper_pfn_folio(rest.first()) };
                if let Some(folio) = NonNull::new(folio) {
                    // SAFETY: The list was checked and cannot have changed since, this folio was
                    // restored, and our reference of it is released here only. As long as this is to
                    // be scrubbed, the file that it was put into is known to nobody.
                    unsafe { free(folio, scrub) };
                }
                rest.pfn = rest.pfn.wrapping_add(1 << order);
                rest.nr = rest.nr.wrapping_sub(1);
            }
            free_waiting(&rest, scrub);
            // SAFETY: FFI call without requirements but that it may sleep.
            let _ = unsafe { bindings::luo_helper_interrupted() };
        };
        let is_ours = |extent: ExtentSer| extent.nr != 0 && waiting_order(extent.first()).is_some();
        self.list.drain(is_ours, |first, extents| {
            let left = usize::try_from(nr.saturating_sub(first)).unwrap_or(usize::MAX);
            for extent in extents.iter().take(left) {
                match &mut spans {
                    None => release(extent),
                    Some(spans) => spans.push(extent).iter().for_each(&mut release),
                }
            }
        });
        if let Some(last) = spans.as_mut().and_then(Spans::end) {
            release(&last);
        }
    }
}

impl Extents {
    /// Takes over what the list at `desc` names. Anything may be wrong with it.
    ///
    /// # Safety
    ///
    /// This may be called only once for a description that arrived.
    pub(super) unsafe fn new(desc: KhoVmalloc, kept: Kept, scrub: Option<HostAccess>) -> Self {
        Self {
            // SAFETY: The caller guarantees it.
            list: unsafe { IncomingVec::new(desc) },
            kept,
            restored: 0,
            inserted: 0,
            described: None,
            scrub,
        }
    }

    /// Checks the list, but not yet what is in it.
    pub(super) fn check(&mut self, list: &ExtentList) -> Result<(), RestoreError> {
        self.described = Some(*list);
        self.scrub = HostAccess::to_scrub(list.class());
        if let Some(array) = list.extents() {
            self.list.check(array).map_err(RestoreError::List)?;
        }
        Ok(())
    }
}

/// Folios of a file as the previous kernel describes them.
///
/// If this is dropped, all are freed that can be identified.
pub struct IncomingExtents(Extents);

impl IncomingExtents {
    /// Takes over what the list at `desc` names. Anything may be wrong with it.
    ///
    /// A header arrives once, in an [`Incoming`], which is used up for this. Unless the header is found to
    /// say something else, the memory is of this class: what is private is zeroed before it is freed.
    pub fn new<T: Abi>(
        header: Incoming<T>,
        desc: impl FnOnce(&T) -> KhoVmalloc,
        class: Class,
    ) -> Self {
        let desc = desc(&header);
        let scrub = HostAccess::to_scrub(class);
        // SAFETY: The header is used up.
        Self(unsafe { Extents::new(desc, Kept::Folios, scrub) })
    }

    /// Checks the list, but not yet what is in it.
    pub fn check(mut self, list: &ExtentList) -> Result<ListedExtents, RestoreError> {
        self.0.check(list)?;
        Ok(ListedExtents(self.0))
    }
}

/// Folios with a list that is in order. If this is dropped, all are freed.
pub struct ListedExtents(Extents);

/// Calls `f` with the number of each record and the record, as many as there should be.
pub(super) fn for_each_record<B>(
    records: &IncomingVec<ExtentSer>,
    list: &ExtentList,
    mut f: impl FnMut(u64, &ExtentSer) -> ControlFlow<B>,
) -> ControlFlow<B> {
    let nr = u64::from(list.nr_extents());
    records.for_each_page(|first, records| {
        (first..nr)
            .zip(records)
            .try_for_each(|(nr, record)| f(nr, record))
    })
}

/// Checks all records, and that a folio waits wherever they say.
fn check_records(records: &IncomingVec<ExtentSer>, list: &ExtentList) -> Result<(), RestoreError> {
    let mut checker = ExtentChecker::new(list, PAGE);
    let flow = for_each_record(records, list, |nr, record| {
        let checked = checker.check(record).and_then(|extent| {
            extent
                .pages()
                .try_for_each(|(pfn, _)| match waiting_order(pfn) {
                    None => Err(abi::Error::NotPreserved),
                    Some(order) if order != list.order() => Err(abi::Error::Order),
                    Some(_) => Ok(()),
                })
        });
        match checked {
            Ok(()) => ControlFlow::Continue(()),
            Err(err) => ControlFlow::Break(RestoreError::Record(nr, err)),
        }
    });
    match flow {
        ControlFlow::Break(err) => Err(err),
        ControlFlow::Continue(()) => checker.end().map_err(RestoreError::List),
    }
}

impl ListedExtents {
    /// Checks all records, before any folio is restored, and puts the folios into `file`.
    ///
    /// If a folio cannot be put into it, this can be called again with the same file, and goes on with that
    /// folio. Otherwise all of them are freed, in part when the file is.
    #[expect(
        clippy::result_large_err,
        reason = "to box it takes memory, just when there may be none"
    )]
    pub fn insert_into(
        mut self,
        file: &impl ExtentFile,
        list: &ExtentList,
    ) -> Result<HeldExtents, Failed<Self>> {
        let Extents {
            list: records,
            restored,
            inserted,
            ..
        } = &mut self.0;
        // They were checked if any of them was used, and those do not wait any more.
        if *restored == 0 {
            check_records(records, list)?;
        }

        let mut at = 0u64;
        let mut checker = ExtentChecker::new(list, PAGE);
        let flow = for_each_record(records, list, |nr, record| {
            let extent = match checker.check(record) {
                Ok(extent) => extent,
                Err(err) => return ControlFlow::Break(RestoreError::Record(nr, err)),
            };
            for (pfn, index) in extent.pages() {
                at = at.saturating_add(1);
                if at <= *inserted {
                    continue;
                }
                let folio = if at <= *restored {
                    // SAFETY: It was restored, and the reference is still ours.
                    NonNull::new(unsafe { bindings::luo_helper_pfn_folio(pfn) })
                } else {
                    take_folio(pfn, list.order())
                };
                // It waits no more if it was named twice.
                let Some(folio) = folio else {
                    let err = abi::Error::NotPreserved;
                    return ControlFlow::Break(RestoreError::Record(nr, err));
                };
                // The reference is ours, whatever comes.
                *restored = at;
                // SAFETY: It was restored, and was not put into a file, so that it is not in use.
                if let Err(err) = unsafe { file.insert(folio, index) } {
                    return ControlFlow::Break(RestoreError::Insert(nr, err));
                }
                *inserted = at;
                // SAFETY: FFI call without requirements but that it may sleep.
                let _ = unsafe { bindings::luo_helper_interrupted() };
            }
            ControlFlow::Continue(())
        });
        match flow {
            ControlFlow::Continue(()) => {
                // The file is about to be used.
                self.0.scrub = None;
                Ok(HeldExtents(self.0))
            }
            ControlFlow::Break(error @ RestoreError::Insert(..)) => Err(Failed {
                error,
                rest: Some(self),
            }),
            ControlFlow::Break(error) => Err(error.into()),
        }
    }
}

/// The folios of a restored file, each with a reference that keeps it where it is.
///
/// As long as this exists, devices of the previous kernel may still write to the memory: it is not
/// migrated or given to anybody else, even if the file is truncated or closed.
pub struct HeldExtents(#[expect(dead_code, reason = "owned")] Extents);

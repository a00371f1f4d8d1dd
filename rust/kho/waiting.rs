// SPDX-License-Identifier: GPL-2.0-only

//! Folios that a list of extents names, and that are to be restored.

use super::{
    incoming::{
        take_folio,
        take_run,
        waiting_order, //
    },
    progress::Progress,
    IncomingVec,
    RestoreError, //
};
use crate::{
    abi::{
        extents::{
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
    /// Which were restored, so that we have a reference of each: pages, if KHO keeps pieces, or folios. None
    /// was as long as the list was not checked.
    pub(super) progress: Progress,
    /// That many of them, from the start of the list, are in a file.
    pub(super) inserted: u64,
    /// As soon as it was parsed.
    pub(super) described: Option<ExtentList>,
    /// If this may be what only a guest may see, which is not left in free memory: permission to zero it.
    pub(super) scrub: Option<HostAccess>,
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
        let taken = take_run(pfn, order, room);
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

/// Gives the folios of `extent` back.
///
/// # Safety
///
/// They have this order, and as [`free`], for each.
unsafe fn free_restored(extent: &ExtentSer, order: u32, scrub: Option<HostAccess>) {
    let mut pfn = extent.first();
    for _ in 0..extent.nr {
        // SAFETY: FFI call that only computes.
        let folio = unsafe { bindings::luo_helper_pfn_folio(pfn) };
        if let Some(folio) = NonNull::new(folio) {
            // SAFETY: The caller guarantees it.
            unsafe { free(folio, scrub) };
        }
        pfn = pfn.wrapping_add(1 << order);
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
            .filter(|list| self.progress.is_none() && list.is_full())?;
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
            .filter(|_| !self.progress.is_none() || spans.is_some());
        let nr = known.map_or(u64::MAX, |list| list.nr_extents().into());
        let progress = &self.progress;
        let mut position = 0u64;
        let order = self.described.map_or(0, |list| list.order());
        let scrub = self.scrub;
        let kept = self.kept;
        let mut release = |extent: &ExtentSer| {
            let mut rest = *extent;
            while rest.nr != 0 {
                let (restored, same) = progress.at(position);
                // CAST: At most a `u32`.
                let nr = same.min(rest.nr.into()) as u32;
                position = position.saturating_add(nr.into());
                let now = ExtentSer { nr, ..rest };
                let pages = match kept {
                    Kept::Pieces => u64::from(nr),
                    Kept::Folios => u64::from(nr) << order,
                };
                rest.pfn = rest.pfn.wrapping_add(pages);
                rest.nr = rest.nr.wrapping_sub(nr);
                match (kept, restored) {
                    (Kept::Pieces, false) => free_pieces(&now),
                    (Kept::Folios, false) => free_waiting(&now, scrub),
                    // SAFETY: The list was checked and cannot have changed since, folios were made of these
                    // pages, and our references of them are released here only.
                    (Kept::Pieces, true) => unsafe {
                        bindings::luo_helper_put_run(now.first(), nr.into());
                    },
                    // SAFETY: As above. As long as these are to be scrubbed, the file that they were put
                    // into is known to nobody.
                    (Kept::Folios, true) => unsafe { free_restored(&now, order, scrub) },
                }
            }
            crate::interrupted();
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
            progress: Progress::new(),
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

/// Calls `f` with the number of each record and the record, as many as there should be.
pub(super) fn for_each_record<B>(
    records: &IncomingVec<ExtentSer>,
    list: &ExtentList,
    f: impl FnMut(u64, &ExtentSer) -> ControlFlow<B>,
) -> ControlFlow<B> {
    for_each_record_from(0, records, list, f)
}

/// As [`for_each_record`], from the record with this number on.
pub(super) fn for_each_record_from<B>(
    from: u64,
    records: &IncomingVec<ExtentSer>,
    list: &ExtentList,
    mut f: impl FnMut(u64, &ExtentSer) -> ControlFlow<B>,
) -> ControlFlow<B> {
    let nr = u64::from(list.nr_extents());
    records.for_each_page_from(from, |first, records| {
        (first..nr)
            .zip(records)
            .try_for_each(|(nr, record)| f(nr, record))
    })
}

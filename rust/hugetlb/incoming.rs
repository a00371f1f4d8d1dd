// SPDX-License-Identifier: GPL-2.0-only

//! The huge pages of a file that were handed over.

use super::NewHugetlb;
use crate::{
    abi::{
        self,
        hugetlb::{
            ExtentChecker,
            ExtentSer,
            Header,
            Spans,
            SpansChecker, //
        },
        vmalloc::KhoVmalloc, //
    },
    bindings,
    kho::{
        take_folio,
        waiting_order,
        Abi,
        Incoming,
        IncomingVec,
        RestoreError,
        PAGE, //
    },
};
use core::ops::ControlFlow;
use kernel::prelude::*;

/// Huge pages that wait to be restored. All are freed when this is dropped.
///
/// The list of them is kept until the end: it tells which huge pages there are.
struct HugePages {
    list: IncomingVec<ExtentSer>,
    /// That many huge pages from the start of the list were restored, and we have a reference of each.
    /// None is as long as the list was not checked.
    restored: u64,
    /// As soon as it was parsed.
    header: Option<Header>,
}

/// Frees what waits to be restored at the start of `extent`, as long as it is of one size.
///
/// The record may say anything: this ends at the first page that nothing was preserved at.
fn free_waiting(extent: &ExtentSer) {
    let Some(order) = waiting_order(extent.pfn) else {
        return;
    };
    let mut pfn = extent.pfn;
    for _ in 0..extent.nr {
        if waiting_order(pfn) != Some(order) {
            break;
        }
        free(pfn, order);
        let Some(next) = 1u64.checked_shl(order).and_then(|n| pfn.checked_add(n)) else {
            break;
        };
        pfn = next;
    }
}

fn free(pfn: u64, order: u32) {
    if let Some(folio) = take_folio(pfn, order) {
        // SAFETY: We own a reference.
        unsafe { bindings::luo_helper_folio_put(folio.as_ptr()) };
    }
}

impl HugePages {
    /// If nothing was restored, and the lengths of the records cannot be right, but can be made from where
    /// they start: what makes them.
    fn spans(&self) -> Option<Spans> {
        let header = self
            .header
            .filter(|header| self.restored == 0 && header.is_full())?;
        let mut checker = SpansChecker::new(&header);
        let _ = for_each_record(&self.list, &header, |_, record| {
            checker.push(record);
            ControlFlow::<()>::Continue(())
        });
        checker.end().then(|| Spans::new(&header))
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        let mut spans = self.spans();
        // How many records there are is known if they were found to be right.
        let known = self
            .header
            .filter(|_| self.restored != 0 || spans.is_some());
        let nr = known.map_or(u64::MAX, |header| header.nr_extents().into());
        let mut restored = self.restored;
        let order = self.header.map_or(0, |header| header.order());
        let mut release = |extent: &ExtentSer| {
            // CAST: At most a `u32`.
            let ours = restored.min(extent.nr.into()) as u32;
            restored = restored.saturating_sub(ours.into());
            let mut rest = *extent;
            for _ in 0..ours {
                // SAFETY: The list was checked and cannot have changed since, this huge page was
                // restored, and our reference of it is released here only.
                unsafe { bindings::luo_helper_folio_put(bindings::luo_helper_pfn_folio(rest.pfn)) };
                rest.pfn = rest.pfn.wrapping_add(1 << order);
                rest.nr = rest.nr.wrapping_sub(1);
            }
            free_waiting(&rest);
            // SAFETY: FFI call without requirements but that it may sleep.
            let _ = unsafe { bindings::luo_helper_interrupted() };
        };
        let is_ours = |extent: ExtentSer| extent.nr != 0 && waiting_order(extent.pfn).is_some();
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

/// Huge pages of a file as the previous kernel describes them.
///
/// If this is dropped, all are freed that can be identified.
pub struct IncomingHugePages(HugePages);

impl IncomingHugePages {
    /// Takes over what the list at `desc` names. Anything may be wrong with it.
    ///
    /// A header arrives once, in an [`Incoming`], which is used up for this.
    pub fn new<T: Abi>(header: Incoming<T>, desc: impl FnOnce(&T) -> KhoVmalloc) -> Self {
        let desc = desc(&header);
        Self(HugePages {
            // SAFETY: The header is used up.
            list: unsafe { IncomingVec::new(desc) },
            restored: 0,
            header: None,
        })
    }

    /// Checks the list, but not yet what is in it.
    pub fn check(mut self, header: &Header) -> Result<ListedHugePages, RestoreError> {
        self.0.header = Some(*header);
        if let Some(list) = header.extents() {
            self.0.list.check(list).map_err(RestoreError::List)?;
        }
        Ok(ListedHugePages(self.0))
    }
}

/// Huge pages with a list that is in order. If this is dropped, all are freed.
pub struct ListedHugePages(HugePages);

/// Calls `f` with the number of each record and the record, as many as the header says.
fn for_each_record<B>(
    list: &IncomingVec<ExtentSer>,
    header: &Header,
    mut f: impl FnMut(u64, &ExtentSer) -> ControlFlow<B>,
) -> ControlFlow<B> {
    let nr = u64::from(header.nr_extents());
    list.for_each_page(|first, records| {
        (first..nr)
            .zip(records)
            .try_for_each(|(nr, record)| f(nr, record))
    })
}

/// Checks all records, and that a huge page waits wherever they say.
fn check_records(list: &IncomingVec<ExtentSer>, header: &Header) -> Result<(), RestoreError> {
    let mut checker = ExtentChecker::new(header, PAGE);
    let flow = for_each_record(list, header, |nr, record| {
        let checked = checker.check(record).and_then(|extent| {
            extent
                .pages()
                .try_for_each(|(pfn, _)| match waiting_order(pfn) {
                    None => Err(abi::Error::NotPreserved),
                    Some(order) if order != header.order() => Err(abi::Error::Order),
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

impl ListedHugePages {
    /// Checks all records, before any huge page is restored, and puts the huge pages into `file`.
    ///
    /// If it fails, all of them are freed, in part when the file is.
    pub fn insert_into(
        mut self,
        file: &NewHugetlb,
        header: &Header,
    ) -> Result<HeldHugePages, RestoreError> {
        let HugePages { list, restored, .. } = &mut self.0;
        check_records(list, header)?;

        let mut checker = ExtentChecker::new(header, PAGE);
        let flow = for_each_record(list, header, |nr, record| {
            let extent = match checker.check(record) {
                Ok(extent) => extent,
                Err(err) => return ControlFlow::Break(RestoreError::Record(nr, err)),
            };
            for (pfn, index) in extent.pages() {
                // It waits no more if it was named twice.
                let Some(folio) = take_folio(pfn, header.order()) else {
                    let err = abi::Error::NotPreserved;
                    return ControlFlow::Break(RestoreError::Record(nr, err));
                };
                // The reference is ours, whatever comes.
                *restored = restored.saturating_add(1);
                // SAFETY: It was just restored, so that it is not in use.
                if let Err(err) = unsafe { file.insert(folio, index, header.is_surplus()) } {
                    return ControlFlow::Break(RestoreError::Insert(nr, err));
                }
                // SAFETY: FFI call without requirements but that it may sleep.
                let _ = unsafe { bindings::luo_helper_interrupted() };
            }
            ControlFlow::Continue(())
        });
        match flow {
            ControlFlow::Break(err) => Err(err),
            ControlFlow::Continue(()) => Ok(HeldHugePages(self.0)),
        }
    }
}

/// The huge pages of a restored file, each with a reference that keeps it where it is.
///
/// As long as this exists, devices of the previous kernel may still write to the memory: it is not
/// migrated or given to anybody else, even if the file is truncated or closed.
pub struct HeldHugePages(#[expect(dead_code, reason = "owned")] HugePages);

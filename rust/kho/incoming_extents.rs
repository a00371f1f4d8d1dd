// SPDX-License-Identifier: GPL-2.0-only

//! The folios of a file that were handed over as extents.

use super::{
    incoming::{
        take_folio,
        waiting_order, //
    },
    waiting::{
        for_each_record,
        Extents,
        Kept, //
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
            ExtentSer, //
        },
        vmalloc::KhoVmalloc, //
    },
    bindings,
    coco::HostAccess, //
};
use core::{
    ops::ControlFlow,
    ptr::NonNull, //
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
            progress,
            inserted,
            ..
        } = &mut self.0;
        let restored = &mut progress.whole().done;
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

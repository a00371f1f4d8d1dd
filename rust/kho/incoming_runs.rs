// SPDX-License-Identifier: GPL-2.0-only

//! The pages of a file that were handed over as runs.
//!
//! KHO keeps a run in pieces: blocks of 2 MiB, and single pages where it is not aligned. What they become is for
//! this kernel to decide: folios that are as large as their alignment in memory and in the file, and the
//! file, allow.

mod batch;

use self::batch::{
    Batch,
    Run, //
};
use super::{
    incoming::waiting_order,
    progress::{
        Cursor,
        Part,
        Planner,
        Progress,
        MIN_PAGES, //
    },
    waiting::{
        for_each_record,
        for_each_record_from,
        Extents,
        Kept, //
    },
    Abi,
    Incoming,
    IncomingVec,
    RestoreError,
    PAGE, //
};
use crate::{
    abi::{
        self,
        extents::{
            Extent,
            ExtentList,
            ExtentSer,
            RecordChecker,
            SumChecker, //
        },
        vmalloc::KhoVmalloc, //
    },
    memfd::NewMemfd,
    parallel, //
};
use core::ops::ControlFlow;
use kernel::prelude::*;

/// Pages of a file as the previous kernel describes them.
///
/// If this is dropped, all are freed that can be identified.
pub struct IncomingRuns(Extents);

impl IncomingRuns {
    /// Takes over what the list at `desc` names. Anything may be wrong with it.
    ///
    /// A header arrives once, in an [`Incoming`], which is used up for this.
    pub fn new<T: Abi>(header: Incoming<T>, desc: impl FnOnce(&T) -> KhoVmalloc) -> Self {
        let desc = desc(&header);
        // SAFETY: The header is used up.
        Self(unsafe { Extents::new(desc, Kept::Pieces, None) })
    }

    /// Checks the list, but not yet what is in it.
    pub fn check(mut self, list: &ExtentList) -> Result<ListedRuns, RestoreError> {
        self.0.check(list)?;
        Ok(ListedRuns(self.0))
    }
}

/// Pages with a list that is in order. If this is dropped, all are freed.
pub struct ListedRuns(Extents);

/// Checks that there is a whole number of pieces where a record says. A part may start at each.
// Not inlined, so that the loop over single pages keeps what it needs in registers.
#[inline(never)]
fn check_pieces(
    extent: &Extent,
    record: u64,
    position: u64,
    planner: &mut Planner,
) -> Result<(), abi::Error> {
    let (mut pfn, mut left) = (extent.pfn(), u64::from(extent.nr()));
    while left != 0 {
        let order = waiting_order(pfn).ok_or(abi::Error::NotPreserved)?;
        let pages = 1u64.checked_shl(order).filter(|pages| *pages <= left);
        let pages = pages.ok_or(abi::Error::Order)?;
        // No overflow or underflow: these are pages of the extent.
        let skip = pfn - extent.pfn();
        planner.may_start(position.saturating_add(skip), Cursor { record, skip });
        pfn += pages;
        left -= pages;
    }
    Ok(())
}

/// Checks each record, and that everything waits that they name, but for single pages: there may be many,
/// and what is not there is found when it is restored.
///
/// Each piece is restored by one task, so that it is these that parts are made of.
fn check_each(
    records: &IncomingVec<ExtentSer>,
    list: &ExtentList,
    planner: &mut Planner,
) -> Result<(), RestoreError> {
    let mut checker = RecordChecker::new(list, PAGE);
    let mut position = 0u64;
    let flow = for_each_record(records, list, |record, raw| {
        let checked = checker.check(raw);
        let checked = checked.and_then(|extent| match extent.nr() {
            1 => {
                planner.may_start(position, Cursor { record, skip: 0 });
                Ok(())
            }
            _ => check_pieces(&extent, record, position, planner),
        });
        position = position.saturating_add(raw.nr.into());
        match checked {
            Ok(()) => ControlFlow::Continue(()),
            Err(err) => ControlFlow::Break(RestoreError::Record(record, err)),
        }
    });
    match flow {
        ControlFlow::Break(err) => Err(err),
        ControlFlow::Continue(()) => checker.end().map_err(RestoreError::List),
    }
}

/// Checks that no record was changed.
fn check_sum(records: &IncomingVec<ExtentSer>, list: &ExtentList) -> Result<(), RestoreError> {
    let mut sum = SumChecker::new(list);
    let _ = for_each_record(records, list, |_, record| {
        sum.add(record);
        ControlFlow::<()>::Continue(())
    });
    sum.end().map_err(RestoreError::List)
}

/// Checks all records, and plans how to divide them.
fn check_records(
    records: &IncomingVec<ExtentSer>,
    list: &ExtentList,
) -> Result<Progress, RestoreError> {
    let mut planner = Progress::plan(list.nr_pages());
    let (mut each, mut sum) = (Ok(()), Ok(()));
    let check_each = || each = check_each(records, list, &mut planner);
    let check_sum = || sum = check_sum(records, list);
    let much = u64::from(list.nr_extents()) >= MIN_PAGES;
    parallel::both(much, check_each, check_sum);
    each.and(sum).map(|()| planner.end())
}

impl ListedRuns {
    /// Checks all records, before anything is restored, and puts folios of at most `1 << max_order` pages
    /// into `file`. Several CPUs share the work if there is much of it.
    ///
    /// If it fails, all are freed, in part when the file is.
    pub fn insert_into(
        mut self,
        file: &NewMemfd,
        list: &ExtentList,
        max_order: u32,
    ) -> Result<HeldRuns, RestoreError> {
        let Extents {
            list: records,
            progress,
            ..
        } = &mut self.0;
        *progress = check_records(records, list)?;
        let max_order = max_order.min(file.max_folio_order());
        let records = &*records;
        parallel::for_each(progress.parts_mut(), |part| {
            part.result = insert_part(records, list, part, max_order, file);
        });
        progress.result()?;
        Ok(HeldRuns(self.0))
    }
}

/// Does one part of [`ListedRuns::insert_into`], whose records were checked.
fn insert_part(
    records: &IncomingVec<ExtentSer>,
    list: &ExtentList,
    part: &mut Part,
    max_order: u32,
    file: &NewMemfd,
) -> Result<(), RestoreError> {
    let batch = KBox::init(pin_init::init_zeroed::<Batch>(), GFP_KERNEL);
    let mut batch = batch.map_err(RestoreError::Create)?;
    let Cursor {
        record: mut last,
        mut skip,
    } = part.at;
    let mut pages = part.left();
    let restored = &mut part.done;
    let flow = for_each_record_from(last, records, list, |nr, record| {
        if pages == 0 {
            return ControlFlow::Break(Ok(()));
        }
        last = nr;
        // It was checked, and is in memory that is ours.
        let first = core::mem::take(&mut skip);
        let (pfn, index) = (
            record.first().saturating_add(first),
            u64::from(record.index).saturating_add(first),
        );
        let left = u64::from(record.nr).saturating_sub(first).min(pages);
        pages = pages.saturating_sub(left);
        let put = if left == 1 {
            // SAFETY: All records were checked, and the batch has only what is taken for them.
            unsafe { batch.put_single(pfn, index, file, restored) }
        } else {
            // SAFETY: As above.
            unsafe { batch.put_run(Run { pfn, index, left }, max_order, file, restored) }
        };
        match put {
            Ok(()) => ControlFlow::Continue(()),
            Err(stopped) => ControlFlow::Break(Err(stopped.at(nr))),
        }
    });
    if let ControlFlow::Break(Err(err)) = flow {
        return Err(err);
    }
    // SAFETY: As above.
    unsafe { batch.flush(file, restored) }.map_err(|stopped| stopped.at(last))
}

/// The folios of a restored file, each with a reference that keeps it where it is.
///
/// As long as this exists, devices of the previous kernel may still write to the memory: it is not
/// migrated, swapped out or given to anybody else, even if the file is truncated or closed.
pub struct HeldRuns(#[expect(dead_code, reason = "owned")] Extents);

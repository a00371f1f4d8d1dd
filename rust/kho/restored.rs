// SPDX-License-Identifier: GPL-2.0-only

//! The folios of a file that were handed over.

use super::{
    incoming::{
        free,
        take_waiting,
        waiting_order, //
    },
    FolioRecord,
    IncomingVec, //
};
use crate::{
    abi::{
        self,
        vmalloc::{
            CheckedVmalloc,
            KhoVmalloc, //
        }, //
    },
    bindings::{
        self,
        luo_helper_place as Place, //
    },
    memfd::NewMemfd, //
};
use core::{
    mem::MaybeUninit,
    ops::ControlFlow, //
};
use kernel::prelude::*;

/// Folios that are put into a file in one call.
const BATCH: usize = bindings::LUO_HELPER_BATCH as usize;

/// Why the folios of a file cannot be restored.
pub enum RestoreError {
    /// What describes the file is damaged.
    Header(abi::Error),
    /// The list of records is damaged.
    List(abi::Error),
    /// The record with this number is damaged.
    Record(u64, abi::Error),
    /// A file for the folios could not be made.
    Create(Error),
    /// The folio of the record with this number could not be put into the file.
    Insert(u64, Error),
}

impl RestoreError {
    /// The error number for the user.
    pub fn to_error(&self) -> Error {
        match self {
            Self::Header(err) | Self::List(err) | Self::Record(_, err) => {
                Error::from_errno(-err.errno())
            }
            Self::Create(err) | Self::Insert(_, err) => *err,
        }
    }
}

impl kernel::fmt::Display for RestoreError {
    fn fmt(&self, f: &mut kernel::fmt::Formatter<'_>) -> kernel::fmt::Result {
        match self {
            Self::Header(err) => write!(f, "header: {err}"),
            Self::List(err) => write!(f, "folio list: {err}"),
            Self::Record(nr, err) => write!(f, "folio record {nr}: {err}"),
            Self::Create(err) => write!(f, "cannot create a file: error {}", err.to_errno()),
            Self::Insert(nr, err) => {
                write!(
                    f,
                    "folio record {nr}: cannot insert into the file: error {}",
                    err.to_errno()
                )
            }
        }
    }
}

/// Folios that wait to be restored. All are freed when this is dropped.
///
/// The list of them is kept until the end: it tells which folios there are, so that no other memory
/// is needed to remember them.
struct Folios<R: FolioRecord> {
    list: IncomingVec<R>,
    /// The folios of that many records were restored, and we have a reference of each.
    restored: u64,
}

impl<R: FolioRecord> Drop for Folios<R> {
    fn drop(&mut self) {
        let restored = self.restored;
        self.list.drain(|first, records| {
            // In a list that may be anything, a page of records has at least one that makes sense.
            let is_done = first.saturating_add(records.len() as u64) <= restored;
            let known = !is_done
                && records
                    .iter()
                    .any(|record| record.is_plausible() && waiting_order(record.pfn()).is_some());
            for (nr, record) in (first..).zip(records) {
                if record.pfn() == 0 {
                    continue;
                }
                if nr < restored {
                    // SAFETY: The list was checked, this record's folio was restored, and our
                    // reference of it is released here only.
                    unsafe {
                        bindings::luo_helper_folio_put(bindings::luo_helper_pfn_folio(record.pfn()))
                    };
                } else if known {
                    free(record.pfn());
                }
            }
            // SAFETY: FFI call without requirements but that it may sleep.
            let _ = unsafe { bindings::luo_helper_interrupted() };
            known
        });
    }
}

/// Folios of a file as the previous kernel describes them.
///
/// If this is dropped, all are freed that can be identified.
pub struct IncomingFolios<R: FolioRecord>(Folios<R>);

impl<R: FolioRecord> IncomingFolios<R> {
    /// Takes over what the list at `desc` names. Anything may be wrong with it.
    ///
    /// A header arrives once, in an [`Incoming`](super::Incoming), which is used up for this.
    pub fn new<T: super::Abi>(
        header: super::Incoming<T>,
        desc: impl FnOnce(&T) -> KhoVmalloc,
    ) -> Self {
        let desc = desc(&header);
        Self(Folios {
            // SAFETY: The header is used up.
            list: unsafe { IncomingVec::new(desc) },
            restored: 0,
        })
    }

    /// Frees all folios. If the list is damaged, this tells so, and frees what can be identified.
    pub fn discard(mut self, list: Option<&CheckedVmalloc>) -> Result<(), RestoreError> {
        match list {
            Some(list) => self.0.list.check(list).map_err(RestoreError::List),
            None => Ok(()),
        }
    }

    /// Checks the list, and takes over the folio of each of its first `nr` records that passes.
    ///
    /// `check` is given the order of what KHO has waiting at the page number, if anything. A page that
    /// was taken over does not wait any more, so that a page number that is there twice is found.
    pub fn claim(
        mut self,
        list: Option<&CheckedVmalloc>,
        nr: u64,
        mut check: impl FnMut(&R, Option<u32>) -> Result<(), abi::Error>,
    ) -> Result<ClaimedFolios<R>, RestoreError> {
        if let Some(list) = list {
            self.0.list.check(list).map_err(RestoreError::List)?;
        }
        let Folios { list, restored } = &mut self.0;
        let flow = list.for_each_page(|first, records| {
            // What is in the last page behind the last record is not looked at.
            let records = up_to(records, nr.saturating_sub(*restored));
            for (at, record) in (first..).zip(records) {
                if let Err(err) = claim_one(record, &mut check) {
                    *restored = at;
                    return ControlFlow::Break(RestoreError::Record(at, err));
                }
            }
            *restored += records.len() as u64;
            // SAFETY: FFI call without requirements but that it may sleep.
            let _ = unsafe { bindings::luo_helper_interrupted() };
            ControlFlow::Continue(())
        });
        match flow {
            ControlFlow::Break(err) => Err(err),
            ControlFlow::Continue(()) if self.0.restored == nr => Ok(ClaimedFolios(self.0)),
            ControlFlow::Continue(()) => Err(RestoreError::List(abi::Error::Array)),
        }
    }
}

/// Folios whose records all make sense, and which nobody else can get. If this is dropped, all are
/// freed.
pub struct ClaimedFolios<R: FolioRecord>(Folios<R>);

impl<R: FolioRecord> ClaimedFolios<R> {
    /// Puts the folios into `file`.
    ///
    /// If it fails, all are freed, in part when the file is.
    pub fn insert_into(self, file: &NewMemfd) -> Result<HeldFolios<R>, RestoreError> {
        let nr = self.0.restored;
        let flow = self.0.list.for_each_page(|first, records| {
            let records = up_to(records, nr.saturating_sub(first));
            for (first, records) in (first..).step_by(BATCH).zip(records.chunks(BATCH)) {
                insert_batch(file, first, records)?;
            }
            // SAFETY: FFI call without requirements but that it may sleep.
            let _ = unsafe { bindings::luo_helper_interrupted() };
            ControlFlow::Continue(())
        });
        match flow {
            ControlFlow::Break(err) => Err(err),
            ControlFlow::Continue(()) => Ok(HeldFolios(self.0)),
        }
    }
}

/// The first `nr` of `records`, or all.
fn up_to<R>(records: &[R], nr: u64) -> &[R] {
    let nr = usize::try_from(nr).unwrap_or(usize::MAX);
    &records[..nr.min(records.len())]
}

/// Checks a record and takes over its folio.
#[inline]
fn claim_one<R: FolioRecord>(
    record: &R,
    check: &mut impl FnMut(&R, Option<u32>) -> Result<(), abi::Error>,
) -> Result<(), abi::Error> {
    let pfn = record.pfn();
    let order = waiting_order(pfn);
    check(record, order)?;
    if pfn == 0 {
        return Ok(());
    }
    let folio = order.and_then(|_| take_waiting(pfn));
    let folio = folio.ok_or(abi::Error::NotPreserved)?;
    if !record.is_uptodate() {
        // SAFETY: We own the folio, and nobody else uses it.
        unsafe { bindings::luo_helper_folio_zero(folio.as_ptr()) };
    }
    Ok(())
}

/// Puts the folios of `records`, at most [`BATCH`], into `file`. The first has the number `first`.
#[inline]
fn insert_batch<R: FolioRecord>(
    file: &NewMemfd,
    first: u64,
    records: &[R],
) -> ControlFlow<RestoreError> {
    let mut batch = [const { MaybeUninit::<Place>::uninit() }; BATCH];
    let mut len = 0;
    for (slot, record) in batch
        .iter_mut()
        .zip(records.iter().filter(|r| r.pfn() != 0))
    {
        slot.write(Place {
            pfn: record.pfn(),
            index: record.index(),
        });
        len += 1;
    }
    // SAFETY: The first `len` were written.
    let batch = unsafe { core::slice::from_raw_parts(batch.as_ptr().cast(), len) };
    // SAFETY: The folios were just restored, so that they are not in use, and they are valid or were
    // zeroed. The records were checked for what an index must be.
    match unsafe { file.insert(batch) } {
        (_, Ok(())) => ControlFlow::Continue(()),
        (done, Err(err)) => {
            // Only folios count, so that with holes among the records it may be a later one.
            let at = first.saturating_add(done as u64);
            ControlFlow::Break(RestoreError::Insert(at, err))
        }
    }
}

/// The folios of a restored file, each with a reference that keeps it where it is.
///
/// As long as this exists, devices of the previous kernel may still write to the memory: it is not
/// migrated, swapped out or given to anybody else, even if the file is truncated or closed.
pub struct HeldFolios<R: FolioRecord>(#[expect(dead_code, reason = "owned")] Folios<R>);

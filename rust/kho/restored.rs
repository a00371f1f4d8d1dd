// SPDX-License-Identifier: GPL-2.0-only

//! The folios of a file that were handed over.

use super::{
    incoming::{
        free,
        take_folio,
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
    bindings,
    memfd::NewMemfd, //
};
use core::{
    ops::ControlFlow,
    ptr, //
};
use kernel::prelude::*;

/// Folios that are put into a file in one call.
const BATCH: usize = 64;

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

    /// Checks the list and each of its first `nr` records, before anything is restored.
    ///
    /// `check` is given what KHO knows of a page number.
    pub fn check(
        mut self,
        list: Option<&CheckedVmalloc>,
        nr: u64,
        mut check: impl FnMut(&R, fn(u64) -> Option<u32>) -> Result<(), abi::Error>,
    ) -> Result<CheckedFolios<R>, RestoreError> {
        if let Some(list) = list {
            self.0.list.check(list).map_err(RestoreError::List)?;
        }
        let mut seen = 0;
        let flow = self.0.list.for_each_page(|first, records| {
            for (at, record) in (first..nr).zip(records) {
                if let Err(err) = check(record, waiting_order) {
                    return ControlFlow::Break(RestoreError::Record(at, err));
                }
                seen = at + 1;
            }
            ControlFlow::Continue(())
        });
        match flow {
            ControlFlow::Break(err) => Err(err),
            ControlFlow::Continue(()) if seen == nr => Ok(CheckedFolios { folios: self.0, nr }),
            ControlFlow::Continue(()) => Err(RestoreError::List(abi::Error::Array)),
        }
    }
}

/// Folios whose records make sense. If this is dropped, all are freed.
pub struct CheckedFolios<R: FolioRecord> {
    folios: Folios<R>,
    nr: u64,
}

impl<R: FolioRecord> CheckedFolios<R> {
    /// Restores the folios and puts them into `file`.
    ///
    /// If it fails, all are freed, in part when the file is.
    pub fn insert_into(mut self, file: &NewMemfd) -> Result<HeldFolios<R>, RestoreError> {
        let mut batch = Batch::new();
        let Folios { list, restored } = &mut self.folios;
        let nr = self.nr;
        let flow = list.for_each_page(|first, records| {
            for (at, record) in (first..nr).zip(records) {
                if record.pfn() != 0 {
                    // A page number that was there before is not waiting any more.
                    let Some(folio) = take_folio(record.pfn()) else {
                        let err = abi::Error::NotPreserved;
                        return ControlFlow::Break(RestoreError::Record(at, err));
                    };
                    if !record.is_uptodate() {
                        // SAFETY: We own the folio, and nobody else uses it.
                        unsafe { bindings::luo_helper_folio_zero(folio.as_ptr()) };
                    }
                    batch.push(folio.as_ptr(), record.index() as usize);
                }
                *restored = at + 1;
                if batch.is_full() {
                    batch.flush(file, at)?;
                }
            }
            ControlFlow::Continue(())
        });
        let flow = match flow {
            ControlFlow::Continue(()) => batch.flush(file, nr.saturating_sub(1)),
            broken => broken,
        };
        match flow {
            ControlFlow::Break(err) => Err(err),
            ControlFlow::Continue(()) => Ok(HeldFolios(self.folios)),
        }
    }
}

/// Folios on their way into a file.
struct Batch {
    folios: [*mut bindings::folio; BATCH],
    indices: [usize; BATCH],
    len: usize,
}

impl Batch {
    fn new() -> Self {
        Self {
            folios: [ptr::null_mut(); BATCH],
            indices: [0; BATCH],
            len: 0,
        }
    }

    #[inline]
    fn is_full(&self) -> bool {
        self.len == BATCH
    }

    #[inline]
    fn push(&mut self, folio: *mut bindings::folio, index: usize) {
        self.folios[self.len] = folio;
        self.indices[self.len] = index;
        self.len += 1;
    }

    /// Puts all into `file`; `last` is the number of the last record.
    fn flush(&mut self, file: &NewMemfd, last: u64) -> ControlFlow<RestoreError> {
        let nr = self.len;
        if nr == 0 {
            return ControlFlow::Continue(());
        }
        // SAFETY: The folios were just restored, so that they are not in use, and they are valid or
        // were zeroed. The records were checked for what an index must be.
        let (done, result) = unsafe { file.insert(&mut self.folios[..nr], &self.indices[..nr]) };
        self.len = 0;
        // SAFETY: FFI call without requirements but that it may sleep.
        let _ = unsafe { bindings::luo_helper_interrupted() };
        match result {
            Ok(()) => ControlFlow::Continue(()),
            Err(err) => {
                // Skipped records are not counted, so that this is a lower bound at worst.
                let at = last.saturating_sub((nr - 1).saturating_sub(done) as u64);
                ControlFlow::Break(RestoreError::Insert(at, err))
            }
        }
    }
}

/// The folios of a restored file, each with a reference that keeps it where it is.
///
/// As long as this exists, devices of the previous kernel may still write to the memory: it is not
/// migrated, swapped out or given to anybody else, even if the file is truncated or closed.
pub struct HeldFolios<R: FolioRecord>(#[expect(dead_code, reason = "owned")] Folios<R>);

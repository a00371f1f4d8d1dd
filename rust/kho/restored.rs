// SPDX-License-Identifier: GPL-2.0-only

//! The folios of a file that were handed over.

use super::{
    incoming::{
        free,
        waiting_order, //
    },
    progress::{
        Part,
        Progress, //
    },
    FolioRecord,
    IncomingVec,
    PAGE, //
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
    coco::HostAccess,
    memfd::NewMemfd,
    parallel, //
};
use core::{
    ops::ControlFlow,
    ptr::NonNull, //
};
use kernel::{
    ffi::c_ulong,
    prelude::*, //
};

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

/// Why a file cannot be made now, and what is left of it.
pub struct Failed<T> {
    /// Why.
    pub error: RestoreError,
    /// What another attempt can go on with, if nothing was lost. Dropping it frees the memory.
    pub rest: Option<T>,
}

impl<T> Failed<T> {
    /// Makes of the rest what another attempt needs.
    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> Failed<U> {
        Failed {
            error: self.error,
            rest: self.rest.map(f),
        }
    }
}

impl<T> From<RestoreError> for Failed<T> {
    /// There is nothing left.
    fn from(error: RestoreError) -> Self {
        Self { error, rest: None }
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
    /// The folios of which records were restored, so that we have a reference of each.
    progress: Progress,
    /// What follows that many records is not looked at, as far as that number is known.
    nr: u64,
    /// Folios that are larger are not ours.
    max_order: u32,
}

impl<R: FolioRecord> Drop for Folios<R> {
    fn drop(&mut self) {
        let (progress, nr, max_order) = (&self.progress, self.nr, self.max_order);
        let is_ours = |record: R| {
            record.is_plausible()
                && waiting_order(record.pfn()).is_some_and(|order| order <= max_order)
        };
        self.list.drain(is_ours, |first, records| {
            let mut records = up_to(records, nr.saturating_sub(first));
            let mut position = first;
            while !records.is_empty() {
                let (restored, same) = progress.at(position);
                let now = up_to(records, same);
                for record in now.iter().filter(|record| record.pfn() != 0) {
                    if restored {
                        // SAFETY: The list was checked and cannot have changed since, this record's
                        // folio was restored, and our reference of it is released here only.
                        unsafe {
                            let folio = bindings::luo_helper_pfn_folio(record.pfn());
                            bindings::luo_helper_folio_put(folio);
                        }
                    } else if record.is_plausible() {
                        free(record.pfn(), max_order);
                    }
                }
                position = position.saturating_add(now.len() as u64);
                records = records.get(now.len()..).unwrap_or_default();
            }
            // SAFETY: FFI call without requirements but that it may sleep.
            let _ = unsafe { bindings::luo_helper_interrupted() };
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
    /// A header arrives once, in an [`Incoming`](super::Incoming), which is used up for this. No folio
    /// is larger than `max_order`.
    pub fn new<T: super::Abi>(
        header: super::Incoming<T>,
        desc: impl FnOnce(&T) -> KhoVmalloc,
        max_order: u32,
    ) -> Self {
        let desc = desc(&header);
        Self(Folios {
            // SAFETY: The header is used up.
            list: unsafe { IncomingVec::new(desc) },
            progress: Progress::new(),
            nr: u64::MAX,
            max_order,
        })
    }

    /// Checks the list, but not yet the `nr` records in it. No list means that there are no folios.
    pub fn check(
        mut self,
        list: Option<&CheckedVmalloc>,
        nr: u64,
    ) -> Result<ListedFolios<R>, RestoreError> {
        self.0.nr = nr;
        if let Some(list) = list {
            self.0.list.check(list).map_err(RestoreError::List)?;
        }
        Ok(ListedFolios(self.0))
    }
}

/// Folios with a list that is in order. If this is dropped, all are freed.
pub struct ListedFolios<R: FolioRecord>(Folios<R>);

impl<R: FolioRecord> ListedFolios<R> {
    /// Checks the records, and puts the folio of each into `file`. Several CPUs share the work if there is
    /// much of it.
    ///
    /// For each part of the list, `checks` makes what checks its records in order: this is given the order
    /// of what was preserved at the page number, if anything. It is not there any more when the number is
    /// found a second time. Where parts meet, the page cache finds folios that overlap.
    ///
    /// If it fails, all folios are freed, in part when the file is.
    pub fn insert_into<C>(
        mut self,
        file: &NewMemfd,
        checks: impl Fn() -> C + Sync,
    ) -> Result<HeldFolios<R>, RestoreError>
    where
        C: FnMut(&R, Option<u32>) -> Result<(), abi::Error>,
    {
        let Folios {
            list,
            progress,
            nr,
            max_order,
        } = &mut self.0;
        *progress = Progress::plan(*nr).by_record();
        let (list, max_order) = (&*list, *max_order);
        parallel::for_each(progress.parts_mut(), |part| {
            part.result = insert_part(list, part, max_order, file, checks());
        });
        progress.result()?;
        Ok(HeldFolios(self.0))
    }
}

/// Does one part of [`ListedFolios::insert_into`].
fn insert_part<R: FolioRecord>(
    list: &IncomingVec<R>,
    part: &mut Part,
    max_order: u32,
    file: &NewMemfd,
    mut check: impl FnMut(&R, Option<u32>) -> Result<(), abi::Error>,
) -> Result<(), RestoreError> {
    let batch = KBox::init(pin_init::init_zeroed::<Batch>(), GFP_KERNEL);
    let mut batch = batch.map_err(RestoreError::Create)?;
    let flow = list.for_each_page_from(part.at.record, |_, records| {
        // What is in the last page behind the last record is not looked at.
        let mut records = up_to(records, part.left());
        if records.is_empty() {
            return ControlFlow::Break(Ok(()));
        }
        while let Some(record) = records.first() {
            let first = part.position();
            let taken = batch.take(records, max_order);
            if taken == 0 {
                let pfn = record.pfn();
                let result = match check(record, waiting_order(pfn)) {
                    // Somebody else has taken it just now.
                    Ok(()) if pfn != 0 => Err(abi::Error::NotPreserved),
                    result => result,
                };
                if let Err(err) = result {
                    return ControlFlow::Break(Err(RestoreError::Record(first, err)));
                }
                part.done = part.done.saturating_add(1);
                records = records.get(1..).unwrap_or_default();
                continue;
            }
            // Their references are ours, whatever comes.
            part.done = part.done.saturating_add(taken as u64);
            let (now, rest) = records.split_at_checked(taken).unwrap_or_default();
            if let Err((nr, err)) = batch.check(now, &mut check) {
                let nr = first.saturating_add(nr as u64);
                return ControlFlow::Break(Err(RestoreError::Record(nr, err)));
            }
            // SAFETY: The folios were just restored, so that they are not in use, and all their
            // records were just checked.
            if let Err((nr, err)) = unsafe { batch.insert_into(file, taken) } {
                let nr = first.saturating_add(nr as u64);
                return ControlFlow::Break(Err(RestoreError::Insert(nr, err)));
            }
            records = rest;
        }
        // SAFETY: FFI call without requirements but that it may sleep.
        let _ = unsafe { bindings::luo_helper_interrupted() };
        ControlFlow::Continue(())
    });
    match flow {
        ControlFlow::Break(Err(err)) => Err(err),
        _ if part.left() == 0 => Ok(()),
        _ => Err(RestoreError::List(abi::Error::Array)),
    }
}

/// The first `nr` of `records`, or all.
fn up_to<R>(records: &[R], nr: u64) -> &[R] {
    let nr = usize::try_from(nr).unwrap_or(usize::MAX);
    records.get(..nr).unwrap_or(records)
}

/// Folios that are put into a file in one call.
const BATCH: usize = 64;

/// Folios on their way into a file.
#[derive(Zeroable)]
struct Batch {
    phys: [u64; BATCH],
    folios: [*mut bindings::folio; BATCH],
    orders: [u8; BATCH],
    indices: [c_ulong; BATCH],
}

impl Batch {
    /// An address that there is never anything at.
    const NOWHERE: u64 = 1;

    /// Restores the folios of the first few of `records`, up to a hole or to one that has no folio to
    /// restore.
    ///
    /// Returns how many they are. The caller gets their references.
    #[inline]
    fn take<R: FolioRecord>(&mut self, records: &[R], max_order: u32) -> usize {
        for (phys, record) in self.phys.iter_mut().zip(records) {
            let pfn = record.pfn();
            *phys = match PAGE.phys(pfn) {
                Some(phys) if pfn != 0 => phys,
                _ => Self::NOWHERE,
            };
        }
        // SAFETY: All arrays are that long, and any address is allowed.
        let taken = unsafe {
            bindings::luo_helper_take_folios(
                self.phys.as_ptr(),
                // CAST: At most `BATCH`.
                records.len().min(BATCH) as u32,
                max_order,
                self.folios.as_mut_ptr(),
                self.orders.as_mut_ptr(),
            )
        };
        taken as usize
    }

    /// Checks whether the folios that were taken for `records` fit, and makes those valid that are not.
    ///
    /// If one does not fit, this returns which.
    #[inline]
    fn check<R: FolioRecord>(
        &mut self,
        records: &[R],
        check: &mut impl FnMut(&R, Option<u32>) -> Result<(), abi::Error>,
    ) -> Result<(), (usize, abi::Error)> {
        let mut nr = 0usize;
        let places = self.orders.iter().zip(&mut self.indices);
        for (record, (order, index)) in records.iter().zip(places) {
            check(record, Some((*order).into())).map_err(|err| (nr, err))?;
            if !record.is_uptodate() {
                if let Some(folio) = self.folios.get(nr) {
                    let folio = NonNull::new(*folio).ok_or((nr, abi::Error::NotPreserved))?;
                    // SAFETY: The folio was taken for this record, and nobody else uses it.
                    unsafe { HostAccess::ORDINARY.zero(folio) };
                }
            }
            // CAST: The kernel has 64 bits.
            *index = record.index() as c_ulong;
            nr = nr.wrapping_add(1);
        }
        Ok(())
    }

    /// Puts the first `nr` folios to their places. The references stay with the caller.
    ///
    /// If it fails, this returns how many went in.
    ///
    /// # Safety
    ///
    /// [`Batch::check`] succeeded for as many records as were taken last, and `nr` is not more.
    #[inline]
    unsafe fn insert_into(&self, file: &NewMemfd, nr: usize) -> Result<(), (usize, Error)> {
        let folios = self.folios.get(..nr).unwrap_or_default();
        let indices = self.indices.get(..nr).unwrap_or_default();
        // SAFETY: The caller guarantees it, as the check allows only an index that may be used.
        unsafe { file.insert(folios, indices) }
    }
}

/// The folios of a restored file, each with a reference that keeps it where it is.
///
/// As long as this exists, devices of the previous kernel may still write to the memory: it is not
/// migrated, swapped out or given to anybody else, even if the file is truncated or closed.
pub struct HeldFolios<R: FolioRecord>(#[expect(dead_code, reason = "owned")] Folios<R>);

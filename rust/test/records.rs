// SPDX-License-Identifier: GPL-2.0-only

//! What is handed over for a file, and can be damaged.

use crate::{
    abi::{
        extents::ExtentSer,
        guest_memfd::policy::PolicySer, //
    },
    kho::{
        FolioRecord,
        PreservedExtents,
        PreservedFolios,
        PreservedVec,
        PAGE, //
    }, //
};
use core::ptr::NonNull;

/// A page that describes memory.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Own {
    /// The first page of records.
    Records,
    /// The page that lists the pages of records.
    Chunk,
}

/// The records of a preserved file.
pub struct Records<'a> {
    pub(super) list: &'a dyn List,
    pub(super) policies: Option<&'a PreservedVec<PolicySer>>,
}

impl<'a> Records<'a> {
    /// Lets the records be damaged.
    pub fn new<R: FolioRecord>(folios: &'a PreservedFolios<R>) -> Self {
        Self {
            list: folios,
            policies: None,
        }
    }

    /// Lets extents be damaged.
    pub fn of_extents(list: &'a PreservedExtents) -> Self {
        Self {
            list,
            policies: None,
        }
    }

    /// Lets memory policies be damaged, too.
    pub fn with_policies(self, policies: &'a PreservedVec<PolicySer>) -> Self {
        Self {
            policies: Some(policies),
            ..self
        }
    }
}

impl List for PreservedExtents {
    fn record(&self, nr: u64) -> Option<NonNull<[u8]>> {
        let record = self.records().record_ptr(nr)?;
        Some(NonNull::slice_from_raw_parts(
            record.cast(),
            size_of::<ExtentSer>(),
        ))
    }

    fn naming(&self, own: Own) -> Option<u64> {
        let phys = match own {
            Own::Records => self.records().phys_of_page()?,
            Own::Chunk => self.describe().first,
        };
        Some(phys >> PAGE.shift())
    }
}

pub(super) trait List {
    fn record(&self, nr: u64) -> Option<NonNull<[u8]>>;
    /// The first word of a record that names one of the list's own pages.
    fn naming(&self, own: Own) -> Option<u64>;
}

impl<R: FolioRecord> List for PreservedFolios<R> {
    fn record(&self, nr: u64) -> Option<NonNull<[u8]>> {
        let record = self.records().record_ptr(nr)?;
        Some(NonNull::slice_from_raw_parts(record.cast(), size_of::<R>()))
    }

    fn naming(&self, own: Own) -> Option<u64> {
        let phys = match own {
            Own::Records => self.records().phys_of_page()?,
            Own::Chunk => self.describe().first,
        };
        let record = R::new(phys >> PAGE.shift(), 0);
        let word = record.as_bytes().first_chunk().copied()?;
        Some(u64::from_ne_bytes(word))
    }
}

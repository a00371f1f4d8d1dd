// SPDX-License-Identifier: GPL-2.0-only

//! Lists of records that name no memory.

use super::{
    Abi,
    Incoming,
    IncomingVec, //
};
use crate::abi::{
    self,
    guest_memfd::policy::PolicySer,
    iommu::{
        AreaSer,
        TableSer, //
    },
    vfio_pci::ConfigSer,
    vmalloc::{
        CheckedVmalloc,
        KhoVmalloc, //
    }, //
};
use core::ops::ControlFlow;

/// A record that tells by itself whether it was changed.
pub trait IntactRecord: Abi {
    /// Whether it was not.
    fn is_intact(&self) -> bool;
}

impl IntactRecord for PolicySer {
    fn is_intact(&self) -> bool {
        self.is_intact()
    }
}

impl IntactRecord for ConfigSer {
    fn is_intact(&self) -> bool {
        self.is_intact()
    }
}

impl IntactRecord for AreaSer {
    fn is_intact(&self) -> bool {
        self.is_intact()
    }
}

impl IntactRecord for TableSer {
    fn is_intact(&self) -> bool {
        self.is_intact()
    }
}

/// A list of such records. Its memory is freed when this is dropped, if it can be identified.
pub struct IncomingList<R: IntactRecord>(IncomingVec<R>);

impl<R: IntactRecord> IncomingList<R> {
    /// Takes over the list that a header has. Anything may be wrong with it.
    pub fn take<T: Abi>(
        header: &mut Incoming<T>,
        which: impl FnOnce(&mut T) -> &mut KhoVmalloc,
    ) -> Self {
        let desc = header.take_list(which);
        // SAFETY: A header arrives once, and has no such description any more.
        Self(unsafe { IncomingVec::new(desc) })
    }

    /// Checks the list, but not what is in it. No list means that there are no records.
    pub fn check(&mut self, list: Option<&CheckedVmalloc>) -> Result<(), abi::Error> {
        list.map_or(Ok(()), |list| self.0.check(list))
    }

    /// Calls `f` with each of the first `nr` records, until it fails. There are none if [`Self::check`] did
    /// not succeed.
    pub fn try_for_each<E>(
        &self,
        nr: impl Into<u64>,
        mut f: impl FnMut(&R) -> Result<(), E>,
    ) -> Result<(), E> {
        let nr = nr.into();
        let flow = self.0.for_each_page(|first, records| {
            let left = nr.saturating_sub(first);
            let left = usize::try_from(left).unwrap_or(usize::MAX);
            match records.iter().take(left).try_for_each(&mut f) {
                Ok(()) => ControlFlow::Continue(()),
                Err(err) => ControlFlow::Break(err),
            }
        });
        match flow {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(err) => Err(err),
        }
    }
}

impl<R: IntactRecord> Drop for IncomingList<R> {
    fn drop(&mut self) {
        self.0.drain(|record| record.is_intact(), |_, _| {});
    }
}

// SPDX-License-Identifier: GPL-2.0-only

//! Memory that is handed over to the next kernel, and memory that was.
//!
//! `Preserved*` types live in the old kernel: dropping one takes the memory back. `Incoming*` types
//! live in the new kernel: each stands for memory that only it may restore, and dropping one frees
//! that memory. There is no conversion between the two.
//!
//! What arrives is not believed: memory is looked at only after KHO has confirmed that it was preserved
//! with the size that is claimed, and is restored before anything depends on its content, so that
//! nobody else can get it. KHO itself is believed: if its radix tree says that preservations overlap,
//! they are restored as it says.
//!
//! C header: [`include/linux/kexec_handover.h`](srctree/include/linux/kexec_handover.h)

mod extents;
mod folios;
mod incoming;
mod incoming_extents;
mod incoming_list;
mod incoming_runs;
mod incoming_vec;
mod outgoing;
mod pages;
mod progress;
mod runs;

pub(crate) use self::incoming::Waiting;
pub use self::{
    extents::PreservedExtents,
    folios::{
        FolioRecord,
        PreservedFolios, //
    },
    incoming::Incoming,
    incoming_extents::{
        ExtentFile,
        HeldExtents,
        IncomingExtents,
        ListedExtents, //
    },
    incoming_list::{
        IncomingList,
        IntactRecord, //
    },
    incoming_runs::{
        HeldRuns,
        IncomingRuns,
        ListedRuns, //
    },
    incoming_vec::IncomingVec,
    outgoing::{
        PreservedBox,
        PreservedVec, //
    },
    pages::{
        is_preserved,
        IncomingPages,
        PageReader,
        PreservedPages, //
    },
    restored::{
        Failed,
        HeldFolios,
        IncomingFolios,
        ListedFolios,
        RestoreError, //
    },
    runs::PreservedRuns,
};

mod restored;
mod waiting;

use crate::abi::PageSize;
use kernel::{
    build_assert::static_assert,
    page::PAGE_SHIFT, //
};
use zerocopy::{
    FromBytes,
    Immutable,
    IntoBytes,
    KnownLayout, //
};

/// The size of this kernel's pages, which is also the previous one's.
pub const PAGE: PageSize = match PageSize::new(PAGE_SHIFT as u32) {
    Some(page) => page,
    None => panic!("a page size that live update formats do not know"),
};

static_assert!(PAGE_SHIFT < 32);

/// Types that may be handed over: plain data that any bytes are a valid value of.
pub trait Abi:
    FromBytes + IntoBytes + Immutable + KnownLayout + Copy + Send + Sync + 'static
{
}

impl<T> Abi for T where
    T: FromBytes + IntoBytes + Immutable + KnownLayout + Copy + Send + Sync + 'static
{
}

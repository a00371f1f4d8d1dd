// SPDX-License-Identifier: GPL-2.0-only

//! Faults on request, for tests: the device `/dev/luo_test`.
//!
//! It exists only in kernels with `CONFIG_LIVEUPDATE_TEST`. Each write is one command:
//!
//! ```text
//! fail <preserve|freeze|retrieve> <errno> [count [after]]
//! poke head <byte offset> <u64>
//! poke array <element> <byte offset> <u64>
//! poke own <element> <records|chunk>
//! poke policy <number> <byte offset> <u64>
//! poke pools <byte offset> <u64>
//! sum
//! next
//! chunk <pages>
//! coco <strict|lax|not-cleared|stale|no-policy>
//! reset
//! ```
//!
//! `fail` makes the next calls of any handler fail, but for so many that come before. `poke` overwrites eight bytes of what is handed
//! over, when it is frozen, or, with `own`, the page number in a record by that of a page of the list
//! of records itself, or, with `policy`, in a memory policy, whose checksum then fits unless it is what is
//! overwritten, or, with `pools`, in the table of huge pages; if the old kernel goes on after all,
//! they are put back. `sum` makes the checksums fit again. All of these are for the file that is frozen
//! next; after `next`, for the one after that. `chunk` sets how many pages are pinned at a time.
//!
//! `coco strict` makes private memory of guests out of bounds for the host, and the kernel warn when it is
//! touched all the same; with `lax` it warns only. `not-cleared`, `stale` and `no-policy` are mistakes with
//! guest memory that tests have to notice.

#[cfg(CONFIG_LIVEUPDATE_TEST)]
mod coco;
#[cfg(CONFIG_LIVEUPDATE_TEST)]
mod device;
#[cfg(CONFIG_LIVEUPDATE_TEST)]
mod flb;
#[cfg(CONFIG_LIVEUPDATE_TEST)]
mod records;

#[cfg(CONFIG_LIVEUPDATE_TEST)]
pub(crate) use self::coco::coco;
#[cfg(CONFIG_LIVEUPDATE_TEST)]
pub use self::coco::{
    mistake,
    Mistake, //
};
#[cfg(CONFIG_LIVEUPDATE_TEST)]
pub use self::device::chunk;
#[cfg(CONFIG_LIVEUPDATE_TEST)]
pub(crate) use self::device::{
    damage,
    fail,
    repair,
    Device, //
};
#[cfg(CONFIG_LIVEUPDATE_TEST)]
pub use self::flb::TestFlb;
#[cfg(CONFIG_LIVEUPDATE_TEST)]
pub use self::records::Records;

/// A call that can be made to fail.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// In the old kernel.
    Preserve,
    /// Just before the jump.
    Freeze,
    /// In the new kernel.
    Retrieve,
}

#[cfg(not(CONFIG_LIVEUPDATE_TEST))]
mod off {
    use super::Step;
    use core::num::NonZeroU32;
    use kernel::{
        fs::File,
        prelude::*, //
    };

    #[pin_data]
    pub(crate) struct Device {}

    impl Device {
        pub(crate) fn register(_module: &'static ThisModule) -> impl PinInit<Self, Error> {
            try_pin_init!(Self {})
        }
    }

    /// Pages to pin at a time, if a test wants another number.
    #[inline(always)]
    pub fn chunk() -> Option<NonZeroU32> {
        None
    }

    /// Something that a test must notice, which nobody does here.
    #[derive(Clone, Copy)]
    pub enum Mistake {
        /// Pages that were never used are taken for clean when they are preserved.
        NotCleared,
        /// The next kernel does not know that pages have been used.
        Stale,
        /// The next kernel does not set memory policies.
        NoPolicy,
    }

    /// Whether to make it.
    #[inline(always)]
    pub fn mistake(_mistake: Mistake) -> bool {
        false
    }

    #[inline(always)]
    pub(crate) fn fail(_step: Step) -> Result {
        Ok(())
    }

    #[inline(always)]
    pub(crate) fn repair(_file: &File) {}
}

#[cfg(not(CONFIG_LIVEUPDATE_TEST))]
pub use self::off::{
    chunk,
    mistake,
    Mistake, //
};
#[cfg(not(CONFIG_LIVEUPDATE_TEST))]
pub(crate) use self::off::{
    fail,
    repair,
    Device, //
};
/// The shared state of handlers that need none.
#[cfg(not(CONFIG_LIVEUPDATE_TEST))]
pub use crate::flb::NoFlb as TestFlb;

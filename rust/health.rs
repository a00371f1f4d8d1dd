// SPDX-License-Identifier: GPL-2.0-only

//! Whether memory of the machine broke since something was looked at.

use crate::bindings;

/// How many pages of the machine were known to be broken at some time.
///
/// Just before the jump, a handler has to know whether preserved memory broke meanwhile. To look at each page
/// takes time in which no guest runs. Memory hardly ever breaks, and the kernel counts it
/// (`HardwareCorrupted` of `/proc/meminfo`), so the pages have to be looked at only if another one did.
///
/// The kernel marks a broken page first and counts it when it has dealt with it, so take the number before
/// the pages are looked at for the first time. What breaks at the moment of the second look can be missed, as what
/// breaks after it. The next kernel finds it in its turn when the memory is used. A page that recovers, which
/// only tests can have, hides another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BrokenPages(isize);

impl BrokenPages {
    /// The number now.
    pub fn count() -> Self {
        // SAFETY: This only reads a counter.
        Self(unsafe { bindings::luo_helper_broken_pages() })
    }

    /// Whether it is still the same.
    pub fn is_unchanged(self) -> bool {
        self == Self::count()
    }
}

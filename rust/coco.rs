// SPDX-License-Identifier: GPL-2.0-only

//! What the host may do with the content of guest memory.
//!
//! Guests have memory that the host only promises not to look at, and some have memory that it cannot
//! touch: encrypted, or not mapped. A host that writes to that breaks the guest or dies. So whatever reads
//! or writes the content of folios that may be a guest's needs a [`HostAccess`], which nobody but a
//! [`CocoBackend`] grants, for one class of memory. Moving folios about and looking at their flags is no access.
//!
//! C code that touches content gets the answer as an argument.

use crate::{
    abi::extents::Class,
    bindings, //
};
use core::ptr::NonNull;

/// A way to keep the memory of guests from the host.
///
/// Other backends belong to kinds of VMs that are refused so far.
pub trait CocoBackend: Sync {
    /// Whether the host may read and write memory of this class. That is always so for
    /// [`Class::Shared`].
    fn may_touch(&self, class: Class) -> bool;

    /// Is told when the host did so.
    #[inline]
    fn touched(&self, _class: Class) {}
}

/// Software alone protects the memory, as that of `KVM_X86_SW_PROTECTED_VM`: the host can touch all that it
/// has mapped, and does that only where no content of the guest is at stake.
pub struct SoftwareProtected;

impl CocoBackend for SoftwareProtected {
    #[inline]
    fn may_touch(&self, class: Class) -> bool {
        match class {
            Class::Shared | Class::PrivatePlain => true,
            Class::PrivateEncrypted | Class::NotInDirectMap => false,
        }
    }
}

/// The one in force.
fn backend() -> &'static dyn CocoBackend {
    #[cfg(CONFIG_LIVEUPDATE_TEST)]
    if let Some(backend) = crate::test::coco() {
        return backend;
    }
    &SoftwareProtected
}

/// Permission to touch the content of folios of one class.
///
/// # Invariants
///
/// The backend allows it.
#[derive(Clone, Copy)]
pub struct HostAccess(Class);

impl HostAccess {
    /// To memory of files that have nothing to do with guests' private memory.
    // INVARIANT: Every backend allows it.
    pub const ORDINARY: Self = Self(Class::Shared);

    /// Asks for permission.
    pub fn to(class: Class) -> Option<Self> {
        // INVARIANT: Just asked.
        backend().may_touch(class).then_some(Self(class))
    }

    /// Asks for permission to leave nothing in memory of this class that is about to be free, if there is
    /// anything to hide.
    ///
    /// What the host may not touch, it cannot read when it is free either.
    pub fn to_scrub(class: Class) -> Option<Self> {
        match class {
            Class::Shared => None,
            class => Self::to(class),
        }
    }

    /// Is called for what C code did with this permission.
    pub fn used(self) {
        backend().touched(self.0);
    }

    /// Zeroes a folio.
    ///
    /// # Safety
    ///
    /// The folio is alive, has memory of this class, and nobody else uses it.
    pub unsafe fn zero(self, folio: NonNull<bindings::folio>) {
        self.used();
        // SAFETY: The caller guarantees that nobody uses it.
        unsafe { bindings::luo_helper_folio_zero(folio.as_ptr()) };
    }
}

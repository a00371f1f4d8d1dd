// SPDX-License-Identifier: GPL-2.0-only

//! Files with guest memory of KVM.
//!
//! This is a part of `luo_guest_memfd`, not of `luo_rs`, which does not need KVM.
//!
//! C header: `include/linux/kvm_gmem.h`

mod link;
mod outgoing;
pub(crate) mod policy;

pub(crate) use self::outgoing::PreservedPages;

use core::ptr::NonNull;
use kernel::{
    error::{
        from_err_ptr,
        to_result, //
    },
    ffi::c_ulong,
    fs::File,
    prelude::*,
    sync::aref::ARef, //
};
use luo::{
    bindings,
    kho::ExtentFile,
    test::{
        mistake,
        Mistake, //
    }, //
};

/// Keeps KVM able to have guest_memfd files that no VM has.
///
/// This module has one for as long as its handler is registered. Its files keep the module.
///
/// # Invariants
///
/// This is a reference of `kvm_gmem_get()`.
pub(crate) struct Kvm(());

impl Kvm {
    /// Fails with `ENODEV` if this machine has no VMs, or if what makes them is not loaded yet.
    pub(crate) fn get() -> Result<Self> {
        // SAFETY: FFI call without requirements.
        to_result(unsafe { bindings::kvm_gmem_get() }).inspect_err(|_| {
            pr_err!(
                "KVM is not ready: load kvm_amd or kvm_intel first, if this machine can run VMs\n"
            );
        })?;
        // INVARIANT: Just taken.
        Ok(Self(()))
    }
}

impl Drop for Kvm {
    fn drop(&mut self) {
        // SAFETY: By the type invariants, there is a reference to give back.
        unsafe { bindings::kvm_gmem_put() };
    }
}

/// A file that is known to be a guest_memfd file, of a VM or of none.
///
/// # Invariants
///
/// `kvm_gmem_get_info()` is true for the file, and the rest is what it told. None of that changes, except that
/// a VM of the default type may become one with encrypted memory.
#[derive(Clone, Copy)]
pub(crate) struct GuestMemfd<'a> {
    file: &'a File,
    size: u64,
    flags: u64,
    vm_type: u64,
}

impl<'a> GuestMemfd<'a> {
    /// Takes `file` if it is one.
    pub(crate) fn new(file: &'a File) -> Option<Self> {
        let mut info: bindings::kvm_gmem_info = pin_init::zeroed();
        // SAFETY: The file is alive, and `info` is valid for writes.
        let is_gmem = unsafe { bindings::kvm_gmem_get_info(file.as_ptr(), &raw mut info) };
        // INVARIANT: Just checked.
        is_gmem.then_some(Self {
            file,
            // CAST: A file size is never negative.
            size: info.size as u64,
            flags: info.flags,
            vm_type: info.vm_type,
        })
    }

    #[inline]
    fn as_ptr(self) -> *mut bindings::file {
        self.file.as_ptr()
    }

    /// Size in bytes.
    pub(crate) fn size(self) -> u64 {
        self.size
    }

    /// Flags of `KVM_CREATE_GUEST_MEMFD`.
    pub(crate) fn flags(self) -> u64 {
        self.flags
    }

    /// What kind of VM the memory is for.
    pub(crate) fn vm_type(self) -> u64 {
        self.vm_type
    }

    /// Fixes which memory is in the file, until the result is dropped.
    ///
    /// Fails with `EBUSY` if it is fixed already.
    pub(crate) fn freeze(self) -> Result<FrozenGuestMemfd> {
        // SAFETY: The file is alive. The caller holds LUO's locks only, which no fault takes.
        to_result(unsafe { bindings::kvm_gmem_freeze(self.as_ptr()) })?;
        // INVARIANT: It is frozen, and was not before, so that it is ours to thaw.
        Ok(FrozenGuestMemfd {
            file: ARef::from(self.file),
        })
    }
}

/// Keeps the memory of a file in it.
///
/// # Invariants
///
/// The file is a guest_memfd file, and we froze it.
pub(crate) struct FrozenGuestMemfd {
    file: ARef<File>,
}

impl FrozenGuestMemfd {
    /// Number of pages that are in the file.
    fn nr_pages(&self) -> u64 {
        // SAFETY: The file is alive.
        unsafe { bindings::luo_helper_gmem_nr_pages(self.file.as_ptr()) as u64 }
    }
}

impl Drop for FrozenGuestMemfd {
    fn drop(&mut self) {
        // SAFETY: By the type invariants.
        unsafe { bindings::kvm_gmem_thaw(self.file.as_ptr()) };
    }
}

/// A new guest_memfd file that has no VM, and that nobody else knows yet.
///
/// # Invariants
///
/// It is what `kvm_gmem_create_detached()` made, and there is no other reference.
pub(crate) struct NewGuestMemfd {
    file: ARef<File>,
}

impl NewGuestMemfd {
    /// Creates one that is all hole.
    pub(crate) fn new(size: u64, flags: u64, vm_type: u64) -> Result<Self> {
        let size = i64::try_from(size).map_err(|_| EFBIG)?;
        // SAFETY: The operations live as long as this module, which they are of. This is called
        // while its handler is registered, so that there is a `Kvm`.
        let file =
            unsafe { bindings::kvm_gmem_create_detached(size, flags, vm_type, link::OPERATIONS) };
        let file = NonNull::new(from_err_ptr(file)?.cast()).ok_or(ENOMEM)?;
        // SAFETY: We own the only reference, and `File` is a transparent wrapper; nobody can have
        // called `fdget_pos()` for it.
        let file = unsafe { ARef::from_raw(file) };
        // INVARIANT: Just created.
        Ok(Self { file })
    }

    /// The finished file.
    pub(crate) fn into_file(self) -> ARef<File> {
        self.file
    }
}

impl ExtentFile for NewGuestMemfd {
    unsafe fn insert(&self, folio: NonNull<bindings::folio>, index: u32) -> Result {
        // SAFETY: By the type invariants it is a guest_memfd file that nobody knows. The caller
        // guarantees the rest.
        to_result(unsafe {
            bindings::luo_helper_gmem_insert(
                self.file.as_ptr(),
                folio.as_ptr(),
                // CAST: The kernel has 64 bits.
                index as c_ulong,
                !mistake(Mistake::Stale),
            )
        })
    }
}

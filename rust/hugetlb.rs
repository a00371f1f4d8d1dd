// SPDX-License-Identifier: GPL-2.0-only

//! Files with huge pages from the pools of HugeTLB.
//!
//! C header: [`include/linux/hugetlb.h`](srctree/include/linux/hugetlb.h)

mod outgoing;
pub(crate) mod pools;

pub use self::outgoing::PreservedHugePages;

use crate::{
    abi::memfd::Seals,
    bindings, fs,
    kho::{
        ExtentFile,
        PAGE, //
    },
};
use core::ptr::NonNull;
use kernel::{
    error::to_result,
    ffi::{
        c_int,
        c_uint,
        c_ulong, //
    },
    fs::File,
    prelude::*,
    sync::aref::ARef, //
};

const MFD_ALLOW_SEALING: c_uint = 0x0002;
const MFD_HUGETLB: c_uint = 0x0004;
const MFD_HUGE_SHIFT: u32 = 26;
const FALLOC_FL_KEEP_SIZE: c_int = 0x01;

/// A file that is known to have huge pages.
///
/// # Invariants
///
/// `is_file_hugepages()` is true for the file.
#[derive(Clone, Copy)]
pub struct Hugetlb<'a>(&'a File);

impl<'a> Hugetlb<'a> {
    /// Takes `file` if it has huge pages.
    pub fn new(file: &'a File) -> Option<Self> {
        // SAFETY: The file is alive.
        let is_hugetlb = unsafe { bindings::luo_helper_is_hugetlb(file.as_ptr()) };
        // INVARIANT: Just checked.
        is_hugetlb.then_some(Self(file))
    }

    /// The file itself.
    pub fn file(self) -> &'a File {
        self.0
    }

    #[inline]
    fn as_ptr(self) -> *mut bindings::file {
        self.0.as_ptr()
    }

    /// Whether it is a memfd, and not in a mounted file system or SysV shared memory.
    pub fn is_memfd(self) -> bool {
        // SAFETY: By the type invariants.
        unsafe { bindings::luo_helper_hugetlb_is_memfd(self.as_ptr()) }
    }

    /// Size in bytes.
    pub fn size(self) -> u64 {
        // SAFETY: By the type invariants.
        let size = unsafe { bindings::luo_helper_hugetlb_size(self.as_ptr()) };
        // CAST: A file size is never negative.
        size as u64
    }

    /// Base two logarithm of the number of pages in a huge page.
    pub fn order(self) -> u32 {
        // SAFETY: By the type invariants.
        unsafe { bindings::luo_helper_hugetlb_order(self.as_ptr()) }
    }

    /// Whether the mode of the file lets anybody execute it.
    pub fn is_executable(self) -> bool {
        fs::is_executable(self.0)
    }

    /// Allocates huge pages where there are none, from the pool, as `fallocate()` does.
    ///
    /// To pin a hole allocates as well, but only a free huge page that may stay where it is for long. Pinning
    /// one that is there already moves it instead, even if the pool has no such page.
    ///
    /// Fails with `ENOMEM` if the pool has not enough, and with `EINTR` if a signal is pending. Does nothing if
    /// the file is frozen.
    pub fn fill_holes(self) -> Result {
        let size = i64::try_from(self.size()).map_err(|_| EFBIG)?;
        if size == 0 {
            return Ok(());
        }
        // SAFETY: The file is alive.
        let ret = unsafe { bindings::vfs_fallocate(self.as_ptr(), FALLOC_FL_KEEP_SIZE, 0, size) };
        match to_result(ret) {
            Err(err) if err == ENOSPC => Err(ENOMEM),
            Err(err) if err == EPERM => Ok(()),
            result => result,
        }
    }

    /// Fixes which memory is in the file: until the result is dropped, the file cannot grow, shrink,
    /// or be punched.
    ///
    /// Fails with `EBUSY` if it is fixed already.
    pub fn freeze(self) -> Result<FrozenHugetlb> {
        // SAFETY: By the type invariants.
        to_result(unsafe { bindings::luo_helper_hugetlb_freeze(self.as_ptr()) })?;
        // INVARIANT: It is frozen, and was not before, so that it is ours to thaw.
        Ok(FrozenHugetlb {
            file: ARef::from(self.0),
        })
    }
}

/// Keeps the mapping of a file as it is.
///
/// # Invariants
///
/// `is_file_hugepages()` is true for the file, and we froze its mapping.
pub struct FrozenHugetlb {
    file: ARef<File>,
}

impl Drop for FrozenHugetlb {
    fn drop(&mut self) {
        // SAFETY: By the type invariants.
        unsafe { bindings::luo_helper_hugetlb_thaw(self.file.as_ptr()) };
    }
}

/// A new memfd with huge pages that nobody else knows yet.
///
/// # Invariants
///
/// `is_file_hugepages()` is true for the file, and there is no other reference.
pub struct NewHugetlb {
    file: ARef<File>,
}

impl NewHugetlb {
    /// Creates an empty one whose huge pages have `1 << order` pages each.
    ///
    /// Fails with `ENODEV` if this kernel has no huge pages of that size.
    pub fn new(order: u32) -> Result<Self> {
        let shift = order.checked_add(PAGE.shift()).filter(|shift| *shift < 64);
        let flags = shift.ok_or(ENODEV)? << MFD_HUGE_SHIFT | MFD_HUGETLB | MFD_ALLOW_SEALING;
        // INVARIANT: That is what the flags ask for.
        Ok(Self {
            file: fs::new_memfd(flags)?,
        })
    }

    /// Takes away the permission to execute it.
    pub fn set_noexec(&self) {
        fs::set_noexec(&self.file);
    }

    /// Adds seals.
    pub fn add_seals(&self, seals: Seals) -> Result {
        fs::add_seals(&self.file, seals)
    }

    /// Sets the size. The file is all hole.
    pub fn set_size(&self, size: u64) -> Result {
        let size = i64::try_from(size).map_err(|_| EFBIG)?;
        // SAFETY: By the type invariants nobody else knows the file.
        unsafe { bindings::luo_helper_hugetlb_set_size(self.file.as_ptr(), size) };
        Ok(())
    }

    /// Sets the file position.
    pub fn set_pos(&self, pos: u64) -> Result {
        fs::set_pos(&self.file, pos)
    }

    /// The finished file.
    pub fn into_file(self) -> ARef<File> {
        self.file
    }
}

/// A new memfd, and what its huge pages become.
pub struct Pages<'a> {
    /// The file.
    pub file: &'a NewHugetlb,
    /// Whether the huge pages are surplus pages.
    pub surplus: bool,
}

impl ExtentFile for Pages<'_> {
    unsafe fn insert(&self, folio: NonNull<bindings::folio>, index: u32) -> Result {
        // SAFETY: By the type invariants it has huge pages. The caller guarantees the rest.
        to_result(unsafe {
            bindings::luo_helper_hugetlb_insert(
                self.file.file.as_ptr(),
                folio.as_ptr(),
                // CAST: The kernel has 64 bits.
                index as c_ulong,
                self.surplus,
            )
        })
    }
}

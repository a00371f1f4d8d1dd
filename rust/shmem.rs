// SPDX-License-Identifier: GPL-2.0-only

//! Files in shared memory.
//!
//! C header: [`include/linux/shmem_fs.h`](srctree/include/linux/shmem_fs.h)

use crate::bindings;
use kernel::{
    error::to_result,
    fs::File,
    prelude::*,
    sync::aref::ARef, //
};

/// A file that is known to be in shared memory.
///
/// # Invariants
///
/// `shmem_file()` is true for the file.
#[derive(Clone, Copy)]
pub struct Shmem<'a>(&'a File);

impl<'a> Shmem<'a> {
    /// Takes `file` if it is in shared memory.
    pub fn new(file: &'a File) -> Option<Self> {
        // SAFETY: The file is alive.
        let is_shmem = unsafe { bindings::luo_helper_is_shmem(file.as_ptr()) };
        // INVARIANT: Just checked.
        is_shmem.then_some(Self(file))
    }

    /// The file itself.
    pub fn file(self) -> &'a File {
        self.0
    }

    #[inline]
    pub(crate) fn as_ptr(self) -> *mut bindings::file {
        self.0.as_ptr()
    }

    /// Size in bytes.
    pub fn size(self) -> u64 {
        // SAFETY: The file is alive.
        let size = unsafe { bindings::luo_helper_shmem_size(self.as_ptr()) };
        // CAST: A file size is never negative.
        size as u64
    }

    /// Fixes which memory is in the file: until the result is dropped, the file cannot grow,
    /// shrink, or be punched.
    ///
    /// Fails with `EBUSY` if it is fixed already.
    pub fn freeze(self) -> Result<FrozenShmem> {
        // SAFETY: The file is alive and in shared memory.
        to_result(unsafe { bindings::luo_helper_shmem_freeze(self.as_ptr()) })?;
        // INVARIANT: It is frozen, and was not before, so that it is ours to thaw.
        Ok(FrozenShmem {
            file: ARef::from(self.0),
        })
    }
}

/// Keeps the mapping of a file as it is.
///
/// # Invariants
///
/// The file is in shared memory, and we froze its mapping.
pub struct FrozenShmem {
    file: ARef<File>,
}

impl Drop for FrozenShmem {
    fn drop(&mut self) {
        // SAFETY: By the type invariants.
        unsafe { bindings::luo_helper_shmem_thaw(self.file.as_ptr()) };
    }
}

// SPDX-License-Identifier: GPL-2.0-only

//! Files made by `memfd_create()`.
//!
//! C header: [`include/linux/memfd.h`](srctree/include/linux/memfd.h)

use crate::{
    abi::memfd::{
        CreateMode,
        Seals, //
    },
    bindings,
    fs, //
};
use kernel::{
    error::to_result,
    ffi::c_ulong,
    fs::File,
    prelude::*,
    sync::aref::ARef, //
};

const MFD_ALLOW_SEALING: u32 = 0x0002;
const MFD_NOEXEC_SEAL: u32 = 0x0008;

/// A new memfd in shared memory that nobody else knows yet.
///
/// # Invariants
///
/// `shmem_file()` is true for the file, and there is no other reference.
pub struct NewMemfd {
    file: ARef<File>,
}

impl NewMemfd {
    /// Creates an empty one.
    pub fn new(mode: CreateMode) -> Result<Self> {
        let flags = match mode {
            CreateMode::NoExecSeal => MFD_NOEXEC_SEAL,
            CreateMode::AllowSealing => MFD_ALLOW_SEALING,
        };
        // INVARIANT: A memfd without huge pages is in shared memory.
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
        // SAFETY: The file is alive, and by the type invariants nobody else knows it.
        unsafe { bindings::luo_helper_shmem_set_size(self.file.as_ptr(), size) };
        Ok(())
    }

    /// Sets the file position.
    pub fn set_pos(&self, pos: u64) -> Result {
        fs::set_pos(&self.file, pos)
    }

    /// Order of the largest folio that can be in it.
    pub fn max_folio_order(&self) -> u32 {
        // SAFETY: The file is alive.
        unsafe { bindings::luo_helper_shmem_max_order(self.file.as_ptr()) }
    }

    /// Puts folios to their places. The page cache takes references of its own.
    ///
    /// If it fails, this returns how many went in.
    ///
    /// # Safety
    ///
    /// The caller has a reference of each folio. The folios are not in use, their content is valid,
    /// and each index is a multiple of its folio's size in pages, below the file size, and not in use.
    #[inline]
    pub(crate) unsafe fn insert(
        &self,
        folios: &[*mut bindings::folio],
        indices: &[c_ulong],
    ) -> Result<(), (usize, Error)> {
        let nr = folios.len().min(indices.len());
        let Ok(nr @ 1..) = u32::try_from(nr) else {
            return Ok(());
        };
        let mut done = 0;
        // SAFETY: There are that many folios and indices, and the caller guarantees the rest.
        let ret = unsafe {
            bindings::luo_helper_shmem_insert(
                self.file.as_ptr(),
                // The function does not change the array.
                folios.as_ptr().cast_mut(),
                indices.as_ptr(),
                nr,
                &raw mut done,
            )
        };
        to_result(ret).map_err(|err| (done as usize, err))
    }

    /// The finished file.
    pub fn into_file(self) -> ARef<File> {
        self.file
    }
}

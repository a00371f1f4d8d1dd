// SPDX-License-Identifier: GPL-2.0-only

//! What handlers ask of any file.
//!
//! C header: [`include/linux/fs.h`](srctree/include/linux/fs.h)

use crate::{
    abi::memfd::Seals,
    bindings, //
};
use core::ptr::NonNull;
use kernel::{
    error::{
        from_err_ptr,
        to_result, //
    },
    fs::{
        file::flags,
        File, //
    },
    prelude::*,
    sync::aref::ARef, //
};

/// A number that is the same for all files that are open on one inode, and only for those.
pub(crate) fn inode_key(file: &File) -> usize {
    // SAFETY: The file is alive.
    unsafe { bindings::luo_helper_file_inode_key(file.as_ptr()) as usize }
}

/// Inode number.
pub fn ino(file: &File) -> u64 {
    // SAFETY: The file is alive.
    unsafe { bindings::luo_helper_file_ino(file.as_ptr()) }
}

/// Whether no directory has a link to the file.
pub fn is_unlinked(file: &File) -> bool {
    // SAFETY: The file is alive.
    unsafe { bindings::luo_helper_file_is_unlinked(file.as_ptr()) }
}

/// Whether the file was opened for reading and for writing.
pub fn is_read_write(file: &File) -> bool {
    file.flags() & flags::O_ACCMODE == flags::O_RDWR
}

/// Whether the mode of the file lets anybody execute it.
pub fn is_executable(file: &File) -> bool {
    // SAFETY: The file is alive.
    unsafe { bindings::luo_helper_file_is_exec(file.as_ptr()) }
}

/// Takes away the permission to execute a file that nobody else uses yet.
pub(crate) fn set_noexec(file: &File) {
    // SAFETY: The file is alive.
    unsafe { bindings::luo_helper_set_file_noexec(file.as_ptr()) };
}

/// The seals of a memfd, as `F_GET_SEALS` gives them. Fails with `EOPNOTSUPP` if not all are known.
pub fn seals(file: &File) -> Result<Seals> {
    // SAFETY: The file is alive.
    let seals = unsafe { bindings::memfd_get_seals(file.as_ptr()) };
    to_result(seals)?;
    // CAST: Not negative.
    Seals::from_bits(seals as u32).map_err(|_| EOPNOTSUPP)
}

/// Adds seals to a memfd.
pub(crate) fn add_seals(file: &File, seals: Seals) -> Result {
    // SAFETY: The file is alive.
    to_result(unsafe { bindings::memfd_add_seals(file.as_ptr(), seals.bits()) })
}

/// A new memfd, as `memfd_create("", flags)` makes it. There is no other reference.
pub(crate) fn new_memfd(flags: u32) -> Result<ARef<File>> {
    // SAFETY: The name is a C string.
    let file = unsafe { bindings::memfd_alloc_file(c"".as_char_ptr(), flags) };
    let file = NonNull::new(from_err_ptr(file)?.cast()).ok_or(ENOMEM)?;
    // SAFETY: We own the only reference, and `File` is a transparent wrapper; nobody can have
    // called `fdget_pos()` for it.
    Ok(unsafe { ARef::from_raw(file) })
}

/// Current position in bytes.
pub fn pos(file: &File) -> u64 {
    // SAFETY: The file is alive.
    let pos = unsafe { bindings::luo_helper_file_pos(file.as_ptr()) };
    // CAST: Not negative, but for a few devices that do not belong here.
    pos.max(0) as u64
}

/// Sets the position of a file that nobody else uses yet.
pub(crate) fn set_pos(file: &File, pos: u64) -> Result {
    let pos = i64::try_from(pos).map_err(|_| EINVAL)?;
    // SAFETY: The file is alive.
    if unsafe { bindings::luo_helper_set_file_pos(file.as_ptr(), pos) } {
        Ok(())
    } else {
        Err(EINVAL)
    }
}

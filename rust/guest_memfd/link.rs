// SPDX-License-Identifier: GPL-2.0-only

//! What user space does with a file that has no VM.
//!
//! C header: `luo/include/uapi/linux/luo_guest_memfd.h`

use core::ptr::NonNull;
use kernel::{
    bindings::file_operations,
    error::from_err_ptr,
    ffi::{
        c_long,
        c_uint,
        c_ulong, //
    },
    fs::{
        file::{
            flags,
            FileDescriptorReservation, //
        },
        File,
        LocalFile, //
    },
    module::this_module,
    page::PAGE_SIZE,
    prelude::*,
    sync::aref::ARef,
    uaccess::{
        UserPtr,
        UserSlice, //
    }, //
};
use luo::bindings;

/// The operations of the file.
pub(super) const OPERATIONS: &file_operations = &file_operations {
    owner: this_module::<crate::LuoGuestMemfd>().as_ptr(),
    unlocked_ioctl: Some(ioctl),
    // The argument has no pointers, and is the same for 32 bits.
    #[cfg(CONFIG_COMPAT)]
    compat_ioctl: Some(kernel::bindings::compat_ptr_ioctl),
    mmap: Some(bindings::kvm_gmem_mmap),
    ..pin_init::zeroed()
};

/// Size of the first version of `struct luo_guest_memfd_link`.
const SIZE: usize = bindings::LUO_HELPER_GMEM_LINK_SIZE as usize;
/// Where the new descriptor is in it.
const FD: usize = bindings::LUO_HELPER_GMEM_LINK_FD as usize;

/// What `LUO_GUEST_MEMFD_LINK` is asked for.
struct Link {
    vm: ARef<LocalFile>,
}

impl Link {
    fn read(arg: UserPtr) -> Result<Self> {
        const WORD: usize = size_of::<u32>();

        let size = UserSlice::new(arg, WORD).reader().read::<u32>()? as usize;
        if size < SIZE {
            return Err(EINVAL);
        }
        if size > PAGE_SIZE {
            return Err(E2BIG);
        }
        let mut reader = UserSlice::new(arg, size).reader();
        reader.skip(WORD)?;
        let flags: u32 = reader.read()?;
        let vm: i32 = reader.read()?;
        reader.skip(WORD)?;
        let mut unknown = KVec::new();
        reader.read_all(&mut unknown, GFP_KERNEL)?;
        if unknown.iter().any(|byte| *byte != 0) {
            return Err(E2BIG);
        }
        if flags != 0 {
            return Err(EINVAL);
        }
        Ok(Self {
            vm: LocalFile::fget(u32::try_from(vm).map_err(|_| EBADF)?)?,
        })
    }
}

/// Makes a file of a VM for the memory of `file`.
fn link(file: &File, arg: UserPtr) -> Result {
    let request = Link::read(arg)?;
    let fd = FileDescriptorReservation::get_unused_fd_flags(flags::O_CLOEXEC)?;
    // SAFETY: Both files are alive.
    let view = unsafe { bindings::kvm_gmem_link(file.as_ptr(), request.vm.as_ptr()) };
    let view = NonNull::new(from_err_ptr(view)?.cast()).ok_or(ENOMEM)?;
    // SAFETY: We own the only reference, and `File` is a transparent wrapper; nobody can have called
    // `fdget_pos()` for it.
    let view: ARef<File> = unsafe { ARef::from_raw(view) };
    // CAST: Descriptors fit.
    let number = fd.reserved_fd() as i32;
    UserSlice::new(arg.wrapping_byte_add(FD), size_of::<i32>())
        .writer()
        .write(&number)?;
    fd.fd_install(view);
    Ok(())
}

/// # Safety
///
/// `file` must be a file with [`OPERATIONS`], which is alive.
unsafe extern "C" fn ioctl(file: *mut kernel::bindings::file, cmd: c_uint, arg: c_ulong) -> c_long {
    // SAFETY: The file is alive during the call. These operations have no position.
    let file = unsafe { File::from_raw_file(file) };
    let result = match cmd {
        bindings::LUO_HELPER_GMEM_LINK => link(file, UserPtr::from_addr(arg)),
        _ => Err(ENOTTY),
    };
    match result {
        Ok(()) => 0,
        Err(err) => err.to_errno() as c_long,
    }
}

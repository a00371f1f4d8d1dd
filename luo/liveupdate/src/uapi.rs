// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The kernel's interface, `include/uapi/linux/liveupdate.h`, and that of `luo_guest_memfd`: every ioctl
//! number and argument.
//!
//! Every argument starts with its own size, by which the kernel knows how much of it the caller
//! understands. The numbers carry no direction and no size (`_IO`).

use rustix::{
    fd::AsFd,
    io::Errno,
    ioctl::{
        self,
        opcode,
        Ioctl,
        IoctlOutput,
        Opcode, //
    }, //
};
use std::{
    ffi::c_void,
    mem::{
        offset_of,
        size_of, //
    }, //
};

/// Length of a session name in the kernel, the final NUL included.
pub(crate) const NAME_LEN: usize = 64;

const TYPE: u8 = 0xBA;

const CREATE_SESSION: Opcode = opcode::none(TYPE, 0x00);
const RETRIEVE_SESSION: Opcode = opcode::none(TYPE, 0x01);
const SESSION_PRESERVE_FD: Opcode = opcode::none(TYPE, 0x40);
const SESSION_RETRIEVE_FD: Opcode = opcode::none(TYPE, 0x41);
const SESSION_FINISH: Opcode = opcode::none(TYPE, 0x42);
const SESSION_GET_NAME: Opcode = opcode::none(TYPE, 0x43);

/// An argument of one ioctl.
///
/// # Safety
///
/// `Self` has the layout that the kernel expects for `OPCODE`, contains no pointer, and any bytes the
/// kernel may store in it are a valid value.
pub(crate) unsafe trait Request {
    /// The ioctl that takes this argument.
    const OPCODE: Opcode;
}

/// Defines an argument, its ioctl number, and the size that C gives it.
macro_rules! request {
    ($(#[$doc:meta])* $name:ident, $opcode:ident, size $size:literal {
        $($(#[$field_doc:meta])* $field:ident: $type:ty,)*
    }) => {
        $(#[$doc])*
        #[repr(C)]
        #[derive(Debug)]
        pub(crate) struct $name {
            size: u32,
            $($(#[$field_doc])* pub(crate) $field: $type,)*
        }

        impl $name {
            pub(crate) fn new($($field: $type),*) -> Self {
                Self { size: $size, $($field),* }
            }
        }

        // SAFETY: The struct is declared as in the header, holds integers and bytes only, and belongs
        // to this ioctl.
        unsafe impl Request for $name {
            const OPCODE: Opcode = $opcode;
        }

        const _: () = assert!(size_of::<$name>() == $size && offset_of!($name, size) == 0);
    };
}

request! {
    /// Creates a session; the kernel stores its descriptor in `fd`.
    CreateSession, CREATE_SESSION, size 72 {
        fd: i32,
        name: [u8; NAME_LEN],
    }
}

request! {
    /// Finds a session of the previous kernel; the kernel stores its descriptor in `fd`.
    RetrieveSession, RETRIEVE_SESSION, size 72 {
        fd: i32,
        name: [u8; NAME_LEN],
    }
}

request! {
    /// Preserves the file `fd` under `token`.
    PreserveFd, SESSION_PRESERVE_FD, size 16 {
        fd: i32,
        token: u64,
    }
}

request! {
    /// Returns the file that was preserved under `token` in `fd`.
    RetrieveFd, SESSION_RETRIEVE_FD, size 16 {
        fd: i32,
        token: u64,
    }
}

request! {
    /// Ends a retrieved session.
    Finish, SESSION_FINISH, size 8 {
        reserved: u32,
    }
}

request! {
    /// Asks for the whole name of a session.
    GetName, SESSION_GET_NAME, size 72 {
        reserved: u32,
        name: [u8; NAME_LEN],
    }
}

const _: () = assert!(offset_of!(CreateSession, fd) == 4 && offset_of!(CreateSession, name) == 8);
const _: () =
    assert!(offset_of!(RetrieveSession, fd) == 4 && offset_of!(RetrieveSession, name) == 8);
const _: () = assert!(offset_of!(PreserveFd, fd) == 4 && offset_of!(PreserveFd, token) == 8);
const _: () = assert!(offset_of!(RetrieveFd, fd) == 4 && offset_of!(RetrieveFd, token) == 8);
const _: () = assert!(offset_of!(Finish, reserved) == 4);
const _: () = assert!(offset_of!(GetName, reserved) == 4 && offset_of!(GetName, name) == 8);

/// `LUO_GUEST_MEMFD_LINK` of `luo/include/uapi/linux/luo_guest_memfd.h`.
const GUEST_MEMFD_LINK: Opcode = opcode::none(0xBB, 0x00);

request! {
    /// Links guest memory to a VM; the kernel stores the descriptor in `fd`.
    LinkGuestMemfd, GUEST_MEMFD_LINK, size 16 {
        flags: u32,
        vm_fd: i32,
        fd: i32,
    }
}

const _: () =
    assert!(offset_of!(LinkGuestMemfd, vm_fd) == 8 && offset_of!(LinkGuestMemfd, fd) == 12);

struct Call<'a, T>(&'a mut T);

// SAFETY: `Request` promises that the kernel reads and writes exactly a `T` for this opcode, and `T`
// is borrowed mutably for the whole call.
unsafe impl<T: Request> Ioctl for Call<'_, T> {
    type Output = ();

    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        T::OPCODE
    }

    fn as_ptr(&mut self) -> *mut c_void {
        std::ptr::from_mut(self.0).cast()
    }

    unsafe fn output_from_ptr(_: IoctlOutput, _: *mut c_void) -> rustix::io::Result<()> {
        Ok(())
    }
}

/// Makes the call on `fd`, which the caller knows to be of the request's kind (device, session or guest
/// memory).
pub(crate) fn call<T: Request>(fd: impl AsFd, request: &mut T) -> Result<(), Errno> {
    // SAFETY: `Call` implements `Ioctl` as its contract asks; that `fd` is of the right
    // kind, so that the number means what this file says, is checked where `LiveUpdate` and the session
    // types are made, and in `guest_memfd`.
    unsafe { ioctl::ioctl(fd, Call(request)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_c_header() {
        assert_eq!(CREATE_SESSION, 0xBA00);
        assert_eq!(RETRIEVE_SESSION, 0xBA01);
        assert_eq!(SESSION_PRESERVE_FD, 0xBA40);
        assert_eq!(SESSION_RETRIEVE_FD, 0xBA41);
        assert_eq!(SESSION_FINISH, 0xBA42);
        assert_eq!(SESSION_GET_NAME, 0xBA43);
        assert_eq!(GUEST_MEMFD_LINK, 0xBB00);
    }

    #[test]
    fn a_descriptor_of_another_kind_is_refused_by_the_kernel() {
        let null = std::fs::File::open("/dev/null").unwrap();
        assert_eq!(call(&null, &mut Finish::new(0)), Err(Errno::NOTTY));
    }
}

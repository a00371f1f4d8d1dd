// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The kernel's interface, `include/uapi/linux/liveupdate.h`, that of `luo_guest_memfd`, and as much of
//! `include/uapi/linux/vfio.h` as a live update needs: every ioctl number and argument.
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

/// `VFIO_DEVICE_BIND_IOMMUFD` and `VFIO_DEVICE_SET_IRQS`.
const VFIO_BIND_IOMMUFD: Opcode = opcode::none(b';', 118);
const VFIO_SET_IRQS: Opcode = opcode::none(b';', 110);

request! {
    /// Binds a device to an iommufd, in which the kernel gives it a number: the first version of the argument.
    BindIommufd, VFIO_BIND_IOMMUFD, size 16 {
        flags: u32,
        iommufd: i32,
        device: u32,
    }
}

const _: () =
    assert!(offset_of!(BindIommufd, iommufd) == 8 && offset_of!(BindIommufd, device) == 12);

/// `struct vfio_irq_set` with its data: what a device's interrupts do.
#[derive(Debug)]
pub(crate) struct IrqSet(Vec<u32>);

impl IrqSet {
    const DATA_NONE: u32 = 1 << 0;
    const DATA_EVENTFD: u32 = 1 << 2;
    const ACTION_TRIGGER: u32 = 1 << 5;

    /// Words in front of the data: size, flags, index, first vector and number of vectors.
    const HEAD: usize = 5;

    /// Signals `count` vectors, or disables all of them if that is 0.
    pub(crate) fn none(index: u32, start: u32, count: u32) -> Self {
        let words = [
            0,
            Self::DATA_NONE | Self::ACTION_TRIGGER,
            index,
            start,
            count,
        ];
        Self::sized(words.to_vec())
    }

    /// Has the first vectors signal eventfds.
    pub(crate) fn eventfds(index: u32, fds: &[i32]) -> Self {
        let flags = Self::DATA_EVENTFD | Self::ACTION_TRIGGER;
        let mut words = Vec::with_capacity(Self::HEAD + fds.len());
        words.extend([0, flags, index, 0, fds.len() as u32]);
        words.extend(fds.iter().map(|fd| fd.cast_unsigned()));
        Self::sized(words)
    }

    fn sized(mut words: Vec<u32>) -> Self {
        let size = size_of_val(words.as_slice()) as u32;
        if let Some(first) = words.first_mut() {
            *first = size;
        }
        Self(words)
    }
}

struct SetIrqs<'a>(&'a mut IrqSet);

// SAFETY: `VFIO_DEVICE_SET_IRQS` reads as many bytes as the argument's first word says, which is the length of the
// vector, and stores nothing.
unsafe impl Ioctl for SetIrqs<'_> {
    type Output = ();

    const IS_MUTATING: bool = false;

    fn opcode(&self) -> Opcode {
        VFIO_SET_IRQS
    }

    fn as_ptr(&mut self) -> *mut c_void {
        self.0 .0.as_mut_ptr().cast()
    }

    unsafe fn output_from_ptr(_: IoctlOutput, _: *mut c_void) -> rustix::io::Result<()> {
        Ok(())
    }
}

/// Makes the call on `fd`, which the caller knows to be a device of VFIO.
pub(crate) fn set_irqs(fd: impl AsFd, request: &mut IrqSet) -> Result<(), Errno> {
    // SAFETY: `SetIrqs` implements `Ioctl` as its contract asks; that `fd` is a device is checked in `vfio`.
    unsafe { ioctl::ioctl(fd, SetIrqs(request)) }
}

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

/// Makes the call on `fd`, which the caller knows to be of the request's kind (device, session, guest
/// memory or device of VFIO).
pub(crate) fn call<T: Request>(fd: impl AsFd, request: &mut T) -> Result<(), Errno> {
    // SAFETY: `Call` implements `Ioctl` as its contract asks; that `fd` is of the right
    // kind, so that the number means what this file says, is checked where `LiveUpdate` and the session
    // types are made, and in `guest_memfd` and `vfio`.
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
        assert_eq!(VFIO_BIND_IOMMUFD, 0x3b76);
        assert_eq!(VFIO_SET_IRQS, 0x3b6e);
    }

    #[test]
    fn interrupts_are_told_as_the_kernel_reads_them() {
        assert_eq!(IrqSet::none(2, 1, 1).0, [20, 0x21, 2, 1, 1]);
        assert_eq!(IrqSet::eventfds(2, &[7, 8]).0, [28, 0x24, 2, 0, 2, 7, 8]);
    }

    #[test]
    fn a_descriptor_of_another_kind_is_refused_by_the_kernel() {
        let null = std::fs::File::open("/dev/null").unwrap();
        assert_eq!(call(&null, &mut Finish::new(0)), Err(Errno::NOTTY));
    }
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Guest memory of KVM that came from the previous kernel.
//!
//! A guest_memfd file that is retrieved has the memory of the guest, but belongs to no VM, since the VM
//! is not there any more. [`link`] makes a file that belongs to a new VM.

use crate::{
    session::adopt,
    uapi,
    Error,
    Result, //
};
use rustix::fs::fstatfs;
use std::os::fd::{
    AsFd,
    AsRawFd,
    OwnedFd, //
};

/// `GUEST_MEMFD_MAGIC` of `linux/magic.h`: the type of the file system that guest_memfd files are in.
const MAGIC: u64 = 0x474d_454d;

/// Makes a guest_memfd file of the VM `vm` for the memory of `memory`, which was retrieved.
///
/// The result is like a file that `KVM_CREATE_GUEST_MEMFD` makes, and goes to
/// `KVM_SET_USER_MEMORY_REGION2`. When it is closed and not mapped any more, the memory stays in
/// `memory`, and another VM can be given a link. `memory` can be mapped before and after.
///
/// # Errors
///
/// [`Error::Link`], with `EBUSY` if a VM has the memory, `EINVAL` if `vm` is no VM, or one of another
/// type than the memory was made for, `ENOTTY` if `memory` belongs to a VM.
///
/// # Examples
///
/// ```no_run
/// # fn restore(
/// #     session: &liveupdate::IncomingSession,
/// #     vm: std::os::fd::OwnedFd,
/// # ) -> Result<(), liveupdate::Error> {
/// let memory = session.retrieve(liveupdate::Token(1))?;
/// let of_vm = liveupdate::guest_memfd::link(&memory, &vm)?;
/// # drop(of_vm);
/// # Ok(())
/// # }
/// ```
pub fn link(memory: impl AsFd, vm: impl AsFd) -> Result<OwnedFd> {
    let found = fstatfs(&memory).map_err(|source| Error::Link { source })?;
    // On any other file the same number could mean something that is not safe.
    if found.f_type as u64 != MAGIC {
        return Err(Error::NotGuestMemory);
    }
    let mut request = uapi::LinkGuestMemfd::new(0, vm.as_fd().as_raw_fd(), -1);
    uapi::call(&memory, &mut request).map_err(|source| Error::Link { source })?;
    Ok(adopt(request.fd))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        io::Write as _,
        process::{
            Command,
            Stdio, //
        }, //
    };

    /// A C program that uses the header as a VMM in C would, and knows the numbers of this crate.
    const PROGRAM: &str = r#"
        #include <stddef.h>
        #include <linux/luo_guest_memfd.h>
        _Static_assert(sizeof(struct luo_guest_memfd_link) == 16, "size");
        _Static_assert(offsetof(struct luo_guest_memfd_link, flags) == 4, "flags");
        _Static_assert(offsetof(struct luo_guest_memfd_link, vm_fd) == 8, "vm_fd");
        _Static_assert(offsetof(struct luo_guest_memfd_link, fd) == 12, "fd");
        _Static_assert(LUO_GUEST_MEMFD_LINK == 0xbb00, "number");
        struct luo_guest_memfd_link request = { .size = sizeof(request), .vm_fd = 3 };
    "#;

    #[test]
    fn the_c_header_compiles_and_has_the_same_layout() {
        let include = concat!(env!("CARGO_MANIFEST_DIR"), "/../include/uapi");
        let mut compiler = Command::new("cc")
            .args(["-std=c11", "-pedantic", "-Wall", "-Wextra", "-Werror"])
            .args(["-fsyntax-only", "-I", include, "-x", "c", "-"])
            .stdin(Stdio::piped())
            .spawn()
            .expect("a C compiler is needed");
        let mut source = compiler.stdin.take().unwrap();
        source.write_all(PROGRAM.as_bytes()).unwrap();
        drop(source);
        assert!(compiler.wait().unwrap().success());
    }

    #[test]
    fn a_file_of_another_kind_is_no_guest_memory() {
        let null = std::fs::File::open("/dev/null").unwrap();
        let error = link(&null, &null).unwrap_err();
        assert!(matches!(error, Error::NotGuestMemory), "{error}");
    }
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! How guest memory gets to a VM.

use super::PAGES;
use crate::{
    expect::{
        is,
        refused,
        same,
        works, //
    },
    gmem::{
        allocate,
        fill,
        verify,
        Vm,
        DEFAULT,
        SW_PROTECTED, //
    },
    memory::{
        memfd,
        page,
        Map, //
    },
    run::New,
    sys, //
};
use anyhow::Result;
use liveupdate::{
    guest_memfd::link,
    Token, //
};
use rustix::io::{
    fcntl_getfd,
    Errno,
    FdFlags, //
};
use std::os::fd::{
    AsFd,
    AsRawFd, //
};

/// `LUO_GUEST_MEMFD_LINK`.
const LINK: libc::c_ulong = 0xbb00;

/// Makes the call with any argument: the new descriptor.
fn raw(memory: impl AsFd, argument: &mut [u32]) -> rustix::io::Result<u32> {
    let fd = memory.as_fd().as_raw_fd();
    // SAFETY: The kernel reads and writes as much as the first word says, which is not more than there
    // is.
    let ret = unsafe { libc::ioctl(fd, LINK as _, argument.as_mut_ptr()) };
    sys::answer(ret.into()).map(|()| argument[3])
}

pub(super) fn link_new(new: &mut New<'_>) -> Result<()> {
    let memory = new.retrieve(1)?;
    let again = new.session()?.retrieve(Token(1))?;
    let vm = Vm::new(DEFAULT)?;
    let number = vm.as_fd().as_raw_fd() as u32;
    let mut check = |name: &str, result| new.common.check(name, result);

    let direct = vm.bind(&memory, PAGES * page());
    check("no-vm-cannot-be-bound", refused(direct, &[Errno::INVAL]));
    let allocated = allocate(&memory, 0..PAGES);
    check("no-vm-fallocate", refused(allocated, &[Errno::OPNOTSUPP]));
    let other = memfd("other")?;
    let result = link(&memory, &other);
    check("file-is-no-vm", refused(result, &[Errno::INVAL]));
    let result = link(&other, &vm);
    check("file-is-no-memory", is(result.is_err(), "it worked"));
    if let Ok(protected) = Vm::new(SW_PROTECTED) {
        let result = link(&memory, &protected);
        check("other-type", refused(result, &[Errno::INVAL]));
    }
    let bad: [(&str, &mut [u32], Errno); 6] = [
        ("short", &mut [12, 0, number, 0], Errno::INVAL),
        ("flags", &mut [16, 1, number, 0], Errno::INVAL),
        ("closed", &mut [16, 0, 999, 0], Errno::BADF),
        ("negative", &mut [16, 0, u32::MAX, 0], Errno::BADF),
        ("more", &mut [20, 0, number, 0, 1], Errno::TOOBIG),
        ("huge", &mut [1 << 20, 0, number, 0], Errno::TOOBIG),
    ];
    for (name, argument, errno) in bad {
        check(name, refused(raw(&memory, argument), &[errno]));
    }

    let of_another = sys::in_child(|| match link(&memory, &vm) {
        Err(error) if error.errno() == Some(Errno::IO) => 0,
        _ => 1,
    });
    check("vm-of-another", same(of_another?, 0));

    let view = link(&memory, &vm)?;
    check("close-on-exec", same(fcntl_getfd(&view)?, FdFlags::CLOEXEC));
    let second = Vm::new(DEFAULT)?;
    for (name, result) in [
        ("twice", link(&memory, &vm)),
        ("two-vms", link(&again, &second)),
    ] {
        check(name, refused(result, &[Errno::BUSY]));
    }
    let result = link(&view, &second);
    check("of-a-vm", refused(result, &[Errno::NOTTY]));
    let bound = second.bind(&view, PAGES * page());
    check("other-vm", refused(bound, &[Errno::INVAL]));
    check("bound", works(vm.bind(&view, PAGES * page())));
    let map = Map::new(&view, PAGES * page(), true)?;
    check("content", verify(&map, 0..16, false));
    fill(&map, 16..32);
    drop((map, view, vm));

    let view = link(&again, &second)?;
    check("second-vm", works(second.bind(&view, PAGES * page())));
    let map = Map::new(&view, PAGES * page(), true)?;
    check("second-content", verify(&map, 0..32, false));
    drop((map, view, second));
    let third = Vm::new(DEFAULT)?;
    let number = third.as_fd().as_raw_fd() as u32;
    let longer = raw(&memory, &mut [20, 0, number, 0, 0]);
    check("longer-argument", works(longer));
    Ok(())
}

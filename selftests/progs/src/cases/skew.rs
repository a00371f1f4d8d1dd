// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Kernels whose modules differ in the versions of their formats.

use super::Case;
use crate::{
    expect::{
        is,
        refused, //
    },
    gmem::{
        fill,
        verify,
        Vm,
        DEFAULT,
        SHARED, //
    },
    hugetlb::{
        huge_memfd,
        write, //
    },
    memory::{
        memfd,
        page,
        Map, //
    },
    pattern::Layout,
    run::{
        New,
        Old, //
    }, //
};
use anyhow::{
    Context,
    Result, //
};
use liveupdate::Token;
use rustix::{
    fs::MemfdFlags,
    io::Errno, //
};
use std::{
    env,
    fs,
    process::Command, //
};

pub(super) const CASES: &[Case] = &[Case::update(
    "skew.kinds",
    "A file of each kind is refused while only a module of another format version is loaded, and comes back with the right one",
    old,
    new,
)
.on_request()];

const M2: u64 = 2 << 20;
/// Pages of the guest memory.
const PAGES: u64 = 16;
const KINDS: [&str; 3] = ["memfd", "hugetlb", "guest-memfd"];

fn small() -> Layout {
    Layout::full(0x5e3, 5 * page())
}

fn huge() -> Layout {
    Layout::full(0x5e4, 2 * M2)
}

fn old(old: &mut Old<'_>) -> Result<()> {
    fs::write("/proc/sys/vm/nr_hugepages", "4")?;
    let fd = memfd("skew")?;
    small().write(&fd)?;
    old.preserve(&fd, 1)?;
    let fd = huge_memfd(M2, MemfdFlags::ALLOW_SEALING)?;
    write(&huge(), &fd, M2)?;
    old.preserve(&fd, 2)?;
    let vm = Vm::new(DEFAULT)?;
    let memory = vm.memory(PAGES * page(), SHARED)?;
    fill(&Map::new(&memory, PAGES * page(), true)?, 0..PAGES);
    old.preserve(&memory, 3)
}

fn new(new: &mut New<'_>) -> Result<()> {
    let load = env::var("LU_LOAD").context("LU_LOAD must say how the right modules are loaded")?;
    for (kind, token) in KINDS.iter().zip(1..) {
        let early = refused(new.session()?.retrieve(Token(token)), &[Errno::NODEV]);
        new.common.check(&format!("{kind}.refused"), early);
    }
    let status = Command::new("sh").args(["-c", &load]).status()?;
    new.common.check("loads", is(status.success(), &load));
    let fd = new.retrieve(1)?;
    new.common.check("memfd", small().verify(&fd));
    let fd = new.retrieve(2)?;
    new.common.check("hugetlb", huge().verify(&fd));
    let memory = new.retrieve(3)?;
    let map = Map::new(&memory, PAGES * page(), true)?;
    new.common
        .check("guest-memfd", verify(&map, 0..PAGES, false));
    Ok(())
}

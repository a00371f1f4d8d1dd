// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Every allocation of preserve and of retrieve fails once.

use super::Case;
use crate::{
    expect::{
        works,
        Check, //
    },
    memory::{
        memfd,
        page, //
    },
    pattern::Layout,
    run::New,
    sweep::{
        self,
        Sweep, //
    },
    sys::{
        given_back,
        mem_free,
        slack, //
    }, //
};
use anyhow::Result;
use std::os::fd::OwnedFd;

pub(super) const CASES: &[Case] = &[
    Case::local(
        "faults.preserve",
        "Whatever allocation fails, preserve is undone and works when it is tried again",
        |old| sweep::preserve(old, &SWEEP),
    )
    .on_request(),
    Case::update(
        "faults.retrieve",
        "Whatever allocation fails, retrieve loses nothing but the file, and finish frees it",
        |old| sweep::retrieve_old(old, &SWEEP, FILES),
        retrieve_new,
    )
    .on_request(),
];

const FILES: u64 = 400;

const SWEEP: Sweep<'_> = Sweep {
    make: &make,
    verify: &verify,
    free: &free,
};

fn layout() -> Layout {
    // Enough pages for more than one node of the page cache.
    Layout::every(0xfa17, 70 * page() + 1, 0, 3 * page(), 2 * page())
}

fn make() -> Result<OwnedFd> {
    let fd = memfd("faults")?;
    layout().write(&fd)?;
    Ok(fd)
}

fn verify(fd: &OwnedFd) -> Check {
    layout().verify(fd)
}

/// The size of the file can be changed.
fn free(fd: &OwnedFd) -> Check {
    works(rustix::fs::ftruncate(fd, layout().size + 1))?;
    works(rustix::fs::ftruncate(fd, layout().size))
}

fn retrieve_new(new: &mut New<'_>) -> Result<()> {
    // Opened first, as LUO keeps memory of its own for what waits.
    new.session()?;
    let before = mem_free()?;
    sweep::retrieve_new(new, &verify, FILES)?;
    // All files are gone now, the retrieved ones too.
    let memory = given_back(before, FILES * layout().size, slack(4 << 20))?;
    new.common.check("memory", memory);
    Ok(())
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Private memory that the host may not touch, as the test hook pretends: the kernel warns if it does, and
//! that fails any test.

use super::{
    private,
    PAGES, //
};
use crate::{
    expect::{
        refused,
        works, //
    },
    gmem::{
        allocate,
        Vm,
        DEFAULT,
        SW_PROTECTED, //
    },
    memory::page,
    run::{
        New,
        Old, //
    },
    sys::hook, //
};
use anyhow::Result;
use liveupdate::Token;
use rustix::io::Errno;

/// Memory that was never used cannot be cleared, and is not handed over as it is.
fn unused(old: &mut Old<'_>) -> Result<()> {
    let vm = Vm::new(DEFAULT)?;
    let memory = vm.memory(PAGES * page(), 0)?;
    allocate(&memory, 20..21)?;
    let result = old.new_session(".unused")?.preserve(&memory, Token(1));
    old.common
        .check("unused", refused(result, &[Errno::OPNOTSUPP]));
    old.common
        .check("not-left-frozen", works(allocate(&memory, 21..22)));
    Ok(())
}

pub(super) fn old(old: &mut Old<'_>) -> Result<()> {
    if !hook("reset")? || !hook("coco strict")? {
        return old.common.skip_all("the kernel has no test hook");
    }
    unused(old)?;
    if cfg!(target_arch = "x86_64") {
        let vm = Vm::new(SW_PROTECTED)?;
        let memory = vm.memory(PAGES * page(), 0)?;
        private::run(&vm, &memory, private::WRITE)?;
        old.preserve(&memory, 3)?;
    }
    private::old(old)
}

pub(super) fn new(new: &mut New<'_>) -> Result<()> {
    hook("coco strict")?;
    private::new(new)?;
    // The third one, which nobody has retrieved, is freed as it is.
    new.finish()?;
    hook("reset")?;
    Ok(())
}

/// The warning is there if the host does touch such memory.
pub(super) fn lax(old: &mut Old<'_>) -> Result<()> {
    if !hook("reset")? || !hook("coco lax")? {
        return old.common.skip_all("the kernel has no test hook");
    }
    let memory = Vm::new(DEFAULT)?.memory(PAGES * page(), 0)?;
    allocate(&memory, 20..21)?;
    old.preserve(&memory, 1)?;
    hook("reset")?;
    Ok(())
}

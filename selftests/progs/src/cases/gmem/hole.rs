// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A guest that touches a hole of its memory while that is preserved.

use super::PAGES;
use crate::{
    expect::same,
    gmem::{
        Vm,
        DEFAULT,
        SHARED, //
    },
    guest::{
        Guest,
        Stop, //
    },
    memory::page,
    run::Old, //
};
use anyhow::Result;

/// `mov ax, [0x8000]; out 0x10, ax; hlt`.
#[cfg(target_arch = "x86_64")]
const READ: &[u8] = &[0xa1, 0x00, 0x80, 0xe7, 0x10, 0xf4];
/// `mov x0, #0x8000; ldr x1, [x0]; mov x2, #0x10000000; strh w1, [x2]`.
#[cfg(target_arch = "aarch64")]
const READ: &[u8] = &[
    0x00, 0x00, 0x90, 0xd2, 0x01, 0x00, 0x40, 0xf9, // once
    0x02, 0x00, 0xa2, 0xd2, 0x41, 0x00, 0x00, 0x79,
];

pub(super) fn hole(old: &mut Old<'_>) -> Result<()> {
    let vm = Vm::new(DEFAULT)?;
    let memory = vm.memory(PAGES * page(), SHARED)?;
    let mut guest = Guest::shared(&vm, &memory, PAGES, READ)?;
    old.preserve(&memory, 1)?;
    let stop = guest.run().map_err(|error| error.to_string());
    let fault = Ok(Stop::Fault(8 * page()));
    old.common.check("fault", same(stop, fault.clone()));
    let stop = guest.run().map_err(|error| error.to_string());
    old.common.check("again", same(stop, fault));
    old.close_session();
    let stop = guest.run().map_err(|error| error.to_string());
    old.common.check("thawed", same(stop, Ok(Stop::Out(0))));
    Ok(())
}

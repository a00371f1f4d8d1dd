// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A plugin for QEMU's emulation: how many instructions each CPU of the guest executes.
//!
//! A program of the guest says when to look with an instruction that does nothing (`progs::sys::counters`).
//! Each time, the file that is given as `out=FILE` gets a line: the name of the place, and the
//! instructions of each CPU since it was started. A block of instructions counts when it is entered.
//!
//! The interface is that of version 7 of `qemu-plugin.h`, which QEMU 11.1 has.

// Tests have no QEMU to be linked with.
#[cfg_attr(test, allow(dead_code, reason = "QEMU's side is not there"))]
mod place;
#[cfg(not(test))]
mod plugin;

// SPDX-License-Identifier: GPL-2.0-only OR BSD-3-Clause

//! Formats in which live update state is handed from one kernel to the next, for the host.
//!
//! The same files are compiled into the kernel modules; here they are tested and fuzzed.

#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

pub mod abi;

// SPDX-License-Identifier: GPL-2.0-only OR BSD-3-Clause

//! Formats in which live update state is handed from one kernel to the next, for the host.
//!
//! The files of [`abi`] are compiled into the kernel modules, too; here they are tested and fuzzed. With
//! them, [`walk`] looks at a whole hand-over.

#![no_std]
#![forbid(unsafe_code)]

extern crate std;

pub mod abi;
pub mod walk;

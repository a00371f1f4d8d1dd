// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The only program of the Linux guest.

fn main() {}

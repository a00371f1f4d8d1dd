// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The lab: kernels, modules and programs are built by [`build`], virtual machines
//! are run by [`run`]; tests, demo and benchmarks are lists of stages for it.

pub mod arch;
pub mod bench;
pub mod beside;
pub mod build;
pub mod check;
pub mod demo;
pub mod lint;
mod qmp;
pub mod run;

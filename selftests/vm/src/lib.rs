// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The lab: kernels, modules and programs are built by [`build`], virtual machines
//! are run by [`run`]; tests, demo and benchmarks are lists of stages for it.

pub mod arch;
pub mod bench;
pub mod between;
pub mod build;
pub mod check;
pub mod damage;
pub mod damage_iommu;
pub mod demo;
pub mod frames;
mod handed;
pub mod lint;
pub mod master;
mod qmp;
pub mod run;
pub mod slot;

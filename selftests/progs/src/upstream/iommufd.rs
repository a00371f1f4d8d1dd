// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Upstream's selftests of iommufd, which have a mock IOMMU in the kernel (`CONFIG_IOMMUFD_TEST`).
//!
//! The reference is a kernel without this project's modules, or without its patches. All that a program shows
//! must be the same with them, before a live update and after one through which a page table went.

use super::run_in_time;
use crate::{
    hugetlb::Pool,
    tap::{
        Outcome,
        Report, //
    }, //
};
use anyhow::{
    ensure,
    Result, //
};
use std::path::Path;

/// The second one has every allocation fail once.
const PROGRAMS: [&str; 2] = ["iommufd", "iommufd_fail_nth"];

const POOL: Pool = Pool(2 << 20);
/// The largest buffer has 128 MiB, and processes beside the one that uses it have huge pages of their own.
const PAGES: u64 = 72;

/// Comes with the mock IOMMU. Without that every test fails, everywhere alike.
const MOCK: &str = "/sys/kernel/debug/fail_iommufd";

fn run_all(mut f: impl FnMut(&str, String) -> Result<()>) -> Result<()> {
    ensure!(Path::new(MOCK).exists(), "this kernel has no mock IOMMU");
    ensure!(POOL.set(PAGES)? == PAGES, "a short pool");
    for program in PROGRAMS {
        f(program, run_in_time(program, &[])?)?;
    }
    // The pool is as it was: nothing that was pinned stays so.
    let state = POOL.state()?;
    f("pool", format!("pool {state}\n"))?;
    POOL.set(0)?;
    Ok(())
}

/// Notes what the programs show.
///
/// # Errors
///
/// If a program cannot be run or nothing can be noted.
pub fn reference(dir: &Path) -> Result<Outcome> {
    let mut report = Report::new("iommufd.upstream.reference");
    run_all(|name, text| super::note(&mut report, dir, name, &text))?;
    Ok(report.end())
}

/// Compares what the programs show with the reference.
///
/// # Errors
///
/// If a program cannot be run, or if there is no reference.
pub fn compare(dir: &Path) -> Result<Outcome> {
    let mut report = Report::new("iommufd.upstream");
    run_all(|name, text| super::compare(&mut report, dir, name, &text))?;
    Ok(report.end())
}

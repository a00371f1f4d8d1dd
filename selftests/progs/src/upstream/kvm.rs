// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Upstream's selftests of KVM that touch guest memory in files (guest_memfd).
//!
//! The reference is a kernel without this project's patches. All that a program shows must be the same with
//! them, before a live update and after one, with the modules loaded and in use.

use super::run;
use crate::tap::{
    Outcome,
    Report, //
};
use anyhow::{
    Context,
    Result, //
};
use std::{
    env,
    path::{
        Path,
        PathBuf, //
    },
};

/// Name, program and arguments.
#[cfg(target_arch = "x86_64")]
const PROGRAMS: &[(&str, &str, &[&str])] = &[
    ("guest_memfd_test", "guest_memfd_test", &[]),
    ("set_memory_region_test", "set_memory_region_test", &["2"]),
    ("pre_fault_memory_test", "pre_fault_memory_test", &[]),
    (
        "private_mem_conversions_test",
        "private_mem_conversions_test",
        &[],
    ),
    (
        "private_mem_conversions_test.2",
        "private_mem_conversions_test",
        &["-n", "2", "-m", "2"],
    ),
    (
        "private_mem_kvm_exits_test",
        "private_mem_kvm_exits_test",
        &[],
    ),
];
/// Name, program and arguments. There is no private memory.
#[cfg(not(target_arch = "x86_64"))]
const PROGRAMS: &[(&str, &str, &[&str])] = &[
    ("guest_memfd_test", "guest_memfd_test", &[]),
    ("set_memory_region_test", "set_memory_region_test", &[]),
];

/// How lines begin that do not differ from run to run: results, parts that are run or left out, and where
/// an assertion failed.
const LINES: [&str; 12] = [
    "ok ",
    "not ok ",
    "Bail out",
    "1..",
    "Testing",
    "Skipping",
    "Allowed number",
    "Adding slots",
    "==== Test Assertion",
    "  guest_memfd_test.c:",
    "  set_memory_region_test.c:",
    "  lib/",
];

/// Where a program is. They read themselves, by the name that they were started with.
fn find(program: &str) -> Result<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .map(|dir| dir.join(program))
        .find(|path| path.is_file())
        .with_context(|| format!("{program} is missing"))
}

fn run_all(mut f: impl FnMut(&str, String) -> Result<()>) -> Result<()> {
    for (name, program, args) in PROGRAMS {
        f(name, run(find(program)?, args, &LINES)?)?;
    }
    Ok(())
}

/// Notes what the programs show.
///
/// # Errors
///
/// If a program cannot be run or nothing can be noted.
pub fn reference(dir: &Path) -> Result<Outcome> {
    let mut report = Report::new("kvm.upstream.reference");
    run_all(|name, text| super::note(&mut report, dir, name, &text))?;
    Ok(report.end())
}

/// Compares what the programs show with the reference.
///
/// # Errors
///
/// If a program cannot be run, or if there is no reference.
pub fn compare(dir: &Path) -> Result<Outcome> {
    let mut report = Report::new("kvm.upstream");
    run_all(|name, text| super::compare(&mut report, dir, name, &text))?;
    Ok(report.end())
}

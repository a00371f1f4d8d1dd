// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Upstream's selftests of HugeTLB, before a live update and after it.
//!
//! They are run in two situations: while a file has huge pages of the pool, and when the pool has got them
//! back. As a reference, the file is an ordinary one of a kernel that knows nothing of live updates; later
//! it is a file that was retrieved. All that a test program shows must be the same.

use crate::{
    hugetlb::{
        huge_memfd,
        HugeMap,
        Pool, //
    },
    tap::{
        Outcome,
        Report, //
    },
    vmm, //
};
use anyhow::{
    ensure,
    Result, //
};
use liveupdate::{
    LiveUpdate,
    Session,
    SessionName,
    Token, //
};
use rustix::fs::MemfdFlags;
use std::{
    os::fd::OwnedFd,
    path::Path, //
};

/// A program, its arguments, and whether it makes sense while a file has most of the pool: some want
/// all of it. `hugetlb_fault_after_madv` is missing: it zeroes 20 GiB, which takes minutes of emulation.
const PROGRAMS: [(&str, &[&str], bool); 10] = [
    ("hugetlb-mmap", &[], false),
    ("hugetlb-shm", &[], true),
    ("hugetlb-mremap", &[], true),
    ("hugetlb-madvise", &[], true),
    ("hugetlb_dio", &[], true),
    ("hugetlb_madv_vs_map", &[], false),
    ("thuge-gen", &[], true),
    ("memfd_test", &["hugetlbfs"], true),
    // These break memory, for as long as the kernel runs.
    ("hugetlb-soft-offline", &[], false),
    ("hugetlb-read-hwpoison", &[], false),
];

const POOL: Pool = Pool(2 << 20);
/// More than any of the programs wants, so that they use huge pages of the file when that is gone.
const PAGES: u64 = 160;
const SIZE: u64 = PAGES * POOL.0;
/// In the pool beside those of the file.
const SPARE: u64 = 32;
const TOKEN: Token = Token(1);

/// How lines with results begin.
const RESULTS: [&str; 4] = ["ok ", "not ok ", "Bail out", "1.."];

/// What a program shows, and the pool afterwards.
fn run(program: &str, args: &[&str]) -> Result<String> {
    let text = super::run(program, args, &RESULTS)?;
    Ok(text + &format!("pool {}\n", POOL.state()?))
}

/// Runs the programs, and hands what each shows to `f`.
fn run_all(used: bool, mut f: impl FnMut(&str, String) -> Result<()>) -> Result<()> {
    for (program, args, while_used) in PROGRAMS {
        if while_used || !used {
            f(program, run(program, args)?)?;
        }
    }
    Ok(())
}

/// A file with [`PAGES`] huge pages.
fn file() -> Result<OwnedFd> {
    ensure!(POOL.set(PAGES + SPARE)? == PAGES + SPARE, "a short pool");
    let fd = huge_memfd(POOL.0, MemfdFlags::ALLOW_SEALING)?;
    rustix::fs::ftruncate(&fd, SIZE)?;
    let map = HugeMap::shared(&fd, SIZE, POOL.0)?;
    for at in (0..SIZE).step_by(POOL.0 as usize) {
        map.write(at, at + 8, |at, buf| buf.copy_from_slice(&at.to_ne_bytes()));
    }
    Ok(fd)
}

/// The pool as both sides begin with it: so many huge pages, and those of the file in use.
fn begin(file: Option<&OwnedFd>) -> Result<()> {
    let nr = if file.is_some() { PAGES + SPARE } else { PAGES };
    ensure!(POOL.set(nr)? == nr, "the pool cannot have {nr} huge pages");
    Ok(())
}

fn situations(
    fd: OwnedFd,
    mut f: impl FnMut(&str, &str, String) -> Result<()>,
    between: impl FnOnce() -> Result<()>,
) -> Result<()> {
    begin(Some(&fd))?;
    run_all(true, |program, text| f("used", program, text))?;
    drop(fd);
    between()?;
    begin(None)?;
    run_all(false, |program, text| f("given-back", program, text))
}

/// Notes what the programs show where no live update has happened.
///
/// # Errors
///
/// If a program cannot be run or nothing can be noted.
pub fn reference(dir: &Path) -> Result<Outcome> {
    let mut report = Report::new("hugetlb.upstream.reference");
    situations(
        file()?,
        |situation, program, text| {
            super::note(&mut report, dir, &format!("{situation}.{program}"), &text)
        },
        || Ok(()),
    )?;
    Ok(report.end())
}

/// Preserves the file in the session that `luoctl session create` gives.
///
/// # Errors
///
/// If it cannot be preserved.
pub fn preserve() -> Result<Outcome> {
    let mut report = Report::new("hugetlb.upstream");
    let session = Session::try_from(vmm::inherited()?)?;
    let result = session.preserve(&file()?, TOKEN);
    report.check("preserved", result);
    Ok(report.end())
}

/// Retrieves the file from the session `upstream`, and compares what the programs show with the reference.
///
/// # Errors
///
/// If there is no file, no reference, or a program cannot be run.
pub fn compare(dir: &Path) -> Result<Outcome> {
    let mut report = Report::new("hugetlb.upstream");
    let session = LiveUpdate::open()?.retrieve_session(&SessionName::new("upstream")?)?;
    let fd = session.retrieve(TOKEN)?;
    let state = POOL.state()?;
    ensure!(state.nr == PAGES && state.free == 0, "the pool has {state}");
    situations(
        fd,
        |situation, program, text| {
            let name = format!("{situation}.{program}");
            super::compare(&mut report, dir, &name, &text)
        },
        || Ok(session.finish().map_err(liveupdate::Error::from)?),
    )?;
    Ok(report.end())
}

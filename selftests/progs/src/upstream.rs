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
    Context,
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
    fs,
    os::fd::OwnedFd,
    path::Path,
    process::{
        Command,
        Stdio, //
    }, //
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

/// The status of a kselftest that could not test anything.
const SKIPPED: &str = "status 4";

const POOL: Pool = Pool(2 << 20);
/// More than any of the programs wants, so that they use huge pages of the file when that is gone.
const PAGES: u64 = 160;
const SIZE: u64 = PAGES * POOL.0;
/// In the pool beside those of the file.
const SPARE: u64 = 32;
const TOKEN: Token = Token(1);

/// What a program shows: how it ended, its results, and the pool afterwards.
fn run(program: &str, args: &[&str]) -> Result<String> {
    let output = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("{program} cannot be run"))?;
    let mut text = match output.status.code() {
        Some(code) => format!("status {code}\n"),
        None => format!("{}\n", output.status),
    };
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    if !output.status.success() {
        println!("{}", quote(said.lines().last().unwrap_or_default()));
    }
    for line in said.lines() {
        let is_result = ["ok ", "not ok ", "Bail out", "1.."]
            .iter()
            .any(|start| line.starts_with(start));
        if is_result {
            text += line.trim_end();
            text += "\n";
        }
    }
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

/// What kselftest programs print is not taken for results of ours.
fn quote(text: &str) -> String {
    text.lines()
        .map(|line| format!("  | {}", line.replace("ok ", "ok: ")))
        .collect::<Vec<_>>()
        .join("\n")
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
    fs::create_dir_all(dir)?;
    situations(
        file()?,
        |situation, program, text| {
            let name = format!("{situation}.{program}");
            fs::write(dir.join(&name), &text)?;
            println!("{}", quote(&text));
            if text.starts_with(SKIPPED) {
                report.skip(&name, "it skips");
            } else {
                // A failure is as good a reference as any other result.
                report.check(&name, Ok::<(), String>(()));
            }
            Ok(())
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
            let want = fs::read_to_string(dir.join(&name)).context("there is no reference")?;
            let skipped = text.starts_with(SKIPPED);
            let result = if text == want {
                Ok(())
            } else {
                Err(format!(
                    "without live updates\n{}\nnow\n{}",
                    quote(&want),
                    quote(&text)
                ))
            };
            if result.is_ok() && skipped {
                report.skip(&name, "it skips in the reference, too");
            } else {
                report.check(&name, result);
            }
            Ok(())
        },
        || Ok(session.finish().map_err(liveupdate::Error::from)?),
    )?;
    Ok(report.end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_programs_print_is_no_result_of_ours() {
        let quoted = quote("status 1\nok 1 x # SKIP\nnot ok 2 y");
        assert_eq!(quoted, "  | status 1\n  | ok: 1 x # SKIP\n  | not ok: 2 y");
    }
}

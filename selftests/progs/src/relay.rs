// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! One memfd that is handed on through any number of kernels, and changed in each.

use crate::{
    expect::same,
    memory::{
        memfd,
        page,
        pfns, //
    },
    pattern::{
        digest,
        Layout, //
    },
    sys,
    tap::Report, //
};
use anyhow::Result;
use liveupdate::{
    LiveUpdate,
    SessionName,
    Token, //
};
use std::{
    fs,
    os::fd::OwnedFd,
    path::Path,
    time::Duration, //
};

const PAGES: u64 = 3000;

/// The content in the kernel number `round`: each kernel leaves two pages of the previous one's
/// between its own.
fn check(fd: &OwnedFd, round: u64) -> Result<(), String> {
    for (own, layout) in [(true, ours(round)), (false, theirs(round))] {
        let bad = layout.data.iter().find_map(|range| {
            let (mut have, mut want) = (vec![0; 4096], vec![0; 4096]);
            rustix::io::pread(fd, &mut have, range.start).ok()?;
            crate::pattern::fill(layout.seed, range.start, &mut want);
            (have != want).then_some(range.start)
        });
        if let Some(at) = bad {
            return Err(format!("the page at {at:#x} differs (own: {own})"));
        }
    }
    Ok(())
}

/// The pages that the kernel number `round` writes.
fn ours(round: u64) -> Layout {
    Layout::every(round, PAGES * page(), 0, 3 * page(), page())
}

/// Pages that only the first kernel writes.
fn theirs(_: u64) -> Layout {
    Layout::every(0, PAGES * page(), page(), 3 * page(), 2 * page())
}

/// Takes the file from the previous kernel, verifies and changes it, and hands it on.
///
/// # Errors
///
/// If it could not be tried. Otherwise true if all was right.
pub fn run(round: u64, last: bool, state: &Path) -> Result<bool> {
    let mut report = Report::new(&format!("memfd.relay.{round}"));
    let device = LiveUpdate::open_wait(Duration::from_secs(20))?;
    let name = |round| SessionName::new(format!("lu_memfd.relay.{round}"));
    let fd = if round == 1 {
        let fd = memfd("relay")?;
        theirs(1).write(&fd)?;
        fd
    } else {
        let session = device.retrieve_session(&name(round - 1)?)?;
        let fd = session.retrieve(Token(round - 1))?;
        report.check("content", check(&fd, round - 1));
        session.finish().map_err(liveupdate::Error::from)?;
        fd
    };
    fs::create_dir_all(state)?;
    let file = state.join("relay.pages");
    ours(round).write_data(&fd)?;
    let line = pfns(&fd, PAGES * page())?;
    let line = line
        .iter()
        .fold(0, |d, pfn| digest(d, &pfn.to_le_bytes()))
        .to_string();
    if round > 1 {
        report.check("same-pages", same(line.clone(), fs::read_to_string(&file)?));
    }
    fs::write(&file, line)?;
    report.check("written", check(&fd, round));
    if last {
        return Ok(report.end());
    }
    let session = device.create_session(&name(round)?)?;
    session.preserve(&fd, Token(round))?;
    drop(device);
    sys::leave_behind(|| ())?;
    Ok(report.end())
}

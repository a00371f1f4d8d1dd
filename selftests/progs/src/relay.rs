// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! One memfd that is handed on through any number of kernels, and changed in each.

use crate::{
    expect::{
        same,
        Check, //
    },
    memory::{
        memfd,
        page,
        pfns, //
    },
    pattern::{
        digest,
        Layout, //
    },
    run,
    sys,
    tap::{
        Outcome,
        Report, //
    }, //
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

/// Length of the file in pages, and a few bytes more.
const PAGES: u64 = 3000;
const MORE: u64 = 17;

fn size() -> u64 {
    PAGES * page() + MORE
}

/// What the first kernel writes everywhere.
fn base() -> Layout {
    Layout::full(0, size())
}

/// What the file must be in the kernel number `round`: each kernel writes its own pattern over every
/// third page, and the others are those of the first kernel.
fn verify(fd: &OwnedFd, round: u64) -> Check {
    base().then(ours(round)).verify(fd)
}

/// The pages that the kernel number `round` writes.
fn ours(round: u64) -> Layout {
    Layout::every(round, size(), 0, 3 * page(), page())
}

/// A digest of the numbers of the file's pages.
fn places(fd: &OwnedFd) -> Result<String> {
    let places = pfns(fd, size())?;
    let digest = places
        .iter()
        .fold(0, |d, pfn| digest(d, &pfn.to_le_bytes()));
    Ok(digest.to_string())
}

/// Takes the file from the previous kernel, verifies and changes it, and hands it on.
///
/// # Errors
///
/// If it could not be tried.
pub fn run(round: u64, last: bool, sabotage: bool, state: &Path) -> Result<Outcome> {
    let mut report = Report::new(&format!("memfd.relay.{round}"));
    fs::create_dir_all(state)?;
    let file = state.join("relay.pages");
    let device = LiveUpdate::open_wait(Duration::from_secs(20))?;
    let name = |round| SessionName::new(format!("lu_memfd.relay.{round}"));
    let fd = if round == 1 {
        let fd = memfd("relay")?;
        base().write(&fd)?;
        fd
    } else {
        let session = device.retrieve_session(&name(round - 1)?)?;
        let fd = session.retrieve(Token(round - 1))?;
        if sabotage {
            run::sabotage(&fd)?;
        }
        report.check("content", verify(&fd, round - 1));
        // Until it is finished: afterwards they may be moved.
        report.check("same-pages", same(places(&fd)?, fs::read_to_string(&file)?));
        session.finish().map_err(liveupdate::Error::from)?;
        fd
    };
    ours(round).write_data(&fd)?;
    report.check("written", verify(&fd, round));
    if last {
        return Ok(report.end());
    }
    let session = device.create_session(&name(round)?)?;
    session.preserve(&fd, Token(round))?;
    // Preserving may move memory once more.
    fs::write(&file, places(&fd)?)?;
    drop(device);
    sys::leave_behind(|| ())?;
    Ok(report.end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_changed_byte_and_a_wrong_length_are_noticed() {
        let fd = memfd("t").unwrap();
        base().write(&fd).unwrap();
        ours(3).write_data(&fd).unwrap();
        verify(&fd, 3).unwrap();
        assert!(verify(&fd, 4).is_err());
        for at in [0, page() + 1, 3 * page() - 1, size() - 1] {
            let mut byte = [0];
            rustix::io::pread(&fd, &mut byte, at).unwrap();
            rustix::io::pwrite(&fd, &[byte[0] ^ 1], at).unwrap();
            assert!(verify(&fd, 3).is_err(), "{at}");
            rustix::io::pwrite(&fd, &byte, at).unwrap();
        }
        rustix::fs::ftruncate(&fd, size() - 1).unwrap();
        assert!(verify(&fd, 3).is_err());
    }
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A VMM whose session somebody else holds, as `luoctl hold` does. It dies after each step.

use crate::{
    hugetlb::{
        self,
        Pool, //
    },
    memory::{
        memfd,
        page, //
    },
    pattern::{
        self,
        Layout, //
    },
    tap::{
        Outcome,
        Report, //
    }, //
};
use anyhow::{
    ensure,
    Context,
    Result, //
};
use liveupdate::{
    IncomingSession,
    Session,
    Token, //
};
use rustix::{
    fs::MemfdFlags,
    io::pread, //
};
use std::{
    env,
    os::fd::{
        AsFd,
        FromRawFd,
        OwnedFd,
        RawFd, //
    }, //
};

const MEMORY: Token = Token(7);

/// Bytes in a huge page, of those that every architecture has.
const HUGE: u64 = 2 << 20;
const POOL: Pool = Pool(HUGE);

/// The guest's memory; with `huge`, that many bytes in huge pages of HugeTLB.
fn layout(huge: Option<u64>) -> Layout {
    match huge {
        None => Layout::every(0x7333, 999 * page() + 12, 0, 10 * page(), 9 * page()),
        Some(size) => Layout::full(0x7333, size),
    }
}

/// The descriptor that this process was started with.
pub(crate) fn inherited() -> Result<OwnedFd> {
    let name = "LIVEUPDATE_SESSION_FD";
    let number: RawFd = env::var(name)
        .with_context(|| format!("{name} is not set: run this with `luoctl session`"))?
        .parse()?;
    // SAFETY: The variable says that the descriptor was opened for this process; nothing else in it
    // knows the descriptor, and this is called once.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// A number that stands for the content of a file.
fn hash(fd: impl AsFd, size: u64) -> Result<u64> {
    let mut buf = vec![0; 1 << 20];
    let (mut at, mut sum) = (0, 0);
    while at < size {
        let len = (size - at).min(1 << 20) as usize;
        let done = pread(&fd, &mut buf[..len], at)?;
        ensure!(done > 0, "the file ends at {at}");
        sum = pattern::digest(sum, &buf[..done]);
        at += done as u64;
    }
    Ok(sum)
}

/// Prints what of huge pages must be the same before and after an update.
fn show(fd: impl AsFd, size: u64) -> Result<()> {
    let (hash, pool) = (hash(fd, size)?, POOL.state()?);
    println!(
        "HUGE bytes={size} page={HUGE} hash={hash:016x} nr={} free={} resv={} surplus={}",
        pool.nr, pool.free, pool.resv, pool.surplus
    );
    Ok(())
}

/// Makes the guest's memory and fills it.
fn memory(huge: Option<u64>) -> Result<OwnedFd> {
    let layout = layout(huge);
    let Some(size) = huge else {
        let memory = memfd("guest")?;
        layout.write(&memory)?;
        return Ok(memory);
    };
    let nr = size / HUGE;
    ensure!(
        size.is_multiple_of(HUGE) && nr > 0,
        "huge pages have 2 MiB each"
    );
    let now = POOL.set(nr)?;
    ensure!(now == nr, "the pool has {now} huge pages of {nr}");
    let memory = hugetlb::huge_memfd(HUGE, MemfdFlags::ALLOW_SEALING)?;
    hugetlb::write(&layout, &memory, HUGE)?;
    Ok(memory)
}

/// Preserves the guest's memory.
///
/// # Errors
///
/// If there is no session or nothing could be preserved in it.
pub fn preserve(huge: Option<u64>) -> Result<Outcome> {
    let mut report = Report::new("vmm");
    let session = Session::try_from(inherited()?)?;
    let memory = memory(huge)?;
    session.preserve(&memory, MEMORY)?;
    match huge {
        None => report.check("preserved", layout(huge).verify(&memory)),
        Some(size) => report.check("preserved", show(&memory, size)),
    };
    Ok(report.end())
}

/// Retrieves the guest's memory, as often as wanted until the session is finished.
///
/// # Errors
///
/// If there is no session or nothing could be retrieved from it.
pub fn retrieve(huge: Option<u64>) -> Result<Outcome> {
    let mut report = Report::new("vmm");
    let session = IncomingSession::try_from(inherited()?)?;
    let memory = session.retrieve(MEMORY)?;
    report.check("content", layout(huge).verify(&memory));
    if let Some(size) = huge {
        report.check("shown", show(&memory, size));
    }
    Ok(report.end())
}

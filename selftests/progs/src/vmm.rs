// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A VMM whose session somebody else holds, as `luoctl hold` does. It dies after each step.

use crate::{
    memory::{
        memfd,
        page, //
    },
    pattern::Layout,
    tap::{
        Outcome,
        Report, //
    }, //
};
use anyhow::{
    Context,
    Result, //
};
use liveupdate::{
    IncomingSession,
    Session,
    Token, //
};
use std::{
    env,
    os::fd::{
        FromRawFd,
        OwnedFd,
        RawFd, //
    }, //
};

const MEMORY: Token = Token(7);

fn layout() -> Layout {
    Layout::every(0x7333, 999 * page() + 12, 0, 10 * page(), 9 * page())
}

/// The descriptor that this process was started with.
fn inherited() -> Result<OwnedFd> {
    let name = "LIVEUPDATE_SESSION_FD";
    let number: RawFd = env::var(name)
        .with_context(|| format!("{name} is not set: run this with `luoctl session`"))?
        .parse()?;
    // SAFETY: The variable says that the descriptor was opened for this process; nothing else in it
    // knows the descriptor, and this is called once.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Preserves the guest's memory.
///
/// # Errors
///
/// If there is no session or nothing could be preserved in it.
pub fn preserve() -> Result<Outcome> {
    let mut report = Report::new("vmm");
    let session = Session::try_from(inherited()?)?;
    let memory = memfd("guest")?;
    layout().write(&memory)?;
    session.preserve(&memory, MEMORY)?;
    report.check("preserved", layout().verify(&memory));
    Ok(report.end())
}

/// Retrieves the guest's memory, as often as wanted until the session is finished.
///
/// # Errors
///
/// If there is no session or nothing could be retrieved from it.
pub fn retrieve() -> Result<Outcome> {
    let mut report = Report::new("vmm");
    let session = IncomingSession::try_from(inherited()?)?;
    let memory = session.retrieve(MEMORY)?;
    report.check("content", layout().verify(&memory));
    Ok(report.end())
}

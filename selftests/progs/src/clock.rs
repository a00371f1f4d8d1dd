// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The host's clock.
//!
//! A machine's own clock may be wrong by far if its CPU is emulated. The files in `/state` are the host's, which
//! writes down when they are written to.

use std::{
    fs,
    io,
    thread,
    time::{
        Duration,
        SystemTime, //
    }, //
};

/// What is written to.
const FILE: &str = "/state/clock";

/// From one look at something to the next: asking the host takes some work of its own.
const STEP: Duration = Duration::from_millis(50);

/// The host's time, from where its clock begins.
///
/// # Errors
///
/// If there is no `/state`.
pub fn now() -> io::Result<Duration> {
    fs::write(FILE, "now")?;
    let time = fs::metadata(FILE)?.modified()?;
    time.duration_since(SystemTime::UNIX_EPOCH)
        .map_err(io::Error::other)
}

/// Waits until something is so, but not longer than the host takes for `patience`: whether it is.
///
/// # Errors
///
/// As [`now`].
pub fn wait(patience: Duration, mut is_so: impl FnMut() -> bool) -> io::Result<bool> {
    let start = now()?;
    while !is_so() {
        if now()?.saturating_sub(start) > patience {
            return Ok(is_so());
        }
        thread::sleep(STEP);
    }
    Ok(true)
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Output to someone who may be gone.
//!
//! The macros of the standard library panic if that is so. A terminal or a log that has gone away must
//! not end a process that holds the memory of others.

use anyhow::{
    Context as _,
    Result, //
};
use std::io::{
    self,
    ErrorKind,
    Write as _, //
};

/// Says a sentence on standard error, if anybody listens.
pub(crate) fn say(sentence: impl std::fmt::Display) {
    let _ = writeln!(io::stderr(), "luoctl: {sentence}");
}

/// Prints what was asked for. That the reader has seen enough of it is no failure.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut out = io::stdout();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        other => other.context("cannot write to standard output"),
    }
}

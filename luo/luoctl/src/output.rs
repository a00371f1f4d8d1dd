// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Output to someone who may be gone, and how it is worded.
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

/// A size as a person says it.
pub(crate) fn human(bytes: u64) -> String {
    const UNITS: [(u64, &str); 4] = [
        (1 << 40, "TiB"),
        (1 << 30, "GiB"),
        (1 << 20, "MiB"),
        (1 << 10, "KiB"),
    ];
    for (size, unit) in UNITS {
        if bytes >= size {
            let tenths = u128::from(bytes) * 10 / u128::from(size);
            return format!("{}.{} {unit}", tenths / 10, tenths % 10);
        }
    }
    format!("{bytes} B")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_rounded_down() {
        assert_eq!(human(0), "0 B");
        assert_eq!(human(1023), "1023 B");
        assert_eq!(human(1024 + 512), "1.5 KiB");
        assert_eq!(human(u64::MAX), "16777215.9 TiB");
    }
}

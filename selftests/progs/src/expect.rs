// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Comparisons whose failure is a sentence.

use rustix::io::Errno;
use std::fmt::Debug;

/// A result of a check: a failure says what was seen.
pub type Check = Result<(), String>;

/// Both are the same.
pub fn same<T: PartialEq + Debug>(seen: T, expected: T) -> Check {
    if seen == expected {
        return Ok(());
    }
    Err(format!("{seen:?} instead of {expected:?}"))
}

/// It is true.
pub fn is(what: bool, otherwise: &str) -> Check {
    what.then_some(()).ok_or_else(|| otherwise.into())
}

/// What can have been refused by the kernel.
pub trait Refusal {
    /// The kernel's answer.
    fn answer(&self) -> Option<Errno>;
}

impl Refusal for Errno {
    fn answer(&self) -> Option<Errno> {
        Some(*self)
    }
}

impl Refusal for liveupdate::Error {
    fn answer(&self) -> Option<Errno> {
        self.errno()
    }
}

/// The kernel refused with one of `errnos`.
pub fn refused<T, E: Refusal + Debug>(result: Result<T, E>, errnos: &[Errno]) -> Check {
    match result {
        Ok(_) => Err(format!("it worked, and should have failed with {errnos:?}")),
        Err(error) if error.answer().is_some_and(|e| errnos.contains(&e)) => Ok(()),
        Err(error) => Err(format!("{error:?} instead of {errnos:?}")),
    }
}

/// It worked.
pub fn works<T, E: Debug>(result: Result<T, E>) -> Check {
    result.map(|_| ()).map_err(|error| format!("{error:?}"))
}

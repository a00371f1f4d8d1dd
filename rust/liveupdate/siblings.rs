// SPDX-License-Identifier: GPL-2.0-only

//! The files that are preserved together.

use crate::bindings;
use kernel::{
    error::to_result,
    fs::File, //
};

/// The files of the session of a file that is being frozen.
///
/// # Invariants
///
/// LUO has called `freeze` with these arguments, and waits for it.
pub struct Siblings<'a>(&'a bindings::liveupdate_file_op_args);

impl<'a> Siblings<'a> {
    /// # Safety
    ///
    /// `args` must be what `freeze` was called with.
    pub(super) unsafe fn new(args: &'a bindings::liveupdate_file_op_args) -> Self {
        // INVARIANT: The caller guarantees it.
        Self(args)
    }

    /// The token of a file, if it is one of these.
    pub fn token(&self, file: &File) -> Option<u64> {
        let mut token = 0;
        // SAFETY: By the type invariants. The file is alive.
        let result =
            unsafe { bindings::liveupdate_get_token(self.0, file.as_ptr(), &raw mut token) };
        to_result(result).ok().map(|()| token)
    }
}

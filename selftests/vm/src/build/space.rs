// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Room on the disk, looked for before minutes of work instead of after them.

use std::path::Path;

use anyhow::{
    bail,
    Result, //
};
use rustix::fs::statvfs;

use crate::arch::{
    cache,
    top, //
};

/// What to do about a full disk.
pub(super) fn advice() -> String {
    format!(
        "free some space under {} and {}, or set LIVEUPDATE_CACHE to a directory on a larger disk",
        cache().display(),
        top().join("build").display()
    )
}

/// Makes sure that there are `gib` GiB for `what` where `dir` is.
pub(super) fn require(what: &str, dir: &Path, gib: u64) -> Result<()> {
    let stat = statvfs(dir)?;
    let free = (stat.f_bavail.saturating_mul(stat.f_frsize)) >> 30;
    if free < gib {
        bail!(
            "{what} needs {gib} GiB and {} has {free}; {}",
            dir.display(),
            advice()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_little_room_is_named() {
        let dir = Path::new("/");
        require("nothing", dir, 0).unwrap();
        let error = require("everything", dir, 1 << 40).unwrap_err().to_string();
        assert!(error.contains("everything needs"), "{error}");
    }
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Looks for files below a directory of modules.

use anyhow::{
    Context as _,
    Result, //
};
use std::{
    fs,
    path::{
        Path,
        PathBuf, //
    }, //
};

/// How deep and how far a directory of modules is searched.
const DEPTH: u32 = 8;
const ENTRIES: u32 = 200_000;

/// The files with a name that is wanted, in the order of their paths.
pub(crate) fn files(dir: &Path, wanted: impl Fn(&str) -> bool) -> Result<Vec<PathBuf>> {
    let (mut found, mut left) = (Vec::new(), ENTRIES);
    search(dir, DEPTH, &mut left, &wanted, &mut found)?;
    found.sort();
    Ok(found)
}

fn search(
    dir: &Path,
    depth: u32,
    left: &mut u32,
    wanted: &impl Fn(&str) -> bool,
    found: &mut Vec<PathBuf>,
) -> Result<()> {
    let entries = fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))?;
    for entry in entries {
        let entry = entry?;
        *left = left
            .checked_sub(1)
            .context("that is no directory of modules: it has too many files")?;
        let kind = entry.file_type()?;
        // `build` and `source` are links, to elsewhere.
        if kind.is_dir() && depth > 0 {
            search(&entry.path(), depth - 1, left, wanted, found)?;
        } else if !kind.is_dir() && wanted(&entry.file_name().to_string_lossy()) {
            found.push(entry.path());
        }
    }
    Ok(())
}

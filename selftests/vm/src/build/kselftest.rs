// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The package of tests for a host that is in use, laid out as kselftest's runner wants it.

use std::fs;
use std::path::Path;

use anyhow::{
    Context,
    Result, //
};

use super::install;
use super::source::Source;
use crate::arch::{
    top,
    Arch, //
};
use crate::check::declared;

/// What kselftest calls a directory of tests.
const COLLECTION: &str = "liveupdate-rs";

/// Of the kernel's own selftests: what runs the tests of a package.
const RUNNER: [&str; 5] = [
    "run_kselftest.sh",
    "kselftest/runner.sh",
    "kselftest/prefix.pl",
    "kselftest/ktap_helpers.sh",
    "kselftest/ksft.py",
];

/// Makes `kselftest` in the directory of an architecture's programs, out of them.
pub(super) fn package(arch: Arch, source: &Source, bin: &Path) -> Result<()> {
    let to = bin.join("kselftest");
    let tests = to.join(COLLECTION);
    fs::create_dir_all(to.join("kselftest"))?;
    fs::create_dir_all(&tests)?;
    for name in RUNNER {
        install(
            &source.tree.join("tools/testing/selftests").join(name),
            &to.join(name),
        )?;
    }
    for name in ["lu_memfd", "luoctl"] {
        install(&bin.join(name), &tests.join(name))?;
    }
    let mut list = String::new();
    for entry in sorted(&top().join("selftests/host"))? {
        install(
            &top().join("selftests/host").join(&entry),
            &tests.join(&entry),
        )?;
        if entry.ends_with(".sh") && entry != "lib.sh" {
            list += &format!("{COLLECTION}:{entry}\n");
        }
    }
    fs::write(to.join("kselftest-list.txt"), list)?;
    fs::write(tests.join("elsewhere"), declared::list(arch)?)?;
    Ok(())
}

fn sorted(dir: &Path) -> Result<Vec<String>> {
    let mut names: Vec<_> = fs::read_dir(dir)
        .with_context(|| format!("{} cannot be read", dir.display()))?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<Result<_>>()?;
    names.sort();
    Ok(names)
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The same modules as if each format had another version, for the tests of kernels that differ in that.

use std::fs;
use std::path::Path;

use anyhow::{
    bail,
    Context,
    Result, //
};

use super::modules;
use crate::arch::{
    top,
    Build, //
};

/// What the modules are made of.
const SOURCES: [&str; 6] = [
    "Kbuild",
    "iommu_preserve",
    "kho",
    "luo",
    "rust",
    "vfio_preserve",
];

/// The names of formats, which are what tells their versions apart, and what they are instead.
const FORMATS: [(&str, &str); 3] = [
    ("rs-memfd-v1", "rs-memfd-v9"),
    ("rs-hugetlb-v1", "rs-hugetlb-v9"),
    ("rs-guest-memfd-v1", "rs-guest-memfd-v9"),
];

/// Builds them into `modules-skew`, among the programs of the architecture.
pub(super) fn build(build: Build) -> Result<()> {
    let dir = build.dir().join("modules-skew");
    let (from, to) = (top(), dir.join("source"));
    let mut found = [false; FORMATS.len()];
    for name in SOURCES {
        copy(&from.join(name), &to.join(name), &mut found)?;
    }
    if let Some(at) = found.iter().position(|found| !found) {
        bail!("no module has the format {}", FORMATS[at].0);
    }
    let out = build.dir().join("bin/modules-skew");
    modules::build_from(build, &to, &dir.join("work"), &out)
}

/// Copies what changed, with the other names.
fn copy(from: &Path, to: &Path, found: &mut [bool; FORMATS.len()]) -> Result<()> {
    if from.is_dir() {
        for entry in fs::read_dir(from)? {
            let name = entry?.file_name();
            // What cargo built.
            if name != "target" {
                copy(&from.join(&name), &to.join(&name), found)?;
            }
        }
        return Ok(());
    }
    let Ok(mut text) = fs::read_to_string(from) else {
        return Ok(());
    };
    for ((name, other), found) in FORMATS.iter().zip(found) {
        *found |= text.contains(name);
        text = text.replace(name, other);
    }
    if fs::read_to_string(to).ok().as_ref() != Some(&text) {
        let parent = to.parent().context("a file has a directory")?;
        fs::create_dir_all(parent)?;
        fs::write(to, text)?;
    }
    Ok(())
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Builds the lab's kernels, modules and guest programs. What is unchanged is left alone.

pub mod kernel;
mod kselftest;
pub mod modules;
pub mod programs;
mod skew;
mod source;
mod space;
mod step;
mod upstream;

use std::fs;
use std::path::Path;

use anyhow::{
    Context,
    Result, //
};

use crate::arch::{
    Arch,
    Build,
    Variant, //
};

/// Brings kernel, modules and programs of a build up to date.
///
/// # Errors
///
/// A sentence about the step that failed, with the end of its log.
pub fn everything(build: Build) -> Result<()> {
    let kernel = kernel::build(build)?;
    if !build.variant.is_patched() {
        return Ok(());
    }
    modules::build(build)?;
    if build.variant == Variant::Plain {
        skew::build(build)?;
    }
    // Programs lock the source by themselves.
    drop(kernel);
    programs::build(build.arch)
}

/// Brings several builds up to date, the slow steps first.
///
/// # Errors
///
/// As [`everything`].
pub fn all(builds: &[Build]) -> Result<()> {
    builds.iter().try_for_each(|&build| everything(build))
}

/// The cross compiler's prefix for C programs.
fn cross(arch: Arch) -> &'static str {
    match arch {
        Arch::X86_64 => "",
        Arch::Arm64 => "aarch64-linux-gnu-",
    }
}

/// Copies a file if it differs, so that what depends on it by time is left alone.
fn install(from: &Path, to: &Path) -> Result<()> {
    let new = fs::read(from).with_context(|| format!("{} was not built", from.display()))?;
    if fs::read(to).ok().as_ref() != Some(&new) {
        let _ = fs::remove_file(to);
        fs::copy(from, to)?;
    }
    Ok(())
}

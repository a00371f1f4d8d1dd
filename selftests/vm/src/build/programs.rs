// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The static programs of the guests: ours, busybox, and upstream's selftests unmodified.

use std::env;
use std::fs;
use std::path::{
    Path,
    PathBuf, //
};
use std::process::Command;

use anyhow::{
    bail,
    Context,
    Result, //
};

use super::cross;
use super::install;
use super::kselftest;
use super::source;
use super::step;
use super::upstream;
use crate::arch::{
    cache,
    top,
    Arch, //
};

/// A program of ours: package and binary.
type Program = (&'static str, &'static str);

/// All that the guests have.
const OURS: [Program; 8] = [
    ("lu-init", "lu-init"),
    ("lu-init", "lu-reboot"),
    ("luoctl", "luoctl"),
    ("progs", "lu_memfd"),
    ("progs", "lu_bench"),
    ("progs", "lu_kho"),
    ("vmm", "vmm"),
    ("vmm", "vmm-guest"),
];

fn busybox(arch: Arch) -> Result<PathBuf> {
    let places: &[&str] = match arch {
        Arch::X86_64 => &["/bin/busybox", "/usr/bin/busybox"],
        Arch::Arm64 => &["/usr/lib/liveupdate-rs/arm64/usr/bin/busybox"],
    };
    places
        .iter()
        .map(PathBuf::from)
        .find(|p| p.exists())
        .with_context(|| format!("a static busybox for {arch} is missing"))
}

/// Builds some of our own programs, static, into `build/ARCH/bin`. With all of them the example for VMMs, in one go,
/// as it would be built with other features of the same crates by itself.
fn ours(arch: Arch, programs: &[Program], what: &str) -> Result<PathBuf> {
    let bin = top().join("build").join(arch.name()).join("bin");
    fs::create_dir_all(&bin)?;
    let triple = arch.triple();
    let mut cargo = Command::new("cargo");
    cargo
        .args([
            "build",
            "--release",
            "--locked",
            "--target",
            triple,
            "--manifest-path",
        ])
        .arg(top().join("Cargo.toml"))
        .env("RUSTFLAGS", "-C target-feature=+crt-static")
        .env(
            "CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER",
            "aarch64-linux-gnu-gcc",
        );
    for (package, name) in programs {
        cargo.args(["-p", package, "--bin", name]);
    }
    let example = programs == OURS;
    if example {
        cargo.args(["-p", "liveupdate", "--example", "vmm"]);
    }
    step::run(
        &format!("building {what} ({arch})"),
        &mut cargo,
        &cache().join("logs").join(format!("{arch}-programs.log")),
    )?;
    let Some(target) = env::var_os("CARGO_TARGET_DIR") else {
        bail!("CARGO_TARGET_DIR is not set: use selftests/vm/lab");
    };
    let from = PathBuf::from(target).join(triple).join("release");
    for (_, name) in programs {
        install(&from.join(name), &bin.join(name))?;
    }
    if example {
        install(&from.join("examples/vmm"), &bin.join("example-rust"))?;
    }
    Ok(bin)
}

/// Builds the example for VMMs in C, with the headers of the kernel.
fn example_in_c(arch: Arch, bin: &Path, headers: &Path) -> Result<()> {
    let built = bin.join("example-c");
    step::run(
        &format!("building the example in C ({arch})"),
        Command::new(format!("{}gcc", cross(arch)))
            .args(["-static", "-O2", "-Wall", "-Wextra", "-Werror", "-isystem"])
            .arg(headers)
            .arg(top().join("luo/examples/vmm.c"))
            .arg("-o")
            .arg(built),
        &cache().join("logs").join(format!("{arch}-example.log")),
    )
}

/// Brings the guest programs of one architecture up to date.
///
/// # Errors
///
/// If a build fails.
pub fn build(arch: Arch) -> Result<()> {
    let bin = ours(arch, &OURS, "the guest programs")?;
    install(&busybox(arch)?, &bin.join("busybox"))?;
    let headers = upstream::build(arch, &bin)?;
    example_in_c(arch, &bin, &headers)?;
    kselftest::package(arch, &source::prepare()?, &bin)
}

/// Builds the programs that a host needs; they run on any distribution.
///
/// # Errors
///
/// If the build fails.
pub fn for_host(arch: Arch) -> Result<()> {
    let bin = ours(arch, &[("luoctl", "luoctl")], "luoctl")?;
    eprintln!(
        "luoctl is {}; it needs nothing else, copy it to /usr/local/sbin of the host",
        bin.join("luoctl").display()
    );
    Ok(())
}

/// Builds the tests for a host that is in use, with all that they need.
///
/// # Errors
///
/// If the build fails.
pub fn for_kselftest(arch: Arch) -> Result<()> {
    let programs = [("luoctl", "luoctl"), ("progs", "lu_memfd")];
    let bin = ours(arch, &programs, "the tests for hosts")?;
    kselftest::package(arch, &source::prepare()?, &bin)
}

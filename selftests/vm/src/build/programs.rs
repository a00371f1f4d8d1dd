// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The static programs of the guests: ours, busybox, and upstream's selftests unmodified.

use std::env;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{
    bail,
    Context,
    Result, //
};

use super::install;
use super::step;
use super::upstream;
use crate::arch::{
    cache,
    top,
    Arch, //
};

/// Our own programs: package and binary.
const OURS: [(&str, &str); 8] = [
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

/// Builds some of our own programs, static, into `build/ARCH/bin`.
fn ours(arch: Arch, programs: &[(&str, &str)], what: &str) -> Result<PathBuf> {
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
    Ok(bin)
}

/// Brings the guest programs of one architecture up to date.
///
/// # Errors
///
/// If a build fails.
pub fn build(arch: Arch) -> Result<()> {
    let bin = ours(arch, &OURS, "the guest programs")?;
    install(&busybox(arch)?, &bin.join("busybox"))?;
    upstream::build(arch, &bin)
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

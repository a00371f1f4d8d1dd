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
use super::source;
use super::step;
use crate::arch::{
    cache,
    top,
    Arch, //
};

/// Our own programs: package and binary.
const OURS: [(&str, &str); 7] = [
    ("lu-init", "lu-init"),
    ("lu-init", "lu-reboot"),
    ("luoctl", "luoctl"),
    ("progs", "lu_memfd"),
    ("progs", "lu_bench"),
    ("vmm", "vmm"),
    ("vmm", "vmm-guest"),
];

/// Upstream's live update selftests.
const UPSTREAM: [&str; 5] = [
    "liveupdate",
    "luo_kexec_simple",
    "luo_multi_session",
    "luo_stress_sessions",
    "luo_stress_files",
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

/// Builds upstream's selftests from a copy of their directory in the patched tree.
fn upstream(arch: Arch, bin: &Path) -> Result<()> {
    let source = source::prepare()?;
    let work = source.home.join(format!("selftests-{arch}"));
    let done = work.join("done.key");
    if fs::read_to_string(&done).ok().as_ref() != Some(&source.key) {
        let log = source
            .home
            .join("logs")
            .join(format!("{arch}-selftests.log"));
        fs::create_dir_all(&work)?;
        let headers = work.join("usr");
        step::run(
            &format!("installing kernel headers ({arch})"),
            Command::new("make")
                .arg("-C")
                .arg(&source.tree)
                .arg(format!("O={}", work.join("o").display()))
                .arg(format!("ARCH={arch}"))
                .args(["LLVM=1", "headers_install"])
                .arg(format!("INSTALL_HDR_PATH={}", headers.display())),
            &log,
        )?;
        let dir = source.tree.join("tools/testing/selftests/liveupdate");
        let lib: Vec<PathBuf> = fs::read_dir(dir.join("lib"))?
            .filter_map(|e| Some(e.ok()?.path()))
            .filter(|p| p.extension().is_some_and(|e| e == "c"))
            .collect();
        for name in UPSTREAM {
            let mut cc = Command::new(format!("{}gcc", cross(arch)));
            cc.args([
                "-D_GNU_SOURCE=",
                "-static",
                "-O2",
                "-Wall",
                "-Wno-unused-function",
                "-isystem",
            ])
            .arg(headers.join("include"))
            .arg("-I")
            .arg(dir.join("lib/include"))
            .arg("-I")
            .arg(dir.join(".."))
            .arg("-I")
            .arg(source.tree.join("tools/testing/selftests"))
            .arg(dir.join(format!("{name}.c")))
            .args(&lib)
            .arg("-o")
            .arg(work.join(name));
            step::run(
                &format!("building upstream's {name} ({arch})"),
                &mut cc,
                &log,
            )?;
        }
        fs::write(&done, &source.key)?;
    }
    UPSTREAM
        .iter()
        .try_for_each(|name| install(&work.join(name), &bin.join(name)))
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
    upstream(arch, &bin)
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

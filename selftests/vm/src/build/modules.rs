// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The project's kernel modules.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{
    bail,
    Context,
    Result, //
};

use super::install;
use super::kernel::make;
use super::source::SERIES;
use super::step;
use crate::arch::{
    cache,
    named,
    top,
    Arch,
    Build, //
};

/// Mainline's own handler, shipped beside ours so that both can be compared; never loaded by default.
const MAINLINE: &str = "mm/memfd_luo.ko";

fn kbuild(kdir: &Path, source: &Path, arch: Arch, modules: &Path, out: &Path) -> Command {
    let mut command = make(source, kdir, arch);
    command
        .arg(format!("M={}", modules.display()))
        .arg(format!("MO={}", out.display()))
        .arg("modules");
    command
}

/// Brings the modules of a build up to date; its kernel must be.
///
/// # Errors
///
/// If the build fails.
pub fn build(build: Build) -> Result<()> {
    let (work, out) = (
        build.dir().join("modules-work"),
        build.dir().join("modules"),
    );
    build_from(build, &top(), &work, &out)?;
    let mainline = build.dir().join("kernel").join(MAINLINE);
    if mainline.exists() {
        install(&mainline, &out.join("memfd_luo.ko"))?;
    }
    Ok(())
}

/// Builds the modules whose sources are in `modules` for the kernel of a build.
pub(super) fn build_from(build: Build, modules: &Path, work: &Path, out: &Path) -> Result<()> {
    let kdir = fs::canonicalize(build.dir().join("kernel")).context("the kernel is not built")?;
    fs::create_dir_all(work)?;
    let what = out.file_name().context("a directory")?.to_string_lossy();
    let log = cache()
        .join("logs")
        .join(format!("{}-{what}.log", build.name()));
    let source = fs::canonicalize(kdir.join("source"))?;
    step::run(
        &format!("building the {} {what}", build.name()),
        &mut kbuild(&kdir, &source, build.arch, modules, work),
        &log,
    )?;
    publish(work, out)?;
    let config = fs::read_to_string(kdir.join(".config"))?;
    sign(&kdir, &source, &config, out)
}

/// Copies the modules from where they were built, with `modules.order` in load order.
fn publish(work: &Path, out: &Path) -> Result<()> {
    fs::create_dir_all(out)?;
    let order = fs::read_to_string(work.join("modules.order"))?;
    let names: Vec<String> = order
        .lines()
        .filter_map(|l| Some(format!("{}.ko", Path::new(l).file_stem()?.to_str()?)))
        .collect();
    // The shared module comes first: the others import from it.
    let (first, rest): (Vec<_>, Vec<_>) = names.into_iter().partition(|n| n == "luo_rs.ko");
    for name in first.iter().chain(&rest) {
        install(&work.join(name), &out.join(name))?;
    }
    fs::write(
        out.join("modules.order"),
        first
            .iter()
            .chain(&rest)
            .map(|n| format!("{n}\n"))
            .collect::<String>(),
    )?;
    Ok(())
}

fn option<'a>(config: &'a str, name: &str) -> Option<&'a str> {
    config
        .lines()
        .find_map(|l| l.strip_prefix(name)?.strip_prefix('='))
}

/// The version in what `rustc --version` prints, as the kernel's configuration has it.
fn rustc_version(text: &str) -> Option<String> {
    let number = text.strip_prefix("rustc ")?.split([' ', '-']).next()?;
    let mut parts = number.split('.').map(|part| part.parse::<u32>().ok());
    let mut part = || parts.next().flatten();
    let (major, minor, patch) = (part()?, part()?, part()?);
    Some((major * 100_000 + minor * 100 + patch).to_string())
}

/// Whether a kernel release is one that the modules are for.
fn is_supported(release: &str) -> bool {
    let rest = release.trim().strip_prefix(SERIES);
    rest.is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_digit()))
}

/// Builds the modules against a prepared and patched kernel tree of the user's.
///
/// # Errors
///
/// If the tree is not prepared, lacks an option or the exports, or the build fails.
pub fn for_tree(kdir: &Path) -> Result<()> {
    if !kdir.exists() && named(kdir).exists() {
        bail!(
            "KDIR={} is hidden by the root with the build tools: move or copy the tree to another place, \
             such as /srv",
            kdir.display()
        );
    }
    let kdir = fs::canonicalize(kdir)
        .with_context(|| format!("KDIR={} does not exist", kdir.display()))?;
    let config = fs::read_to_string(kdir.join(".config")).with_context(|| {
        format!(
            "KDIR={} is not configured: run make prepare in the kernel tree",
            kdir.display()
        )
    })?;
    let unbuilt = |name: &str| {
        format!(
            "{} has no {name}: build that kernel (make) before its modules",
            kdir.display()
        )
    };
    let release = "include/config/kernel.release";
    let release = fs::read_to_string(kdir.join(release)).with_context(|| unbuilt(release))?;
    let release = release.trim();
    if !is_supported(release) {
        bail!(
            "the kernel in {} is {release}: the modules and the series in patches/ are for Linux {SERIES}",
            kdir.display()
        );
    }
    for name in ["CONFIG_RUST", "CONFIG_MODULES", "CONFIG_LIVEUPDATE"] {
        if option(&config, name) != Some("y") {
            bail!(
                "the kernel in {} has no {name}=y: the modules need it",
                kdir.display()
            );
        }
    }
    let theirs = option(&config, "CONFIG_RUSTC_VERSION").unwrap_or_default();
    let ours = Command::new("rustc").arg("--version").output()?.stdout;
    let ours = String::from_utf8_lossy(&ours).trim().to_owned();
    if rustc_version(&ours).as_deref() != Some(theirs) {
        bail!(
            "the kernel in {} was built with {}, and the tools here have {ours}: modules in Rust need the \
             kernel's own compiler. Build the kernel with these tools (selftests/vm/enter make LLVM=1 ...)",
            kdir.display(),
            option(&config, "CONFIG_RUSTC_VERSION_TEXT").unwrap_or("another rustc")
        );
    }
    let symvers = "Module.symvers";
    let symvers = fs::read_to_string(kdir.join(symvers)).with_context(|| unbuilt(symvers))?;
    let mut needed = vec![
        "liveupdate_register_file_handler",
        "kho_try_restore_folios",
        "shmem_insert_folios",
    ];
    if option(&config, "CONFIG_KVM_GUEST_MEMFD") == Some("y") {
        needed.push("kvm_gmem_link");
    }
    for symbol in needed {
        if !symvers
            .lines()
            .any(|l| l.split('\t').nth(1) == Some(symbol))
        {
            bail!("the kernel in {} does not export {symbol}: apply the series in patches/7.3 and build it again", kdir.display());
        }
    }
    let arch = if option(&config, "CONFIG_ARM64").is_some() {
        Arch::Arm64
    } else {
        Arch::X86_64
    };
    let source = fs::canonicalize(kdir.join("source")).unwrap_or_else(|_| kdir.clone());
    // Not those of the lab's kernel, which the runner loads.
    let dir = top().join("build").join(arch.name());
    let out = dir.join(format!("modules-for-{release}"));
    let work = dir.join(format!("modules-for-{release}-work"));
    fs::create_dir_all(&work)?;
    let mut command = if source == kdir {
        let mut c = Command::new("make");
        c.arg("-C")
            .arg(&kdir)
            .args(["LLVM=1"])
            .arg(format!("ARCH={arch}"));
        c.arg(format!("M={}", top().display()))
            .arg(format!("MO={}", work.display()))
            .arg("modules");
        c
    } else {
        kbuild(&kdir, &source, arch, &top(), &work)
    };
    step::run(
        "building the modules",
        &mut command,
        &cache().join("logs/user-modules.log"),
    )?;
    publish(&work, &out)?;
    sign(&kdir, &source, &config, &out)?;
    eprintln!(
        "the modules are in {}; make install KDIR={} installs them on the machine that runs {release}, and make deb \
         makes packages",
        out.display(),
        kdir.display()
    );
    Ok(())
}

/// Lints the modules with clippy, with every warning an error.
///
/// # Errors
///
/// If make cannot be started; findings are printed and answered with `false`.
pub fn clippy(build: Build) -> Result<bool> {
    let kdir = fs::canonicalize(build.dir().join("kernel")).context("the kernel is not built")?;
    let source = fs::canonicalize(kdir.join("source"))?;
    let mut good = true;
    // The code for tests is linted too, without a kernel of the debug variant.
    for (what, test_hook) in [("code", false), ("code with the test hook", true)] {
        // Objects of its own: what clippy-driver compiled must not be mistaken for a build.
        let out = build.dir().join("clippy");
        let _ = fs::remove_dir_all(&out);
        fs::create_dir_all(&out)?;
        let mut make = kbuild(&kdir, &source, build.arch, &top(), &out);
        make.args(["CLIPPY=1", "W=e"]);
        if test_hook {
            make.args([
                "KRUSTFLAGS=--cfg CONFIG_LIVEUPDATE_TEST",
                "KCFLAGS=-DCONFIG_LIVEUPDATE_TEST",
            ]);
        }
        let result = make.output()?;
        let text = String::from_utf8_lossy(&result.stderr);
        let clean = result.status.success() && !text.contains("warning:");
        let verdict = if clean { "ok  " } else { "FAIL" };
        println!("{verdict} clippy of the kernel {what}");
        if !clean {
            println!("{text}");
        }
        good &= clean;
    }
    Ok(good)
}

/// Signs the modules if the tree has a signing key.
fn sign(kdir: &Path, source: &Path, config: &str, out: &Path) -> Result<()> {
    let tool = [
        kdir.join("scripts/sign-file"),
        source.join("scripts/sign-file"),
    ]
    .into_iter()
    .find(|p| p.exists());
    let (key, cert) = (
        kdir.join("certs/signing_key.pem"),
        kdir.join("certs/signing_key.x509"),
    );
    let Some(tool) = tool.filter(|_| key.exists() && cert.exists()) else {
        return Ok(());
    };
    let hash = option(config, "CONFIG_MODULE_SIG_HASH")
        .unwrap_or("\"sha512\"")
        .trim_matches('"')
        .to_string();
    for name in fs::read_to_string(out.join("modules.order"))?.lines() {
        let status = Command::new(&tool)
            .arg(&hash)
            .arg(&key)
            .arg(&cert)
            .arg(out.join(name))
            .status()?;
        if !status.success() {
            bail!("{name} could not be signed with {}", key.display());
        }
    }
    eprintln!("signed with {}", key.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compilers_have_the_kernels_numbers() {
        let version = |text| rustc_version(text);
        let debian = version("rustc 1.96.0 (abc 2026-05-01) (built from a source tarball)");
        assert_eq!(debian.as_deref(), Some("109600"));
        assert_eq!(
            version("rustc 1.98.1-nightly (x)").as_deref(),
            Some("109801")
        );
        assert_eq!(version("clang 19"), None);
    }

    #[test]
    fn only_the_series_release_is_supported() {
        for good in ["7.3", "7.3.4-lab\n", "7.3-rc1", "7.3.12+"] {
            assert!(is_supported(good), "{good}");
        }
        for bad in ["7.30.1", "7.2.9", "6.12.1", ""] {
            assert!(!is_supported(bad), "{bad}");
        }
    }
}

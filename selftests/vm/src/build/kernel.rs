// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The lab kernels.

use std::collections::BTreeMap;
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
use rustix::fs::{
    flock,
    FlockOperation, //
};

use super::install;
use super::source::{
    self,
    Source, //
};
use super::space;
use super::step;
use crate::arch::{
    top,
    Arch,
    Build,
    Variant, //
};

/// Lines that building a kernel prints, about, until it is known better.
const FIRST_STEPS: u64 = 2400;

/// A `make` in a kernel tree, with the toolchain every build here uses.
pub(super) fn make(tree: &Path, out: &Path, arch: Arch) -> Command {
    let mut command = Command::new("make");
    if let Some(home) = tree.parent() {
        // Builds of different variants share what compiles to the same.
        command
            .env("CCACHE_BASEDIR", home)
            .env("CCACHE_NOHASHDIR", "1");
    }
    command
        .arg("-C")
        .arg(tree)
        .arg(format!("O={}", out.display()))
        .args([
            "LLVM=1",
            "CC=ccache clang",
            "KBUILD_BUILD_USER=lab",
            "KBUILD_BUILD_HOST=lab",
        ])
        .arg(format!("ARCH={arch}"))
        .arg(format!(
            "-j{}",
            std::thread::available_parallelism().map_or(1, usize::from)
        ));
    command
}

fn fragments(build: Build) -> Vec<PathBuf> {
    let dir = top().join("selftests/vm/kernel");
    let mut list = vec![
        dir.join("common.config"),
        dir.join(format!("{}.config", build.arch)),
    ];
    match build.variant {
        Variant::Plain => {}
        Variant::Debug => {
            list.push(dir.join("debug.config"));
            // What one architecture's checkers need of their own.
            list.push(dir.join(format!("{}-debug.config", build.arch)));
        }
        Variant::Other => list.push(dir.join("other.config")),
        Variant::Deferred => list.push(dir.join("deferred.config")),
        Variant::Locked => list.push(dir.join("locked.config")),
        Variant::Disk => list.push(dir.join("disk.config")),
        Variant::Iommufd => list.push(dir.join("iommufd.config")),
        Variant::Vanilla => list.push(dir.join("vanilla.config")),
        Variant::VanillaDeferred => {
            list.extend(["deferred.config", "vanilla.config"].map(|name| dir.join(name)));
        }
        Variant::VanillaIommufd => {
            list.extend(["iommufd.config", "vanilla.config"].map(|name| dir.join(name)));
        }
    }
    list.retain(|fragment| fragment.exists());
    list
}

/// Configures the tree and verifies that every wanted option came out as wanted.
fn configure(source: &Source, out: &Path, build: Build, log: &Path) -> Result<()> {
    let fragments = fragments(build);
    step::run(
        "configuring",
        make(&source.tree, out, build.arch).arg("tinyconfig"),
        log,
    )?;
    step::run(
        "configuring",
        Command::new(source.tree.join("scripts/kconfig/merge_config.sh"))
            .current_dir(out)
            .args(["-m", "-O"])
            .arg(out)
            .arg(out.join(".config"))
            .args(&fragments),
        log,
    )?;
    step::run(
        "configuring",
        make(&source.tree, out, build.arch).arg("olddefconfig"),
        log,
    )?;

    let mut wanted = BTreeMap::new();
    for fragment in &fragments {
        for line in fs::read_to_string(fragment)?.lines() {
            let unset = line
                .strip_prefix("# ")
                .and_then(|l| l.strip_suffix(" is not set"));
            if let Some(name) = line
                .split_once('=')
                .map(|(n, _)| n)
                .filter(|n| n.starts_with("CONFIG_"))
                .or(unset)
            {
                wanted.insert(name.to_string(), line.to_string());
            }
        }
    }
    let config = fs::read_to_string(out.join(".config"))?;
    let have: BTreeMap<&str, &str> = config
        .lines()
        .filter_map(|l| Some((l.split_once('=')?.0, l)))
        .collect();
    let missing: Vec<&str> = wanted
        .iter()
        .filter(|(name, line)| match have.get(name.as_str()) {
            Some(is) => is != line,
            None => !line.ends_with(" is not set"),
        })
        .map(|(_, line)| line.as_str())
        .collect();
    if !missing.is_empty() {
        bail!(
            "the kernel's configuration did not take: {}",
            missing.join(", ")
        );
    }
    Ok(())
}

/// A kernel that is up to date, and stays so as long as this exists: several checkouts share the tree
/// of each build, and may have other patches.
#[must_use]
#[derive(Debug)]
pub struct UpToDate {
    _source: Source,
    _lock: fs::File,
}

/// Brings the kernel of a build up to date.
///
/// # Errors
///
/// If the source cannot be had, an option does not take, or the build fails.
pub fn build(build: Build) -> Result<UpToDate> {
    let source = if build.variant.is_patched() {
        source::prepare()
    } else {
        source::prepare_unpatched()
    }?;
    let name = build.name();
    let out = source.home.join(&name);
    let lock = fs::File::create(source.home.join(format!("{name}.lock")))?;
    flock(&lock, FlockOperation::LockExclusive)?;
    let dir = build.dir();
    fs::create_dir_all(&dir)?;
    fs::create_dir_all(&out)?;
    let link = dir.join("kernel");
    let _ = fs::remove_file(&link);
    std::os::unix::fs::symlink(&out, &link)?;

    let texts = fragments(build)
        .iter()
        .map(fs::read)
        .collect::<Result<Vec<_>, _>>()?;
    let mut parts: Vec<&[u8]> = vec![source.key.as_bytes()];
    parts.extend(texts.iter().map(Vec::as_slice));
    let config_key = source::digest(&parts[1..]);
    let key = source::digest(&parts);
    let log = |step: &str| source.home.join("logs").join(format!("{name}-{step}.log"));

    let built = out.join("built.key");
    if !built.exists() {
        // A debug kernel takes more than a plain one, and both leave room for modules and programs.
        space::require(&format!("building the {name} kernel"), &out, 3)?;
    }
    let config_file = out.join("config.key");
    if fs::read_to_string(&config_file).ok().as_ref() != Some(&config_key) {
        configure(&source, &out, build, &log("config"))?;
        fs::write(&config_file, &config_key)?;
    }
    let image = out.join(match build.arch {
        Arch::X86_64 => "arch/x86/boot/bzImage",
        Arch::Arm64 => "arch/arm64/boot/Image",
    });
    if fs::read_to_string(&built).ok().as_ref() != Some(&key) || !image.exists() {
        // What is there is a mixture until the build has succeeded.
        let _ = fs::remove_file(&built);
        let target = image.file_name().context("image has a name")?;
        step::run_of(
            &format!("building the {name} kernel (10 to 20 minutes when nothing is cached)"),
            FIRST_STEPS,
            make(&source.tree, &out, build.arch)
                .arg(target)
                .arg("modules"),
            &log("build"),
        )?;
        fs::write(&built, &key)?;
    }
    install(&image, &build.image())?;
    Ok(UpToDate {
        _source: source,
        _lock: lock,
    })
}

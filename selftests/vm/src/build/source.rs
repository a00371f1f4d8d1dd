// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The kernel source with the project's patches applied, in the cache.
//!
//! One patched tree is kept for each source. When the series changes, only the
//! files whose contents change are written, so that a kernel build stays incremental.

use std::collections::BTreeSet;
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

use rustix::fs::{
    flock,
    FlockOperation, //
};

use super::space;
use super::step;
use crate::arch::{
    cache,
    named,
    top, //
};

/// The kernel series this project is built for.
pub(super) const SERIES: &str = "7.3";

/// A patched kernel source tree.
#[derive(Debug)]
pub(super) struct Source {
    /// The directory that belongs to this source in the cache.
    pub(super) home: PathBuf,
    /// The tree itself.
    pub(super) tree: PathBuf,
    /// What it is made from: the base and every patch.
    pub(super) key: String,
    /// Held as long as this exists: a checkout with other patches must not change the tree.
    _lock: fs::File,
}

/// The tarball of the newest packaged 7.3, or the user's own tree.
fn base() -> Result<PathBuf> {
    if let Some(path) = env::var_os("KERNEL_SRC").filter(|p| !p.is_empty()) {
        let path = named(Path::new(&path));
        let makefile = fs::read_to_string(path.join("Makefile")).with_context(|| {
            format!("KERNEL_SRC={} is not a kernel source tree", path.display())
        })?;
        let field = |name: &str| {
            makefile
                .lines()
                .find_map(|l| l.strip_prefix(name)?.trim_start().strip_prefix("= "))
                .unwrap_or("")
                .to_string()
        };
        let version = format!("{}.{}", field("VERSION"), field("PATCHLEVEL"));
        if version != SERIES {
            bail!(
                "KERNEL_SRC={} is Linux {version}; this project needs {SERIES}",
                path.display()
            );
        }
        return Ok(path);
    }
    let tar = PathBuf::from(format!("/usr/src/linux-source-{SERIES}.tar.xz"));
    if !tar.exists() {
        bail!("{} is missing: install Debian's linux-source-{SERIES}, or set KERNEL_SRC to a {SERIES} tree", tar.display());
    }
    Ok(tar)
}

/// A short name for bytes; collisions only cost a rebuild that was not needed.
pub(super) fn digest(parts: &[&[u8]]) -> String {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in parts.iter().flat_map(|p| p.iter().chain(&[0])) {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    format!("{hash:016x}")
}

/// The patches in the order of the series file.
fn patches() -> Result<Vec<PathBuf>> {
    let dir = top().join("patches").join(SERIES);
    let series = fs::read_to_string(dir.join("series")).context("patches have no series file")?;
    Ok(series
        .lines()
        .map(str::trim)
        .filter(|l| !l.is_empty() && !l.starts_with('#'))
        .map(|l| dir.join(l))
        .collect())
}

/// The files a patch touches, relative to the tree.
fn touched(patch: &str) -> impl Iterator<Item = PathBuf> + '_ {
    patch.lines().filter_map(|line| {
        let name = line
            .strip_prefix("--- a/")
            .or_else(|| line.strip_prefix("+++ b/"))?;
        Some(PathBuf::from(name.split('\t').next()?))
    })
}

fn unpack(base: &Path, home: &Path) -> Result<()> {
    let part = home.join("part");
    let _ = fs::remove_dir_all(&part);
    fs::create_dir_all(&part)?;
    let log = home.join("unpack.log");
    if base.is_dir() {
        let mut from = base.as_os_str().to_owned();
        from.push("/");
        step::run(
            "copying the kernel source",
            Command::new("rsync")
                .args(["-a", "--exclude=.git"])
                .arg(from)
                .arg(&part),
            &log,
        )?;
    } else {
        step::run(
            "unpacking the kernel source",
            Command::new("tar")
                .args(["--strip-components=1", "-xf"])
                .arg(base)
                .arg("-C")
                .arg(&part),
            &log,
        )?;
    }
    fs::rename(&part, home.join("src"))?;
    Ok(())
}

/// Copies a file, or makes sure that there is none.
fn mirror(from: &Path, to: &Path) -> Result<()> {
    if !from.exists() {
        let _ = fs::remove_file(to);
        return Ok(());
    }
    if let Some(dir) = to.parent() {
        fs::create_dir_all(dir)?;
    }
    if fs::read(from)? != fs::read(to).unwrap_or_default() || !to.exists() {
        fs::copy(from, to)?;
    }
    Ok(())
}

/// Brings the patched tree up to date, and keeps it so as long as the result exists.
pub(super) fn prepare() -> Result<Source> {
    prepare_with(&patches()?, "")
}

/// Brings a tree without the project's patches up to date. It has a home of its own, in which all has the same
/// relative paths, so that the compiler's cache takes most of it for the same.
pub(super) fn prepare_unpatched() -> Result<Source> {
    prepare_with(&[], "-vanilla")
}

fn prepare_with(patches: &[PathBuf], suffix: &str) -> Result<Source> {
    let base = base()?;
    let meta = fs::metadata(&base)?;
    let stamp = format!("{} {} {:?}", base.display(), meta.len(), meta.modified()?);
    let home = cache().join(format!(
        "linux-{SERIES}-{}{suffix}",
        digest(&[stamp.as_bytes()])
    ));
    let tree = home.join("src");
    fs::create_dir_all(&home)?;
    let lock = fs::File::create(home.join("source.lock"))?;
    let (key, texts) = series(&stamp, patches)?;
    loop {
        // Together with all others who have the same patches.
        lock_tree(&lock, FlockOperation::LockShared)?;
        if tree.exists() && fs::read_to_string(home.join("series.key")).is_ok_and(|k| k == key) {
            return Ok(Source {
                home,
                tree,
                key,
                _lock: lock,
            });
        }
        // Others may get it in between, and in between this and the next look.
        lock_tree(&lock, FlockOperation::LockExclusive)?;
        patch_tree(&base, &key, &texts, &home, &tree)?;
    }
}

/// Waits for the tree, and says so if that takes long.
fn lock_tree(lock: &fs::File, how: FlockOperation) -> Result<()> {
    let at_once = match how {
        FlockOperation::LockShared => FlockOperation::NonBlockingLockShared,
        _ => FlockOperation::NonBlockingLockExclusive,
    };
    if flock(lock, at_once).is_err() {
        eprintln!("waiting for another checkout that is using the kernel source ...");
        flock(lock, how)?;
    }
    Ok(())
}

/// The texts of the patches, and the key of a tree that has them.
fn series(stamp: &str, patches: &[PathBuf]) -> Result<(String, Vec<(PathBuf, String)>)> {
    let texts = patches
        .iter()
        .map(|p| {
            let text =
                fs::read_to_string(p).with_context(|| format!("{} cannot be read", p.display()))?;
            Ok((p.clone(), text))
        })
        .collect::<Result<Vec<_>>>()?;
    let mut parts: Vec<&[u8]> = vec![stamp.as_bytes()];
    parts.extend(texts.iter().map(|(_, text)| text.as_bytes()));
    Ok((digest(&parts), texts))
}

/// Applies patches to the tree, unless it has them.
fn patch_tree(
    base: &Path,
    key: &str,
    patches: &[(PathBuf, String)],
    home: &Path,
    tree: &Path,
) -> Result<()> {
    if !tree.exists() {
        space::require("unpacking the kernel source", home, 3)?;
        unpack(base, home)?;
    }
    if fs::read_to_string(home.join("series.key")).is_ok_and(|k| k == key) {
        return Ok(());
    }

    // Pristine copies of every file that any series has touched.
    let orig = home.join("orig");
    let list = home.join("touched");
    let mut files: BTreeSet<PathBuf> = fs::read_to_string(&list)
        .unwrap_or_default()
        .lines()
        .map(PathBuf::from)
        .collect();
    for file in patches.iter().flat_map(|(_, text)| touched(text)) {
        if !files.contains(&file) {
            mirror(&tree.join(&file), &orig.join(&file))?;
            files.insert(file);
        }
    }
    fs::write(
        &list,
        files
            .iter()
            .map(|f| format!("{}\n", f.display()))
            .collect::<String>(),
    )?;

    let work = home.join("work");
    let _ = fs::remove_dir_all(&work);
    fs::create_dir_all(&work)?;
    for file in &files {
        mirror(&orig.join(file), &work.join(file))?;
    }
    for (patch, _) in patches {
        let out = Command::new("patch")
            .args(["-p1", "--no-backup-if-mismatch", "-s", "-d"])
            .arg(&work)
            .arg("-i")
            .arg(patch)
            .output()?;
        if !out.status.success() {
            bail!(
                "{} does not apply to this kernel:\n{}{}",
                patch.display(),
                String::from_utf8_lossy(&out.stdout),
                String::from_utf8_lossy(&out.stderr)
            );
        }
    }
    // What is there is a mixture until the last file is written.
    let _ = fs::remove_file(home.join("series.key"));
    for file in &files {
        mirror(&work.join(file), &tree.join(file))?;
    }
    fs::write(home.join("series.key"), key)?;
    Ok(())
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What the guest sees of the host: the initrd, and a tree that it mounts read-only.
//!
//! ```text
//! initrd              for every kernel, small: init, busybox, mount points
//! stages              how many there are
//! stage/N/            kernel, cmdline, modules/NN-name.ko, cmd, next (number of the next stage)
//! files.list          "K /path" for each --file
//! files/K             the file
//! bin/                the programs of build/ARCH/bin, first in the PATH
//! ```

use std::fs::{
    self,
    File, //
};
use std::io::{
    self,
    BufWriter,
    Write, //
};
use std::path::{
    Path,
    PathBuf, //
};

use super::cpio::Cpio;
use super::options::Options;
use super::plan::Planned;
use super::Error;
use crate::arch::{
    Arch,
    Build,
    Variant, //
};

const MOUNT_POINTS: &[&str] = &[
    "bin", "dev", "etc", "lu", "proc", "root", "run", "sbin", "state", "sys", "tmp", "usr",
    "usr/bin", "usr/sbin",
];

/// Names the file an error is about, and what helps.
pub(super) fn at(path: &Path) -> impl Fn(io::Error) -> Error + '_ {
    move |error| {
        let advice = match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                "; free some space there, or set TMPDIR to a directory on a larger disk"
            }
            _ => "",
        };
        Error::Setup(format!("{}: {error}{advice}", path.display()))
    }
}

fn programs(arch: Arch) -> PathBuf {
    // Programs do not depend on the kernel's variant.
    Build::new(arch, Variant::Plain).dir().join("bin")
}

/// Writes the initrd.
pub(super) fn initrd(arch: Arch, path: &Path) -> Result<(), Error> {
    let read = |from: PathBuf| {
        fs::read(&from).map_err(|error| {
            Error::Setup(format!(
                "{}: {error}; make kernel ARCH={arch} builds it",
                from.display()
            ))
        })
    };
    let init = read(programs(arch).join("lu-init"))?;
    let jump = read(programs(arch).join("lu-reboot"))?;
    let busybox = read(programs(arch).join("busybox"))?;
    let write = || -> io::Result<()> {
        let mut cpio = Cpio::new(BufWriter::new(File::create(path)?));
        for dir in MOUNT_POINTS {
            cpio.directory(dir)?;
        }
        // The kernel opens it for init before anything is mounted.
        cpio.device("dev/console", (5, 1))?;
        cpio.file("init", &init)?;
        cpio.file("lu-reboot", &jump)?;
        cpio.file("bin/busybox", &busybox)?;
        cpio.finish()?.flush()
    };

    write().map_err(at(path))
}

/// Makes the tree for all stages in `dir`, which has the initrd already.
pub(super) fn tree(dir: &Path, options: &Options, stages: &[Planned]) -> Result<(), Error> {
    put(&dir.join("stages"), &stages.len().to_string())?;
    for stage in stages {
        let dir = dir.join("stage").join(stage.number.to_string());
        let modules = dir.join("modules");
        fs::create_dir_all(&modules).map_err(at(&modules))?;
        link(&stage.kernel, &dir.join("kernel"))?;
        for (number, module) in stage.modules.iter().enumerate() {
            let name = module.file_name().unwrap_or_default().to_string_lossy();
            link(module, &modules.join(format!("{number:02}-{name}")))?;
        }
        put(&dir.join("cmdline"), &stage.cmdline)?;
        put(&dir.join("cmd"), &stage.cmd)?;
        put(
            &dir.join("next"),
            &stage.next.map_or(String::new(), |n| n.to_string()),
        )?;
    }

    let files = dir.join("files");
    fs::create_dir_all(&files).map_err(at(&files))?;
    let mut list = String::new();
    for (number, (source, target)) in options.files.iter().enumerate() {
        let source = source
            .canonicalize()
            .map_err(|error| Error::Setup(format!("--file {}: {error}", source.display())))?;
        link(&source, &files.join(number.to_string()))?;
        list.push_str(&format!("{number} {target}\n"));
    }
    put(&dir.join("files.list"), &list)?;

    let programs = programs(options.arch);
    if programs.is_dir() {
        link(&programs, &dir.join("bin"))?;
    }
    Ok(())
}

fn put(path: &Path, text: &str) -> Result<(), Error> {
    fs::write(path, text).map_err(at(path))
}

/// Makes `target` the same file as `source`, or a copy where the file system has to change; a
/// directory is made anew with all that is in it.
fn link(source: &Path, target: &Path) -> Result<(), Error> {
    if source.is_dir() {
        fs::create_dir_all(target).map_err(at(target))?;
        for entry in fs::read_dir(source).map_err(at(source))? {
            let entry = entry.map_err(at(source))?;
            let path = entry.path();
            // A link that leads nowhere is no reason to fail, and neither are sockets and the like.
            if path.is_file() || path.is_dir() {
                link(&path, &target.join(entry.file_name()))?;
            }
        }
        let mode = fs::metadata(source).map_err(at(source))?.permissions();
        return fs::set_permissions(target, mode).map_err(at(target));
    }
    // hard_link() would link a symbolic link itself.
    let source = source.canonicalize().map_err(at(source))?;
    if fs::hard_link(&source, target).is_err() {
        fs::copy(&source, target).map_err(at(target))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn files_keep_their_mode_and_directories_their_contents() {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("a");
        fs::create_dir_all(source.join("sub")).unwrap();
        fs::write(source.join("sub/x"), "1").unwrap();
        fs::set_permissions(source.join("sub/x"), PermissionsExt::from_mode(0o4711)).unwrap();
        std::os::unix::fs::symlink("/nonexistent", source.join("dangling")).unwrap();
        let target = dir.path().join("b");
        link(&source, &target).unwrap();

        let mode = fs::metadata(target.join("sub/x"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o7777, 0o4711);
        assert!(!target.join("dangling").exists());
    }
}

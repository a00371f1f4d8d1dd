// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! File systems of the guest.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use rustix::mount::{
    mount,
    mount_bind,
    MountFlags, //
};

use crate::Failure;

/// Where the read-only share with everything but init lies.
pub(crate) const SHARE: &str = "/lu";

struct Entry {
    kind: &'static str,
    target: &'static str,
    data: &'static str,
    /// A kernel without it can still do the stage's work.
    optional: bool,
}

const fn entry(kind: &'static str, target: &'static str, data: &'static str) -> Entry {
    Entry {
        kind,
        target,
        data,
        optional: false,
    }
}

const fn optional(kind: &'static str, target: &'static str, data: &'static str) -> Entry {
    Entry {
        kind,
        target,
        data,
        optional: true,
    }
}

const KERNEL: &[Entry] = &[
    entry("devtmpfs", "/dev", ""),
    entry("proc", "/proc", ""),
    entry("sysfs", "/sys", ""),
    optional("devpts", "/dev/pts", "mode=620,ptmxmode=666"),
    optional("tmpfs", "/dev/shm", "mode=1777"),
    optional("tmpfs", "/tmp", "mode=1777"),
    optional("tmpfs", "/run", "mode=755"),
    optional("securityfs", "/sys/kernel/security", ""),
    optional("debugfs", "/sys/kernel/debug", ""),
    optional("tracefs", "/sys/kernel/tracing", ""),
    optional("cgroup2", "/sys/fs/cgroup", ""),
    optional("hugetlbfs", "/dev/hugepages", ""),
];

const SHARES: &[(&str, &str, MountFlags)] = &[
    ("lu.share", SHARE, MountFlags::RDONLY),
    ("lu.state", "/state", MountFlags::empty()),
];

/// Mounts the kernel's own file systems.
pub(crate) fn kernel() -> Result<(), Failure> {
    for entry in KERNEL {
        // The mount says it better if this fails.
        let _ = fs::create_dir_all(entry.target);
        let data = std::ffi::CString::new(entry.data).unwrap_or_default();
        if let Err(error) = mount(
            entry.kind,
            entry.target,
            entry.kind,
            MountFlags::empty(),
            data.as_c_str(),
        ) {
            if !entry.optional {
                return Err(Failure::new(format!("mounting {}", entry.target), error));
            }
        }
    }
    Ok(())
}

/// Mounts the shares of the host.
pub(crate) fn shares() -> Result<(), Failure> {
    for (tag, target, flags) in SHARES {
        let options = c"trans=virtio,version=9p2000.L,msize=512000";
        fs::create_dir_all(target).map_err(|e| Failure::new(format!("making {target}"), e))?;
        mount(*tag, *target, "9p", *flags, options).map_err(|error| {
            Failure::new(
                format!("mounting the host's share {tag} (CONFIG_NET_9P_VIRTIO, CONFIG_9P_FS)"),
                error,
            )
        })?;
    }
    Ok(())
}

/// Makes the links of busybox's applets.
pub(crate) fn applets() -> Result<(), Failure> {
    let status = Command::new("/bin/busybox")
        .args(["--install", "-s"])
        .status()
        .map_err(|error| Failure::new("running busybox", error))?;

    if !status.success() {
        return Err(Failure::new(
            "installing busybox's applets",
            io::Error::other(status.to_string()),
        ));
    }
    for name in ["lu-reboot", "lu-load", "lu-mark"] {
        let link = format!("/bin/{name}");
        symlink("/lu-reboot", &link)
            .map_err(|error| Failure::new(format!("linking {link}"), error))?;
    }
    Ok(())
}

/// Puts the files that the host named in their places.
pub(crate) fn files() -> Result<(), Failure> {
    let list = format!("{SHARE}/files.list");
    let list = fs::read_to_string(&list).map_err(|error| Failure::new(list, error))?;

    for line in list.lines() {
        let Some((number, target)) = line.split_once(' ') else {
            continue;
        };
        let source = format!("{SHARE}/files/{number}");
        place(Path::new(&source), Path::new(target))
            .map_err(|error| Failure::new(format!("putting a file at {target}"), error))?;
    }
    Ok(())
}

fn place(source: &Path, target: &Path) -> io::Result<()> {
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent)?;
    }
    if target
        .symlink_metadata()
        .is_ok_and(|meta| meta.is_symlink())
    {
        // A bind mount would follow the link and hide what it names, busybox for instance.
        fs::remove_file(target)?;
    }
    if source.is_dir() {
        fs::create_dir_all(target)?;
    } else if !target.exists() {
        fs::File::create(target)?;
    }
    Ok(mount_bind(source, target)?)
}

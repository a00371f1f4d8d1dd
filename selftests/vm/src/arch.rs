// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What is built: an architecture and a variant, and where its parts are.

use std::env;
use std::fmt;
use std::fs;
use std::os::fd::AsRawFd;
use std::path::{
    Path,
    PathBuf, //
};

use clap::ValueEnum;
use rustix::fs::{
    open,
    openat2,
    Mode,
    OFlags,
    ResolveFlags, //
};

/// An architecture the project supports.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Arch {
    /// x86_64.
    #[value(name = "x86_64")]
    X86_64,
    /// arm64 (aarch64).
    #[value(name = "arm64")]
    Arm64,
}

impl Arch {
    /// Both of them.
    pub const ALL: [Arch; 2] = [Arch::X86_64, Arch::Arm64];

    /// The kernel's name for it (`ARCH=`).
    pub fn name(self) -> &'static str {
        match self {
            Arch::X86_64 => "x86_64",
            Arch::Arm64 => "arm64",
        }
    }

    /// The Rust target of guest programs.
    pub fn triple(self) -> &'static str {
        match self {
            Arch::X86_64 => "x86_64-unknown-linux-gnu",
            Arch::Arm64 => "aarch64-unknown-linux-gnu",
        }
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How the lab kernel is configured.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Variant {
    /// Near-minimal, as it would be measured.
    Plain,
    /// Every checker the kernel has.
    Debug,
    /// Plain, but another build: the kernel to update into.
    Other,
    /// Plain, but the page structures of most memory are initialised by threads, late in boot.
    Deferred,
    /// Plain, but with lockdown and signed modules.
    Locked,
    /// Plain, but as a distribution has it: disk and file system in modules, power management, services of PCI Express.
    Disk,
    /// Plain, and iommufd with its mock IOMMU, which its own selftests need.
    Iommufd,
    /// Plain, but without the project's patches, and so without modules. Mainline's memfd handler is a part of
    /// the kernel. What others are compared with.
    Vanilla,
    /// Vanilla, and deferred as well.
    VanillaDeferred,
    /// Vanilla, with iommufd's mock IOMMU as well.
    VanillaIommufd,
}

impl Variant {
    /// Whether the kernel has the project's patches.
    pub fn is_patched(self) -> bool {
        self == self.patched()
    }

    /// The same kernel with the project's patches.
    #[must_use]
    pub fn patched(self) -> Self {
        match self {
            Self::Vanilla => Self::Plain,
            Self::VanillaDeferred => Self::Deferred,
            Self::VanillaIommufd => Self::Iommufd,
            other => other,
        }
    }

    /// The same kernel with deferred page structures, if there is one.
    #[must_use]
    pub fn deferred(self) -> Self {
        match self {
            Self::Plain => Self::Deferred,
            Self::Vanilla => Self::VanillaDeferred,
            other => other,
        }
    }
}

/// One kernel with its modules and programs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Build {
    /// For which architecture.
    pub arch: Arch,
    /// In which variant.
    pub variant: Variant,
}

impl Build {
    /// Names a build; nothing is built by that.
    pub fn new(arch: Arch, variant: Variant) -> Self {
        Self { arch, variant }
    }

    /// `x86_64`, `arm64-debug` and so on.
    pub fn name(self) -> String {
        match self.variant {
            Variant::Plain => self.arch.name().into(),
            Variant::Debug => format!("{}-debug", self.arch),
            Variant::Other => format!("{}-other", self.arch),
            Variant::Deferred => format!("{}-deferred", self.arch),
            Variant::Locked => format!("{}-locked", self.arch),
            Variant::Disk => format!("{}-disk", self.arch),
            Variant::Iommufd => format!("{}-iommufd", self.arch),
            Variant::Vanilla => format!("{}-vanilla", self.arch),
            Variant::VanillaDeferred => format!("{}-vanilla-deferred", self.arch),
            Variant::VanillaIommufd => format!("{}-vanilla-iommufd", self.arch),
        }
    }

    /// `build/NAME` of the checkout.
    pub fn dir(self) -> PathBuf {
        top().join("build").join(self.name())
    }

    /// The kernel image.
    pub fn image(self) -> PathBuf {
        self.dir().join("kernel.img")
    }
}

/// The checkout's top directory.
pub fn top() -> PathBuf {
    match env::var_os("LIVEUPDATE_TOP") {
        Some(top) => top.into(),
        None => PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../..")),
    }
}

/// Where a path that the user named leads.
///
/// In the root with the build tools, `/usr`, `/etc` and the like are the root's own, and the user means
/// those of the machine, which `selftests/vm/enter` shows elsewhere.
pub fn named(path: &Path) -> PathBuf {
    match env::var_os("LIVEUPDATE_HOST") {
        Some(host) => named_at(Path::new(&host), path),
        None => path.to_owned(),
    }
}

fn named_at(host: &Path, path: &Path) -> PathBuf {
    const OURS: [&str; 7] = ["bin", "boot", "etc", "run", "sbin", "usr", "var"];
    // A relative path starts where `enter` has gone, which is right already.
    let Ok(inside) = path.strip_prefix("/") else {
        return path.to_owned();
    };
    if path.starts_with(host) {
        return path.to_owned();
    }
    // Links lead on from the machine's root, not from this one's.
    let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let found = open(host, directory, Mode::empty())
        .and_then(|root| {
            let flags = OFlags::PATH | OFlags::CLOEXEC;
            openat2(root, inside, flags, Mode::empty(), ResolveFlags::IN_ROOT)
        })
        .ok()
        .and_then(|fd| fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).ok())
        .filter(|found| found.starts_with(host))
        .unwrap_or_else(|| host.join(inside));
    let first = found
        .strip_prefix(host)
        .ok()
        .and_then(|inside| inside.iter().next()?.to_str());
    match (first, found.strip_prefix(host)) {
        // The same in both.
        (Some(first), Ok(inside)) if !OURS.contains(&first) && !first.starts_with("lib") => {
            Path::new("/").join(inside)
        }
        _ => found,
    }
}

/// Where heavy things are kept.
pub fn cache() -> PathBuf {
    env::var_os("LIVEUPDATE_CACHE").map_or_else(
        || {
            PathBuf::from(env::var_os("HOME").unwrap_or_else(|| "/root".into()))
                .join(".cache/liveupdate-rs")
        },
        PathBuf::from,
    )
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn paths_lead_where_they_lead_on_the_machine() {
        let dir = tempfile::tempdir().unwrap();
        let host = dir.path().canonicalize().unwrap();
        for name in ["boot", "srv", "etc"] {
            fs::create_dir(host.join(name)).unwrap();
            fs::write(host.join(name).join("x"), "").unwrap();
        }
        symlink("/boot/x", host.join("srv/link")).unwrap();
        symlink("/srv", host.join("etc/link")).unwrap();
        let at = |path: &str| named_at(&host, Path::new(path));

        assert_eq!(at("/etc/x"), host.join("etc/x"));
        assert_eq!(at("/srv/x"), Path::new("/srv/x"));
        assert_eq!(at("/srv/link"), host.join("boot/x"));
        assert_eq!(at("/etc/link/x"), Path::new("/srv/x"));
        assert_eq!(at("/etc/none"), host.join("etc/none"));
        assert_eq!(at("here"), Path::new("here"));
    }
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What is built: an architecture and a variant, and where its parts are.

use std::env;
use std::fmt;
use std::path::PathBuf;

use clap::ValueEnum;

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

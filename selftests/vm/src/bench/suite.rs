// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What there is to measure: memory of each kind, size and layout, by each kernel and handler.

use serde::{
    Deserialize,
    Serialize, //
};

use crate::arch::Variant;

/// What memory is in the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
pub(super) enum Kind {
    #[serde(rename = "memfd-4k")]
    Memfd,
    #[serde(rename = "memfd-thp")]
    MemfdThp,
    #[serde(rename = "hugetlb-2m")]
    Hugetlb2m,
    #[serde(rename = "hugetlb-1g")]
    Hugetlb1g,
    #[serde(rename = "guest-memfd")]
    GuestMemfd,
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Memfd => "memfd-4k",
            Self::MemfdThp => "memfd-thp",
            Self::Hugetlb2m => "hugetlb-2m",
            Self::Hugetlb1g => "hugetlb-1g",
            Self::GuestMemfd => "guest-memfd",
        }
    }

    /// Bytes in a page, if all have the same.
    fn page(self) -> u64 {
        match self {
            Self::Memfd | Self::GuestMemfd => 4 << 10,
            Self::MemfdThp | Self::Hugetlb2m => 2 << 20,
            Self::Hugetlb1g => 1 << 30,
        }
    }
}

/// Where their pages lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Layout {
    Contiguous,
    /// As small pages, but in whole huge pages' places.
    Aligned,
    EveryOther,
    Random,
}

impl Layout {
    pub(super) const ALL: [Self; 4] = [
        Self::Contiguous,
        Self::Aligned,
        Self::EveryOther,
        Self::Random,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Contiguous => "contiguous",
            Self::Aligned => "aligned",
            Self::EveryOther => "every-other",
            Self::Random => "random",
        }
    }
}

/// Some memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Case {
    pub(super) kind: Kind,
    pub(super) layout: Layout,
    pub(super) files: u64,
    pub(super) mib: u64,
    /// Whether the kernel makes huge pages of it first.
    pub(super) collapse: bool,
    /// Whether it is measured unless something else is asked for.
    pub(super) default: bool,
}

/// Decides what is random.
pub(super) const SEED: u64 = 1;

impl Case {
    /// `memfd-4k.contiguous.256m`, and `.16f` behind it if there are 16 files, `.collapsed` if so.
    pub(super) fn name(&self) -> String {
        let files = match self.files {
            1 => String::new(),
            files => format!(".{files}f"),
        };
        let collapsed = if self.collapse { ".collapsed" } else { "" };
        let (kind, layout) = (self.kind.name(), self.layout.name());
        format!("{kind}.{layout}.{}m{files}{collapsed}", self.mib)
    }

    /// Arguments of `lu_bench`.
    pub(super) fn args(&self) -> String {
        let collapse = if self.collapse { " --collapse" } else { "" };
        format!(
            "--kind {} --layout {} --mib {} --files {} --seed {SEED}{collapse}",
            self.kind.name(),
            self.layout.name(),
            self.mib,
            self.files
        )
    }

    /// The same with little memory: what is allocated once is allocated by it.
    pub(super) fn little(&self) -> Self {
        Self {
            mib: (self.kind.page() >> 20).max(2),
            files: 1,
            layout: Layout::Contiguous,
            collapse: false,
            ..*self
        }
    }

    pub(super) fn pages(&self) -> u64 {
        (self.mib << 20) / self.kind.page()
    }

    /// Whether it may take a kernel forever.
    pub(super) fn is_large(&self) -> bool {
        let scattered = matches!(self.layout, Layout::EveryOther | Layout::Random);
        scattered && !self.collapse && self.kind.page() == 4 << 10 && self.mib > 64
    }
}

/// Kind, layout, files, sizes in MiB, and which of them are measured by default.
type Axis = (Kind, Layout, u64, &'static [u64], &'static [u64]);

const AXES: &[Axis] = &[
    (
        Kind::Memfd,
        Layout::Contiguous,
        1,
        &[16, 64, 128, 256, 512, 1024, 2048],
        &[64, 128, 256, 1024],
    ),
    (Kind::Memfd, Layout::Aligned, 1, &[64, 1024], &[1024]),
    (
        Kind::Memfd,
        Layout::EveryOther,
        1,
        &[8, 16, 32, 64, 256, 1024],
        &[8, 16, 32, 64, 256, 1024],
    ),
    (
        Kind::Memfd,
        Layout::Random,
        1,
        &[8, 16, 32, 64, 256, 1024],
        &[32],
    ),
    (Kind::Memfd, Layout::Contiguous, 16, &[64, 1024], &[64]),
    (Kind::Memfd, Layout::Contiguous, 256, &[64, 1024], &[]),
    (Kind::Memfd, Layout::EveryOther, 16, &[32], &[]),
    (
        Kind::MemfdThp,
        Layout::Contiguous,
        1,
        &[256, 1024, 2048],
        &[1024],
    ),
    (Kind::MemfdThp, Layout::EveryOther, 1, &[256, 1024], &[]),
    (Kind::MemfdThp, Layout::Random, 1, &[32, 64], &[]),
    (
        Kind::Hugetlb2m,
        Layout::Contiguous,
        1,
        &[2, 256, 1024, 2048],
        &[1024],
    ),
    (Kind::Hugetlb2m, Layout::EveryOther, 1, &[256, 1024], &[]),
    (Kind::Hugetlb2m, Layout::Random, 1, &[256, 1024], &[]),
    (
        Kind::Hugetlb1g,
        Layout::Contiguous,
        1,
        &[1024, 2048],
        &[1024],
    ),
    (
        Kind::GuestMemfd,
        Layout::Contiguous,
        1,
        &[64, 256, 1024],
        &[256],
    ),
    (
        Kind::GuestMemfd,
        Layout::EveryOther,
        1,
        &[8, 16, 32, 64, 256, 1024],
        &[],
    ),
    (Kind::GuestMemfd, Layout::Random, 1, &[8, 16, 32, 64], &[]),
];

/// Scattered memory that is collapsed before it is preserved: MiB, and whether by default.
const COLLAPSED: [(u64, bool); 3] = [(64, true), (256, false), (1024, false)];

/// Everything there is to measure.
pub(super) fn all() -> Vec<Case> {
    let mut cases = Vec::new();
    for &(kind, layout, files, sizes, default) in AXES {
        cases.extend(sizes.iter().map(|&mib| Case {
            kind,
            layout,
            files,
            mib,
            collapse: false,
            default: default.contains(&mib),
        }));
    }
    cases.extend(COLLAPSED.map(|(mib, default)| Case {
        kind: Kind::Memfd,
        layout: Layout::EveryOther,
        files: 1,
        mib,
        collapse: true,
        default,
    }));
    cases
}

/// A kernel with a handler.
#[derive(Debug)]
pub(super) struct System {
    pub(super) name: &'static str,
    pub(super) kernel: Variant,
    /// What is loaded in each of its kernels.
    pub(super) modules: &'static [&'static str],
    /// The format of memfds, if it is not the first one.
    pub(super) format: Option<&'static str>,
    kinds: &'static [Kind],
}

impl System {
    pub(super) fn takes(&self, kind: Kind) -> bool {
        self.kinds.contains(&kind)
    }
}

/// The reference: mainline's handler in mainline's kernel.
pub(super) const REFERENCE: &str = "vanilla-c";
/// What is compared with it.
pub(super) const OURS: &str = "patched-rust";
/// The same with the format of our own.
pub(super) const EXTENTS: &str = "patched-extents";

const MODULES: &[&str] = &["luo_rs", "luo_memfd", "luo_hugetlb", "luo_guest_memfd"];
const MEMFD: &[Kind] = &[Kind::Memfd, Kind::MemfdThp];

pub(super) const SYSTEMS: [System; 4] = [
    System {
        name: REFERENCE,
        kernel: Variant::Vanilla,
        modules: &[],
        format: None,
        kinds: MEMFD,
    },
    System {
        name: "patched-c",
        kernel: Variant::Plain,
        modules: &["memfd_luo"],
        format: None,
        kinds: MEMFD,
    },
    System {
        name: OURS,
        kernel: Variant::Plain,
        modules: MODULES,
        format: None,
        kinds: &[
            Kind::Memfd,
            Kind::MemfdThp,
            Kind::Hugetlb2m,
            Kind::Hugetlb1g,
            Kind::GuestMemfd,
        ],
    },
    System {
        name: EXTENTS,
        kernel: Variant::Plain,
        modules: MODULES,
        format: Some("rs-memfd-v1"),
        kinds: MEMFD,
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_defaults_exist() {
        let cases = all();
        let mut names: Vec<_> = cases.iter().map(Case::name).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), cases.len());
        for axis in AXES {
            assert!(axis.4.iter().all(|mib| axis.3.contains(mib)));
        }
        assert!(names.contains(&"memfd-4k.contiguous.64m.16f".into()));
    }
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The kinds of guest memory.

use anyhow::{
    bail,
    Result, //
};

use super::MIB;

/// What guest memory is made of.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
pub(crate) enum Backend {
    /// A memfd with ordinary pages.
    Memfd,
    /// A memfd with huge pages of 2 MiB.
    #[value(name = "hugetlb-2m")]
    Hugetlb2M,
    /// A memfd with huge pages of 1 GiB.
    #[value(name = "hugetlb-1g")]
    Hugetlb1G,
    /// KVM's guest_memfd.
    GuestMemfd,
    /// A software-protected VM: a memfd for what the guest shares, guest_memfd for what it does not.
    SwProtected,
}

impl Backend {
    /// The number that stands for it in the state.
    pub(crate) fn number(self) -> u32 {
        match self {
            Self::Memfd => 1,
            Self::Hugetlb2M => 2,
            Self::Hugetlb1G => 3,
            Self::GuestMemfd => 4,
            Self::SwProtected => 5,
        }
    }

    pub(crate) fn from_number(number: u32) -> Result<Self> {
        Ok(match number {
            1 => Self::Memfd,
            2 => Self::Hugetlb2M,
            3 => Self::Hugetlb1G,
            4 => Self::GuestMemfd,
            5 => Self::SwProtected,
            other => bail!("the state names a kind of memory that is not known: {other}"),
        })
    }

    pub(super) fn alignment(self) -> u64 {
        match self {
            Self::Hugetlb1G => 1 << 30,
            _ => 2 * MIB,
        }
    }

    /// Whether the host's pages are guest_memfd's.
    pub(crate) fn is_guest_memfd(self) -> bool {
        self == Self::GuestMemfd
    }

    /// Whether there is memory that the host cannot see.
    pub(crate) fn is_private(self) -> bool {
        self == Self::SwProtected
    }

    /// Whether mincore(2) tells which pages there are. Of huge pages it tells which are mapped.
    pub(super) fn tells_pages(self) -> bool {
        !matches!(self, Self::Hugetlb2M | Self::Hugetlb1G)
    }
}

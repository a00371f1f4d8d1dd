// SPDX-License-Identifier: GPL-2.0-only OR BSD-3-Clause

//! The seals of a memfd, and how to create one that can take them.

use super::super::{
    Error,
    Result, //
};

/// A set of seals that this version of the format knows (`F_SEAL_*`, which are user ABI).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seals(u32);

impl Seals {
    /// No further seals.
    pub const SEAL: u32 = 0x01;
    /// The file cannot shrink.
    pub const SHRINK: u32 = 0x02;
    /// The file cannot grow.
    pub const GROW: u32 = 0x04;
    /// The file cannot be written.
    pub const WRITE: u32 = 0x08;
    /// The file cannot be written, but through mappings that exist.
    pub const FUTURE_WRITE: u32 = 0x10;
    /// The permission to execute cannot be changed.
    pub const EXEC: u32 = 0x20;

    const ALL: u32 =
        Self::SEAL | Self::SHRINK | Self::GROW | Self::WRITE | Self::FUTURE_WRITE | Self::EXEC;

    /// The seals that the kernel adds by itself when [`Seals::EXEC`] is added to an executable file.
    const WITH_EXEC: u32 = Self::SHRINK | Self::GROW | Self::WRITE | Self::FUTURE_WRITE;

    /// Takes the seals of a file, or refuses them if one is not known.
    #[inline]
    pub const fn from_bits(bits: u32) -> Result<Self> {
        if bits & !Self::ALL == 0 {
            Ok(Self(bits))
        } else {
            Err(Error::UnknownSeals)
        }
    }

    /// The seals as `F_ADD_SEALS` takes them.
    #[inline]
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// Whether all of `bits` are set.
    #[inline]
    pub const fn contains(self, bits: u32) -> bool {
        self.0 & bits == bits
    }
}

/// How to create the memfd that is to get a set of seals.
///
/// The format does not store the permission to execute. It has to be deduced, because adding
/// [`Seals::EXEC`] to an executable file adds the write seals too, and a guest could not write to
/// its memory any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CreateMode {
    /// `MFD_NOEXEC_SEAL`: not executable, and [`Seals::EXEC`] is set from the start.
    NoExecSeal,
    /// `MFD_ALLOW_SEALING`: executable, as `memfd_create()` without flags makes it.
    AllowSealing,
}

impl CreateMode {
    /// Chooses the mode by the seals that the file had.
    ///
    /// * Without [`Seals::EXEC`] the file was not made with `MFD_NOEXEC_SEAL`.
    /// * With it but without all four seals that the kernel adds along with it, the file was not
    ///   executable when it was sealed.
    /// * With all five, both are possible: an executable file that was sealed, or a file made with
    ///   `MFD_NOEXEC_SEAL` that got the other seals one by one. The second is chosen. It takes away
    ///   a permission that the file may have had, where the first would grant one that it may never
    ///   have had and that its seal promises can never appear.
    #[inline]
    pub const fn from_seals(seals: Seals) -> Self {
        if seals.contains(Seals::EXEC) {
            Self::NoExecSeal
        } else {
            Self::AllowSealing
        }
    }

    /// Whether [`CreateMode::from_seals`] had to choose between two possible histories.
    #[inline]
    pub const fn is_ambiguous(seals: Seals) -> bool {
        seals.contains(Seals::EXEC | Seals::WITH_EXEC)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(bits: u32) -> (CreateMode, bool) {
        let seals = Seals::from_bits(bits).unwrap();
        (
            CreateMode::from_seals(seals),
            CreateMode::is_ambiguous(seals),
        )
    }

    #[test]
    fn numbers_are_those_of_fcntl() {
        assert_eq!(Seals::from_bits(0x3f).unwrap().bits(), 0x3f);
        assert_eq!(Seals::from_bits(0x40), Err(Error::UnknownSeals));
        assert_eq!(Seals::from_bits(u32::MAX), Err(Error::UnknownSeals));
    }

    #[test]
    fn a_noexec_memfd_stays_one() {
        assert_eq!(mode(Seals::EXEC), (CreateMode::NoExecSeal, false));
        for missing in [
            Seals::SHRINK,
            Seals::GROW,
            Seals::WRITE,
            Seals::FUTURE_WRITE,
        ] {
            assert_eq!(mode(0x3f & !missing), (CreateMode::NoExecSeal, false));
        }
    }

    #[test]
    fn the_ambiguous_case_grants_nothing() {
        assert_eq!(mode(0x3e), (CreateMode::NoExecSeal, true));
        assert_eq!(mode(0x3f), (CreateMode::NoExecSeal, true));
    }

    #[test]
    fn other_memfds_are_executable() {
        assert_eq!(mode(0), (CreateMode::AllowSealing, false));
        assert_eq!(mode(Seals::SEAL), (CreateMode::AllowSealing, false));
        assert_eq!(mode(0x1f), (CreateMode::AllowSealing, false));
    }
}

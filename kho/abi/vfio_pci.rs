// SPDX-License-Identifier: GPL-2.0-only OR BSD-3-Clause

//! What is handed over of the file of a PCI device in VFIO.
//!
//! The device itself goes on running, so that most of its state is in it. The header says which device
//! it is, and points to an array of [`ConfigSer`], which have what the kernel emulates of its
//! configuration space. Each of these has a checksum of its own.

use super::{
    extents::Checksum,
    vmalloc::{
        CheckedVmalloc,
        KhoVmalloc, //
    },
    Error,
    PageSize,
    Result, //
};
use core::{
    ffi::CStr,
    mem::{
        offset_of,
        size_of, //
    }, //
};
use zerocopy::IntoBytes as _;
use zerocopy_derive::{
    FromBytes,
    Immutable,
    IntoBytes,
    KnownLayout, //
};

/// The name of this format in the Live Update Orchestrator.
pub const COMPATIBLE: &CStr = c"rs-vfio-pci-v1";

/// What describes one file.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
pub struct VfioPciSer {
    /// [`VfioPciSer::sum`] of all that follows.
    pub checksum: u64,
    /// [`VfioPciSer::MAGIC`].
    pub magic: u32,
    /// [`VfioPciSer::VERSION`].
    pub version: u16,
    /// Size of this header in bytes.
    pub len: u16,
    /// Which device it is.
    pub identity: IdentitySer,
    /// What the driver knows of it: see [`VfioPciSer::RESET_WORKS`] and the others.
    pub flags: u16,
    /// Size of its configuration space in bytes.
    pub cfg_size: u16,
    /// Must be zero.
    pub reserved: u32,
    /// The array of [`ConfigSer`].
    pub config: KhoVmalloc,
}

/// What tells a device from others.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
pub struct IdentitySer {
    /// Serial number, from the capability of this name; zero if there is none.
    pub serial: u64,
    /// PCI domain.
    pub domain: u32,
    /// Class and revision.
    pub class: u32,
    /// The base address registers, as they read.
    pub bars: [u32; 6],
    /// The base address of the expansion ROM.
    pub rom: u32,
    /// Vendor.
    pub vendor: u16,
    /// Device.
    pub device: u16,
    /// Vendor of the subsystem.
    pub subsystem_vendor: u16,
    /// Device of the subsystem.
    pub subsystem_device: u16,
    /// Bus, device and function.
    pub bdf: u16,
    /// Command register.
    pub command: u16,
}

const _: () = assert!(size_of::<IdentitySer>() == 56);
const _: () = assert!(size_of::<VfioPciSer>() == 96);
const _: () = assert!(offset_of!(VfioPciSer, checksum) == 0);
const _: () = assert!(offset_of!(VfioPciSer, magic) == 8);
const _: () = assert!(offset_of!(VfioPciSer, version) == 12);
const _: () = assert!(offset_of!(VfioPciSer, len) == 14);
const _: () = assert!(offset_of!(VfioPciSer, identity) == 16);
const _: () = assert!(offset_of!(VfioPciSer, flags) == 72);
const _: () = assert!(offset_of!(VfioPciSer, cfg_size) == 74);
const _: () = assert!(offset_of!(VfioPciSer, reserved) == 76);
const _: () = assert!(offset_of!(VfioPciSer, config) == 80);

impl VfioPciSer {
    /// "LUVP", read as bytes.
    pub const MAGIC: u32 = u32::from_le_bytes(*b"LUVP");
    /// This version.
    pub const VERSION: u16 = 1;
    /// Size of the header.
    pub const LEN: u16 = size_of::<Self>() as u16;

    /// The function can be reset.
    pub const RESET_WORKS: u16 = 1 << 0;
    /// INTx can be disabled in the command register.
    pub const PCI_2_3: u16 = 1 << 1;
    /// INTx is broken.
    pub const NOINTX: u16 = 1 << 2;
    /// The user has disabled INTx.
    pub const VIRQ_DISABLED: u16 = 1 << 3;
    /// All flags of this version.
    pub const FLAGS: u16 = Self::RESET_WORKS | Self::PCI_2_3 | Self::NOINTX | Self::VIRQ_DISABLED;

    /// What [`VfioPciSer::checksum`] must be.
    #[must_use]
    pub fn sum(&self) -> u64 {
        Checksum::of_sealed(self)
    }
}

/// A piece of what the kernel emulates of the configuration space.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
pub struct ConfigSer {
    /// [`ConfigSer::sum`] of all that follows.
    pub checksum: u64,
    /// Where in the configuration space it is.
    pub offset: u32,
    /// Must be zero.
    pub reserved: u32,
    /// Which capability each byte belongs to, as the driver numbers them.
    pub map: [u64; ConfigSer::WORDS],
    /// What the user sees where it is emulated.
    pub seen: [u64; ConfigSer::WORDS],
    /// Must be zero.
    pub unused: [u64; 14],
}

const _: () = assert!(size_of::<ConfigSer>() == 256);
const _: () = assert!(offset_of!(ConfigSer, offset) == 8);
const _: () = assert!(offset_of!(ConfigSer, reserved) == 12);
const _: () = assert!(offset_of!(ConfigSer, map) == 16);
const _: () = assert!(offset_of!(ConfigSer, seen) == 80);
const _: () = assert!(offset_of!(ConfigSer, unused) == 144);

impl ConfigSer {
    /// Words in a piece.
    const WORDS: usize = 8;
    /// Bytes in a piece.
    pub const BYTES: usize = Self::WORDS * size_of::<u64>();

    /// A piece; bytes that are missing are zero.
    #[must_use]
    pub fn new(offset: u32, map: &[u8], seen: &[u8]) -> Self {
        let mut this = Self {
            offset,
            ..Self::default()
        };
        for (to, from) in this.map.as_mut_bytes().iter_mut().zip(map) {
            *to = *from;
        }
        for (to, from) in this.seen.as_mut_bytes().iter_mut().zip(seen) {
            *to = *from;
        }
        this.checksum = this.sum();
        this
    }

    /// What [`ConfigSer::checksum`] must be.
    #[must_use]
    pub fn sum(&self) -> u64 {
        Checksum::of_sealed(self)
    }

    /// Whether the checksum fits.
    #[must_use]
    pub fn is_intact(&self) -> bool {
        self.checksum == self.sum()
    }

    /// The bytes of the piece that is expected at `offset`: which capabilities they belong to, and what
    /// the user sees.
    pub fn parse(&self, offset: u32) -> Result<(&[u8], &[u8])> {
        if !self.is_intact() {
            return Err(Error::Checksum);
        }
        if self.reserved != 0 || self.unused.iter().any(|word| *word != 0) {
            return Err(Error::UnknownFlags);
        }
        if self.offset != offset {
            return Err(Error::IndexOverlap);
        }
        Ok((self.map.as_bytes(), self.seen.as_bytes()))
    }
}

/// A header that is consistent in itself.
///
/// # Invariants
///
/// `cfg_size` is that of PCI or PCI Express, the flags are known, and `config` has as many records as it
/// takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    identity: IdentitySer,
    flags: u16,
    cfg_size: u16,
    config: CheckedVmalloc,
}

impl Header {
    /// Sizes of a configuration space.
    const SIZES: [u16; 2] = [256, 4096];

    /// Checks all that can be checked without the array.
    pub fn parse(raw: &VfioPciSer, page: PageSize) -> Result<Self> {
        if raw.magic != VfioPciSer::MAGIC
            || raw.version != VfioPciSer::VERSION
            || raw.len != VfioPciSer::LEN
        {
            return Err(Error::Version);
        }
        if raw.checksum != raw.sum() {
            return Err(Error::Checksum);
        }
        if raw.flags & !VfioPciSer::FLAGS != 0 || raw.reserved != 0 {
            return Err(Error::UnknownFlags);
        }
        if !Self::SIZES.contains(&raw.cfg_size) {
            return Err(Error::Size);
        }
        let nr = u64::from(Self::records(raw.cfg_size));
        let config = raw
            .config
            .parse_records::<ConfigSer>(nr, nr, page)?
            .ok_or(Error::Count)?;

        // INVARIANT: checked above.
        Ok(Self {
            identity: raw.identity,
            flags: raw.flags,
            cfg_size: raw.cfg_size,
            config,
        })
    }

    /// How many records it takes for a configuration space of `size` bytes.
    #[must_use]
    pub const fn records(size: u16) -> u32 {
        // CAST: A piece is small.
        (size as u32).div_ceil(ConfigSer::BYTES as u32)
    }

    /// Which device it is.
    #[inline]
    #[must_use]
    pub fn identity(&self) -> &IdentitySer {
        &self.identity
    }

    /// What the driver knows of it.
    #[inline]
    #[must_use]
    pub fn flags(&self) -> u16 {
        self.flags
    }

    /// Size of its configuration space in bytes.
    #[inline]
    #[must_use]
    pub fn cfg_size(&self) -> u16 {
        self.cfg_size
    }

    /// The array of records.
    #[inline]
    #[must_use]
    pub fn config(&self) -> &CheckedVmalloc {
        &self.config
    }
}

impl IdentitySer {
    /// The first thing in which another device differs, if there is any.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Option<&'static str> {
        let same = [
            (
                self.domain == other.domain && self.bdf == other.bdf,
                "address",
            ),
            (
                self.vendor == other.vendor && self.device == other.device,
                "vendor or device",
            ),
            (
                self.subsystem_vendor == other.subsystem_vendor
                    && self.subsystem_device == other.subsystem_device,
                "subsystem",
            ),
            (self.class == other.class, "class or revision"),
            (self.serial == other.serial, "serial number"),
            (
                self.bars == other.bars && self.rom == other.rom,
                "base addresses",
            ),
            (self.command == other.command, "command register"),
        ];
        same.iter().find(|(is, _)| !is).map(|(_, what)| *what)
    }
}

#[cfg(test)]
mod tests;

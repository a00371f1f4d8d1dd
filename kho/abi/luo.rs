// SPDX-License-Identifier: GPL-2.0-only OR BSD-3-Clause

//! What the Live Update Orchestrator hands over: sessions, and the files in them.
//!
//! C headers: [`include/linux/kho/abi/luo.h`](srctree/include/linux/kho/abi/luo.h),
//! [`block.h`](srctree/include/linux/kho/abi/block.h) and
//! [`kexec_metadata.h`](srctree/include/linux/kho/abi/kexec_metadata.h)

use super::{
    Error,
    PageSize,
    Result, //
};
use core::mem::size_of;
use zerocopy_derive::{
    FromBytes,
    Immutable,
    IntoBytes,
    KnownLayout, //
};

/// The version of LUO that this describes.
pub const COMPATIBLE: &[u8] = b"luo-v5";
/// The name of LUO's subtree.
pub const SUBTREE: &[u8] = b"LUO";
/// The name of the subtree with [`MetadataSer`].
pub const METADATA: &[u8] = b"kexec-metadata";
/// The most blocks in a list, as in the kernel.
pub const MAX_BLOCKS: u32 = 10_000;

/// The bytes of a name that is filled up with zeros, or all if there are none.
pub fn name(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or(bytes)
}

/// The kernel's `struct luo_ser`.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
pub struct LuoSer {
    /// [`COMPATIBLE`], filled up with zeros.
    pub compatible: [u8; 8],
    /// How many live updates there have been, this one included.
    pub liveupdate_num: u64,
    /// Physical address of the first block of [`SessionSer`], or 0.
    pub sessions: u64,
    /// Physical address of the [`FlbHeaderSer`], or 0.
    pub flbs: u64,
}

const _: () = assert!(size_of::<LuoSer>() == 32);

impl LuoSer {
    /// Checks the version.
    pub fn check(&self) -> Result {
        if name(&self.compatible) != COMPATIBLE {
            return Err(Error::Version);
        }
        Ok(())
    }
}

/// The kernel's `struct kho_block_header_ser`. A block is a page.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
pub struct BlockSer {
    /// Physical address of the next block, or 0.
    pub next: u64,
    /// Number of entries that follow.
    pub count: u64,
}

const _: () = assert!(size_of::<BlockSer>() == 16);

impl BlockSer {
    /// Checks that there are entries, of type `T`, and not more than fit in a block.
    pub fn check<T>(&self, page: PageSize) -> Result<usize> {
        let room = page.bytes() - size_of::<Self>() as u64;
        if self.count == 0 || self.count > room / size_of::<T>() as u64 {
            return Err(Error::Block);
        }
        usize::try_from(self.count).map_err(|_| Error::Block)
    }
}

/// The kernel's `struct luo_session_ser`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct SessionSer {
    /// The name, filled up with zeros.
    pub name: [u8; 64],
    /// Physical address of the first block of [`FileSer`], or 0.
    pub files: u64,
    /// Number of files.
    pub count: u64,
}

const _: () = assert!(size_of::<SessionSer>() == 80);

/// The kernel's `struct luo_file_ser`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct FileSer {
    /// The name of the format, filled up with zeros.
    pub compatible: [u8; 48],
    /// What the handler wants to be told, in our formats the physical address of the header.
    pub data: u64,
    /// The number by which user space knows the file.
    pub token: u64,
}

const _: () = assert!(size_of::<FileSer>() == 64);

/// The kernel's `struct luo_flb_header_ser`.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
pub struct FlbHeaderSer {
    /// Number of pages, this one included.
    pub pages: u64,
    /// Number of [`FlbSer`] that follow.
    pub count: u64,
}

const _: () = assert!(size_of::<FlbHeaderSer>() == 16);

impl FlbHeaderSer {
    /// Checks that the entries fit in the pages.
    pub fn check(&self, page: PageSize) -> Result<usize> {
        let bytes = self.pages.checked_mul(page.bytes()).ok_or(Error::Block)?;
        let room = bytes.checked_sub(size_of::<Self>() as u64);
        let room = room.ok_or(Error::Block)?;
        if self.count > room / size_of::<FlbSer>() as u64 {
            return Err(Error::Block);
        }
        usize::try_from(self.count).map_err(|_| Error::Block)
    }
}

/// The kernel's `struct luo_flb_ser`: state that files share.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct FlbSer {
    /// The name of the format, filled up with zeros.
    pub name: [u8; 48],
    /// What it means depends on the format.
    pub data: u64,
    /// Number of files that need it.
    pub count: u64,
}

const _: () = assert!(size_of::<FlbSer>() == 64);

/// The kernel's `struct kho_kexec_metadata`, in which nothing is aligned.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct MetadataSer {
    version: [u8; 4],
    release: [u8; 65],
    kexec_count: [u8; 4],
}

const _: () = assert!(size_of::<MetadataSer>() == 73);

impl MetadataSer {
    /// The release of the kernel that hands over, if the version is known.
    pub fn release(&self) -> Result<&[u8]> {
        match u32::from_le_bytes(self.version) {
            1 => Ok(name(&self.release)),
            _ => Err(Error::Version),
        }
    }

    /// How many kernels have been started by kexec since the machine was.
    pub fn kexec_count(&self) -> u32 {
        u32::from_le_bytes(self.kexec_count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: PageSize = match PageSize::new(12) {
        Some(page) => page,
        None => panic!(),
    };

    #[test]
    fn names_end_at_the_first_zero() {
        assert_eq!(name(b"luo-v5\0\0"), b"luo-v5");
        assert_eq!(name(b"luo-v512"), b"luo-v512");
        assert_eq!(name(b""), b"");
    }

    #[test]
    fn counts_that_do_not_fit_are_refused() {
        let block = |count| BlockSer { next: 0, count };
        assert_eq!(block(63).check::<FileSer>(PAGE), Ok(63));
        assert_eq!(block(51).check::<SessionSer>(PAGE), Ok(51));
        assert!(block(0).check::<FileSer>(PAGE).is_err());
        assert!(block(64).check::<FileSer>(PAGE).is_err());
        assert!(block(52).check::<SessionSer>(PAGE).is_err());
        let flbs = |pages, count| FlbHeaderSer { pages, count }.check(PAGE);
        assert_eq!(flbs(1, 63), Ok(63));
        assert!(flbs(0, 0).is_err());
        assert!(flbs(1, 64).is_err());
        assert!(flbs(u64::MAX, 0).is_err());
    }

    #[test]
    fn another_version_is_refused() {
        let mut luo = LuoSer {
            compatible: *b"luo-v5\0\0",
            ..Default::default()
        };
        assert_eq!(luo.check(), Ok(()));
        luo.compatible = *b"luo-v50\0";
        assert_eq!(luo.check(), Err(Error::Version));
    }
}

// SPDX-License-Identifier: GPL-2.0-only OR BSD-3-Clause

//! Formats in which live update state is handed from one kernel to the next.
//!
//! Everything here is safe Rust on `core` alone, because it is built three times: into the kernel
//! modules by Kbuild, and into host tests and fuzz targets by Cargo. Nothing here knows kernel types.
//!
//! What an older kernel left is input like any other. A format is read in two steps: bytes become a
//! raw struct, and the raw struct is *parsed* into a checked type before anything is touched. Code
//! that acts takes checked types only.
//!
//! All numbers are little endian, as on every machine that Linux supports live update on.
//!
//! C headers: [`include/linux/kho/abi/`](srctree/include/linux/kho/abi/)

#![forbid(unsafe_code)]

#[cfg(not(all(target_endian = "little", target_pointer_width = "64")))]
compile_error!("live update formats are defined for 64-bit little-endian machines");

mod error;
pub mod extents;
pub mod fdt;
pub mod guest_memfd;
pub mod hugetlb;
pub mod iommu;
pub mod luo;
pub mod memfd;
pub mod memfd_extents;
mod page;
pub mod pin;
pub mod pools;
pub mod radix;
pub mod root;
pub mod running;
pub mod vfio_pci;
pub mod vmalloc;

pub use self::{
    error::{
        Error,
        Result, //
    },
    page::PageSize, //
};

/// The largest file size and position (`MAX_LFS_FILESIZE`).
const MAX_FILE_SIZE: u64 = i64::MAX.unsigned_abs();

/// Checks a file position and a file size.
fn check_file(pos: u64, size: u64) -> Result {
    if pos > MAX_FILE_SIZE {
        return Err(Error::Position);
    }
    if size > MAX_FILE_SIZE {
        return Err(Error::Size);
    }
    Ok(())
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! An address space of devices, in an iommufd of its own.

use super::device::{
    ioctl,
    request,
    Device, //
};
use anyhow::{
    Context,
    Result, //
};
use rustix::fs::{
    open,
    Mode,
    OFlags, //
};
use std::{
    os::fd::{
        AsFd,
        AsRawFd,
        BorrowedFd,
        OwnedFd, //
    },
    sync::Arc, //
};

/// The numbers of iommufd go on after those of VFIO.
const fn iommu(nr: libc::c_ulong) -> libc::c_ulong {
    request(nr - 100)
}

/// `VFIO_GROUP_SET_CONTAINER`
const GROUP_SET_CONTAINER: libc::c_ulong = 0x3b68;
const DESTROY: libc::c_ulong = iommu(0x80);
const IOAS_ALLOC: libc::c_ulong = iommu(0x81);
const IOAS_MAP: libc::c_ulong = iommu(0x85);
const IOAS_UNMAP: libc::c_ulong = iommu(0x86);
const HWPT_ALLOC: libc::c_ulong = iommu(0x89);
const IOAS_MAP_FILE: libc::c_ulong = iommu(0x8f);

const FIXED_IOVA: u32 = 1 << 0;
const WRITEABLE: u32 = 1 << 1;
const READABLE: u32 = 1 << 2;

/// `struct iommu_ioas_alloc`
#[repr(C)]
#[derive(Default)]
struct IoasAlloc {
    size: u32,
    flags: u32,
    out_ioas_id: u32,
}

/// `struct iommu_ioas_map_file`
#[repr(C)]
#[derive(Default)]
struct IoasMapFile {
    size: u32,
    flags: u32,
    ioas_id: u32,
    fd: i32,
    start: u64,
    length: u64,
    iova: u64,
}

/// `struct iommu_ioas_map`
#[repr(C)]
#[derive(Default)]
struct IoasMap {
    size: u32,
    flags: u32,
    ioas_id: u32,
    reserved: u32,
    user_va: u64,
    length: u64,
    iova: u64,
}

/// `struct iommu_destroy`
#[repr(C)]
#[derive(Default)]
struct Destroy {
    size: u32,
    id: u32,
}

/// `struct iommu_hwpt_alloc`
#[repr(C)]
#[derive(Default)]
struct HwptAlloc {
    size: u32,
    flags: u32,
    dev_id: u32,
    pt_id: u32,
    out_hwpt_id: u32,
    reserved: u32,
    data_type: u32,
    data_len: u32,
    data_uptr: u64,
    fault_id: u32,
    reserved2: u32,
}

/// `struct iommu_ioas_unmap`
#[repr(C)]
#[derive(Default)]
struct IoasUnmap {
    size: u32,
    ioas_id: u32,
    iova: u64,
    length: u64,
}

/// What devices may do with memory.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Access {
    /// Read it.
    Read,
    /// Read and write it.
    Write,
}

/// An address space.
#[derive(Clone, Debug)]
pub struct Space {
    iommufd: Arc<OwnedFd>,
    id: u32,
}

impl Space {
    /// One in which there is nothing.
    pub fn new() -> Result<Self> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        let iommufd = open("/dev/iommu", flags, Mode::empty()).context("/dev/iommu")?;
        Self::on(Arc::new(iommufd))
    }

    /// Another one in the same iommufd.
    pub fn another(&self) -> Result<Self> {
        Self::on(self.iommufd.clone())
    }

    fn on(iommufd: Arc<OwnedFd>) -> Result<Self> {
        let mut alloc = IoasAlloc {
            size: size_of::<IoasAlloc>() as u32,
            ..IoasAlloc::default()
        };
        ioctl(&*iommufd, IOAS_ALLOC, &mut alloc).context("no address space")?;
        Ok(Self {
            iommufd,
            id: alloc.out_ioas_id,
        })
    }

    /// The iommufd.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.iommufd.as_fd()
    }

    /// Has the devices of a group use this iommufd, in the older way.
    ///
    /// # Errors
    ///
    /// The kernel's answer.
    pub fn contain(&self, group: &OwnedFd) -> rustix::io::Result<()> {
        ioctl(group, GROUP_SET_CONTAINER, &mut self.fd().as_raw_fd())
    }

    /// Its number in the iommufd.
    pub(super) fn id(&self) -> u32 {
        self.id
    }

    /// Maps the first `length` bytes of a file from the address `iova` on.
    ///
    /// # Errors
    ///
    /// The kernel's answer.
    pub fn map(
        &self,
        file: impl AsFd,
        length: u64,
        iova: u64,
        access: Access,
    ) -> rustix::io::Result<()> {
        let access = match access {
            Access::Read => READABLE,
            Access::Write => READABLE | WRITEABLE,
        };
        let mut map = IoasMapFile {
            size: size_of::<IoasMapFile>() as u32,
            flags: FIXED_IOVA | access,
            ioas_id: self.id,
            fd: file.as_fd().as_raw_fd(),
            length,
            iova,
            ..IoasMapFile::default()
        };
        ioctl(&*self.iommufd, IOAS_MAP_FILE, &mut map)
    }

    /// Maps a page of this process's own memory to be read.
    ///
    /// # Errors
    ///
    /// The kernel's answer.
    pub fn map_memory(&self, address: u64, iova: u64) -> rustix::io::Result<()> {
        let mut map = IoasMap {
            size: size_of::<IoasMap>() as u32,
            flags: FIXED_IOVA | READABLE,
            ioas_id: self.id,
            user_va: address,
            length: crate::memory::page(),
            iova,
            ..IoasMap::default()
        };
        ioctl(&*self.iommufd, IOAS_MAP, &mut map)
    }

    /// Makes a page table of it for a device that is bound to the same iommufd. Returns its number.
    ///
    /// # Errors
    ///
    /// The kernel's answer.
    pub fn page_table(&self, device: &Device) -> rustix::io::Result<u32> {
        let mut alloc = HwptAlloc {
            size: size_of::<HwptAlloc>() as u32,
            dev_id: device.id(),
            pt_id: self.id,
            ..HwptAlloc::default()
        };
        ioctl(&*self.iommufd, HWPT_ALLOC, &mut alloc)?;
        Ok(alloc.out_hwpt_id)
    }

    /// Destroys what has a number in its iommufd.
    ///
    /// # Errors
    ///
    /// The kernel's answer.
    pub fn destroy(&self, id: u32) -> rustix::io::Result<()> {
        let mut destroy = Destroy {
            size: size_of::<Destroy>() as u32,
            id,
        };
        ioctl(&*self.iommufd, DESTROY, &mut destroy)
    }

    /// Takes what is mapped at `iova` away.
    ///
    /// # Errors
    ///
    /// The kernel's answer.
    pub fn unmap(&self, iova: u64, length: u64) -> rustix::io::Result<()> {
        let mut unmap = IoasUnmap {
            size: size_of::<IoasUnmap>() as u32,
            ioas_id: self.id,
            iova,
            length,
        };
        ioctl(&*self.iommufd, IOAS_UNMAP, &mut unmap)
    }
}

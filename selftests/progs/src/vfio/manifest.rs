// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The file that tells what was mapped in the previous kernel: `luo_iommu.h`.

use super::{
    device::ioctl,
    Space, //
};
use rustix::io::Errno;
use std::os::fd::{
    AsRawFd,
    OwnedFd, //
};

const GET_INFO: libc::c_ulong = 0xbb10;
const GET_AREAS: libc::c_ulong = 0xbb11;
const VERIFY: libc::c_ulong = 0xbb12;

/// `struct luo_iommu_info`
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[allow(missing_docs)]
pub struct Info {
    size: u32,
    pub format: u16,
    pub levels: u16,
    pub nr_areas: u32,
    reserved: u32,
    pub last: u64,
    pub nr_tables: u64,
}

/// `struct luo_iommu_area`
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[allow(missing_docs)]
pub struct Area {
    pub iova: u64,
    pub length: u64,
    pub offset: u64,
    pub token: u64,
    pub flags: u32,
    pub reserved: u32,
}

/// `struct luo_iommu_areas`
#[repr(C)]
#[derive(Default)]
struct Areas {
    size: u32,
    first: u32,
    nr: u32,
    reserved: u32,
    areas: u64,
}

/// `struct luo_iommu_verify`
#[repr(C)]
#[derive(Default)]
struct Verify {
    size: u32,
    iommufd: i32,
    hwpt_id: u32,
    reserved: u32,
    iova: u64,
}

/// The file.
#[derive(Debug)]
pub struct Manifest(OwnedFd);

impl Manifest {
    /// A file that was retrieved.
    pub fn new(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// What there is.
    ///
    /// # Errors
    ///
    /// The kernel's answer.
    pub fn info(&self) -> rustix::io::Result<Info> {
        let mut info = Info {
            size: size_of::<Info>() as u32,
            ..Info::default()
        };
        ioctl(&self.0, GET_INFO, &mut info)?;
        Ok(info)
    }

    /// At most `room` areas from the number `first` on.
    ///
    /// # Errors
    ///
    /// The kernel's answer.
    pub fn areas(&self, first: u32, room: u32) -> rustix::io::Result<Vec<Area>> {
        let mut list = vec![Area::default(); room as usize];
        let mut areas = Areas {
            size: size_of::<Areas>() as u32,
            first,
            nr: room,
            areas: list.as_mut_ptr() as u64,
            ..Areas::default()
        };
        ioctl(&self.0, GET_AREAS, &mut areas)?;
        list.truncate(areas.nr as usize);
        Ok(list)
    }

    /// Compares the old page table with a new one.
    ///
    /// # Errors
    ///
    /// The kernel's answer, and the address that it tells.
    pub fn verify(&self, space: &Space, hwpt: u32) -> Result<(), (Errno, u64)> {
        let mut verify = Verify {
            size: size_of::<Verify>() as u32,
            iommufd: space.fd().as_raw_fd(),
            hwpt_id: hwpt,
            ..Verify::default()
        };
        ioctl(&self.0, VERIFY, &mut verify).map_err(|errno| (errno, verify.iova))
    }
}

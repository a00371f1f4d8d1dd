// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A PCI device in VFIO: its character device, its configuration space and its registers.

use crate::sys;
use anyhow::{
    Context,
    Result, //
};
use rustix::{
    fs::{
        open,
        Mode,
        OFlags, //
    },
    mm::{
        self,
        MapFlags,
        ProtFlags, //
    }, //
};
use std::{
    os::fd::{
        AsFd,
        AsRawFd,
        BorrowedFd,
        OwnedFd, //
    },
    ptr, //
};

/// `_IO(VFIO_TYPE, VFIO_BASE + nr)`
pub(super) const fn request(nr: libc::c_ulong) -> libc::c_ulong {
    (b';' as libc::c_ulong) << 8 | (100 + nr)
}

const GET_REGION_INFO: libc::c_ulong = request(8);
const RESET: libc::c_ulong = request(11);
const BIND_IOMMUFD: libc::c_ulong = request(18);
const ATTACH_IOMMUFD_PT: libc::c_ulong = request(19);
/// `IOMMU_IOAS_ALLOC`, whose numbers go on after those of VFIO.
const IOAS_ALLOC: libc::c_ulong = request(0x81 - 100);

/// The region of the configuration space.
const CONFIG: u32 = 7;

/// The command register of the configuration space, and two bits of it.
const COMMAND: u64 = 4;
const COMMAND_MEMORY: u16 = 1 << 1;
const COMMAND_MASTER: u16 = 1 << 2;
/// The status register, and one bit of it.
const STATUS: usize = 6;
const STATUS_INTERRUPT: u8 = 1 << 3;

/// `struct vfio_region_info`
#[repr(C)]
#[derive(Default)]
struct RegionInfo {
    argsz: u32,
    flags: u32,
    index: u32,
    cap_offset: u32,
    size: u64,
    offset: u64,
}

/// `struct vfio_device_bind_iommufd`, its first version.
#[repr(C)]
#[derive(Default)]
struct Bind {
    argsz: u32,
    flags: u32,
    iommufd: i32,
    out_devid: u32,
}

/// `struct vfio_device_attach_iommufd_pt`, its first version.
#[repr(C)]
#[derive(Default)]
struct Attach {
    argsz: u32,
    flags: u32,
    pt_id: u32,
}

/// `struct iommu_ioas_alloc`
#[repr(C)]
#[derive(Default)]
struct IoasAlloc {
    size: u32,
    flags: u32,
    out_ioas_id: u32,
}

pub(super) fn ioctl<T>(
    fd: impl AsFd,
    request: libc::c_ulong,
    arg: &mut T,
) -> rustix::io::Result<()> {
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: Each request, here and in the files beside this one, is given the structure that the kernel
    // expects, which begins with its size, or ignores what it is given.
    let status = unsafe { libc::ioctl(fd, request, ptr::from_mut(arg)) };
    sys::answer(status.into())
}

/// A device that is bound.
#[derive(Debug)]
pub struct Device {
    fd: OwnedFd,
    /// The device is bound to it.
    iommufd: OwnedFd,
    config: u64,
}

impl Device {
    /// Binds a file, which opens the device.
    pub fn bind(fd: OwnedFd) -> Result<Self> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        let iommufd = open("/dev/iommu", flags, Mode::empty()).context("/dev/iommu")?;
        let mut bind = Bind {
            argsz: size_of::<Bind>() as u32,
            iommufd: iommufd.as_raw_fd(),
            ..Bind::default()
        };
        ioctl(&fd, BIND_IOMMUFD, &mut bind).context("cannot bind the device")?;
        let config = region(&fd, CONFIG)?.offset;
        Ok(Self {
            fd,
            iommufd,
            config,
        })
    }

    /// Its file.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Has its IOMMU translate, with an address space in which there is nothing.
    pub fn attach(&self) -> Result<()> {
        let mut alloc = IoasAlloc {
            size: size_of::<IoasAlloc>() as u32,
            ..IoasAlloc::default()
        };
        ioctl(&self.iommufd, IOAS_ALLOC, &mut alloc).context("no address space")?;
        let mut attach = Attach {
            argsz: size_of::<Attach>() as u32,
            pt_id: alloc.out_ioas_id,
            ..Attach::default()
        };
        ioctl(&self.fd, ATTACH_IOMMUFD_PT, &mut attach).context("cannot attach the device")
    }

    /// Resets it.
    ///
    /// # Errors
    ///
    /// The kernel's answer.
    pub fn reset(&self) -> rustix::io::Result<()> {
        ioctl(&self.fd, RESET, &mut ())
    }

    /// Reads the command register, as the user sees it.
    ///
    /// # Errors
    ///
    /// The kernel's answer.
    pub fn command(&self) -> rustix::io::Result<u16> {
        let mut word = [0; 2];
        rustix::io::pread(&self.fd, &mut word, self.config + COMMAND)?;
        Ok(u16::from_le_bytes(word))
    }

    /// Lets it use memory, and lets its memory be used.
    pub fn enable(&self) -> Result<()> {
        let word = self.command()? | COMMAND_MEMORY | COMMAND_MASTER;
        rustix::io::pwrite(&self.fd, &word.to_le_bytes(), self.config + COMMAND)?;
        Ok(())
    }

    /// The configuration space as the user sees it, as hexadecimal digits, but for whether the device asks for
    /// an interrupt.
    pub fn config(&self) -> Result<String> {
        let mut bytes = [0; 4096];
        // What is behind the end of a smaller one stays zero.
        let len = rustix::io::pread(&self.fd, &mut bytes, self.config)?;
        bytes[STATUS] &= !STATUS_INTERRUPT;
        Ok(bytes[..len]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect())
    }

    /// Maps the registers of a BAR.
    pub fn map(&self, bar: u32) -> Result<Registers> {
        let info = region(&self.fd, bar)?;
        let len = usize::try_from(info.size)?;
        // SAFETY: The kernel chooses an address that is not in use.
        let base = unsafe {
            let prot = ProtFlags::READ | ProtFlags::WRITE;
            mm::mmap(
                ptr::null_mut(),
                len,
                prot,
                MapFlags::SHARED,
                &self.fd,
                info.offset,
            )
        };
        let base = base.with_context(|| format!("cannot map BAR {bar}"))?;
        Ok(Registers {
            base: base.cast(),
            len,
        })
    }
}

fn region(fd: impl AsFd, index: u32) -> Result<RegionInfo> {
    let mut info = RegionInfo {
        argsz: size_of::<RegionInfo>() as u32,
        index,
        ..RegionInfo::default()
    };
    ioctl(fd, GET_REGION_INFO, &mut info).with_context(|| format!("no region {index}"))?;
    Ok(info)
}

/// Registers that are mapped.
#[derive(Debug)]
pub struct Registers {
    base: *mut u8,
    len: usize,
}

impl Registers {
    fn at(&self, offset: usize) -> *mut u32 {
        assert!(offset.is_multiple_of(4) && offset + 4 <= self.len);
        self.base.wrapping_add(offset).cast()
    }

    /// Reads one.
    pub fn read(&self, offset: usize) -> u32 {
        // SAFETY: It is inside the mapping and aligned; reading a register is what it is for.
        unsafe { self.at(offset).read_volatile() }
    }

    /// Writes one.
    pub fn write(&self, offset: usize, value: u32) {
        // SAFETY: As above. What the device does to memory because of it is what its user tells it to.
        unsafe { self.at(offset).write_volatile(value) }
    }
}

impl Drop for Registers {
    fn drop(&mut self) {
        // SAFETY: Nobody has a reference into the mapping.
        let _ = unsafe { mm::munmap(self.base.cast(), self.len) };
    }
}

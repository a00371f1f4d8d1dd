// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A PCI device in VFIO: its character device, its configuration space and its registers.

use super::Space;
use crate::sys;
use anyhow::{
    Context,
    Result, //
};
use liveupdate::{
    vfio,
    IncomingSession,
    Token, //
};
use rustix::mm::{
    self,
    MapFlags,
    ProtFlags, //
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
const ATTACH_IOMMUFD_PT: libc::c_ulong = request(19);
const DETACH_IOMMUFD_PT: libc::c_ulong = request(20);

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

/// `struct vfio_device_attach_iommufd_pt`, its first version.
#[repr(C)]
#[derive(Default)]
struct Attach {
    argsz: u32,
    flags: u32,
    pt_id: u32,
}

/// `struct vfio_device_detach_iommufd_pt`, its first version.
#[repr(C)]
#[derive(Default)]
struct Detach {
    argsz: u32,
    flags: u32,
}

pub(super) fn ioctl<T>(
    fd: impl AsFd,
    request: libc::c_ulong,
    arg: &mut T,
) -> rustix::io::Result<()> {
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: Each request, here and in the files beside this one, is given the structure that the kernel
    // expects, which begins with its size, or a number that it reads, or ignores what it is given.
    let status = unsafe { libc::ioctl(fd, request, ptr::from_mut(arg)) };
    sys::answer(status.into())
}

/// A device that is bound.
#[derive(Debug)]
pub struct Device {
    fd: OwnedFd,
    /// The device is bound to its iommufd.
    space: Space,
    /// Its number there.
    id: u32,
    config: u64,
}

impl Device {
    /// Binds a file, which opens the device.
    pub fn bind(fd: OwnedFd) -> Result<Self> {
        Self::bind_to(fd, &Space::new()?)
    }

    /// Binds a file to the iommufd of an address space.
    pub fn bind_to(fd: OwnedFd, space: &Space) -> Result<Self> {
        let id = vfio::bind(&fd, space.fd())?;
        Self::new(fd, space.clone(), id)
    }

    /// Retrieves a device, and binds it.
    pub fn retrieve(session: &IncomingSession, token: Token) -> Result<Self> {
        let space = Space::new()?;
        let (fd, id) = vfio::retrieve(session, token, space.fd())?;
        Self::new(fd, space, id)
    }

    fn new(fd: OwnedFd, space: Space, id: u32) -> Result<Self> {
        let config = region(&fd, CONFIG)?.offset;
        Ok(Self {
            fd,
            space,
            id,
            config,
        })
    }

    /// Its file.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Has its IOMMU translate, with the address space that it was bound to.
    ///
    /// # Errors
    ///
    /// The kernel's answer.
    pub fn attach(&self) -> rustix::io::Result<()> {
        self.attach_to(self.space.id())
    }

    /// Its number in the iommufd.
    pub(super) fn id(&self) -> u32 {
        self.id
    }

    /// The same with an address space or a page table that has a number in the iommufd.
    ///
    /// # Errors
    ///
    /// The kernel's answer.
    pub fn attach_to(&self, id: u32) -> rustix::io::Result<()> {
        let mut attach = Attach {
            argsz: size_of::<Attach>() as u32,
            pt_id: id,
            ..Attach::default()
        };
        ioctl(&self.fd, ATTACH_IOMMUFD_PT, &mut attach)
    }

    /// Has its IOMMU block it.
    ///
    /// # Errors
    ///
    /// The kernel's answer.
    pub fn detach(&self) -> rustix::io::Result<()> {
        let mut detach = Detach {
            argsz: size_of::<Detach>() as u32,
            ..Detach::default()
        };
        ioctl(&self.fd, DETACH_IOMMUFD_PT, &mut detach)
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

// SAFETY: The mapping belongs to the process, and whoever writes to registers at the same time as others tells
// the device so, and nobody else.
unsafe impl Send for Registers {}
// SAFETY: As above.
unsafe impl Sync for Registers {}

impl Registers {
    /// Where they are in this process, and the length.
    pub fn place(&self) -> (u64, u64) {
        (self.base as u64, self.len as u64)
    }

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

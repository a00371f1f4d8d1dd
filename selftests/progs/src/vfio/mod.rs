// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A PCI device in VFIO: its character device, its configuration space and its registers.
//!
//! Three ioctls are all it takes, and they are made here.

pub mod frame;
pub mod igb;
pub mod trace;

use anyhow::{
    bail,
    Context,
    Result, //
};
use rustix::{
    fs::{
        open,
        Mode,
        OFlags, //
    },
    io::Errno,
    mm::{
        self,
        MapFlags,
        ProtFlags, //
    }, //
};
use std::{
    fs,
    os::fd::{
        AsFd,
        AsRawFd,
        BorrowedFd,
        OwnedFd, //
    },
    path::{
        Path,
        PathBuf, //
    },
    ptr, //
};

use crate::sys;

/// `_IO(VFIO_TYPE, VFIO_BASE + nr)`
const fn request(nr: libc::c_ulong) -> libc::c_ulong {
    (b';' as libc::c_ulong) << 8 | (100 + nr)
}

const GET_REGION_INFO: libc::c_ulong = request(8);
const SET_IRQS: libc::c_ulong = request(10);
const RESET: libc::c_ulong = request(11);
const BIND_IOMMUFD: libc::c_ulong = request(18);

/// The region of the configuration space.
const CONFIG: u32 = 7;

/// The command register of the configuration space, and two bits of it.
const COMMAND: u64 = 4;
const COMMAND_MEMORY: u16 = 1 << 1;
const COMMAND_MASTER: u16 = 1 << 2;

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

/// `struct vfio_irq_set` with one eventfd.
#[repr(C)]
struct IrqSet {
    argsz: u32,
    flags: u32,
    index: u32,
    start: u32,
    count: u32,
    eventfd: i32,
}

impl IrqSet {
    const DATA_NONE: u32 = 1 << 0;
    const DATA_EVENTFD: u32 = 1 << 2;
    const ACTION_TRIGGER: u32 = 1 << 5;
    /// `VFIO_PCI_MSIX_IRQ_INDEX`
    const MSIX: u32 = 2;

    /// Vectors of MSI-X: as many as there is an eventfd for, or none at all.
    fn msix(eventfd: Option<BorrowedFd<'_>>) -> Self {
        let data = match eventfd {
            Some(_) => Self::DATA_EVENTFD,
            None => Self::DATA_NONE,
        };
        Self {
            argsz: size_of::<Self>() as u32,
            flags: data | Self::ACTION_TRIGGER,
            index: Self::MSIX,
            start: 0,
            count: eventfd.is_some().into(),
            eventfd: eventfd.map_or(-1, |fd| fd.as_raw_fd()),
        }
    }
}

fn ioctl<T>(fd: impl AsFd, request: libc::c_ulong, arg: &mut T) -> rustix::io::Result<()> {
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: Each request of this file is given the structure that the kernel expects, which begins
    // with its size, or ignores what it is given.
    let status = unsafe { libc::ioctl(fd, request, ptr::from_mut(arg)) };
    sys::answer(status.into())
}

/// The directory of the one device in sysfs that is bound to vfio-pci.
///
/// # Errors
///
/// If there is none, or more.
pub fn sysfs() -> Result<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/sys/bus/pci/drivers/vfio-pci").context("there is no vfio-pci")? {
        let path = entry?.path();
        if path.join("vendor").exists() {
            found.push(fs::canonicalize(path)?);
        }
    }
    match found.as_slice() {
        [one] => Ok(one.clone()),
        found => bail!("{} devices are bound to vfio-pci", found.len()),
    }
}

/// Opens the character device of the one device that is bound to vfio-pci.
///
/// # Errors
///
/// The kernel's answer, or that of sysfs as `ENODEV`.
pub fn open_cdev() -> rustix::io::Result<OwnedFd> {
    let name = || -> Result<PathBuf> {
        let dir = sysfs()?.join("vfio-dev");
        let entry = fs::read_dir(dir)?.next().context("it has no name")??;
        Ok(PathBuf::from("/dev/vfio/devices").join(entry.file_name()))
    };
    let name = name().map_err(|_| Errno::NODEV)?;
    open(name, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
}

/// Takes a device, by its directory in sysfs, away from its driver.
///
/// # Errors
///
/// If the kernel refuses.
pub fn unbind(device: &Path) -> Result<()> {
    let name = name(device)?;
    fs::write(device.join("driver/unbind"), name).context("cannot unbind the device")
}

/// Gives a device without a driver to one, whatever it is made for.
///
/// # Errors
///
/// The kernel's answer.
pub fn bind_to(device: &Path, driver: &str) -> rustix::io::Result<()> {
    let write = |path: &Path, text: &str| fs::write(path, text).map_err(|e| sys::errno(&e));
    let name = name(device).map_err(|_| Errno::NODEV)?;
    write(&device.join("driver_override"), driver)?;
    let path = Path::new("/sys/bus/pci/drivers").join(driver).join("bind");
    let answer = write(&path, name);
    // A newline stands for none.
    write(&device.join("driver_override"), "\n")?;
    answer
}

fn name(device: &Path) -> Result<&str> {
    let name = device.file_name().and_then(|name| name.to_str());
    name.context("the device has no name")
}

/// Whether the one device that is bound to vfio-pci may use memory, as it says itself.
///
/// # Errors
///
/// If sysfs does not tell.
pub fn is_master() -> Result<bool> {
    let config = fs::read(sysfs()?.join("config"))?;
    let command = config
        .get(COMMAND as usize)
        .context("no command register")?;
    Ok(u16::from(*command) & COMMAND_MASTER != 0)
}

/// A device that is bound.
#[derive(Debug)]
pub struct Device {
    fd: OwnedFd,
    // The device is bound to it.
    _iommufd: OwnedFd,
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
            _iommufd: iommufd,
            config,
        })
    }

    /// Its file.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Resets it.
    ///
    /// # Errors
    ///
    /// The kernel's answer.
    pub fn reset(&self) -> rustix::io::Result<()> {
        ioctl(&self.fd, RESET, &mut ())
    }

    /// Has the first vector of MSI-X signal an eventfd, or disables interrupts.
    pub fn interrupts(&self, eventfd: Option<BorrowedFd<'_>>) -> Result<()> {
        ioctl(&self.fd, SET_IRQS, &mut IrqSet::msix(eventfd)).context("interrupts")
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

    /// The configuration space as the user sees it, as hexadecimal digits.
    pub fn config(&self) -> Result<String> {
        let mut bytes = [0; 4096];
        // What is behind the end of a smaller one stays zero.
        let len = rustix::io::pread(&self.fd, &mut bytes, self.config)?;
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

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! PCI devices as sysfs shows them.

use crate::sys;
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
    io::Errno, //
};
use std::{
    fs,
    os::fd::OwnedFd,
    path::{
        Path,
        PathBuf, //
    }, //
};

const DEVICES: &str = "/sys/bus/pci/devices";

/// In the command register: the device may use memory.
const COMMAND_MASTER: u8 = 1 << 2;
/// In its second byte: it does not signal by INTx.
const COMMAND_INTX_DISABLE: u8 = 1 << 2;
/// In the status register: it has something to signal by INTx.
const STATUS_INTERRUPT: u8 = 1 << 3;

/// What a device is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Model {
    /// Who makes it.
    pub vendor: u16,
    /// Which of theirs it is.
    pub device: u16,
}

/// A device's directory in sysfs, by its way through the bridges above it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PciDevice(PathBuf);

impl PciDevice {
    /// The one device of a model. If there are several, those that have an IOMMU do not count.
    ///
    /// # Errors
    ///
    /// If there is none, or more.
    pub fn find(model: Model) -> Result<Self> {
        let mut found = Self::all(model)?;
        if found.len() > 1 {
            found.retain(|device| !device.has_iommu());
        }
        let Model { vendor, device } = model;
        match found.as_slice() {
            [one] => Ok(one.clone()),
            found => bail!("{} devices are {vendor:04x}:{device:04x}", found.len()),
        }
    }

    /// All devices of a model.
    ///
    /// # Errors
    ///
    /// If sysfs does not tell.
    pub fn all(model: Model) -> Result<Vec<Self>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(DEVICES).context("there is no PCI")? {
            let path = entry?.path();
            let number = |name: &str| -> Result<u16> {
                let text = fs::read_to_string(path.join(name))?;
                Ok(u16::from_str_radix(
                    text.trim().trim_start_matches("0x"),
                    16,
                )?)
            };
            if number("vendor")? == model.vendor && number("device")? == model.device {
                found.push(Self(fs::canonicalize(&path)?));
            }
        }
        Ok(found)
    }

    /// Whether there is an IOMMU for it. Without one, its group is an invention of VFIO.
    pub fn has_iommu(&self) -> bool {
        let group = self.0.join("iommu_group");
        let name = fs::read_to_string(group.join("name")).unwrap_or_default();
        group.exists() && name.trim() != "vfio-noiommu"
    }

    /// Its directory, as text.
    pub fn path(&self) -> String {
        self.0.display().to_string()
    }

    /// Its address.
    pub fn name(&self) -> Result<&str> {
        let name = self.0.file_name().and_then(|name| name.to_str());
        name.context("the device has no name")
    }

    /// Opens its character device.
    ///
    /// # Errors
    ///
    /// The kernel's answer, or `ENODEV` if there is none.
    pub fn open(&self) -> rustix::io::Result<OwnedFd> {
        let entry = fs::read_dir(self.0.join("vfio-dev")).ok();
        let entry = entry.and_then(|mut dir| dir.next()?.ok());
        let name = entry.ok_or(Errno::NODEV)?.file_name();
        let path = Path::new("/dev/vfio/devices").join(name);
        open(path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
    }

    /// Opens the file of its group.
    ///
    /// # Errors
    ///
    /// The kernel's answer, or `ENODEV` if it has none.
    pub fn open_group(&self) -> rustix::io::Result<OwnedFd> {
        let group = fs::read_link(self.0.join("iommu_group")).ok();
        let name = group.as_deref().and_then(Path::file_name);
        let path = Path::new("/dev/vfio").join(name.ok_or(Errno::NODEV)?);
        open(path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
    }

    /// Takes it away from its driver.
    ///
    /// # Errors
    ///
    /// If the kernel refuses.
    pub fn unbind(&self) -> Result<()> {
        let name = self.name()?;
        fs::write(self.0.join("driver/unbind"), name).context("cannot unbind the device")
    }

    /// Gives it, without a driver, to one, whatever that is made for.
    ///
    /// # Errors
    ///
    /// The kernel's answer.
    pub fn bind_to(&self, driver: &str) -> rustix::io::Result<()> {
        let write = |path: &Path, text: &str| fs::write(path, text).map_err(|e| sys::errno(&e));
        let name = self.name().map_err(|_| Errno::NODEV)?;
        let choice = self.0.join("driver_override");
        write(&choice, driver)?;
        let path = Path::new("/sys/bus/pci/drivers").join(driver).join("bind");
        let answer = write(&path, name);
        // A newline stands for none.
        write(&choice, "\n")?;
        answer
    }

    /// Removes it, as if it had been taken out.
    ///
    /// # Errors
    ///
    /// If the kernel refuses.
    pub fn remove(&self) -> Result<()> {
        fs::write(self.0.join("remove"), "1").context("cannot remove the device")
    }

    /// Lets the kernel look for devices again.
    ///
    /// # Errors
    ///
    /// If the kernel refuses.
    pub fn rescan() -> Result<()> {
        fs::write("/sys/bus/pci/rescan", "1").context("cannot look for devices")
    }

    /// Whether it may use memory, as it says itself.
    ///
    /// # Errors
    ///
    /// If sysfs does not tell.
    pub fn is_master(&self) -> Result<bool> {
        let config = fs::read(self.0.join("config"))?;
        let command = config.get(4).context("no command register")?;
        Ok(command & COMMAND_MASTER != 0)
    }

    /// Whether it would signal by INTx, and whether that is disabled, as it says itself.
    ///
    /// # Errors
    ///
    /// If sysfs does not tell.
    pub fn intx(&self) -> Result<(bool, bool)> {
        let config = fs::read(self.0.join("config"))?;
        let [_, _, _, _, _, command, status, ..] = config.as_slice() else {
            bail!("no command and status registers");
        };
        Ok((
            status & STATUS_INTERRUPT != 0,
            command & COMMAND_INTX_DISABLE != 0,
        ))
    }
}

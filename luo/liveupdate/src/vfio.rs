// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! PCI devices in VFIO, which go on running.
//!
//! The file of a character device that is bound to `/dev/iommu` is preserved and retrieved as any other file. But
//! nothing in it may interrupt when it is frozen, and who retrieves it must be the one that binds it, before
//! the session is finished: until then nobody is responsible for what the device writes to memory.
//!
//! In the old kernel:
//!
//! 1. Preserve the memory that the device writes to, and then the device, both in one session.
//! 2. When no vCPU runs any more, [`silence`] the device, and reboot with kexec. What it signals from now on is
//!    lost.
//!
//! In the new one:
//!
//! 1. Retrieve the memory.
//! 2. [`retrieve`] the device, which binds it. Map its BARs.
//! 3. [`listen`] to its interrupts. Each of them is signalled once without the device, so that a driver looks at
//!    what came meanwhile.
//! 4. Finish the session. A device that is not bound by then is stopped.
//!
//! # Examples
//!
//! ```no_run
//! use liveupdate::{vfio, IncomingSession, Token};
//! use std::os::fd::{AsFd, OwnedFd};
//!
//! # fn resume(session: &IncomingSession, eventfds: &[OwnedFd]) -> Result<(), Box<dyn std::error::Error>> {
//! let memory = session.retrieve(Token(1))?;
//! let iommufd = std::fs::File::options().read(true).write(true).open("/dev/iommu")?;
//! let (device, _) = vfio::retrieve(session, Token(2), &iommufd)?;
//! let eventfds: Vec<_> = eventfds.iter().map(AsFd::as_fd).collect();
//! vfio::listen(&device, vfio::Interrupts::Msix, &eventfds)?;
//! # drop(memory);
//! # Ok(())
//! # }
//! ```

use crate::{
    uapi,
    Error,
    IncomingSession,
    Result,
    Token, //
};
use rustix::{
    fs::{
        readlinkat,
        CWD, //
    },
    io::Errno, //
};
use std::os::fd::{
    AsFd,
    AsRawFd,
    BorrowedFd,
    OwnedFd, //
};

/// How `/proc/self/fd` shows files of devices: opened, and retrieved.
const LINKS: [&str; 2] = ["/dev/vfio/devices/", "anon_inode:[vfio-device]"];

/// The ways in which a PCI device can interrupt.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Interrupts {
    /// A line, which devices may share.
    Intx = 0,
    /// Message signalled interrupts.
    Msi = 1,
    /// The same with a table of vectors.
    Msix = 2,
}

impl Interrupts {
    const ALL: [Self; 3] = [Self::Intx, Self::Msi, Self::Msix];
}

/// Retrieves the device that was preserved under `token`, and binds it to `iommufd`, which opens it. Returns it with
/// its number there. The memory that it writes to should have been retrieved before.
///
/// # Errors
///
/// [`Error::Retrieve`], with `ENODEV` if `vfio-pci` does not have the device, which can be mended and tried again,
/// or if the device is not there any more; [`Error::BindDevice`].
pub fn retrieve(
    session: &IncomingSession,
    token: Token,
    iommufd: impl AsFd,
) -> Result<(OwnedFd, u32)> {
    let device = session.retrieve(token)?;
    let id = bind(&device, iommufd)?;
    Ok((device, id))
}

/// Binds a device to `iommufd`, which opens it. Returns its number there.
///
/// # Errors
///
/// [`Error::NotADevice`], or [`Error::BindDevice`] with `EINVAL` if it is bound already.
pub fn bind(device: impl AsFd, iommufd: impl AsFd) -> Result<u32> {
    identify(device.as_fd())?;
    let mut request = uapi::BindIommufd::new(0, iommufd.as_fd().as_raw_fd(), 0);
    uapi::call(&device, &mut request).map_err(|source| Error::BindDevice { source })?;
    Ok(request.device)
}

/// Has no interrupt of a device be signalled any more, of whatever kind. Without that it cannot be frozen.
///
/// # Errors
///
/// [`Error::NotADevice`], or [`Error::Interrupts`].
pub fn silence(device: impl AsFd) -> Result<()> {
    identify(device.as_fd())?;
    for kind in Interrupts::ALL {
        match set(&device, uapi::IrqSet::none(kind as u32, 0, 0)) {
            // That kind is not in use, or the device does not have it.
            Ok(()) | Err(Errno::INVAL) => {}
            Err(source) => return Err(Error::Interrupts { source }),
        }
    }
    Ok(())
}

/// Has the first vectors of a device signal eventfds.
///
/// # Errors
///
/// [`Error::NotADevice`], or [`Error::Interrupts`] with `EINVAL` if it does not have so many, or another kind is in
/// use.
pub fn enable(device: impl AsFd, kind: Interrupts, eventfds: &[BorrowedFd<'_>]) -> Result<()> {
    identify(device.as_fd())?;
    let fds: Vec<i32> = eventfds.iter().map(AsRawFd::as_raw_fd).collect();
    set(&device, uapi::IrqSet::eventfds(kind as u32, &fds))
        .map_err(|source| Error::Interrupts { source })
}

/// Signals what a vector would, without the device.
///
/// # Errors
///
/// [`Error::NotADevice`], or [`Error::Interrupts`] with `EINVAL` if the vector is not enabled.
pub fn trigger(device: impl AsFd, kind: Interrupts, vector: u32) -> Result<()> {
    identify(device.as_fd())?;
    set(&device, uapi::IrqSet::none(kind as u32, vector, 1))
        .map_err(|source| Error::Interrupts { source })
}

/// Has the first vectors of a device that came from the previous kernel signal eventfds, and signals each of them
/// once: what the device signalled between the kernels is lost, and a driver that waits for it would wait for
/// ever.
///
/// # Errors
///
/// As [`enable`].
pub fn listen(device: impl AsFd, kind: Interrupts, eventfds: &[BorrowedFd<'_>]) -> Result<()> {
    enable(&device, kind, eventfds)?;
    (0u32..)
        .zip(eventfds)
        .try_for_each(|(vector, _)| trigger(&device, kind, vector))
}

fn set(device: impl AsFd, mut request: uapi::IrqSet) -> rustix::io::Result<()> {
    uapi::set_irqs(device, &mut request)
}

/// Checks that `fd` is a device of VFIO: on any other file the same ioctl numbers could mean something that is not
/// safe.
fn identify(fd: BorrowedFd<'_>) -> Result<()> {
    let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let found = readlinkat(CWD, link, Vec::new()).map_err(|source| Error::Identify { source })?;
    if LINKS
        .iter()
        .any(|link| found.to_bytes().starts_with(link.as_bytes()))
    {
        return Ok(());
    }
    Err(Error::NotADevice {
        found: found.to_string_lossy().into_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_another_kind_is_no_device() {
        let null = std::fs::File::open("/dev/null").unwrap();
        for answer in [
            bind(&null, &null).map(|_| ()),
            silence(&null),
            listen(&null, Interrupts::Msix, &[null.as_fd()]),
        ] {
            let error = answer.unwrap_err();
            assert!(matches!(error, Error::NotADevice { .. }), "{error}");
        }
    }
}

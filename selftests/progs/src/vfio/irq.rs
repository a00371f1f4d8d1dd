// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Interrupts of devices: MSI-X, each vector with an eventfd, or INTx where the machine has nothing else.

use super::device::{
    ioctl,
    request,
    Device, //
};
use anyhow::{
    ensure,
    Context,
    Result, //
};
use std::os::fd::{
    AsRawFd,
    BorrowedFd, //
};

const SET_IRQS: libc::c_ulong = request(10);

const DATA_NONE: u32 = 1 << 0;
const DATA_EVENTFD: u32 = 1 << 2;
const ACTION_TRIGGER: u32 = 1 << 5;
/// `VFIO_PCI_INTX_IRQ_INDEX`
const INTX: u32 = 0;
/// `VFIO_PCI_MSIX_IRQ_INDEX`
const MSIX: u32 = 2;
/// Vectors there is room for here.
const VECTORS: usize = 4;

/// `struct vfio_irq_set`
#[repr(C)]
struct IrqSet {
    argsz: u32,
    flags: u32,
    index: u32,
    start: u32,
    count: u32,
    eventfds: [i32; VECTORS],
}

impl IrqSet {
    fn new(index: u32, data: u32, start: u32, count: u32) -> Self {
        Self {
            argsz: size_of::<Self>() as u32,
            flags: data | ACTION_TRIGGER,
            index,
            start,
            count,
            eventfds: [-1; VECTORS],
        }
    }
}

impl Device {
    fn set_irqs(&self, mut set: IrqSet) -> Result<()> {
        ioctl(self.fd(), SET_IRQS, &mut set).context("interrupts")
    }

    /// Has the first vectors of MSI-X signal eventfds.
    pub fn interrupts(&self, eventfds: &[BorrowedFd<'_>]) -> Result<()> {
        ensure!(eventfds.len() <= VECTORS, "too many vectors");
        let mut set = IrqSet::new(MSIX, DATA_EVENTFD, 0, eventfds.len() as u32);
        for (to, from) in set.eventfds.iter_mut().zip(eventfds) {
            *to = from.as_raw_fd();
        }
        self.set_irqs(set)
    }

    /// Disables MSI-X.
    pub fn no_interrupts(&self) -> Result<()> {
        self.set_irqs(IrqSet::new(MSIX, DATA_NONE, 0, 0))
    }

    /// Has INTx signal an eventfd, or disables it.
    pub fn intx(&self, eventfd: Option<BorrowedFd<'_>>) -> Result<()> {
        let mut set = IrqSet::new(INTX, DATA_NONE, 0, 0);
        if let Some(fd) = eventfd {
            set = IrqSet::new(INTX, DATA_EVENTFD, 0, 1);
            set.eventfds = [fd.as_raw_fd(); VECTORS];
        }
        self.set_irqs(set)
    }

    /// Signals what a vector would, without the device.
    pub fn trigger(&self, vector: u32) -> Result<()> {
        self.set_irqs(IrqSet::new(MSIX, DATA_NONE, vector, 1))
    }
}

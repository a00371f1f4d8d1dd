// SPDX-License-Identifier: GPL-2.0-only

//! PCI devices that are bound to vfio-pci, and their files.
//!
//! This is a part of `luo_vfio_pci`, not of `luo_rs`, which does not need VFIO.
//!
//! C headers: `include/linux/pci_liveupdate.h`, `include/linux/vfio_liveupdate.h`,
//! `include/linux/vfio_pci_liveupdate.h`

mod incoming;
mod state;

pub(crate) use self::{
    incoming::IncomingDevice,
    state::DeviceState, //
};

use core::ptr::NonNull;
use kernel::{
    error::to_result,
    fs::File,
    prelude::*,
    sync::aref::ARef, //
};
use luo::{
    abi::vfio_pci::IdentitySer,
    bindings,
    liveupdate::{
        FileHandler,
        Registration, //
    }, //
};

/// Registers a handler whose files are of devices that the PCI core hands over.
pub(crate) fn register<T: FileHandler>() -> Result<Pin<KBox<Registration<T>>>> {
    // SAFETY: The function adds the state of the PCI core to the handler, and does nothing else.
    unsafe { Registration::with_kernel_flb(bindings::pci_liveupdate_register_flb) }
}

/// A reference of a PCI device.
///
/// # Invariants
///
/// The device is alive, and this owns a reference of it.
struct PciDevice(NonNull<kernel::bindings::pci_dev>);

// SAFETY: References of a device can be taken and given back anywhere.
unsafe impl Send for PciDevice {}
// SAFETY: As above, and the functions that are called here can be called at the same time.
unsafe impl Sync for PciDevice {}

impl PciDevice {
    /// The device at an address, if there is one.
    fn find(domain: u32, bdf: u16) -> Option<Self> {
        // SAFETY: FFI call without requirements.
        let dev = unsafe { bindings::luo_helper_pci_find(domain, bdf) };
        // INVARIANT: The function takes a reference.
        NonNull::new(dev.cast()).map(Self)
    }

    fn as_ptr(&self) -> *mut kernel::bindings::pci_dev {
        self.0.as_ptr()
    }

    /// What tells it from others.
    fn identity(&self) -> IdentitySer {
        let mut raw: bindings::luo_helper_pci_identity = pin_init::zeroed();
        // SAFETY: The device is alive, and `raw` is valid for writes.
        unsafe { bindings::luo_helper_pci_identity(self.as_ptr(), &raw mut raw) };
        IdentitySer {
            serial: raw.serial,
            domain: raw.domain,
            class: raw.class,
            bars: raw.bars,
            rom: raw.rom,
            vendor: raw.vendor,
            device: raw.device,
            subsystem_vendor: raw.subsystem_vendor,
            subsystem_device: raw.subsystem_device,
            bdf: raw.bdf,
            command: raw.command,
        }
    }
}

impl Drop for PciDevice {
    fn drop(&mut self) {
        // SAFETY: By the type invariants.
        unsafe { bindings::luo_helper_pci_put(self.as_ptr()) };
    }
}

/// A file that is known to be of a device that is bound to vfio-pci.
///
/// # Invariants
///
/// `device` is that of `file`, and is bound to vfio-pci, both as long as the file lives.
#[derive(Clone, Copy)]
pub(crate) struct VfioFile<'a> {
    file: &'a File,
    device: NonNull<bindings::vfio_device>,
}

impl<'a> VfioFile<'a> {
    /// Takes `file` if it is one.
    pub(crate) fn new(file: &'a File) -> Option<Self> {
        // SAFETY: The file is alive.
        let device = unsafe { bindings::luo_helper_vfio_device(file.as_ptr()) };
        // INVARIANT: Just checked.
        Some(Self {
            file,
            device: NonNull::new(device)?,
        })
    }

    /// A number that is the same for all files of the device.
    pub(crate) fn id(self) -> usize {
        self.device.as_ptr() as usize
    }

    /// Whether it is of the character device, and is bound.
    pub(crate) fn is_bound_cdev(self) -> bool {
        // SAFETY: By the type invariants, it is a file of a VFIO device.
        unsafe { bindings::vfio_file_is_bound_cdev(self.file.as_ptr()) }
    }

    /// Number of devices in its IOMMU group.
    pub(crate) fn group_size(self) -> u32 {
        // SAFETY: By the type invariants.
        unsafe { bindings::luo_helper_vfio_group_size(self.device.as_ptr()) }
    }

    /// Whether an IOMMU may translate for the device.
    pub(crate) fn has_iommu(self) -> bool {
        // SAFETY: By the type invariants.
        unsafe { bindings::luo_helper_vfio_has_iommu(self.device.as_ptr()) }
    }

    /// Whether the iommufd that the device is bound to is preserved.
    pub(crate) fn has_preserved_iommufd(self) -> bool {
        // SAFETY: By the type invariants; the caller checked that it is bound.
        unsafe { bindings::luo_helper_vfio_iommufd_preserved(self.device.as_ptr()) }
    }

    /// Size of the device's configuration space in bytes.
    pub(crate) fn cfg_size(self) -> u16 {
        // SAFETY: By the type invariants.
        unsafe { bindings::luo_helper_vfio_cfg_size(self.device.as_ptr()) }
    }

    /// What tells the device from others.
    pub(crate) fn identity(self) -> IdentitySer {
        self.pci_device().identity()
    }

    /// The file is about to be used by nobody but its holder: if it is not bound by now, or still uses what
    /// the previous kernel had mapped, the device is stopped, as nobody says that its memory is still there.
    ///
    /// Returns whether it goes on.
    pub(crate) fn settle(self) -> bool {
        // SAFETY: By the type invariants.
        let bound = unsafe { bindings::vfio_pci_liveupdate_finish(self.device.as_ptr()) };
        // SAFETY: By the type invariants.
        bound && unsafe { bindings::luo_helper_vfio_iommu_settle(self.device.as_ptr()) }
    }

    fn pci_device(self) -> PciDevice {
        // SAFETY: By the type invariants, the device is alive and has this PCI device.
        let dev = unsafe { bindings::luo_helper_vfio_pci_dev(self.device.as_ptr()) };
        // SAFETY: As above.
        unsafe { bindings::luo_helper_pci_get(dev) };
        // INVARIANT: Just taken. The pointer is that of a field's container, and never NULL.
        PciDevice(NonNull::new(dev.cast()).unwrap_or(NonNull::dangling()))
    }

    /// Lets the device go on running over the kexec, until the result is dropped.
    pub(crate) fn preserve(self) -> Result<RunningDevice> {
        let device = self.pci_device();
        // SAFETY: The device is alive, and is bound to vfio-pci as long as the file, of which we take a
        // reference, is open.
        to_result(unsafe { bindings::pci_liveupdate_preserve(device.as_ptr().cast()) })?;
        // INVARIANT: It is preserved, and was not before.
        let mut running = RunningDevice {
            device,
            translated: false,
            _file: ARef::from(self.file),
        };
        if self.has_iommu() {
            // SAFETY: By the type invariants; the caller checked that it is bound, and that nothing can be
            // attached or detached.
            to_result(unsafe { bindings::luo_helper_vfio_iommu_preserve(self.device.as_ptr()) })
                .map_err(|err| if err == EOPNOTSUPP { EXDEV } else { err })?;
            // INVARIANT: Just preserved.
            running.translated = true;
        }
        Ok(running)
    }

    /// Keeps everybody from the device, which goes on, and writes down what the next kernel needs.
    pub(crate) fn freeze(self, state: &mut DeviceState) -> Result {
        // SAFETY: By the type invariants; the caller checked that it is bound, which it stays. The state
        // is valid for writes.
        to_result(unsafe {
            bindings::vfio_pci_liveupdate_freeze(self.device.as_ptr(), state.as_raw_mut())
        })
    }

    /// Undoes [`Self::freeze`].
    pub(crate) fn thaw(self) {
        // SAFETY: By the type invariants.
        unsafe { bindings::vfio_pci_liveupdate_thaw(self.device.as_ptr()) };
    }
}

/// A device that goes on running over the kexec.
///
/// # Invariants
///
/// The device is preserved, and we did that. If `translated`, so is what its IOMMU knows of it.
pub(crate) struct RunningDevice {
    device: PciDevice,
    translated: bool,
    // The device stays bound to its driver as long as the file is open.
    _file: ARef<File>,
}

impl RunningDevice {
    /// Whether it can go on using memory, as far as its IOMMU is concerned. `file` is its file.
    pub(crate) fn is_translated(&self, file: VfioFile<'_>) -> bool {
        // SAFETY: By the type invariants; the file is bound, which it stays.
        !self.translated
            || unsafe { bindings::luo_helper_vfio_iommu_preserved(file.device.as_ptr()) }
    }
}

impl Drop for RunningDevice {
    fn drop(&mut self) {
        if self.translated {
            // SAFETY: By the type invariants.
            unsafe { bindings::luo_helper_vfio_iommu_unpreserve(self.device.as_ptr().cast()) };
        }
        // SAFETY: By the type invariants.
        unsafe { bindings::pci_liveupdate_unpreserve(self.device.as_ptr().cast()) };
    }
}

// SPDX-License-Identifier: GPL-2.0-only

//! Devices that the previous kernel left running.

use super::{
    DeviceState,
    PciDevice, //
};
use core::ptr::NonNull;
use kernel::{
    error::{
        from_err_ptr,
        to_result, //
    },
    fs::File,
    prelude::*,
    sync::aref::ARef, //
};
use luo::{
    abi::vfio_pci::IdentitySer,
    bindings, //
};

/// A registration of a VFIO device.
///
/// # Invariants
///
/// This owns a reference of the registration of `0`, which is bound to vfio-pci until it is given back.
struct Registered(NonNull<bindings::vfio_device>);

impl Registered {
    /// That of a device, if it is bound to vfio-pci.
    fn find(device: &PciDevice) -> Option<Self> {
        // SAFETY: The device is alive.
        let device = unsafe { bindings::luo_helper_vfio_find(device.as_ptr().cast()) };
        // INVARIANT: The function takes a reference.
        NonNull::new(device).map(Self)
    }

    /// Whether it has a file that is bound.
    fn is_open(&self) -> bool {
        // SAFETY: By the type invariants.
        unsafe { bindings::luo_helper_vfio_is_open(self.0.as_ptr()) }
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        // SAFETY: By the type invariants.
        unsafe { bindings::luo_helper_vfio_put(self.0.as_ptr()) };
    }
}

/// A device that goes on running, and that nobody but us may take over. It is stopped when this is dropped.
pub(crate) struct IncomingDevice(PciDevice);

impl IncomingDevice {
    /// The device at an address, if the previous kernel left it running.
    pub(crate) fn find(domain: u32, bdf: u16) -> Option<Self> {
        let device = PciDevice::find(domain, bdf)?;
        // SAFETY: The device is alive.
        let is_incoming = unsafe { bindings::pci_liveupdate_is_incoming(device.as_ptr().cast()) };
        is_incoming.then_some(Self(device))
    }

    /// What tells it from others.
    pub(crate) fn identity(&self) -> IdentitySer {
        self.0.identity()
    }

    /// Takes away the access to memory of the device at an address, if the previous kernel left it running.
    pub(crate) fn stop_at(domain: u32, bdf: u16) {
        if let Some(device) = Self::find(domain, bdf) {
            device.stop();
            device.put();
        }
    }

    /// Takes away the access to memory of all devices that the previous kernel left running, but for those whose
    /// files were retrieved. Returns how many that were.
    pub(crate) fn stop_unclaimed() -> u32 {
        // SAFETY: FFI call without requirements.
        unsafe { bindings::luo_helper_vfio_stop_unclaimed() }
    }

    /// Takes away its access to memory, unless somebody has bound a file of it. Returns whether nobody has.
    pub(crate) fn stop_unused(&self) -> bool {
        let unused = !Registered::find(&self.0).is_some_and(|device| device.is_open());
        if unused {
            self.stop();
        }
        unused
    }

    /// Takes away its access to memory, if it is still the one that the previous kernel left running: one that
    /// was removed is stopped, and what is at its address now is not ours.
    fn stop(&self) {
        if let Some(device) = Registered::find(&self.0) {
            // SAFETY: By the type invariants, the device is registered.
            unsafe { bindings::vfio_pci_liveupdate_finish(device.0.as_ptr()) };
        }
        // SAFETY: The device is alive.
        unsafe { bindings::luo_helper_pci_stop(self.0.as_ptr().cast()) };
    }

    /// Makes a file of it. When that is bound, the device is not reset, and `state` is what is known of it.
    ///
    /// Fails with `ENODEV` if it is not bound to vfio-pci, which may change.
    pub(crate) fn open(&self, state: &DeviceState) -> Result<ARef<File>> {
        let device = Registered::find(&self.0).ok_or(ENODEV)?;
        // SAFETY: By the type invariants, the device is registered. It is incoming, so that nobody else
        // can open it. The state is valid.
        to_result(unsafe {
            bindings::vfio_pci_liveupdate_adopt(device.0.as_ptr(), state.as_raw())
        })?;
        // SAFETY: The device is registered.
        let file = unsafe { bindings::vfio_device_open_incoming(device.0.as_ptr()) };
        let file = NonNull::new(from_err_ptr(file)?.cast()).ok_or(ENOMEM)?;
        // The file has our reference now.
        core::mem::forget(device);
        // SAFETY: We own the only reference, and `File` is a transparent wrapper; nobody can have
        // called `fdget_pos()` for it.
        Ok(unsafe { ARef::from_raw(file) })
    }

    /// Somebody uses it now: it is like any other device.
    pub(crate) fn leave(self) {
        self.finish();
        self.put();
    }

    /// Drops this without stopping the device.
    fn put(self) {
        let this = core::mem::ManuallyDrop::new(self);
        // SAFETY: This gives back our reference of the device, which `this` does not do any more.
        unsafe { bindings::luo_helper_pci_put(this.0.as_ptr().cast()) };
    }

    fn finish(&self) {
        // SAFETY: The device is alive.
        unsafe { bindings::pci_liveupdate_finish(self.0.as_ptr().cast()) };
    }
}

impl Drop for IncomingDevice {
    fn drop(&mut self) {
        self.stop();
        self.finish();
    }
}

// SPDX-License-Identifier: GPL-2.0-only

//! State that several files share ("file-lifecycle-bound"): it is preserved with the first file that
//! needs it, and finished with the last.
//!
//! All files of a handler whose [`FileHandler::Flb`](crate::liveupdate::FileHandler::Flb) is
//! registered need it. LUO counts them. A reference of ours on top of that lasts no longer than a
//! closure: were one held over the jump, the next kernel would wait for a file that never was.
//!
//! The callbacks run under LUO's registration lock: they must not register anything, and must not
//! use the state that they are called for.
//!
//! C header: [`include/linux/liveupdate.h`](srctree/include/linux/liveupdate.h)

use crate::{
    bindings,
    kho::{
        Abi,
        Incoming,
        PreservedBox, //
    },
    liveupdate::{
        owner,
        padded,
        FileHandler, //
    }, //
};
use core::{
    marker::PhantomData,
    ptr, //
};
use kernel::{
    error::{
        from_result,
        to_result, //
    },
    prelude::*,
    types::{
        ForeignOwnable,
        Opaque, //
    }, //
};

/// State that the files of a handler share.
#[vtable]
pub trait Flb: Sized + 'static {
    /// Names the format; the next kernel finds its state by it.
    const COMPATIBLE: &'static CStr;

    /// What the next kernel gets.
    type Header: Abi;
    /// What this kernel keeps while the state is preserved. Dropping it undoes the preservation.
    type Outgoing: Send + Sync + 'static;
    /// What the next kernel makes of it.
    type Incoming: Send + Sync + 'static;

    /// The first file is going to be preserved.
    fn preserve() -> Result<(PreservedBox<Self::Header>, Self::Outgoing)>;

    /// The state is needed in the new kernel. This is called once, whatever it returns.
    fn retrieve(header: Incoming<Self::Header>) -> Result<Self::Incoming>;

    /// The last file was finished.
    fn finished(state: Self::Incoming) {
        drop(state);
    }
}

/// No shared state. This type has no values.
pub enum NoFlb {}

#[vtable]
impl Flb for NoFlb {
    const COMPATIBLE: &'static CStr = c"none";

    type Header = u64;
    type Outgoing = ();
    type Incoming = ();

    fn preserve() -> Result<(PreservedBox<u64>, ())> {
        Err(ENODEV)
    }

    fn retrieve(_header: Incoming<u64>) -> Result {
        Err(ENODEV)
    }
}

/// What LUO keeps of an FLB that is preserved. The fields are dropped in this order.
struct Outgoing<F: Flb> {
    state: F::Outgoing,
    _header: PreservedBox<F::Header>,
}

/// The place for an FLB, which LUO refers to as long as a handler is registered with it.
#[pin_data]
pub struct FlbSlot<T: FileHandler> {
    #[pin]
    raw: Opaque<bindings::liveupdate_flb>,
    _p: PhantomData<T>,
}

// SAFETY: LUO has locks for all that it changes in it.
unsafe impl<T: FileHandler> Send for FlbSlot<T> {}
// SAFETY: As above; there is nothing else in it.
unsafe impl<T: FileHandler> Sync for FlbSlot<T> {}

/// Length of an FLB's name in LUO, with the final NUL.
const COMPATIBLE_LEN: usize = bindings::LIVEUPDATE_FLB_COMPAT_LENGTH as usize;

impl<T: FileHandler> FlbSlot<T> {
    const OPS: bindings::liveupdate_flb_ops = bindings::liveupdate_flb_ops {
        preserve: Some(Self::preserve),
        unpreserve: Some(Self::unpreserve),
        retrieve: Some(Self::retrieve),
        finish: Some(Self::finish),
        // Without the handler nobody has retrieved the state.
        orphan: None,
        // The callbacks are in the handler's module, whichever the state is from.
        owner: owner::<T>(),
    };

    const COMPATIBLE: [u8; COMPATIBLE_LEN] = padded(T::Flb::COMPATIBLE);

    /// A slot that is not registered.
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            raw <- Opaque::ffi_init(|slot: *mut bindings::liveupdate_flb| {
                let flb = bindings::liveupdate_flb {
                    ops: &Self::OPS,
                    compatible: Self::COMPATIBLE,
                    ..pin_init::zeroed()
                };
                // SAFETY: `slot` is valid for writes.
                unsafe { slot.write(flb) };
            }),
            _p: PhantomData,
        })
    }

    /// Registers the slot with a handler.
    ///
    /// # Safety
    ///
    /// `handler` must be registered, and must be unregistered before the slot is dropped.
    pub(crate) unsafe fn register(
        self: Pin<&Self>,
        handler: *mut bindings::liveupdate_file_handler,
    ) -> Result {
        // SAFETY: The caller guarantees it; the slot is pinned.
        to_result(unsafe { bindings::liveupdate_register_flb(handler, self.raw.get()) })
    }

    /// Calls `f` with the state that is being preserved.
    pub fn with_outgoing<R>(&self, f: impl FnOnce(&<T::Flb as Flb>::Outgoing) -> R) -> Result<R> {
        let mut obj = ptr::null_mut();
        // SAFETY: The slot is valid. LUO knows whether it is registered.
        to_result(unsafe {
            bindings::liveupdate_flb_get_outgoing(self.raw.get(), &raw mut obj) //
        })?;
        let result = (!obj.is_null()).then(|| {
            // SAFETY: `preserve` set the object, which stays until our reference is put.
            let outgoing = unsafe { KBox::<Outgoing<T::Flb>>::borrow(obj) };
            f(&outgoing.state)
        });
        // SAFETY: We have just got this reference.
        unsafe { bindings::liveupdate_flb_put_outgoing(self.raw.get()) };
        result.ok_or(ENOENT)
    }

    /// Calls `f` with the state that arrived, which is retrieved if it was not yet.
    pub fn with_incoming<R>(&self, f: impl FnOnce(&<T::Flb as Flb>::Incoming) -> R) -> Result<R> {
        let mut obj = ptr::null_mut();
        // SAFETY: The slot is valid. LUO knows whether it is registered.
        to_result(unsafe {
            bindings::liveupdate_flb_get_incoming(self.raw.get(), &raw mut obj) //
        })?;
        let result = (!obj.is_null()).then(|| {
            // SAFETY: `retrieve` set the object, which stays until our reference is put.
            f(unsafe { KBox::<<T::Flb as Flb>::Incoming>::borrow(obj) })
        });
        // SAFETY: We have just got this reference.
        unsafe { bindings::liveupdate_flb_put_incoming(self.raw.get()) };
        result.ok_or(ENOENT)
    }

    /// To be called before LUO drops a finished file's reference.
    ///
    /// LUO may learn how many files there were only when the state is retrieved; a reference dropped
    /// before that is dropped from nothing, and the state is never finished.
    pub(crate) fn before_finish(&self) {
        // A state that was not handed over, or that could not be retrieved, has nothing to finish.
        let _ = self.with_incoming(|_| ());
    }

    /// # Safety
    ///
    /// `args` must be valid.
    unsafe extern "C" fn preserve(args: *mut bindings::liveupdate_flb_op_args) -> c_int {
        // SAFETY: The caller guarantees it.
        let args = unsafe { &mut *args };
        from_result(|| {
            let (header, state) = T::Flb::preserve()?;
            let phys = header.phys();
            let outgoing = Outgoing::<T::Flb> {
                state,
                _header: header,
            };
            args.obj = KBox::new(outgoing, GFP_KERNEL)?.into_foreign();
            args.data = phys;
            Ok(0)
        })
    }

    /// # Safety
    ///
    /// `args` must be valid, with what `preserve` set, for the last time.
    unsafe extern "C" fn unpreserve(args: *mut bindings::liveupdate_flb_op_args) {
        // SAFETY: The caller guarantees it.
        drop(unsafe { KBox::<Outgoing<T::Flb>>::from_foreign((*args).obj) });
    }

    /// # Safety
    ///
    /// `args` must be valid, with the data that the previous kernel's `preserve` set.
    unsafe extern "C" fn retrieve(args: *mut bindings::liveupdate_flb_op_args) -> c_int {
        // SAFETY: The caller guarantees it.
        let args = unsafe { &mut *args };
        from_result(|| {
            let header = Incoming::from_phys(args.data)?;
            args.obj = KBox::new(T::Flb::retrieve(header)?, GFP_KERNEL)?.into_foreign();
            Ok(0)
        })
    }

    /// # Safety
    ///
    /// `args` must be valid, with what `retrieve` set, for the last time.
    unsafe extern "C" fn finish(args: *mut bindings::liveupdate_flb_op_args) {
        // SAFETY: The caller guarantees it.
        let state = unsafe { KBox::<<T::Flb as Flb>::Incoming>::from_foreign((*args).obj) };
        T::Flb::finished(KBox::into_inner(state));
    }
}

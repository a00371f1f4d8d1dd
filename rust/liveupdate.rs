// SPDX-License-Identifier: GPL-2.0-only

//! Handlers for the kernel's Live Update Orchestrator (LUO).
//!
//! A file goes through these steps, each a method of [`FileHandler`]:
//!
//! 1. In the old kernel, `preserve` makes everything ready while the system runs on. What it returns
//!    undoes all of that when it is dropped, which happens if the session is closed.
//! 2. `freeze` is the last chance before the jump to bring the handed-over state up to date. If any
//!    file fails here, the old kernel goes on, and `unfreeze` is called for those that did not.
//! 3. In the new kernel, `claim` takes over what was handed over. If somebody wants the file, `parse`
//!    and `check` look at it, and `retrieve` makes the file again, once. If nobody does, or anything
//!    is wrong, it is dropped, and so freed. What `retrieve` fails with may tell that nothing was lost:
//!    then what is left is kept for another attempt, or until the user finishes.
//! 4. `finished` gets what `retrieve` wanted to be kept until the user confirmed that all is well.
//!
//! There is no way to refuse to finish: LUO would not be able to ever end the session. But before anything
//! of a session is released, each of its files is announced to its handler: by `before_finish` if it was
//! retrieved, by `before_discard` if it was not, and by `before_loss` if it never can be.
//!
//! Lock order: LUO's session mutex, LUO's file mutex, then the locks of this module, of which none is
//! held while a handler is called, but for `before_discard` and `before_loss`.
//!
//! C header: [`include/linux/liveupdate.h`](srctree/include/linux/liveupdate.h)

mod adapter;
mod kept;
mod module;
mod restore;
mod siblings;

pub use self::siblings::Siblings;

use crate::{
    abi,
    bindings,
    flb::{
        Flb,
        FlbSlot, //
    },
    kho::{
        Abi,
        Failed,
        Incoming,
        PreservedBox,
        RestoreError, //
    },
    orphan::Orphan,
    status, //
};
use adapter::Adapter;
use core::pin::Pin;
use kept::Retained;
use kernel::{
    error::{
        to_result,
        VTABLE_DEFAULT_ERROR, //
    },
    fs::File,
    module::this_module,
    prelude::*,
    rbtree::RBTree,
    sync::{
        aref::ARef,
        atomic::{
            Atomic,
            Relaxed, //
        },
        static_lock_class,
        Mutex, //
    },
    types::Opaque,
    ModuleMetadata, //
};

/// Whether live update was switched on at boot.
pub fn enabled() -> bool {
    // SAFETY: FFI call without requirements.
    unsafe { bindings::liveupdate_enabled() }
}

/// A file that is preserved: what the next kernel gets, and what undoes it.
///
/// The fields are dropped in this order: what the header points to, then the header.
pub struct Preserved<H: Abi, S> {
    /// What the handler keeps in this kernel.
    pub state: S,
    /// What the next kernel gets. It must describe `state` completely.
    pub header: PreservedBox<H>,
    /// Memory that is handed over, in bytes, for the status report.
    pub bytes: u64,
}

/// A file that is restored.
pub struct Retrieved<L> {
    /// The file.
    pub file: ARef<File>,
    /// What is kept until the user finishes the session.
    pub live: L,
    /// Memory that was handed over, in bytes, for the status report.
    pub bytes: u64,
}

/// Preserves and restores one type of file.
#[vtable]
pub trait FileHandler: Sized + 'static {
    /// Names the format; the next kernel finds its handler by it.
    const COMPATIBLE: &'static CStr;
    /// What becomes of what a file consists of if it cannot be made again, for the log.
    const WHEN_LOST: &'static str = "its memory freed";

    /// What the next kernel gets.
    type Header: Abi;
    /// What this kernel keeps while the file is preserved. Dropping it undoes the preservation.
    type State: Send + 'static;
    /// What the next kernel keeps from `retrieve` to `finished`.
    type Live: Send + Unpin + 'static;
    /// State that all files of this type share, or [`NoFlb`](crate::flb::NoFlb).
    type Flb: Flb;
    /// A header that is consistent in itself.
    type Parsed: Send + Unpin + 'static;
    /// All that a header names. Dropping it frees what can be identified of it.
    type Memory;
    /// The same, where all can be identified.
    type Checked: Send + Unpin + 'static;

    /// A number that is the same for all files that must not be preserved more than once together. It
    /// is not changed as long as the file lives. If this is not implemented, it is that of the inode.
    fn id(_file: &File) -> usize {
        build_error!(VTABLE_DEFAULT_ERROR)
    }

    /// Whether `file` is of this type. This must be cheap and must not sleep for long.
    fn can_preserve(file: &File) -> bool;

    /// Makes `file` ready to be handed over.
    fn preserve(file: &File) -> Result<Preserved<Self::Header, Self::State>>;

    /// Brings the header up to date, just before the jump. This may be called again if another file
    /// failed.
    fn freeze(_file: &File, _preserved: &mut Preserved<Self::Header, Self::State>) -> Result {
        build_error!(VTABLE_DEFAULT_ERROR)
    }

    /// Just before `freeze`: tells what other files of the session are called there. If `freeze` fails, this is
    /// called again the next time.
    fn name_siblings(
        _preserved: &mut Preserved<Self::Header, Self::State>,
        _siblings: &Siblings<'_>,
    ) -> Result {
        build_error!(VTABLE_DEFAULT_ERROR)
    }

    /// Undoes `freeze`: the old kernel goes on.
    fn unfreeze(_file: &File, _preserved: &mut Preserved<Self::Header, Self::State>) {
        build_error!(VTABLE_DEFAULT_ERROR)
    }

    /// Takes over all that `header` names. Anything may be wrong with it.
    fn claim(header: Incoming<Self::Header>) -> Self::Memory;

    /// Checks all that can be checked without looking at what the header names.
    fn parse(raw: &Self::Header) -> Result<Self::Parsed, abi::Error>;

    /// Checks as much as is needed to free everything.
    fn check(memory: Self::Memory, header: &Self::Parsed) -> Result<Self::Checked, RestoreError>;

    /// Restores a file. If this fails, all is freed but for what the error has, with which this is called
    /// again if the user tries again.
    fn retrieve(
        memory: Self::Checked,
        header: &Self::Parsed,
    ) -> Result<Retrieved<Self::Live>, Failed<Self::Checked>>;

    /// All of a session is about to be finished, and nobody asked for the file that `header` is of.
    /// Nothing of any file of the session is freed before this returns.
    fn before_discard(_header: &Self::Parsed) {
        build_error!(VTABLE_DEFAULT_ERROR)
    }

    /// All of a session is about to be finished, and this file was retrieved. Nothing of any file of the
    /// session is released before this returns.
    fn before_finish(_file: &File) {
        build_error!(VTABLE_DEFAULT_ERROR)
    }

    /// All of a session is about to be finished, and there is no file of something that was preserved in it, and
    /// never will be. Either it was retrieved, as `live`, and LUO could not take it: its file is closed by now,
    /// unless another file of the previous kernel named the same header, and has it. Or what was preserved cannot
    /// be read, so that it can be anything. Nothing of any file of the session is released before this returns.
    ///
    /// This may be called several times for one file.
    fn before_loss(_live: Option<&Self::Live>) {
        build_error!(VTABLE_DEFAULT_ERROR)
    }

    /// The user is done with the update: `live` is not needed any more. What cannot be released yet
    /// is returned, and is released later.
    fn finished(_file: &File, live: Self::Live) -> Option<KBox<dyn Orphan>> {
        drop(live);
        None
    }

    /// Makes the checksums in the header fit what the test hook damaged.
    #[cfg(CONFIG_LIVEUPDATE_TEST)]
    fn test_sum(_header: &mut Self::Header, _state: &Self::State) {}

    /// The records that the test hook may damage.
    #[cfg(CONFIG_LIVEUPDATE_TEST)]
    fn test_records(_state: &Self::State) -> Option<crate::test::Records<'_>> {
        None
    }
}

/// A registered handler.
///
/// # Invariants
///
/// `handler` is registered with LUO as long as this exists, and is the field of this name in a
/// `Registration<T>` that does not move.
#[pin_data(PinnedDrop)]
pub struct Registration<T: FileHandler> {
    /// By the header that the file had, which is gone.
    #[pin]
    live: Mutex<RBTree<status::Key, Retained<T>>>,
    report: status::Entry,
    /// Whether files may be preserved.
    ready: Atomic<bool>,
    /// Registered with the handler, if there is one.
    flb: Option<Pin<KBox<FlbSlot<T>>>>,
    // Last: LUO may use the handler as soon as it is registered.
    #[pin]
    handler: Opaque<bindings::liveupdate_file_handler>,
}

// SAFETY: LUO's list may be changed from any thread, and all that is kept is `Send`.
unsafe impl<T: FileHandler> Send for Registration<T> {}
// SAFETY: All that is changed after registration is behind mutexes.
unsafe impl<T: FileHandler> Sync for Registration<T> {}

impl<T: FileHandler> Registration<T> {
    /// Registers the handler. The module that `T` is in cannot be unloaded while it is in use.
    ///
    /// This must be the last step of loading the module that can fail: files may be preserved from
    /// here on.
    pub fn new() -> Result<Pin<KBox<Self>>> {
        let this = Self::register(None)?;
        this.ready.store(true, Relaxed);
        Ok(this)
    }

    /// Registers the handler with the state that its files share. As [`Registration::new`].
    pub fn with_flb() -> Result<Pin<KBox<Self>>> {
        let flb = KBox::pin_init(FlbSlot::new(), GFP_KERNEL)?;
        let this = Self::register(Some(flb))?;
        if let Some(flb) = &this.flb {
            // SAFETY: The handler is registered, and unregistering it comes before dropping `flb`.
            match unsafe { flb.as_ref().register(this.handler.get()) } {
                Ok(()) => this.ready.store(true, Relaxed),
                // Files that arrived may be using the handler already: the module has to stay.
                Err(err) => pr_err!(
                    "{}: cannot register shared state: {:?}; nothing can be preserved\n",
                    T::COMPATIBLE,
                    err
                ),
            }
        }
        Ok(this)
    }

    /// Registers the handler with state of the kernel's own, which `register` adds. As
    /// [`Registration::new`].
    ///
    /// # Safety
    ///
    /// `register` must do nothing with the handler but `liveupdate_register_flb()`.
    pub unsafe fn with_kernel_flb(
        register: unsafe extern "C" fn(*mut bindings::liveupdate_file_handler) -> c_int,
    ) -> Result<Pin<KBox<Self>>> {
        let this = Self::register(None)?;
        // SAFETY: The handler is registered, and LUO drops what is added to it when it is unregistered.
        match to_result(unsafe { register(this.handler.get()) }) {
            Ok(()) => this.ready.store(true, Relaxed),
            // As in `with_flb()`.
            Err(err) => pr_err!(
                "{}: cannot register with what the kernel hands over: {:?}; nothing can be preserved\n",
                T::COMPATIBLE,
                err
            ),
        }
        Ok(this)
    }

    /// The state that the handler's files share.
    pub fn flb(&self) -> Option<Pin<&FlbSlot<T>>> {
        self.flb.as_ref().map(Pin::as_ref)
    }

    fn register(flb: Option<Pin<KBox<FlbSlot<T>>>>) -> Result<Pin<KBox<Self>>> {
        let report = status::Entry::new(
            T::COMPATIBLE,
            <T::OwnerModule as ModuleMetadata>::NAME, //
        )?;
        KBox::try_pin_init(
            try_pin_init!(Self {
                live <- Mutex::new(RBTree::new(), LIVE, static_lock_class!()),
                report,
                ready: Atomic::new(false),
                flb,
                handler <- Opaque::try_ffi_init(|slot: *mut bindings::liveupdate_file_handler| {
                    // SAFETY: `slot` is valid for writes.
                    unsafe { Adapter::<T>::init(slot) };
                    // SAFETY: It is initialised, and by the type invariants lives until it is
                    // unregistered.
                    // INVARIANT: It is registered if this succeeds.
                    to_result(unsafe { bindings::liveupdate_register_file_handler(slot) })
                }),
            }),
            GFP_KERNEL,
        )
    }
}

/// The name of the lock of all registrations. lockdep compares addresses, and a literal in a generic function
/// has another one in each module that uses it.
static LIVE: &CStr = c"luo_live";

#[pinned_drop]
impl<T: FileHandler> PinnedDrop for Registration<T> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: By the type invariants it is registered. No file uses it: each has a reference of
        // the module.
        unsafe { bindings::liveupdate_unregister_file_handler(self.handler.get()) };
    }
}

/// `name` with NULs up to the size of a field of LUO.
pub(crate) const fn padded<const LEN: usize>(name: &CStr) -> [u8; LEN] {
    let from = name.to_bytes_with_nul();
    assert!(from.len() <= LEN, "the name is too long for LUO");
    let mut to = [0; LEN];
    let mut i = 0;
    while i < from.len() {
        to[i] = from[i];
        i += 1;
    }
    to
}

/// The module that a handler is in.
pub(crate) const fn owner<T: FileHandler>() -> *mut kernel::bindings::module {
    this_module::<T::OwnerModule>().as_ptr()
}

// SPDX-License-Identifier: GPL-2.0-only

//! The C callbacks of a [`FileHandler`].
//!
//! They convert and call, and keep the books. An error is always a negative number: LUO would take a
//! positive one for success in some places.

use super::{
    kept::Kept,
    owner,
    padded,
    FileHandler,
    Preserved,
    Registration,
    Siblings, //
};
use crate::{
    bindings,
    fs,
    orphan,
    status::{
        FileState,
        Key, //
    },
    test, //
};
use core::marker::PhantomData;
use kernel::{
    container_of,
    error::from_result,
    fs::File,
    prelude::*,
    rbtree::RBTreeNodeReservation,
    sync::{
        aref::ARef,
        atomic::Relaxed, //
    },
    types::{
        ForeignOwnable,
        Opaque, //
    }, //
};

/// Length of a handler's name in LUO, with the final NUL.
const COMPATIBLE_LEN: usize = bindings::LIVEUPDATE_HNDL_COMPAT_LENGTH as usize;

/// What LUO's private data of a preserved file is.
type Private<T> = KBox<Preserved<<T as FileHandler>::Header, <T as FileHandler>::State>>;

pub(super) struct Adapter<T: FileHandler>(PhantomData<T>);

impl<T: FileHandler> Adapter<T> {
    const OPS: bindings::liveupdate_file_ops = bindings::liveupdate_file_ops {
        can_preserve: Some(Self::can_preserve),
        preserve: Some(Self::preserve),
        unpreserve: Some(Self::unpreserve),
        freeze: Some(Self::freeze),
        unfreeze: Some(Self::unfreeze),
        retrieve: Some(Self::retrieve),
        can_finish: if T::HAS_BEFORE_DISCARD || T::HAS_BEFORE_LOSS || T::HAS_BEFORE_FINISH {
            Some(Self::can_finish)
        } else {
            None
        },
        finish: Some(Self::finish),
        get_id: Some(Self::get_id),
        owner: owner::<T>(),
    };

    const COMPATIBLE: [u8; COMPATIBLE_LEN] = padded(T::COMPATIBLE);

    /// Fills in what LUO reads when the handler is registered.
    ///
    /// # Safety
    ///
    /// `slot` must be valid for writes.
    pub(super) unsafe fn init(slot: *mut bindings::liveupdate_file_handler) {
        let handler = bindings::liveupdate_file_handler {
            ops: &Self::OPS,
            compatible: Self::COMPATIBLE,
            ..pin_init::zeroed()
        };
        // SAFETY: The caller guarantees it.
        unsafe { slot.write(handler) };
    }

    /// # Safety
    ///
    /// `args` must be what LUO gives to a callback of this handler, but `retrieve`, or to `finish`
    /// of a file that was retrieved.
    unsafe fn file<'a>(args: &bindings::liveupdate_file_op_args) -> &'a File {
        // SAFETY: LUO has a reference of the file during the call; it has it from a plain `fget()`.
        unsafe { File::from_raw_file(args.file) }
    }

    /// # Safety
    ///
    /// `args` must be what LUO gives to a callback of this handler.
    unsafe fn registration<'a>(args: &bindings::liveupdate_file_op_args) -> &'a Registration<T> {
        // SAFETY: The caller guarantees it.
        unsafe { Self::of(args.handler) }
    }

    /// # Safety
    ///
    /// `handler` must be this handler.
    unsafe fn of<'a>(handler: *mut bindings::liveupdate_file_handler) -> &'a Registration<T> {
        let handler = handler.cast::<Opaque<bindings::liveupdate_file_handler>>();
        // SAFETY: By the invariants of `Registration`, LUO knows only handlers in a registration,
        // which stays as long as files use it.
        unsafe { &*container_of!(handler, Registration<T>, handler) }
    }

    /// # Safety
    ///
    /// `handler` must be this handler, and `file` must be valid.
    unsafe extern "C" fn can_preserve(
        handler: *mut bindings::liveupdate_file_handler,
        file: *mut kernel::bindings::file,
    ) -> bool {
        // SAFETY: The handler is one of ours.
        let reg = unsafe { Self::of(handler) };
        // SAFETY: LUO has a reference of the file during the call.
        reg.ready.load(Relaxed) && T::can_preserve(unsafe { File::from_raw_file(file) })
    }

    /// # Safety
    ///
    /// `file` must be valid.
    unsafe extern "C" fn get_id(file: *mut kernel::bindings::file) -> c_ulong {
        // SAFETY: LUO has a reference of the file during the call.
        let file = unsafe { File::from_raw_file(file) };
        if T::HAS_ID {
            T::id(file) as c_ulong
        } else {
            fs::inode_key(file) as c_ulong
        }
    }

    /// # Safety
    ///
    /// `args` must be valid, with a file that is not preserved.
    unsafe extern "C" fn preserve(args: *mut bindings::liveupdate_file_op_args) -> c_int {
        // SAFETY: The caller guarantees it.
        let args = unsafe { &mut *args };
        // SAFETY: As above.
        let (reg, file) = unsafe { (Self::registration(args), Self::file(args)) };
        from_result(|| {
            test::fail(test::Step::Preserve)?;
            let row = reg.report.reserve()?;
            let preserved: Private<T> = KBox::new(T::preserve(file)?, GFP_KERNEL)?;

            args.serialized_data = preserved.header.phys();
            let key = Key::Outgoing(args.serialized_data);
            row.insert(key, file, FileState::Preserved, preserved.bytes);
            args.private_data = preserved.into_foreign();
            Ok(0)
        })
    }

    /// # Safety
    ///
    /// `args` must be valid, with a file that is preserved, which it is not any more afterwards.
    unsafe extern "C" fn unpreserve(args: *mut bindings::liveupdate_file_op_args) {
        // SAFETY: The caller guarantees it.
        let args = unsafe { &mut *args };
        // SAFETY: As above.
        let (reg, file) = unsafe { (Self::registration(args), Self::file(args)) };
        // SAFETY: `preserve` set the private data, and this is the last use.
        let preserved = unsafe { Private::<T>::from_foreign(args.private_data) };
        test::repair(file);
        drop(preserved);
        reg.report.remove(Key::Outgoing(args.serialized_data));
    }

    /// # Safety
    ///
    /// `args` must be valid, with a file that is preserved.
    unsafe extern "C" fn freeze(args: *mut bindings::liveupdate_file_op_args) -> c_int {
        // SAFETY: The caller guarantees it.
        let args = unsafe { &mut *args };
        // SAFETY: As above.
        let (reg, file) = unsafe { (Self::registration(args), Self::file(args)) };
        // SAFETY: `preserve` set the private data. LUO holds the file's mutex, so that this is the
        // only reference.
        let preserved = unsafe { Private::<T>::borrow_mut(args.private_data) };
        from_result(|| {
            test::repair(file);
            test::fail(test::Step::Freeze)?;
            if T::HAS_NAME_SIBLINGS {
                // SAFETY: These are the arguments of this call.
                T::name_siblings(preserved, unsafe { &Siblings::new(args) })?;
            }
            if T::HAS_FREEZE {
                T::freeze(file, preserved)?;
            }
            #[cfg(CONFIG_LIVEUPDATE_TEST)]
            test::damage(
                file,
                &mut *preserved.header,
                T::test_records(&preserved.state),
                |header| T::test_sum(header, &preserved.state),
            )?;
            let key = Key::Outgoing(args.serialized_data);
            reg.report.set_state(key, FileState::Frozen);
            Ok(0)
        })
    }

    /// # Safety
    ///
    /// `args` must be valid, with a file that is preserved and frozen.
    unsafe extern "C" fn unfreeze(args: *mut bindings::liveupdate_file_op_args) {
        // SAFETY: The caller guarantees it.
        let args = unsafe { &mut *args };
        // SAFETY: As above.
        let (reg, file) = unsafe { (Self::registration(args), Self::file(args)) };
        // SAFETY: As in `freeze`.
        let preserved = unsafe { Private::<T>::borrow_mut(args.private_data) };
        test::repair(file);
        if T::HAS_UNFREEZE {
            T::unfreeze(file, preserved);
        }
        let key = Key::Outgoing(args.serialized_data);
        reg.report.set_state(key, FileState::Preserved);
    }

    /// # Safety
    ///
    /// `args` must be valid. Unless `try_again` is set afterwards, LUO must never ask for the same serialised
    /// data again but to finish.
    unsafe extern "C" fn retrieve(args: *mut bindings::liveupdate_file_op_args) -> c_int {
        // SAFETY: The caller guarantees it.
        let args = unsafe { &mut *args };
        // SAFETY: As above.
        let reg = unsafe { Self::registration(args) };
        from_result(|| {
            let key = Key::Incoming(args.serialized_data);
            // Nothing has happened if one of these fails.
            args.try_again = true;
            let row = reg.report.reserve()?;
            let node = RBTreeNodeReservation::new(GFP_KERNEL)?;
            let slot = orphan::Slot::new()?;
            args.try_again = false;

            // From here on the state is used up, unless the handler gives it back.
            let restored = match reg.take_postponed(key) {
                Some(postponed) => Self::go_on(postponed),
                None => match Self::take_header(args.serialized_data) {
                    Ok(header) => {
                        if let Err(err) = test::fail(test::Step::Retrieve) {
                            Self::discard(header);
                            return Err(err);
                        }
                        Self::restore(header)
                    }
                    Err(err) => Err((err, Some(Kept::Unread))),
                },
            };
            let (kept, result) = match restored {
                Ok(retrieved) => {
                    row.insert(key, &retrieved.file, FileState::Retrieved, retrieved.bytes);
                    args.file = ARef::into_raw(retrieved.file).as_ptr().cast();
                    (Kept::Live(retrieved.live), Ok(0))
                }
                Err((err, None)) => return Err(err),
                Err((err, Some(kept))) => {
                    args.try_again = matches!(kept, Kept::Postponed(_));
                    (kept, Err(err))
                }
            };
            reg.keep(key, node, slot, kept);
            result
        })
    }

    /// Only tells that the end is near: there is no way to refuse it.
    ///
    /// # Safety
    ///
    /// `args` must be valid, of a file that arrived.
    unsafe extern "C" fn can_finish(args: *mut bindings::liveupdate_file_op_args) -> bool {
        // SAFETY: The caller guarantees it.
        let args = unsafe { &mut *args };
        // SAFETY: As above.
        let reg = unsafe { Self::registration(args) };
        if args.retrieve_status == 0 {
            Self::before_discard(reg, args.serialized_data);
        } else if T::HAS_BEFORE_LOSS && args.retrieve_status < 0 {
            reg.with_lost(Key::Incoming(args.serialized_data), T::before_loss);
        } else if T::HAS_BEFORE_FINISH && args.retrieve_status > 0 {
            // SAFETY: As above; the file was retrieved.
            T::before_finish(unsafe { Self::file(args) });
        }
        true
    }

    /// # Safety
    ///
    /// `args` must be valid, and must be the last thing that LUO does with the file.
    unsafe extern "C" fn finish(args: *mut bindings::liveupdate_file_op_args) {
        // SAFETY: The caller guarantees it.
        let args = unsafe { &mut *args };
        // SAFETY: As above.
        let reg = unsafe { Self::registration(args) };
        let key = Key::Incoming(args.serialized_data);
        if args.retrieve_status == 0 {
            if let Some(postponed) = reg.take_postponed(key) {
                drop(postponed);
            } else if let Ok(header) = Self::take_header(args.serialized_data) {
                Self::discard(header);
            }
        } else if args.retrieve_status < 0 && reg.remove_twin(key) {
            // What is kept is that of another file.
        } else if let Some(retained) = reg.take_live(key) {
            // Without a file, LUO failed after `retrieve` did not: the file is gone.
            if let (1.., Kept::Live(live)) = (args.retrieve_status, retained.kept) {
                // SAFETY: As above; the file was retrieved.
                let file = unsafe { Self::file(args) };
                if let Some(orphan) = T::finished(file, live) {
                    // SAFETY: LUO has a reference of the module as long as it has the file.
                    unsafe { retained.slot.fill(orphan, owner::<T>()) };
                }
            }
            reg.report.remove(key);
        }
        orphan::retry();
        if let Some(flb) = reg.flb() {
            flb.before_finish();
        }
    }
}

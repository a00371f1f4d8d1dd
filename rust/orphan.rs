// SPDX-License-Identifier: GPL-2.0-only

//! Resources of a finished file that cannot be released yet.
//!
//! A handler cannot keep a session from being finished. What is still in use then, such as memory
//! that a device may write to, is left with this crate, which keeps it, reports it in
//! `/dev/luo_status`, and tries to release it whenever a handler is called or the report is read.
//!
//! Lock order: [`ORPHANS`] is taken last, but for what [`Orphan::try_release`] takes.

use kernel::{
    bindings::module,
    prelude::*,
    rbtree::{
        RBTree,
        RBTreeNodeReservation, //
    }, //
};

kernel::sync::global_lock! {
    // SAFETY: `Orphanage::new()` is called when the module is loaded, before anything else.
    unsafe(uninit) static ORPHANS: Mutex<Option<Orphans>> = None;
}

struct Orphans {
    next: u64,
    list: RBTree<u64, Entry>,
}

/// A resource that can be released later.
pub trait Orphan: Send {
    /// Format of the file that it belonged to.
    fn compatible(&self) -> &'static str;

    /// Memory in bytes.
    fn bytes(&self) -> u64;

    /// Releases it, or returns `false` if that is not possible yet. It is dropped after `true`.
    fn try_release(&mut self) -> bool;
}

/// A reference of a module, which keeps its code where it is.
struct ModuleRef(*mut module);

// SAFETY: References of modules may be put from any thread.
unsafe impl Send for ModuleRef {}

impl ModuleRef {
    /// # Safety
    ///
    /// The caller must make sure that there is a reference of `module` already.
    unsafe fn new(module: *mut module) -> Self {
        // SAFETY: The caller guarantees it.
        unsafe { crate::bindings::luo_helper_module_get(module) };
        Self(module)
    }
}

impl Drop for ModuleRef {
    fn drop(&mut self) {
        // SAFETY: It was got in `new()`.
        unsafe { crate::bindings::luo_helper_module_put(self.0) };
    }
}

/// The fields are dropped in this order: the module has the code that drops the resource.
struct Entry {
    orphan: KBox<dyn Orphan>,
    _module: ModuleRef,
}

/// Room for one orphan, to be got while there still can be an error.
pub(crate) struct Slot(RBTreeNodeReservation<u64, Entry>);

impl Slot {
    /// Allocates the room.
    pub(crate) fn new() -> Result<Self> {
        Ok(Self(RBTreeNodeReservation::new(GFP_KERNEL)?))
    }

    /// Keeps `orphan`, a resource of the handler in `module`.
    ///
    /// # Safety
    ///
    /// There must be a reference of `module`, as there is in a callback of its handlers.
    pub(crate) unsafe fn fill(self, orphan: KBox<dyn Orphan>, module: *mut module) {
        let entry = Entry {
            orphan,
            // SAFETY: The caller guarantees it.
            _module: unsafe { ModuleRef::new(module) },
        };
        let mut orphans = ORPHANS.lock();
        if let Some(Orphans { next, list }) = &mut *orphans {
            let old = list.insert(self.0.into_node(*next, entry));
            debug_assert!(old.is_none());
            *next += 1;
        }
    }
}

/// Keeps what is left with it as long as the module is loaded.
pub(crate) struct Orphanage(());

impl Orphanage {
    /// Called once, when the module is loaded.
    pub(crate) fn new() -> Self {
        // SAFETY: Modules are initialised once.
        unsafe { ORPHANS.init() };
        *ORPHANS.lock() = Some(Orphans {
            next: 0,
            list: RBTree::new(),
        });
        Self(())
    }
}

/// Releases what can be released.
pub(crate) fn retry() {
    let mut orphans = ORPHANS.lock();
    let Some(orphans) = &mut *orphans else {
        return;
    };
    let mut cursor = orphans.list.cursor_front_mut();
    while let Some(mut current) = cursor {
        let (_, entry) = current.current_mut();
        if entry.orphan.try_release() {
            let (next, node) = current.remove_current();
            drop(node);
            cursor = next;
        } else {
            cursor = current.move_next();
        }
    }
}

/// Calls `f` with format and size of each orphan, until it fails.
pub(crate) fn try_for_each<E>(mut f: impl FnMut(&str, u64) -> Result<(), E>) -> Result<(), E> {
    let orphans = ORPHANS.lock();
    if let Some(orphans) = &*orphans {
        for entry in orphans.list.values() {
            f(entry.orphan.compatible(), entry.orphan.bytes())?;
        }
    }
    Ok(())
}

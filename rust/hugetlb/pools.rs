// SPDX-License-Identifier: GPL-2.0-only

//! Tells the next kernel how many huge pages are preserved for its pools.

use crate::{
    abi::pools::{
        PoolsSer,
        SUBTREE, //
    },
    bindings,
    kho::PreservedBox,
    liveupdate, //
};
use kernel::{
    error::to_result,
    prelude::*, //
};

/// The table that the next kernel reads at boot.
///
/// # Invariants
///
/// The memory of `table` is published under [`SUBTREE`] as long as this exists.
struct Published {
    table: PreservedBox<PoolsSer>,
}

impl Published {
    fn new() -> Result<Self> {
        let mut table = PreservedBox::new(PoolsSer::new())?;
        let ptr: *mut PoolsSer = &raw mut *table;
        // SAFETY: The name is a C string. The memory is in the direct map, and stays there until
        // `drop()` has removed it.
        to_result(unsafe {
            bindings::kho_add_subtree(SUBTREE.as_char_ptr(), ptr.cast(), size_of::<PoolsSer>())
        })?;
        // INVARIANT: Just published.
        Ok(Self { table })
    }
}

impl Drop for Published {
    fn drop(&mut self) {
        let ptr: *mut PoolsSer = &raw mut *self.table;
        // SAFETY: By the type invariants it is published.
        unsafe { bindings::kho_remove_subtree(ptr.cast()) };
    }
}

/// The table exists as long as there are huge pages in it, or somebody may add some.
struct Table {
    users: usize,
    published: Option<Published>,
}

kernel::sync::global_lock! {
    // SAFETY: `init()` is called when the module is loaded, before anything else.
    unsafe(uninit) static TABLE: Mutex<Table> = Table { users: 0, published: None };
}

/// The table, for the test hook.
#[cfg(CONFIG_LIVEUPDATE_TEST)]
pub(crate) fn table() -> Option<core::ptr::NonNull<[u8]>> {
    let mut table = TABLE.lock();
    let published = table.published.as_mut()?;
    Some(zerocopy::IntoBytes::as_mut_bytes(&mut *published.table).into())
}

/// Proof that the table can be used.
///
/// If possible, the table is made when the module is loaded: KHO warns if there is no memory for it.
pub(crate) struct Registry(#[expect(dead_code, reason = "owned")] Option<Counted>);

impl Registry {
    /// Called once, when the module is loaded.
    pub(crate) fn new(_module: &'static ThisModule) -> Self {
        // SAFETY: Modules are initialised once.
        unsafe { TABLE.init() };
        Self(
            liveupdate::enabled()
                .then(Counted::new)
                .and_then(Result::ok),
        )
    }
}

/// The right to count huge pages.
///
/// # Invariants
///
/// It is one of `users`.
pub(super) struct Counted(());

impl Counted {
    /// Makes the table if there is none.
    pub(super) fn new() -> Result<Self> {
        let mut table = TABLE.lock();
        if table.published.is_none() {
            table.published = Some(Published::new()?);
        }
        table.users += 1;
        // INVARIANT: Just added.
        Ok(Self(()))
    }

    /// Counts one more huge page. Fails with `ENOSPC` if there is no room for its size and node.
    pub(super) fn add(&self, order: u32, nid: i32) -> Result {
        let mut table = TABLE.lock();
        let table = table.published.as_mut().ok_or(ENOSPC)?;
        table.table.add(order, nid).then_some(()).ok_or(ENOSPC)
    }

    /// Counts one less.
    pub(super) fn remove(&self, order: u32, nid: i32) {
        if let Some(table) = TABLE.lock().published.as_mut() {
            table.table.remove(order, nid);
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut table = TABLE.lock();
        table.users -= 1;
        if table.users == 0 {
            table.published = None;
        }
    }
}

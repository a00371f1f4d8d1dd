// SPDX-License-Identifier: GPL-2.0-only

//! What is kept of files between the first attempt to retrieve them and their end.

use super::{
    FileHandler,
    Registration, //
};
use crate::{
    orphan,
    status::Key, //
};
use kernel::rbtree::RBTreeNodeReservation;

/// A file that could not be retrieved yet.
pub(super) struct Postponed<T: FileHandler> {
    pub(super) memory: T::Checked,
    pub(super) header: T::Parsed,
}

/// What a file that is not finished has.
pub(super) enum Kept<T: FileHandler> {
    Live(T::Live),
    Postponed(Postponed<T>),
    /// Nothing, as what was preserved could not be read. So it is not known what that was.
    Unread,
}

/// What is kept of a file between the attempt to retrieve it and its end.
pub(super) struct Retained<T: FileHandler> {
    pub(super) kept: Kept<T>,
    /// Room to keep it longer.
    pub(super) slot: orphan::Slot,
    /// Files that named the same header, and so were refused.
    twins: u32,
}

/// Room for what is kept of a file.
pub(super) type Room<T> = RBTreeNodeReservation<Key, Retained<T>>;

impl<T: FileHandler> Registration<T> {
    /// Keeps something of a file.
    ///
    /// Of files that name the same header, one can have been retrieved. The others are only counted.
    pub(super) fn keep(&self, key: Key, room: Room<T>, slot: orphan::Slot, kept: Kept<T>) {
        let mut live = self.live.lock();
        let mut twins = 0;
        if let Some(other) = live.get_mut(&key) {
            twins = other.twins.saturating_add(1);
            if matches!(kept, Kept::Unread) {
                other.twins = twins;
                return;
            }
        }
        let old = live.insert(room.into_node(key, Retained { kept, slot, twins }));
        drop(live);
        drop(old);
    }

    /// Takes what is kept of a file that is finished.
    pub(super) fn take_live(&self, key: Key) -> Option<Retained<T>> {
        self.live.lock().remove(&key)
    }

    /// Takes what is left of a file that could not be retrieved.
    pub(super) fn take_postponed(&self, key: Key) -> Option<Postponed<T>> {
        let mut live = self.live.lock();
        if !matches!(live.get(&key)?.kept, Kept::Postponed(_)) {
            return None;
        }
        match live.remove(&key)?.kept {
            Kept::Postponed(postponed) => Some(postponed),
            Kept::Live(_) | Kept::Unread => None,
        }
    }

    /// Calls `f` for a file that could not be retrieved, and may be later. Returns whether it is one.
    pub(super) fn with_postponed(&self, key: Key, f: impl FnOnce(&T::Parsed)) -> bool {
        let live = self.live.lock();
        let postponed = match live.get(&key).map(|file| &file.kept) {
            Some(Kept::Postponed(postponed)) => postponed,
            _ => return false,
        };
        f(&postponed.header);
        true
    }

    /// Calls `f` for a file that never can be retrieved: with what is kept of it, if it could have been, and with
    /// nothing if it is not known what it was. That of a twin was that of another file.
    pub(super) fn with_lost(&self, key: Key, f: impl Fn(Option<&T::Live>)) {
        let live = self.live.lock();
        let Some(Retained { kept, twins, .. }) = live.get(&key) else {
            return;
        };
        if let Kept::Live(kept) = kept {
            f(Some(kept));
        }
        let unread = matches!(kept, Kept::Unread) || *twins != 0;
        drop(live);
        if unread {
            f(None);
        }
    }

    /// Whether a file that could not be retrieved is a twin of another one, once for each.
    pub(super) fn remove_twin(&self, key: Key) -> bool {
        let mut live = self.live.lock();
        let Some(retained) = live.get_mut(&key) else {
            return false;
        };
        let left = retained.twins.checked_sub(1);
        retained.twins = left.unwrap_or(0);
        left.is_some()
    }
}

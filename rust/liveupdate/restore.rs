// SPDX-License-Identifier: GPL-2.0-only

//! What the callbacks of a [`FileHandler`] do with what the previous kernel preserved.

use super::{
    adapter::Adapter,
    kept::{
        Kept,
        Postponed, //
    },
    FileHandler,
    Registration,
    Retrieved, //
};
use crate::{
    kho::{
        Failed,
        Incoming,
        RestoreError,
        Waiting, //
    },
    status::Key, //
};
use kernel::prelude::*;

/// A file, or an error, and what is to be kept of it all the same.
type Restored<T> = Result<Retrieved<<T as FileHandler>::Live>, (Error, Option<Kept<T>>)>;

impl<T: FileHandler> Adapter<T> {
    /// Makes the file again, or frees what it consists of, or says what is to be kept.
    pub(super) fn restore(header: Incoming<T::Header>) -> Restored<T> {
        let raw = *header;
        let memory = T::claim(header);
        let header = match T::parse(&raw) {
            Ok(header) => header,
            Err(err) => {
                let err = Self::lost(&RestoreError::Header(err));
                return Err((err, Some(Kept::Unread)));
            }
        };
        match T::check(memory, &header) {
            Ok(memory) => Self::go_on(Postponed { memory, header }),
            Err(err) => Err((Self::lost(&err), None)),
        }
    }

    /// As [`Self::restore`], from where it is certain what there is.
    pub(super) fn go_on(Postponed { memory, header }: Postponed<T>) -> Restored<T> {
        T::retrieve(memory, &header).map_err(|Failed { error, rest }| match rest {
            None => (Self::lost(&error), None),
            Some(memory) => {
                pr_warn!(
                    "{}: retrieve failed, it can be tried again: {}\n",
                    T::COMPATIBLE,
                    error
                );
                let postponed = Kept::Postponed(Postponed { memory, header });
                (error.to_error(), Some(postponed))
            }
        })
    }

    fn lost(err: &RestoreError) -> Error {
        pr_err!(
            "{}: retrieve failed, the file is lost and {}: {}\n",
            T::COMPATIBLE,
            T::WHEN_LOST,
            err
        );
        err.to_error()
    }

    /// Frees what nobody wants.
    pub(super) fn discard(header: Incoming<T::Header>) {
        let raw = *header;
        let memory = T::claim(header);
        let checked = T::parse(&raw)
            .map_err(RestoreError::Header)
            .and_then(|parsed| T::check(memory, &parsed));
        if let Err(err) = checked {
            pr_err!(
                "{}: finish: {}; what cannot be identified stays unused until the next boot\n",
                T::COMPATIBLE,
                err
            );
        }
    }

    /// Takes over what is at `phys`.
    pub(super) fn take_header(phys: u64) -> Result<Incoming<T::Header>> {
        Incoming::from_phys(phys).inspect_err(|err| {
            pr_err!(
                "{}: the handed-over state is not where the previous kernel said: {:?}; its memory stays unused until the next boot\n",
                T::COMPATIBLE,
                err
            )
        })
    }

    /// Tells the handler that nobody asked for what is at `phys`.
    pub(super) fn before_discard(reg: &Registration<T>, phys: u64) {
        let tell = |header: &T::Parsed| {
            if T::HAS_BEFORE_DISCARD {
                T::before_discard(header);
            }
        };
        let raw = Waiting::find(phys).and_then(|memory| memory.peek::<T::Header>().next());
        let known = match raw.map(|raw| T::parse(&raw)) {
            Some(header) => header.map(|header| tell(&header)).is_ok(),
            None => reg.with_postponed(Key::Incoming(phys), tell),
        };
        if T::HAS_BEFORE_LOSS && !known {
            T::before_loss(None);
        }
    }
}

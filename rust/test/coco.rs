// SPDX-License-Identifier: GPL-2.0-only

//! A backend that pretends that private memory is encrypted, and mistakes with guest memory on purpose.

use crate::{
    abi::extents::Class,
    coco::CocoBackend, //
};
use kernel::{
    prelude::*,
    sync::atomic::{
        Atomic,
        Relaxed, //
    }, //
};

/// What the fake backend is like; 0 if there is none.
static FAKE: Atomic<u32> = Atomic::new(0);
/// It is in force.
const STRICT: u32 = 1;
/// It allows everything, and complains as well: a control that it does.
const LAX: u32 = 2;

/// Which [`Mistake`]s are made.
static MISTAKES: Atomic<u32> = Atomic::new(0);

/// Something that a test must notice.
#[derive(Clone, Copy)]
pub enum Mistake {
    /// Pages that were never used are taken for clean when they are preserved.
    NotCleared = 1,
    /// The next kernel does not know that pages have been used.
    Stale = 2,
    /// The next kernel does not set memory policies.
    NoPolicy = 4,
}

/// Private memory is as if it was encrypted.
struct Fake {
    lax: bool,
}

impl CocoBackend for Fake {
    fn may_touch(&self, class: Class) -> bool {
        self.lax || matches!(class, Class::Shared)
    }

    fn touched(&self, class: Class) {
        if !matches!(class, Class::Shared) {
            pr_err!("test: the host touched private memory\n");
            // A test fails when the kernel warns.
            kernel::warn_on!(true);
        }
    }
}

/// The backend that was ordered.
pub(crate) fn coco() -> Option<&'static dyn CocoBackend> {
    match FAKE.load(Relaxed) {
        STRICT => Some(&Fake { lax: false }),
        LAX => Some(&Fake { lax: true }),
        _ => None,
    }
}

/// Whether to make it.
pub fn mistake(mistake: Mistake) -> bool {
    MISTAKES.load(Relaxed) & mistake as u32 != 0
}

/// Carries out the rest of the command `coco`, or, with no word, of `reset`.
pub(super) fn order(word: Option<&str>) -> Result {
    match word {
        Some("strict") => FAKE.store(STRICT, Relaxed),
        Some("lax") => FAKE.store(LAX, Relaxed),
        Some("not-cleared") => MISTAKES.store(Mistake::NotCleared as u32, Relaxed),
        Some("stale") => MISTAKES.store(Mistake::Stale as u32, Relaxed),
        Some("no-policy") => MISTAKES.store(Mistake::NoPolicy as u32, Relaxed),
        None => {
            FAKE.store(0, Relaxed);
            MISTAKES.store(0, Relaxed);
        }
        Some(_) => return Err(EINVAL),
    }
    Ok(())
}

// SPDX-License-Identifier: GPL-2.0-only

//! How far the folios of a list were restored, if several CPUs share the work.

use super::RestoreError;
use crate::parallel;
use core::slice;
use kernel::prelude::*;

/// Parts that a list has at most.
const MAX_PARTS: u64 = 16;

/// Pages of a part, or records to check, at least: fewer are done before another CPU has begun.
pub(super) const MIN_PAGES: u64 = 4096;

/// Where a part starts in its list.
#[derive(Clone, Copy, Default)]
pub(super) struct Cursor {
    /// Number of the record.
    pub(super) record: u64,
    /// Pages of it that belong to the part before.
    pub(super) skip: u64,
}

/// A part of a list, that one task works on. Positions are records or pages, as the list counts.
pub(super) struct Part {
    start: u64,
    end: u64,
    pub(super) at: Cursor,
    /// So many from the start were restored, and we have a reference of each.
    pub(super) done: u64,
    /// Why there are not more.
    pub(super) result: Result<(), RestoreError>,
}

impl Part {
    fn new(start: u64, end: u64, at: Cursor) -> Self {
        Self {
            start,
            end,
            at,
            done: 0,
            result: Ok(()),
        }
    }

    /// The first that was not restored.
    pub(super) fn position(&self) -> u64 {
        self.start.saturating_add(self.done)
    }

    pub(super) fn left(&self) -> u64 {
        self.end.saturating_sub(self.position())
    }
}

/// How far a list was restored.
pub(super) struct Progress {
    /// All of it, unless there are parts.
    whole: Part,
    /// In ascending order, without gaps. Not in place: this is moved about, on a small stack.
    parts: KVec<Part>,
}

impl Progress {
    /// Nothing was restored, and there is one part.
    pub(super) fn new() -> Self {
        Self {
            whole: Part::new(0, u64::MAX, Cursor::default()),
            parts: KVec::new(),
        }
    }

    /// For a list with `total` positions.
    pub(super) fn plan(total: u64) -> Planner {
        let nr = (total / MIN_PAGES).min(MAX_PARTS);
        let nr = nr.min(parallel::cpus().into()).max(1);
        let mut planner = Planner {
            progress: Self::new(),
            total,
            each: total,
            next: u64::MAX,
        };
        planner.progress.whole.end = total;
        if nr > 1 {
            // One task does it all if memory is short.
            if let Ok(mut parts) = KVec::with_capacity(nr as usize, GFP_KERNEL) {
                let first = Part::new(0, total, Cursor::default());
                if parts.push_within_capacity(first).is_ok() {
                    planner.progress.parts = parts;
                    planner.each = total.div_ceil(nr);
                    planner.next = planner.each;
                }
            }
        }
        planner
    }

    /// The only part, of a list that is worked on by one task.
    pub(super) fn whole(&mut self) -> &mut Part {
        &mut self.whole
    }

    pub(super) fn parts_mut(&mut self) -> &mut [Part] {
        if self.parts.is_empty() {
            slice::from_mut(&mut self.whole)
        } else {
            &mut self.parts
        }
    }

    fn parts(&self) -> &[Part] {
        if self.parts.is_empty() {
            slice::from_ref(&self.whole)
        } else {
            &self.parts
        }
    }

    /// Whether nothing was restored.
    pub(super) fn is_none(&self) -> bool {
        self.parts().iter().all(|part| part.done == 0)
    }

    /// Whether what is at a position was restored, and for how many from there that is the same.
    pub(super) fn at(&self, position: u64) -> (bool, u64) {
        let parts = self.parts();
        let after = parts.partition_point(|part| part.start <= position);
        let part = after.checked_sub(1).and_then(|nr| parts.get(nr));
        // Behind the last one, nothing was restored.
        let next = parts.get(after).map_or(u64::MAX, |part| part.start);
        let (restored, end) = match part.map(Part::position) {
            Some(end) if position < end => (true, end),
            _ => (false, next),
        };
        (restored, end.saturating_sub(position).max(1))
    }

    /// The first error.
    pub(super) fn result(&mut self) -> Result<(), RestoreError> {
        self.parts_mut()
            .iter_mut()
            .try_for_each(|part| core::mem::replace(&mut part.result, Ok(())))
    }
}

/// Divides a list, whose places are told in order.
pub(super) struct Planner {
    progress: Progress,
    total: u64,
    /// Positions of a part.
    each: u64,
    /// From where on the next part may start.
    next: u64,
}

impl Planner {
    /// A part may start at this position.
    #[inline]
    pub(super) fn may_start(&mut self, position: u64, at: Cursor) {
        if position >= self.next {
            self.start(position, at);
        }
    }

    #[cold]
    #[inline(never)]
    fn start(&mut self, position: u64, at: Cursor) {
        self.next = u64::MAX;
        if position >= self.total {
            return;
        }
        let part = Part::new(position, self.total, at);
        let parts = &mut self.progress.parts;
        let before = parts.len().wrapping_sub(1);
        if parts.push_within_capacity(part).is_err() {
            return;
        }
        if let Some(before) = parts.get_mut(before) {
            before.end = position;
        }
        self.next = self.each.saturating_mul(parts.len() as u64);
    }

    /// All parts, of a list in which one may start at each record.
    pub(super) fn by_record(mut self) -> Progress {
        for nr in 1..MAX_PARTS {
            let record = self.each.saturating_mul(nr);
            self.may_start(record, Cursor { record, skip: 0 });
        }
        self.progress
    }

    /// All parts that were started.
    pub(super) fn end(self) -> Progress {
        self.progress
    }
}

// SPDX-License-Identifier: GPL-2.0-only OR BSD-3-Clause

//! What records must have been before the number of folios in some of them was damaged.

use super::{
    Checksum,
    ExtentList,
    ExtentSer, //
};

/// Gives each record the length that reaches to where the next one starts.
///
/// For a file without holes these are the only possible lengths. Whether they are the right ones, the
/// checksum tells.
#[derive(Clone, Debug)]
pub struct Spans {
    last: Option<ExtentSer>,
    end: u32,
}

impl Spans {
    /// Starts before the first record.
    #[must_use]
    pub fn new(list: &ExtentList) -> Self {
        Self {
            last: None,
            end: list.end,
        }
    }

    /// Adds the next record, and returns the one before it.
    pub fn push(&mut self, record: &ExtentSer) -> Option<ExtentSer> {
        let last = self.last.replace(*record)?;
        Some(reaching(last, record.index))
    }

    /// Returns the last record.
    #[must_use]
    pub fn end(&mut self) -> Option<ExtentSer> {
        let last = self.last.take()?;
        Some(reaching(last, self.end))
    }
}

fn reaching(record: ExtentSer, end: u32) -> ExtentSer {
    ExtentSer {
        nr: end.saturating_sub(record.index),
        ..record
    }
}

/// Finds out whether the lengths of [`Spans`] are those that were stored.
#[derive(Clone, Debug)]
pub struct SpansChecker {
    spans: Spans,
    sum: Checksum,
    expected: u64,
}

impl SpansChecker {
    /// Starts before the first record.
    #[must_use]
    pub fn new(list: &ExtentList) -> Self {
        Self {
            spans: Spans::new(list),
            sum: Checksum::new(),
            expected: list.checksum,
        }
    }

    /// Adds the next record.
    pub fn push(&mut self, record: &ExtentSer) {
        if let Some(record) = self.spans.push(record) {
            self.sum.add_extent(&record);
        }
    }

    /// Whether they are, now that all records were added.
    #[must_use]
    pub fn end(mut self) -> bool {
        if let Some(record) = self.spans.end() {
            self.sum.add_extent(&record);
        }
        self.sum.get() == self.expected
    }
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! KTAP output.

use std::fmt::Display;

/// Counts and prints results.
#[derive(Debug, Default)]
pub struct Report {
    prefix: String,
    number: u32,
    failed: u32,
    skipped: u32,
}

impl Report {
    /// Prints the header; every result's name starts with `prefix` and a dot.
    pub fn new(prefix: &str) -> Self {
        println!("KTAP version 1");
        Self {
            prefix: prefix.into(),
            ..Self::default()
        }
    }

    /// Prints one result.
    pub fn check<E: Display>(&mut self, name: &str, result: Result<(), E>) -> bool {
        self.number += 1;
        let (number, prefix) = (self.number, &self.prefix);
        match result {
            Ok(()) => println!("ok {number} {prefix}.{name}"),
            Err(ref why) => {
                self.failed += 1;
                println!("not ok {number} {prefix}.{name}");
                for line in why.to_string().lines() {
                    println!("# {line}");
                }
            }
        }
        result.is_ok()
    }

    /// Prints that something could not be tested on this machine.
    pub fn skip(&mut self, name: &str, why: &str) {
        self.number += 1;
        self.skipped += 1;
        println!("ok {} {}.{name} # SKIP {why}", self.number, self.prefix);
    }

    /// Prints the plan and the totals; true if nothing failed and something was tested.
    pub fn end(self) -> bool {
        let Self {
            number,
            failed,
            skipped,
            ..
        } = self;
        let passed = number - failed - skipped;
        println!("1..{number}");
        println!("# Totals: pass:{passed} fail:{failed} skip:{skipped}");
        failed == 0 && number > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_or_no_test_at_all_is_a_failure() {
        assert!(!Report::new("t").end());
        let mut report = Report::new("t");
        assert!(report.check("a", Ok::<(), String>(())));
        report.skip("b", "no reason");
        assert!(!report.check("c", Err("two\nlines")));
        assert!(!report.end());
        let mut report = Report::new("t");
        report.skip("b", "no reason");
        assert!(report.end());
    }
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! KTAP output.

use std::{
    fmt::Display,
    process::ExitCode, //
};

/// How it ended as a whole, as kselftest programs tell it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Something was tested and nothing failed.
    Passed,
    /// Something failed, or there was nothing to test.
    Failed,
    /// Nothing could be tested here.
    Skipped,
}

impl From<Outcome> for ExitCode {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Passed => Self::SUCCESS,
            Outcome::Failed => Self::FAILURE,
            Outcome::Skipped => Self::from(4),
        }
    }
}

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

    /// Prints the plan and the totals.
    pub fn end(self) -> Outcome {
        let Self {
            number,
            failed,
            skipped,
            ..
        } = self;
        let passed = number - failed - skipped;
        println!("1..{number}");
        println!("# Totals: pass:{passed} fail:{failed} skip:{skipped}");
        match (failed, passed, skipped) {
            (0, 0, 1..) => Outcome::Skipped,
            (0, 1.., _) => Outcome::Passed,
            _ => Outcome::Failed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_or_no_test_at_all_is_a_failure() {
        assert_eq!(Report::new("t").end(), Outcome::Failed);
        let mut report = Report::new("t");
        assert!(report.check("a", Ok::<(), String>(())));
        report.skip("b", "no reason");
        assert!(!report.check("c", Err("two\nlines")));
        assert_eq!(report.end(), Outcome::Failed);
    }

    #[test]
    fn skips_alone_are_no_success() {
        let mut report = Report::new("t");
        report.skip("b", "no reason");
        assert_eq!(report.end(), Outcome::Skipped);
        let mut report = Report::new("t");
        report.skip("b", "no reason");
        report.check("a", Ok::<(), String>(()));
        assert_eq!(report.end(), Outcome::Passed);
    }
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What the log of a failed test says about why.
//!
//! Who reads a report often has no more than its end: a machine that tests may be gone, and the logs with it.

use regex::Regex;

/// How much of a log is shown.
const LINES: usize = 12;
const LENGTH: usize = 300;

/// The lines that speak of something that failed, each with its reason if the next line is one; or the last
/// lines if none does.
pub(super) fn of(log: &str) -> Vec<String> {
    let telling = Regex::new(
        r"\bnot ok \d|\bBUG: |\bWARNING: |Kernel panic|\bOops|panicked at|^Error: |^error|Bail out!|^run: stage",
    );
    let lines: Vec<&str> = log.lines().filter(|line| !line.trim().is_empty()).collect();
    let mut shown: Vec<&str> = Vec::new();
    let mut is_reason = false;
    for &line in &lines {
        let tells = telling.as_ref().is_ok_and(|telling| telling.is_match(line));
        if tells || is_reason && line.starts_with("# ") {
            shown.push(line);
        }
        is_reason = tells;
    }
    if shown.is_empty() {
        shown = lines[lines.len().saturating_sub(LINES)..].to_vec();
    }
    let cut = |line: &str| line.chars().take(LENGTH).collect();
    shown.into_iter().take(LINES).map(cut).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_failed_is_shown() {
        let log = "ok 1 a\n# x\nnot ok 2 b\n# why\n# y\nnot ok 3 c\nok 4 d\nrun: stage 1 failed\n";
        assert_eq!(
            of(log),
            ["not ok 2 b", "# why", "not ok 3 c", "run: stage 1 failed"]
        );
    }

    #[test]
    fn otherwise_the_end_is() {
        let log: String = (0..40).map(|n| format!("line {n}\n\n")).collect();
        let shown = of(&log);
        assert_eq!(shown.len(), LINES);
        assert_eq!(shown.last().map(String::as_str), Some("line 39"));
        assert_eq!(of(""), [""; 0]);
    }

    #[test]
    fn it_is_bounded() {
        let log = format!("not ok 1 {}\n", "é".repeat(2 * LENGTH)).repeat(3 * LINES);
        let shown = of(&log);
        assert_eq!(shown.len(), LINES);
        assert!(shown.iter().all(|line| line.chars().count() <= LENGTH));
    }
}

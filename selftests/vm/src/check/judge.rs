// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Whether a run on the virtual machine is a pass.

use anyhow::Result;
use regex::Regex;

use super::declared::Declared;
use super::{
    glob,
    Verdict, //
};
use crate::arch::Variant;

/// What kselftest programs return if everything in them was skipped.
const ALL_SKIPPED: i32 = 4;

/// A result of a program in the guest.
#[derive(Debug)]
struct Line {
    name: String,
    /// Why it was skipped, if it was.
    skip: Option<String>,
}

/// The results of each stage that has any.
fn results(console: &str) -> Result<Vec<Vec<Line>>> {
    let result = Regex::new(r"\bok \d+ (?:- )?([^\s#]*)[^#]*(?:#\s*SKIP\b\s*(.*))?")?;
    let mut stages = vec![Vec::new()];
    for line in console.lines() {
        if line.starts_with("lu-init: stage ") {
            stages.push(Vec::new());
        }
        if let (Some(found), Some(stage)) = (result.captures(line), stages.last_mut()) {
            let text = |n| found.get(n).map(|m| m.as_str().trim().to_owned());
            stage.push(Line {
                name: text(1).unwrap_or_default(),
                skip: text(2),
            });
        }
    }
    stages.retain(|stage| !stage.is_empty());
    Ok(stages)
}

/// The reason if everything in a stage was skipped.
fn all_skipped(stage: &[Line]) -> Option<&str> {
    if stage.iter().any(|line| line.skip.is_none()) {
        return None;
    }
    stage.first()?.skip.as_deref()
}

/// A result that was skipped and that the test does not declare for this variant.
fn unexpected(test: &Declared, variant: Variant, stages: &[Vec<Line>]) -> Result<Option<String>> {
    let expected = test
        .skips(variant)
        .iter()
        .map(|pattern| glob(pattern))
        .collect::<Result<Vec<_>>>()?;
    let surprise = stages.iter().flatten().find_map(|line| {
        let why = line.skip.as_ref()?;
        let known = expected.iter().any(|name| name.is_match(&line.name));
        (!known).then(|| format!("{} was skipped, which is not expected: {why}", line.name))
    });
    Ok(surprise)
}

/// Judges what the runner answered and the console shows.
pub(super) fn judge(
    test: &Declared,
    variant: Variant,
    status: Option<i32>,
    console: &str,
) -> Result<Verdict> {
    let stages = results(console)?;
    if let Some(why) = unexpected(test, variant, &stages)? {
        return Ok(Verdict::Fail(why));
    }
    let last = stages.last().and_then(|stage| all_skipped(stage));
    if let (Some(ALL_SKIPPED), Some(why)) = (status, last) {
        return Ok(Verdict::Skip(why.to_owned()));
    }
    if status != Some(test.expect) {
        let shown = status.map_or("killed".to_string(), |s| s.to_string());
        return Ok(Verdict::Fail(format!(
            "the runner ended with {shown}, expected {}",
            test.expect
        )));
    }
    if let Some(why) = stages.iter().find_map(|stage| all_skipped(stage)) {
        return Ok(Verdict::Skip(why.to_owned()));
    }
    for pattern in &test.console {
        if !Regex::new(&format!("(?m){pattern}"))?.is_match(console) {
            return Ok(Verdict::Fail(format!(
                "the console does not show /{pattern}/"
            )));
        }
    }
    for pattern in &test.forbid {
        if Regex::new(&format!("(?m){pattern}"))?.is_match(console) {
            return Ok(Verdict::Fail(format!("the console shows /{pattern}/")));
        }
    }
    Ok(Verdict::Pass)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn test(expect: i32) -> Declared {
        toml::from_str(&format!(
            "name = 'a'\nabout = 'b'\nexpect = {expect}\nconsole = ['^good$']\nforbid = ['bad']\n\
             skip = {{ plain = ['memfd.swap.*'] }}\nstages = [{{ cmd = 'true' }}]"
        ))
        .unwrap()
    }

    fn judged(expect: i32, status: Option<i32>, console: &str) -> Verdict {
        judge(&test(expect), Variant::Plain, status, console).unwrap()
    }

    const SKIPPED: &str = "ok 1 memfd.swap.all # SKIP no zram\n";

    #[test]
    fn a_wrong_status_or_console_fails() {
        assert!(matches!(judged(0, Some(0), "x\ngood\n"), Verdict::Pass));
        assert!(matches!(judged(3, Some(3), "good\n"), Verdict::Pass));
        for (status, console) in [
            (Some(1), "good\n"),
            (None, "good\n"),
            (Some(0), "goods\n"),
            (Some(0), "good\nbad\n"),
            (Some(4), "ok 1 x\ngood\n"),
        ] {
            assert!(matches!(judged(0, status, console), Verdict::Fail(_)));
        }
    }

    #[test]
    fn a_stage_of_skips_skips_the_test() {
        let whole = format!("lu-init: stage 1\n{SKIPPED}lu-init: stage 2\nok 1 memfd.x\ngood\n");
        assert!(matches!(judged(0, Some(0), &whole), Verdict::Skip(why) if why == "no zram"));
        let early = format!("lu-init: stage 1\n{SKIPPED}");
        assert!(matches!(judged(0, Some(4), &early), Verdict::Skip(_)));
        let part = format!("lu-init: stage 1\n{SKIPPED}ok 2 memfd.x\ngood\n");
        assert!(matches!(judged(0, Some(0), &part), Verdict::Pass));
    }

    #[test]
    fn a_skip_that_is_not_declared_for_the_variant_fails() {
        let other = "ok 1 memfd.numa.all # SKIP one node\nok 2 memfd.x\ngood\n";
        assert!(matches!(judged(0, Some(0), other), Verdict::Fail(_)));
        let debug = judge(&test(0), Variant::Debug, Some(4), SKIPPED).unwrap();
        assert!(matches!(debug, Verdict::Fail(_)));
    }

    #[test]
    fn a_failure_is_not_a_skip() {
        let text = format!("{SKIPPED}not ok 2 memfd.x\n");
        assert!(matches!(judged(0, Some(1), &text), Verdict::Fail(_)));
        assert!(matches!(judged(0, Some(4), &text), Verdict::Fail(_)));
    }
}

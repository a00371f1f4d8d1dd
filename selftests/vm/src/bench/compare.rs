// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! `make bench-compare`: what changed from one `bench.json` to another.

use std::collections::BTreeMap;
use std::fs;
use std::path::{
    Path,
    PathBuf, //
};
use std::process::ExitCode;

use anyhow::{
    bail,
    Context,
    Result, //
};
use serde::Deserialize;

use super::report::{
    Alone,
    Row,
    SCHEMA, //
};
use super::table;
use crate::arch::named;

/// What to compare.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// The earlier `bench.json`.
    a: PathBuf,
    /// The later one.
    b: PathBuf,
    /// Shows what did not change, too.
    #[arg(long)]
    all: bool,
}

/// What is compared of a file.
#[derive(Debug, Default, Deserialize)]
struct Side {
    schema: String,
    arch: String,
    mem_mib: u64,
    #[serde(default)]
    deferred: bool,
    #[serde(default = "one")]
    nodes: u32,
    systems: Vec<Alone>,
    rows: Vec<Row>,
}

fn one() -> u32 {
    1
}

impl Side {
    /// What has to be the same on both sides.
    fn machine(&self) -> String {
        let deferred = if self.deferred { ", deferred" } else { "" };
        format!(
            "{}, {} MiB on {} node(s){deferred}",
            self.arch, self.mem_mib, self.nodes
        )
    }
}

/// A figure and by how much it differed between the runs it is the mean of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Figure {
    value: i64,
    spread: i64,
}

/// Of a case (or nothing), a system, and a phase.
type Key = (String, String, String);

impl Side {
    fn read(path: &Path) -> Result<Self> {
        let path = named(path);
        let at = || path.display().to_string();
        let text = fs::read_to_string(&path).with_context(at)?;
        let side: Self = serde_json::from_str(&text).with_context(|| {
            format!(
                "{} is no bench.json of this version; make bench writes one",
                at()
            )
        })?;
        if side.schema != SCHEMA {
            bail!(
                "{} has the schema {:?}, and this version compares {SCHEMA:?}; measure again",
                at(),
                side.schema
            );
        }
        Ok(side)
    }

    fn figures(&self) -> BTreeMap<Key, Figure> {
        let alone = self
            .systems
            .iter()
            .map(|alone| ("", &alone.system, &alone.figures, &alone.spread));
        let rows = self
            .rows
            .iter()
            .map(|row| (row.name.as_str(), &row.system, &row.figures, &row.spread));
        let mut figures = BTreeMap::new();
        for (case, system, values, spread) in alone.chain(rows) {
            for (phase, &value) in values {
                let key = (case.to_owned(), system.clone(), phase.clone());
                let spread = spread.get(phase).copied().unwrap_or(0);
                figures.insert(key, Figure { value, spread });
            }
        }
        figures
    }
}

/// A difference of less is noise, whatever runs of one side differ by.
fn floor(phase: &str, value: i64) -> i64 {
    // Two runs of the same kernels differed by up to 2.2 % in single phases.
    let fortieth = value.abs() / 40;
    match phase {
        "free" => value.abs() / 1000,
        // What the kernel's own caches take at the same time.
        "metadata" => fortieth.max(64 << 10),
        "fragments" => fortieth.max(16),
        _ => fortieth.max(20_000),
    }
}

/// What became of a figure.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Change {
    a: i64,
    b: i64,
    /// [`None`] if there was nothing.
    percent: Option<f64>,
    /// Whether it is more than what runs differ by anyway.
    real: bool,
}

fn change(phase: &str, a: Figure, b: Figure) -> Change {
    let differ = b.value - a.value;
    let noise = (a.spread + b.spread).max(floor(phase, a.value));
    Change {
        a: a.value,
        b: b.value,
        // CAST: A percentage has few digits that count.
        percent: (a.value != 0).then(|| differ as f64 * 100.0 / (a.value.abs() as f64)),
        real: differ.abs() > noise,
    }
}

fn text(key: &Key, change: &Change) -> String {
    let shown = |value| match key.2.as_str() {
        "metadata" | "free" => table::bytes(value),
        "fragments" => value.to_string(),
        _ => table::millions(value),
    };
    let percent = change
        .percent
        .map_or("new".into(), |percent| format!("{percent:+.1} %"));
    let case = if key.0.is_empty() {
        "nothing preserved"
    } else {
        &key.0
    };
    format!(
        "{case:32} {:12} {:18} {:>10} {:>10} {:>10}{}",
        key.1,
        key.2,
        shown(change.a),
        shown(change.b),
        percent,
        if change.real { "  *" } else { "" }
    )
}

/// The table of what changed, and how many figures did.
fn lines(a: &Side, b: &Side, all: bool) -> (Vec<String>, usize) {
    let (before, after) = (a.figures(), b.figures());
    let mut lines = Vec::new();
    let mut changed = 0;
    for (key, a) in &before {
        let Some(b) = after.get(key) else { continue };
        let change = change(&key.2, *a, *b);
        changed += usize::from(change.real);
        if change.real || all {
            lines.push(text(key, &change));
        }
    }
    let both = before.keys().filter(|key| after.contains_key(*key)).count();
    for (what, have, lack) in [("first", &before, &after), ("second", &after, &before)] {
        let only = have.keys().filter(|key| !lack.contains_key(*key)).count();
        if only > 0 {
            lines.push(format!("{only} figures are only in the {what}"));
        }
    }
    lines.push(format!(
        "{changed} of {both} figures differ by more than the noise"
    ));
    (lines, changed)
}

/// Prints what changed.
///
/// # Errors
///
/// If a file cannot be read, or the two are not of the same machine.
pub fn main(options: &Options) -> Result<ExitCode> {
    let (a, b) = (Side::read(&options.a)?, Side::read(&options.b)?);
    if a.machine() != b.machine() {
        bail!(
            "these are of different machines ({} and {}); measure the same cases on the same one",
            a.machine(),
            b.machine()
        );
    }
    println!(
        "{:32} {:12} {:18} {:>10} {:>10} {:>10}",
        "memory", "system", "figure", "A", "B", "change"
    );
    for line in lines(&a, &b, options.all).0 {
        println!("{line}");
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::example;
    use super::*;

    fn side() -> Side {
        let text = serde_json::to_string(&example()).unwrap();
        serde_json::from_str(&text).unwrap()
    }

    fn figure(value: i64, spread: i64) -> Figure {
        Figure { value, spread }
    }

    #[test]
    fn noise_is_no_change() {
        let real = |a, b| change("boot", a, b).real;
        assert!(!real(figure(100_000_000, 0), figure(102_300_000, 0)));
        assert!(real(figure(100_000_000, 0), figure(97_000_000, 0)));
        assert!(!real(figure(100_000_000, 4_000_000), figure(97_000_000, 0)));
        assert!(!real(figure(100, 0), figure(9000, 0)));
        assert!(!real(figure(-5, 0), figure(-5, 0)));
        let half = change("boot", figure(-100, 0), figure(-50, 0));
        assert_eq!(half.percent, Some(50.0));
        assert_eq!(
            change("boot", figure(0, 0), figure(50_000, 0)).percent,
            None
        );
        assert!(!change("metadata", figure(40 << 10, 0), figure(76 << 10, 0)).real);
        assert!(change("fragments", figure(1, 0), figure(2000, 0)).real);
    }

    #[test]
    fn a_file_does_not_differ_from_itself() {
        let (lines, changed) = lines(&side(), &side(), false);
        assert_eq!((lines.len(), changed), (1, 0));
    }

    #[test]
    fn what_changed_is_shown() {
        let mut after = side();
        let row = &mut after.rows[0];
        *row.figures.get_mut("preserve").unwrap() += 1_000_000;
        after.rows.pop();
        let (lines, changed) = lines(&side(), &after, false);
        assert_eq!(changed, 1);
        assert!(
            lines[0].contains("preserve") && lines[0].ends_with('*'),
            "{lines:?}"
        );
        assert!(lines[1].contains("only in the first"), "{lines:?}");
        assert!(lines.iter().all(|line| line.chars().count() <= 100));
    }

    #[test]
    fn other_files_are_refused_with_a_reason() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.json");
        let error = |text: &str| {
            fs::write(&path, text).unwrap();
            Side::read(&path).unwrap_err().to_string()
        };
        assert!(error("{}").contains("make bench"));
        let old = r#"{"schema":"x","arch":"","mem_mib":0,"systems":[],"rows":[]}"#;
        assert!(error(old).contains("measure again"));
    }
}

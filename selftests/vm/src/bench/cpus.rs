// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What a second CPU is good for: how many instructions the busiest CPU executes while files are retrieved.
//!
//! With more than one CPU, the guest's clock says nothing about any of them, so that a plugin of QEMU counts.
//! Each CPU is a thread of the host: if that is busy, CPUs wait for each other in loops that count, too.

use std::fs;
use std::path::{
    Path,
    PathBuf, //
};
use std::process::Command;
use std::time::Duration;

use anyhow::{
    bail,
    Context,
    Result, //
};
use serde::Serialize;

use super::machine;
use super::table;
use crate::arch::{
    top,
    Arch,
    Build,
    Variant, //
};
use crate::run::{
    self,
    Line,
    Options,
    Sink,
    Stage, //
};

/// What is retrieved.
#[derive(Clone, Copy, Debug)]
struct Case {
    what: &'static str,
    format: &'static str,
    layout: &'static str,
    files: u64,
}

const MIB: u64 = 256;
/// CPUs of the larger machine, and threads that retrieve there.
const CPUS: u32 = 2;
/// What the busiest of two CPUs may execute, of what one does.
pub(super) const GOAL: f64 = 0.6;

const CASES: [Case; 4] = [
    Case {
        what: "one file, memfd-v2",
        format: "memfd-v2",
        layout: "contiguous",
        files: 1,
    },
    Case {
        what: "16 files, memfd-v2",
        format: "memfd-v2",
        layout: "contiguous",
        files: 16,
    },
    Case {
        what: "one file, rs-memfd-v1",
        format: "rs-memfd-v1",
        layout: "every-other",
        files: 1,
    },
    Case {
        what: "16 files, rs-memfd-v1",
        format: "rs-memfd-v1",
        layout: "every-other",
        files: 16,
    },
];

/// One case.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    pub(super) what: &'static str,
    mib: u64,
    /// What the only CPU executed.
    one: u64,
    /// What each of several did.
    each: Vec<u64>,
    /// The longest of these, to the only one.
    pub(super) ratio: f64,
}

impl Case {
    fn stages(&self, cpus: u32) -> [String; 2] {
        let shape = format!(
            "--mib {MIB} --layout {} --files {}",
            self.layout, self.files
        );
        let load = "lu_bench modules /m/luo_rs.ko /m/luo_memfd.ko";
        let format = format!(
            "echo {} > /sys/module/luo_memfd/parameters/format",
            self.format
        );
        [
            format!("{load} && {format} && lu_bench preserve {shape}"),
            format!("{load} && lu_bench retrieve {shape} --threads {cpus}"),
        ]
    }
}

/// Keeps quiet: what counts is in the outcome.
struct Quiet;

impl Sink for Quiet {
    fn console(&mut self, _line: &Line) {}

    fn note(&mut self, text: &str) {
        eprintln!("bench: {text}");
    }
}

/// Builds the plugin.
fn plugin() -> Result<PathBuf> {
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .context("CARGO_TARGET_DIR is not set: use selftests/vm/lab")?;
    let status = Command::new("cargo")
        .args([
            "build",
            "--quiet",
            "--release",
            "--locked",
            "-p",
            "cpu-counts",
        ])
        .arg("--manifest-path")
        .arg(top().join("Cargo.toml"))
        .status()
        .context("cargo")?;
    if !status.success() {
        bail!("the plugin that counts instructions cannot be built");
    }
    Ok(PathBuf::from(target).join("release/libcpu_counts.so"))
}

/// What each CPU executed between the places 1 and 2, by what the plugin wrote.
fn between(text: &str) -> Result<Vec<u64>> {
    let line = |name: &str| -> Result<Vec<u64>> {
        let line = text.lines().rev().find_map(|line| {
            let (first, rest) = line.split_once(' ')?;
            (first == name).then_some(rest)
        });
        let line = line.with_context(|| format!("the plugin told nothing of place {name}"))?;
        line.split(' ')
            .map(|count| count.parse().with_context(|| line.to_owned()))
            .collect()
    };
    let (before, after) = (line("1")?, line("2")?);
    let counts = before.iter().zip(&after);
    counts
        .map(|(before, after)| {
            after
                .checked_sub(*before)
                .context("the plugin counted backwards")
        })
        .collect()
}

fn count(arch: Arch, case: &Case, cpus: u32, plugin: &Path) -> Result<Vec<u64>> {
    let work = tempfile::tempdir().context("a directory for what the plugin tells")?;
    let out = work.path().join("counts");
    let build = Build::new(arch, Variant::Plain).dir();
    let modules = ["luo_rs.ko", "luo_memfd.ko"];
    let files = modules.map(|name| (build.join("modules").join(name), format!("/m/{name}")));
    let options = Options {
        arch,
        mem: 3 << 30,
        smp: cpus,
        append: vec!["nokaslr".into()],
        files: files.to_vec(),
        timeout: Some(Duration::from_secs(1800)),
        no_modules: true,
        qemu: vec![
            "-plugin".into(),
            format!("{},out={}", plugin.display(), out.display()),
        ],
        stages: case
            .stages(cpus)
            .map(|cmd| Stage {
                cmd,
                ..Stage::default()
            })
            .to_vec(),
        ..Options::default()
    };
    let outcome = run::run(&options, &mut Quiet);
    if outcome.status() != 0 {
        bail!(
            "{} with {cpus} CPUs: {}",
            case.what,
            machine::trouble(&outcome)
        );
    }
    let text = fs::read_to_string(&out).with_context(|| out.display().to_string())?;
    between(&text)
}

/// Measures and prints.
pub(super) fn measure(arch: Arch) -> Result<Vec<Row>> {
    let plugin = plugin()?;
    let mut rows = Vec::new();
    println!(
        "\nRetrieving {MIB} MiB with one CPU and with {CPUS}, {}, millions of instructions\n\n{:24} {:>10} {:>22} {:>8}",
        arch.name(), "what", "one CPU", "each of them", "longest"
    );
    for case in CASES {
        let one: u64 = count(arch, &case, 1, &plugin)?.iter().sum();
        let each = count(arch, &case, CPUS, &plugin)?;
        let longest = each.iter().copied().max().unwrap_or(0);
        // CAST: A ratio has few digits that count.
        let ratio = longest as f64 / one.max(1) as f64;
        let million = |count: u64| table::millions(i64::try_from(count).unwrap_or(i64::MAX));
        let list: Vec<_> = each.iter().map(|count| million(*count)).collect();
        println!(
            "{:24} {:>10} {:>22} {ratio:>8.2}",
            case.what,
            million(one),
            list.join(" + ")
        );
        rows.push(Row {
            what: case.what,
            mib: MIB,
            one,
            each,
            ratio,
        });
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_taken_between_two_places() {
        assert_eq!(between("1 10 20\n2 15 120\n").unwrap(), [5, 100]);
        // The last ones count.
        assert_eq!(between("1 1 2\n2 9 9\n1 10 20\n2 11 22\n").unwrap(), [1, 2]);
        assert!(between("1 10 20\n").is_err());
        assert!(between("1 10\n2 5\n").is_err());
    }

    #[test]
    fn what_is_preserved_is_retrieved() {
        for case in CASES {
            let [before, after] = case.stages(2);
            assert!(before.contains(case.format) && after.ends_with("--threads 2"));
            assert!((MIB << 20).is_multiple_of(case.files * 4096));
        }
    }
}

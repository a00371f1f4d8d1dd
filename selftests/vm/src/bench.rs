// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! `make bench`: mainline's C handler and ours side by side, in guest instructions.
//!
//! Both are measured in one virtual machine. In the first kernel one handler's module preserves a file
//! (twice: the first time KHO allocates its tables), then the other's does; both work on memory in the
//! same state. In the second kernel the first handler retrieves that file, as the format is the same, and
//! the other preserves another one, which it retrieves in the third.
//!
//! Where a handler comes in this order makes a difference of its own, so there is a second machine in
//! which they change places, and the figures are the means of both.
//!
//! [`kinds`] compares small pages with huge ones in the same way, and counts the next kernel's boot.

mod kinds;

use std::collections::BTreeMap;
use std::fs;
use std::process::{
    Command,
    ExitCode,
    Stdio, //
};

use anyhow::{
    bail,
    Context,
    Result, //
};
use serde::Serialize;

use crate::arch::{
    top,
    Arch,
    Build,
    Variant, //
};
use crate::build;
use crate::run::SELF;

/// What to measure.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Only measurements whose name matches this glob.
    #[arg(long, value_name = "GLOB")]
    test: Option<String>,
    /// Architecture.
    #[arg(long, value_enum, default_value_t = Arch::X86_64)]
    arch: Arch,
    /// How much memory of each kind the measurement huge-pages compares.
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u64).range(2..=65536))]
    mib: u64,
}

/// The comparison of pages of all sizes.
const HUGE_PAGES: &str = "huge-pages";

/// Name, arguments of `lu_bench`, MiB, bytes in a folio.
const CASES: [(&str, &str, u64, u64); 4] = [
    ("memfd-4k-16m", "--kind memfd-4k", 16, 4096),
    ("memfd-4k-256m", "--kind memfd-4k", 256, 4096),
    ("memfd-scattered-32m", "--layout every-other", 32, 4096),
    ("memfd-thp-256m", "--kind memfd-thp", 256, 2 << 20),
];

const PHASES: [&str; 5] = ["preserve", "session", "retrieve", "access", "finish"];

/// A handler that is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Side {
    C,
    Rust,
    /// Ours for huge pages, which has no counterpart.
    Hugetlb,
}

impl Side {
    /// Loads its modules, which are in `/m`, and says so.
    fn load(self) -> &'static str {
        match self {
            Self::C => "insmod /m/memfd_luo.ko && echo SIDE C",
            Self::Rust => "insmod /m/luo_rs.ko && insmod /m/luo_memfd.ko && echo SIDE Rust",
            Self::Hugetlb => "insmod /m/luo_rs.ko && insmod /m/luo_hugetlb.ko",
        }
    }

    fn unload(self) -> &'static str {
        match self {
            Self::C => "rmmod memfd_luo",
            Self::Rust => "rmmod luo_memfd && rmmod luo_rs",
            Self::Hugetlb => "rmmod luo_hugetlb && rmmod luo_rs",
        }
    }
}

/// What was measured, by handler and phase.
type Figures = BTreeMap<(Side, String), u64>;

#[derive(Debug, Serialize)]
struct Row {
    case: &'static str,
    phase: &'static str,
    folios: u64,
    /// Guest instructions with the C handler and with ours.
    c: u64,
    rust: u64,
    /// Ours divided by the C handler's.
    ratio: f64,
    /// What each of the runs gave.
    c_runs: Vec<u64>,
    rust_runs: Vec<u64>,
}

/// Whether runs differ by more than a twentieth, so that their mean says little.
fn differ(runs: &[u64]) -> bool {
    let (low, high) = (runs.iter().min(), runs.iter().max());
    low.zip(high)
        .is_some_and(|(low, high)| (high - low) * 20 > *low)
}

fn measure(arch: Arch, shape: &str, mib: u64, sides: [Side; 2]) -> Result<Figures> {
    let bin = top().join("build").join(arch.name()).join("bin/lu_bench");
    let mut run = Command::new(SELF);
    run.args([
        "run",
        "--icount",
        "--mem",
        "6G",
        "--timeout",
        "600",
        "--arch",
        arch.name(),
        "--file",
    ])
    .arg(format!("{}:/bin/lu_bench", bin.display()));
    let modules = Build::new(arch, Variant::Plain).dir().join("modules");
    for name in ["memfd_luo.ko", "luo_rs.ko", "luo_memfd.ko"] {
        run.arg("--file")
            .arg(format!("{}:/m/{name}", modules.join(name).display()));
    }
    let preserve = format!("lu_bench preserve --mib {mib} {shape}");
    let retrieve = format!("lu_bench retrieve --mib {mib} {shape}");
    let [first, second] = sides;
    let (load_first, unload_first) = (first.load(), first.unload());
    let load_second = second.load();
    run.arg("--no-modules").arg("--stage").arg(format!(
        "{load_first} && {preserve} --discard >/dev/null && {preserve} --discard && \
         {unload_first} && {load_second} && {preserve}"
    ));
    run.arg("--stage").arg(format!(
        "{load_first} && {retrieve} && {unload_first} && {load_second} && {preserve} >/dev/null"
    ));
    run.arg("--stage")
        .arg(format!("{load_second} && {retrieve}"));
    let out = run.stdin(Stdio::null()).stderr(Stdio::inherit()).output()?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    if !out.status.success() {
        eprintln!("{text}");
        bail!("the virtual machine did not get through ({})", out.status);
    }
    let mut figures = Figures::new();
    let mut side = None;
    for line in text.lines() {
        let mut words = line
            .split_whitespace()
            .skip_while(|w| !matches!(*w, "BENCH" | "SIDE"));
        match (words.next(), words.next(), words.next(), side) {
            (Some("SIDE"), Some("C"), ..) => side = Some(Side::C),
            (Some("SIDE"), Some("Rust"), ..) => side = Some(Side::Rust),
            (Some("BENCH"), Some(phase), Some(value), Some(side)) => {
                let value = value.parse().with_context(|| line.to_string())?;
                figures.insert((side, phase.to_string()), value);
            }
            _ => {}
        }
    }
    Ok(figures)
}

/// Everything that was measured.
#[derive(Debug, Default, Serialize)]
struct Report {
    arch: &'static str,
    handlers: Vec<Row>,
    #[serde(rename = "huge-pages")]
    huge_pages: Option<kinds::Report>,
}

/// Measures both handlers on one layout and prints the rows.
fn pair(arch: Arch, case: &'static str, shape: &str, mib: u64, folio: u64) -> Result<Vec<Row>> {
    let runs = [[Side::C, Side::Rust], [Side::Rust, Side::C]]
        .map(|sides| measure(arch, shape, mib, sides));
    let runs = runs.into_iter().collect::<Result<Vec<_>>>()?;
    let mut rows = Vec::new();
    for phase in PHASES {
        let of = |side| {
            runs.iter()
                .map(|figures| figures.get(&(side, phase.to_string())).copied())
                .collect::<Option<Vec<_>>>()
                .with_context(|| format!("{case} has no figure for {phase}"))
        };
        let (c_runs, rust_runs) = (of(Side::C)?, of(Side::Rust)?);
        let mean = |runs: &[u64]| runs.iter().sum::<u64>() / runs.len() as u64;
        let (c, rust) = (mean(&c_runs), mean(&rust_runs));
        let folios = (mib << 20) / folio;
        let ratio = rust as f64 / c.max(1) as f64;
        println!(
            "{case:22} {phase:9} {c:14} {rust:14} {ratio:7.3} {:11} {:11}",
            c / folios,
            rust / folios
        );
        if differ(&c_runs) || differ(&rust_runs) {
            println!(
                "{:22} the runs differ: C {c_runs:?}, Rust {rust_runs:?}",
                ""
            );
        }
        rows.push(Row {
            case,
            phase,
            folios,
            c,
            rust,
            ratio,
            c_runs,
            rust_runs,
        });
    }
    Ok(rows)
}

/// Measures, prints tables and writes `build/bench.json`.
///
/// # Errors
///
/// If something cannot be built or a run fails.
pub fn main(options: &Options) -> Result<ExitCode> {
    build::everything(Build::new(options.arch, Variant::Plain))?;
    let filter = options
        .test
        .as_deref()
        .map(crate::check::glob)
        .transpose()?;
    let chosen = |name: &str| filter.as_ref().is_none_or(|f| f.is_match(name));
    let cases: Vec<_> = CASES.into_iter().filter(|case| chosen(case.0)).collect();
    let huge_pages = chosen(HUGE_PAGES);
    if cases.is_empty() && !huge_pages {
        bail!(
            "no measurement has that name; there are {}, {HUGE_PAGES}",
            CASES.map(|c| c.0).join(", ")
        );
    }
    let mut report = Report {
        arch: options.arch.name(),
        ..Report::default()
    };
    println!(
        "Guest instructions (-icount, one CPU, {}), means of two runs in opposite order.\n",
        options.arch
    );
    if !cases.is_empty() {
        println!(
            "{:22} {:9} {:>14} {:>14} {:>7} {:>11} {:>11}",
            "case", "phase", "C", "Rust", "ratio", "C/folio", "Rust/folio"
        );
    }
    for (case, shape, mib, folio) in cases {
        report
            .handlers
            .extend(pair(options.arch, case, shape, mib, folio)?);
    }
    if huge_pages {
        println!();
        report.huge_pages = Some(kinds::measure(options.arch, options.mib)?);
    }
    let path = top().join("build/bench.json");
    fs::write(&path, serde_json::to_string_pretty(&report)?)?;
    println!("\nAlso in {}.", path.display());
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_that_differ_are_told() {
        assert!(!differ(&[100, 105]));
        assert!(differ(&[106, 100]));
        assert!(!differ(&[]));
    }
}

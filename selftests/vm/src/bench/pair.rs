// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Mainline's C handler and ours in one kernel, where they change places.
//!
//! Both are measured in one virtual machine. In the first kernel one handler's module preserves a file
//! (twice: the first time KHO allocates its tables), then the other's does; both work on memory in the
//! same state. In the second kernel the first handler retrieves that file, as the format is the same, and
//! the other preserves another one, which it retrieves in the third.
//!
//! Where a handler comes in this order makes a difference of its own, so there is a second machine in
//! which they change places, and the figures are the means of both.

use std::collections::BTreeMap;
use std::process::{
    Command,
    Stdio, //
};

use anyhow::{
    bail,
    Context,
    Result, //
};
use serde::Serialize;

use super::report::Report;
use crate::arch::{
    top,
    Arch,
    Build,
    Variant, //
};
use crate::run::SELF;

/// One file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Case {
    pub(super) name: &'static str,
    /// As `lu_bench` takes them.
    kind: &'static str,
    layout: &'static str,
    mib: u64,
    /// Bytes in a folio.
    folio: u64,
}

const fn case(name: &'static str, kind: &'static str, layout: &'static str, mib: u64) -> Case {
    Case {
        name,
        kind,
        layout,
        mib,
        folio: 4096,
    }
}

pub(super) const CASES: [Case; 4] = [
    case("memfd-4k-16m", "memfd-4k", "contiguous", 16),
    case("memfd-4k-256m", "memfd-4k", "contiguous", 256),
    case("memfd-scattered-32m", "memfd-4k", "every-other", 32),
    Case {
        folio: 2 << 20,
        ..case("memfd-thp-256m", "memfd-thp", "contiguous", 256)
    },
];

const PHASES: [&str; 5] = ["preserve", "session", "retrieve", "access", "finish"];

/// A handler that is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Side {
    C,
    Rust,
    /// Ours for huge pages, which has no counterpart.
    Hugetlb,
}

impl Side {
    /// Loads its modules, which are in `/m`, and says so.
    pub(super) fn load(self) -> &'static str {
        match self {
            Self::C => "insmod /m/memfd_luo.ko && echo SIDE C",
            Self::Rust => "insmod /m/luo_rs.ko && insmod /m/luo_memfd.ko && echo SIDE Rust",
            Self::Hugetlb => "insmod /m/luo_rs.ko && insmod /m/luo_hugetlb.ko",
        }
    }

    pub(super) fn unload(self) -> &'static str {
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
pub(super) struct Row {
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

fn measure(arch: Arch, case: &Case, sides: [Side; 2]) -> Result<Figures> {
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
    let Case {
        kind, layout, mib, ..
    } = case;
    let shape = format!("--mib {mib} --kind {kind} --layout {layout}");
    let preserve = format!("lu_bench preserve {shape}");
    let retrieve = format!("lu_bench retrieve {shape}");
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

/// Measures both handlers on one layout and prints the rows.
fn pair(arch: Arch, case: &Case) -> Result<Vec<Row>> {
    let runs =
        [[Side::C, Side::Rust], [Side::Rust, Side::C]].map(|sides| measure(arch, case, sides));
    let runs = runs.into_iter().collect::<Result<Vec<_>>>()?;
    let name = case.name;
    let mut rows = Vec::new();
    for phase in PHASES {
        let of = |side| {
            runs.iter()
                .map(|figures| figures.get(&(side, phase.to_string())).copied())
                .collect::<Option<Vec<_>>>()
                .with_context(|| format!("{name} has no figure for {phase}"))
        };
        let (c_runs, rust_runs) = (of(Side::C)?, of(Side::Rust)?);
        let mean = |runs: &[u64]| runs.iter().sum::<u64>() / runs.len() as u64;
        let (c, rust) = (mean(&c_runs), mean(&rust_runs));
        let folios = (case.mib << 20) / case.folio;
        let ratio = rust as f64 / c.max(1) as f64;
        println!(
            "{name:22} {phase:9} {c:14} {rust:14} {ratio:7.3} {:11} {:11}",
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
            case: name,
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

/// Measures some cases, prints the rows and adds them to the report.
pub(super) fn measure_all(arch: Arch, cases: &[Case], report: &mut Report) -> Result<()> {
    if cases.is_empty() {
        return Ok(());
    }
    println!(
        "\nBoth handlers in one kernel ({arch}), means of two runs in opposite order, instructions.\n\n\
         {:22} {:9} {:>14} {:>14} {:>7} {:>11} {:>11}",
        "case", "phase", "C", "Rust", "ratio", "C/folio", "Rust/folio"
    );
    for case in cases {
        report.handlers.extend(pair(arch, case)?);
    }
    Ok(())
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

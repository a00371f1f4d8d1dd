// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What the same amount of memory costs as small pages, as huge pages, and with each handler.
//!
//! One virtual machine goes through all kinds: in each kernel it retrieves the memory of the kind before
//! and preserves that of the next. Kernels that find nothing preserved, at the begin and at the end, tell
//! what a boot takes by itself. A second machine goes through them backwards, and the figures are the
//! means of both.
//!
//! A boot is counted from the jump to the first program of the next kernel, with the CPU's own counter,
//! which goes on over a kexec.

use std::collections::BTreeMap;

use anyhow::{
    bail,
    Context,
    Result, //
};
use serde::Serialize;

use super::pair::Side;
use crate::arch::{
    Arch,
    Build,
    Variant, //
};
use crate::run::{
    self,
    Line,
    Options,
    Outcome,
    Sink,
    Stage, //
};

/// Memory of one kind.
struct Kind {
    name: &'static str,
    side: Side,
    /// As `lu_bench` calls it.
    arg: &'static str,
    /// Bytes in a page.
    page: u64,
    /// That many pages, instead of as much memory as is asked for.
    pages: Option<u64>,
}

const fn kind(name: &'static str, side: Side, arg: &'static str, page: u64) -> Kind {
    Kind {
        name,
        side,
        arg,
        page,
        pages: None,
    }
}

const KINDS: [Kind; 7] = [
    kind("memfd, 4K, C", Side::C, "memfd-4k", 4 << 10),
    kind("memfd, 4K, Rust", Side::Rust, "memfd-4k", 4 << 10),
    kind("memfd, THP, C", Side::C, "memfd-thp", 2 << 20),
    kind("memfd, THP, Rust", Side::Rust, "memfd-thp", 2 << 20),
    kind("HugeTLB, 2M", Side::Hugetlb, "hugetlb-2m", 2 << 20),
    kind("HugeTLB, 1G", Side::Hugetlb, "hugetlb-1g", 1 << 30),
    // What is left of a 1G page without its many struct pages.
    Kind {
        pages: Some(1),
        ..kind("HugeTLB, one 2M", Side::Hugetlb, "hugetlb-2m", 2 << 20)
    },
];

/// What the others are compared with, and what must be at most a [`GOAL`]th of it.
const REFERENCE: &str = "memfd, 4K, C";
const SUBJECT: &str = "HugeTLB, 2M";
const GOAL: i64 = 50;
/// The two whose difference is in the number of struct pages.
const MANY: &str = "HugeTLB, 1G";
const FEW: &str = "HugeTLB, one 2M";

const PHASES: [&str; 4] = ["preserve", "boot", "retrieve", "finish"];

impl Kind {
    /// How much there is of it, in MiB, when `mib` is asked for. [`None`] if no whole number of pages is.
    fn mib(&self, mib: u64) -> Option<u64> {
        match self.pages {
            Some(pages) => Some((pages * self.page) >> 20),
            None => (mib << 20).is_multiple_of(self.page).then_some(mib),
        }
    }

    fn bench(&self, action: &str, mib: u64) -> String {
        format!("lu_bench {action} --mib {mib} --kind {}", self.arg)
    }

    /// Preserves it for the next kernel. What is allocated once was allocated before.
    fn preserve(&self, mib: u64) -> String {
        let few = self.bench("preserve", (self.page >> 20).max(2));
        let load = self.side.load();
        let (name, all) = (self.name, self.bench("preserve", mib));
        format!("{load} && {few} --discard >/dev/null && echo KIND {name} && {all}")
    }

    /// Retrieves it and leaves nothing loaded.
    fn retrieve(&self, mib: u64) -> String {
        let (load, unload) = (self.side.load(), self.side.unload());
        let (name, all) = (self.name, self.bench("retrieve", mib));
        format!("{load} && echo KIND {name} && {all} && {unload}")
    }
}

/// What was measured of one kind, by phase.
type Figures = BTreeMap<&'static str, i64>;

/// The commands of a machine's stages, and the kind that each of them preserves.
fn stages<'a>(order: &[(&'a Kind, u64)]) -> Vec<(Option<&'a Kind>, String)> {
    let mut stages = vec![(None, "true".to_owned())];
    let mut before: Option<(&Kind, u64)> = None;
    for &(kind, mib) in order {
        let retrieve = before.map_or("true".into(), |(kind, mib)| kind.retrieve(mib));
        stages.push((Some(kind), format!("{retrieve} && {}", kind.preserve(mib))));
        before = Some((kind, mib));
    }
    if let Some((kind, mib)) = before {
        stages.push((None, kind.retrieve(mib)));
    }
    stages.push((None, "true".to_owned()));
    stages
}

/// Keeps quiet: what counts is in the outcome.
struct Quiet;

impl Sink for Quiet {
    fn console(&mut self, _line: &Line) {}

    fn note(&mut self, text: &str) {
        eprintln!("bench: {text}");
    }
}

/// For each boot after the first, the kernel's number and the instructions that it took.
fn boots(outcome: &Outcome) -> BTreeMap<usize, i64> {
    let mut jump = None;
    let mut boots = BTreeMap::new();
    for mark in &outcome.marks {
        // CAST: No counter of a test gets that far.
        let nanos = |ticks: u64, hz: u64| match hz {
            0 => ticks as i64,
            hz => (u128::from(ticks) * 1_000_000_000 / u128::from(hz)) as i64,
        };
        let time = nanos(mark.record.ticks, mark.record.hz);
        match (mark.record.ev.as_str(), jump) {
            ("live-update", _) => jump = Some(time),
            ("boot", Some(start)) => {
                boots.insert(mark.in_stage, time - start);
                jump = None;
            }
            _ => {}
        }
    }
    boots
}

/// Goes through the kinds in this order.
fn machine(arch: Arch, order: &[(&Kind, u64)]) -> Result<BTreeMap<&'static str, Figures>> {
    let build = Build::new(arch, Variant::Plain);
    let bin = crate::arch::top()
        .join("build")
        .join(arch.name())
        .join("bin");
    let modules = build.dir().join("modules");
    let mut files = vec![(bin.join("lu_bench"), "/bin/lu_bench".to_owned())];
    for name in [
        "memfd_luo.ko",
        "luo_rs.ko",
        "luo_memfd.ko",
        "luo_hugetlb.ko",
    ] {
        files.push((modules.join(name), format!("/m/{name}")));
    }
    let plan = stages(order);
    let mib = order.iter().map(|kind| kind.1).max().unwrap_or(0);
    let options = Options {
        arch,
        // One kind, the next one, a gibibyte in one piece, and room for the kernel.
        mem: (2 * mib + 5 * 1024) << 20,
        smp: 1,
        // Where the kernel lies makes a difference, and chance decides it.
        append: vec!["nokaslr".into()],
        icount: true,
        files,
        timeout: Some(std::time::Duration::from_secs(900)),
        no_modules: true,
        stages: plan
            .iter()
            .map(|(_, cmd)| Stage {
                cmd: cmd.clone(),
                ..Stage::default()
            })
            .collect(),
        ..Options::default()
    };
    let outcome = run::run(&options, &mut Quiet);
    if outcome.status() != 0 {
        for line in outcome.console.iter().rev().take(30).rev() {
            eprintln!("{}", line.text);
        }
        let why = outcome.stages.iter().find(|stage| stage.status != Some(0));
        bail!(
            "the virtual machine did not get through: {}",
            why.map_or_else(
                || outcome.setup.clone().unwrap_or_default(),
                |s| s.why.clone()
            )
        );
    }

    let mut figures: BTreeMap<_, Figures> = BTreeMap::new();
    let mut current = None;
    for line in &outcome.console {
        if let Some(name) = line.text.strip_prefix("KIND ") {
            current = order.iter().find(|(kind, _)| kind.name == name);
        }
        let mut words = line.text.split_whitespace();
        if let (Some("BENCH"), Some(phase), Some(value), Some((kind, _))) =
            (words.next(), words.next(), words.next(), current)
        {
            if let Some(phase) = PHASES.iter().find(|p| **p == phase) {
                let value = value.parse().with_context(|| line.text.clone())?;
                figures.entry(kind.name).or_default().insert(phase, value);
            }
        }
    }
    let boots = boots(&outcome);
    let mut idle = Vec::new();
    for (nr, (kind, _)) in plan.iter().enumerate() {
        // Stages count from 1, and the kernel meant is the next one.
        match (boots.get(&(nr + 2)), kind) {
            (Some(boot), Some(kind)) => {
                figures.entry(kind.name).or_default().insert("boot", *boot);
            }
            (Some(boot), None) => idle.push(*boot),
            (None, _) if nr + 1 == plan.len() => {}
            (None, _) => bail!("nothing tells how long the boot of stage {} took", nr + 2),
        }
    }
    eprintln!("bench: boots that found nothing preserved took {idle:?} instructions");
    let mean = idle.iter().sum::<i64>() / (idle.len() as i64).max(1);
    for figures in figures.values_mut() {
        figures.entry("boot").and_modify(|boot| *boot -= mean);
    }
    Ok(figures)
}

/// A line of the table: instructions of each phase, and their sum.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    kind: &'static str,
    mib: u64,
    pages: u64,
    preserve: i64,
    /// What the boot takes more than one that finds nothing preserved.
    boot: i64,
    retrieve: i64,
    finish: i64,
    /// What it adds. A boot that is faster because there is less memory to set up takes nothing off.
    sum: i64,
}

/// The table, and what follows from it.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    rows: Vec<Row>,
    /// How many times as much the reference adds.
    times: Option<f64>,
    /// What restoring takes for the struct pages of one GiB.
    struct_pages: Option<i64>,
}

fn row(kind: &Kind, mib: u64, runs: &[BTreeMap<&'static str, Figures>]) -> Result<Row> {
    let mean = |phase: &str| -> Result<i64> {
        let values = runs
            .iter()
            .map(|run| run.get(kind.name)?.get(phase).copied())
            .collect::<Option<Vec<_>>>()
            .with_context(|| format!("{} has no figure for {phase}", kind.name))?;
        Ok(values.iter().sum::<i64>() / values.len() as i64)
    };
    let [preserve, boot, retrieve, finish] = PHASES.map(mean);
    let (preserve, boot, retrieve, finish) = (preserve?, boot?, retrieve?, finish?);
    Ok(Row {
        kind: kind.name,
        mib,
        pages: (mib << 20) / kind.page,
        preserve,
        boot,
        retrieve,
        finish,
        sum: preserve + boot.max(0) + retrieve + finish,
    })
}

/// Measures and prints.
pub(super) fn measure(arch: Arch, mib: u64) -> Result<Report> {
    let mut order: Vec<(&Kind, u64)> = KINDS
        .iter()
        .filter_map(|kind| Some((kind, kind.mib(mib)?)))
        .collect();
    let forwards = machine(arch, &order)?;
    order.reverse();
    let backwards = machine(arch, &order)?;
    order.reverse();
    let runs = [forwards, backwards];
    let rows = order
        .iter()
        .map(|(kind, mib)| row(kind, *mib, &runs))
        .collect::<Result<Vec<_>>>()?;

    println!(
        "{:18} {:>5} {:>7} {:>12} {:>12} {:>12} {:>12} {:>13}",
        "kind", "MiB", "pages", "preserve", "boot growth", "retrieve", "finish", "sum"
    );
    for row in &rows {
        println!(
            "{:18} {:5} {:7} {:12} {:12} {:12} {:12} {:13}",
            row.kind, row.mib, row.pages, row.preserve, row.boot, row.retrieve, row.finish, row.sum
        );
    }
    let find = |name| rows.iter().find(|row| row.kind == name);
    let times = find(REFERENCE)
        .zip(find(SUBJECT))
        .map(|(reference, subject)| reference.sum as f64 / subject.sum.max(1) as f64);
    if let Some(times) = times {
        println!(
            "{REFERENCE} adds {times:.0} times as much as {SUBJECT}; the goal is at least {GOAL}: {}",
            if times >= GOAL as f64 { "met" } else { "MISSED" }
        );
    }
    let struct_pages = find(MANY).zip(find(FEW)).map(|(many, few)| {
        let more = (many.mib - few.mib) * 256;
        (many.retrieve - few.retrieve) * 262_144 / (more as i64).max(1)
    });
    if let Some(loops) = struct_pages {
        println!("Retrieving takes {loops} for the struct pages of each GiB ({MANY} less {FEW}).");
    }
    Ok(Report {
        rows,
        times,
        struct_pages,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_preserved_once_and_retrieved_in_the_next_kernel() {
        let order: Vec<_> = KINDS.iter().map(|kind| (kind, 1024)).collect();
        let stages = stages(&order);
        assert_eq!(stages.len(), KINDS.len() + 3);
        for (nr, kind) in KINDS.iter().enumerate() {
            assert_eq!(stages[nr + 1].0.unwrap().name, kind.name);
            assert!(stages[nr + 1].1.ends_with(&kind.bench("preserve", 1024)));
            assert!(stages[nr + 2].1.contains(&kind.bench("retrieve", 1024)));
        }
        let idle = |nr: usize| stages[nr].0.is_none();
        assert!(idle(0) && idle(KINDS.len() + 1) && idle(KINDS.len() + 2));
    }

    #[test]
    fn a_kind_that_does_not_fit_is_left_out() {
        let gigantic = KINDS.iter().find(|kind| kind.name == MANY).unwrap();
        assert_eq!(gigantic.mib(1024), Some(1024));
        assert_eq!(gigantic.mib(512), None);
        let one = KINDS.iter().find(|kind| kind.name == FEW).unwrap();
        assert_eq!(one.mib(1024), Some(2));
    }
}

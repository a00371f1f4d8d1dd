// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What came out, as `build/bench.json` has it; `Documentation/benchmark.md` describes each field.

use std::collections::BTreeMap;

use serde::{
    Deserialize,
    Serialize, //
};

use super::cpus;
use super::goals::Goal;
use super::kinds;
use super::machine::{
    Figures,
    Measured, //
};
use super::pair;
use super::phases::Boot;
use super::suite::{
    Case,
    Kind,
    Layout,
    SEED,
    SYSTEMS, //
};
use crate::arch::Arch;

/// Changes when a field changes its meaning or goes.
pub(super) const SCHEMA: &str = "liveupdate-rs-bench-1";

/// Everything that was measured.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) schema: &'static str,
    pub(super) arch: &'static str,
    /// Of each machine.
    pub(super) mem_mib: u64,
    /// Whether the page structures of most memory are initialised by threads.
    pub(super) deferred: bool,
    pub(super) nodes: u32,
    pub(super) systems: Vec<Alone>,
    pub(super) rows: Vec<Row>,
    pub(super) skipped: Vec<Skipped>,
    pub(super) goals: Vec<Goal>,
    /// The handlers in one kernel.
    pub(super) handlers: Vec<pair::Row>,
    pub(super) huge_pages: Option<kinds::Report>,
    pub(super) two_cpus: Vec<cpus::Row>,
}

/// A kernel and a handler without anything to preserve.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(super) struct Alone {
    pub(super) system: String,
    pub(super) release: String,
    pub(super) build_id: String,
    pub(super) figures: Figures,
    /// By how much those that were measured more than once differed.
    #[serde(default)]
    pub(super) spread: Figures,
}

/// One case with one kernel and handler.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Row {
    pub(super) name: String,
    pub(super) kind: Kind,
    pub(super) layout: Layout,
    pub(super) mib: u64,
    pub(super) files: u64,
    pub(super) seed: u64,
    pub(super) pages: u64,
    pub(super) system: String,
    pub(super) runs: usize,
    pub(super) figures: Figures,
    #[serde(default)]
    pub(super) spread: Figures,
}

/// A case that a kernel and a handler was spared.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Skipped {
    pub(super) name: String,
    pub(super) system: String,
    pub(super) why: String,
}

impl Report {
    /// What machine it was.
    pub(super) fn machine(&self) -> String {
        let nodes = match self.nodes {
            1 => String::new(),
            nodes => format!(" on {nodes} nodes"),
        };
        let deferred = if self.deferred {
            ", page structures deferred"
        } else {
            ""
        };
        format!("{}, {} MiB{nodes}{deferred}", self.arch, self.mem_mib)
    }
}

impl Alone {
    pub(super) fn figure(&self, name: &str) -> Option<i64> {
        self.figures.get(name).copied()
    }

    /// All modules together; 0 if the handler is none.
    pub(super) fn modules(&self) -> i64 {
        let modules = self.figures.iter();
        modules
            .filter(|(name, _)| name.starts_with("module."))
            .map(|(_, value)| value)
            .sum()
    }
}

impl Row {
    pub(super) fn figure(&self, name: &str) -> Option<i64> {
        self.figures.get(name).copied()
    }

    /// Whether it is of that case, or of one that differs in size only.
    pub(super) fn is_like(&self, case: &Case) -> bool {
        let same = self.name.ends_with(".collapsed") == case.collapse;
        same && (self.kind, self.layout, self.files) == (case.kind, case.layout, case.files)
    }
}

/// The mean of some figures and by how much they differ.
fn mean(values: &[i64]) -> Option<(i64, i64)> {
    let (low, high) = (values.iter().min()?, values.iter().max()?);
    let count = i64::try_from(values.len()).ok()?;
    Some((values.iter().sum::<i64>() / count, high - low))
}

/// Means and differences of figures that several runs have.
fn means<'a>(runs: impl Iterator<Item = &'a Figures>) -> (Figures, Figures) {
    let mut values: BTreeMap<&String, Vec<i64>> = BTreeMap::new();
    for run in runs {
        for (name, value) in run {
            values.entry(name).or_default().push(*value);
        }
    }
    let (mut figures, mut spread) = (Figures::new(), Figures::new());
    for (name, values) in values {
        if let Some((mean, differ)) = mean(&values) {
            figures.insert(name.clone(), mean);
            if values.len() > 1 {
                spread.insert(name.clone(), differ);
            }
        }
    }
    (figures, spread)
}

/// What a kernel and a handler take without anything to preserve.
fn alone(system: &str, measured: &[Measured]) -> Alone {
    let (mut figures, mut spread) = means(measured.iter().map(|m| &m.alone));
    let idle: Vec<Boot> = measured.iter().flat_map(|m| m.idle.clone()).collect();
    let parts: [(&str, Vec<i64>); 3] = [
        ("freeze", idle.iter().map(|boot| boot.freeze).collect()),
        ("jump", idle.iter().filter_map(|boot| boot.jump).collect()),
        ("boot", idle.iter().map(|boot| boot.boot).collect()),
    ];
    for (name, values) in parts {
        // Not one, if the machine did not get that far.
        if let Some((value, differ)) = mean(&values) {
            figures.insert(name.into(), value);
            spread.insert(name.into(), differ);
        }
    }
    let first = measured.first();
    Alone {
        system: system.into(),
        release: first.map(|m| m.release.clone()).unwrap_or_default(),
        build_id: first.map(|m| m.build_id.clone()).unwrap_or_default(),
        figures,
        spread,
    }
}

/// What the memory adds to a live update, from preserve to finish: everything but accesses. A boot that is
/// faster because there is less memory to set up takes nothing off.
fn adds(figures: &Figures) -> Option<i64> {
    let of = |name: &str| figures.get(name).copied();
    let growth = of("boot-growth")?.max(0) + of("freeze-growth")?.max(0);
    Some(of("preserve")? + growth + of("session")? + of("retrieve")? + of("finish")?)
}

/// Adds the figures that follow from those of the same machine with nothing preserved.
fn derive(row: &mut Row, alone: &Alone) {
    for (name, of) in [("freeze-growth", "freeze"), ("boot-growth", "boot")] {
        if let Some((value, idle)) = row.figure(of).zip(alone.figure(of)) {
            row.figures.insert(name.into(), value - idle);
            let spread = |figures: &Figures| figures.get(of).copied().unwrap_or(0);
            let differ = spread(&row.spread) + spread(&alone.spread);
            row.spread.insert(name.into(), differ);
        }
    }
    let adds = adds(&row.figures);
    row.figures.extend(adds.map(|adds| ("adds".into(), adds)));
}

impl Report {
    pub(super) fn new(arch: Arch) -> Self {
        Self {
            schema: SCHEMA,
            arch: arch.name(),
            mem_mib: 0,
            deferred: false,
            nodes: 1,
            systems: Vec::new(),
            rows: Vec::new(),
            skipped: Vec::new(),
            goals: Vec::new(),
            handlers: Vec::new(),
            huge_pages: None,
            two_cpus: Vec::new(),
        }
    }

    /// Takes the figures of all machines, in the order of the cases.
    pub(super) fn fill(&mut self, results: &BTreeMap<&'static str, Vec<Measured>>, cases: &[Case]) {
        self.systems.clear();
        self.rows.clear();
        for system in &SYSTEMS {
            if let Some(measured) = results.get(system.name) {
                self.systems.push(alone(system.name, measured));
            }
        }
        for case in cases {
            for alone in &self.systems {
                let name = case.name();
                let measured = results.get(alone.system.as_str());
                let runs: Vec<&Figures> = measured
                    .into_iter()
                    .flatten()
                    .filter_map(|m| m.cases.get(&name))
                    .collect();
                if runs.is_empty() {
                    continue;
                }
                let (figures, spread) = means(runs.iter().copied());
                let mut row = Row {
                    name,
                    kind: case.kind,
                    layout: case.layout,
                    mib: case.mib,
                    files: case.files,
                    seed: SEED,
                    pages: case.pages(),
                    system: alone.system.clone(),
                    runs: runs.len(),
                    figures,
                    spread,
                };
                derive(&mut row, alone);
                self.rows.push(row);
            }
        }
    }

    /// The row of a case with a system.
    pub(super) fn row(&self, system: &str, name: &str) -> Option<&Row> {
        self.rows
            .iter()
            .find(|row| row.system == system && row.name == name)
    }

    pub(super) fn alone(&self, system: &str) -> Option<&Alone> {
        self.systems.iter().find(|alone| alone.system == system)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::suite::{
        all,
        OURS,
        REFERENCE, //
    };
    use super::*;

    fn figures(pairs: &[(&str, i64)]) -> Figures {
        pairs.iter().map(|(n, v)| ((*n).to_owned(), *v)).collect()
    }

    /// All cases by the reference and by ours, which takes a half of that, with boots that grow by 1000
    /// for each MiB.
    pub(in super::super) fn example() -> Report {
        let mut results = BTreeMap::new();
        for (system, times) in [(REFERENCE, 2), (OURS, 1)] {
            let boot = |boot| Boot {
                freeze: 10,
                jump: Some(30),
                boot,
            };
            let mut measured = Measured {
                idle: vec![boot(1000), boot(1010)],
                alone: figures(&[("kexec-load", 5), ("module.a", 7), ("module.b", 8)]),
                ..Measured::default()
            };
            for case in all() {
                let mib = i64::try_from(case.mib).unwrap() * times;
                let values = [
                    ("fragments", 262_144),
                    ("preserve", 100 * mib),
                    ("metadata", 4096 * mib),
                    ("freeze", 10),
                    ("boot", 1005 + 1000 * mib),
                    ("session", 4),
                    ("retrieve", 300 * mib),
                    ("access", 50),
                    ("finish", 1),
                    ("free", 5000 << 20),
                ];
                measured.cases.insert(case.name(), figures(&values));
            }
            results.insert(system, vec![measured]);
        }
        let mut report = Report::new(Arch::X86_64);
        report.fill(&results, &all());
        report
    }

    #[test]
    fn growth_is_what_a_boot_takes_more() {
        let report = example();
        let row = report.row(OURS, "memfd-4k.contiguous.16m").unwrap();
        assert_eq!(row.figure("boot-growth"), Some(16_000));
        assert_eq!(row.spread.get("boot-growth"), Some(&10));
        assert_eq!(row.figure("adds"), Some(1600 + 16_000 + 4 + 4800 + 1));
        assert_eq!(report.alone(OURS).unwrap().modules(), 15);
        assert_eq!(report.rows.len(), 2 * all().len());
    }

    #[test]
    fn several_runs_have_a_mean_and_a_spread() {
        let runs = [figures(&[("a", 10), ("b", 1)]), figures(&[("a", 14)])];
        let (mean, spread) = means(runs.iter());
        assert_eq!(mean, figures(&[("a", 12), ("b", 1)]));
        assert_eq!(spread, figures(&[("a", 4)]));
    }

    #[test]
    fn a_faster_boot_takes_nothing_off() {
        let mut values = figures(&[("preserve", 1), ("session", 2), ("retrieve", 3)]);
        values.extend(figures(&[("finish", 4), ("boot-growth", -50)]));
        values.insert("freeze-growth".into(), -5);
        assert_eq!(adds(&values), Some(10));
        values.remove("finish");
        assert_eq!(adds(&values), None);
    }
}

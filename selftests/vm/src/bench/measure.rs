// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Has machines measure some cases, small ones before large ones.

use std::collections::BTreeMap;
use std::sync::Mutex;

use super::machine::{
    self,
    Measured, //
};
use super::progress::Progress;
use super::report::{
    Report,
    Skipped, //
};
use super::suite::{
    Case,
    System,
    SYSTEMS, //
};
use super::Options;

/// Machines for some cases, as there are kernels and handlers that can take them.
fn jobs(
    cases: &[Case],
    runs: u32,
    has: impl Fn(&System) -> bool,
) -> Vec<(&'static System, Vec<Case>)> {
    let mut jobs = Vec::new();
    for run in 0..runs {
        for system in SYSTEMS.iter().filter(|system| has(system)) {
            let mut cases: Vec<Case> = cases
                .iter()
                .filter(|case| system.takes(case.kind))
                .copied()
                .collect();
            // What was fragmented leaves memory in small pieces behind.
            cases.sort_by_key(|case| case.layout);
            if run % 2 == 1 {
                cases.reverse();
            }
            if !cases.is_empty() {
                jobs.push((system, cases));
            }
        }
    }
    jobs
}

/// What all machines together told, by system.
type Results = BTreeMap<&'static str, Vec<Measured>>;

fn run(options: &Options, mem: u64, jobs: &[(&'static System, Vec<Case>)], results: &mut Results) {
    let stages = jobs.iter().map(|job| machine::stages(&job.1).len()).sum();
    let progress = Progress::new(stages);
    let queue = Mutex::new(jobs.iter());
    let results = Mutex::new(results);
    std::thread::scope(|scope| {
        for _ in 0..options.jobs.max(1) {
            scope.spawn(|| loop {
                let next = queue.lock().ok().and_then(|mut queue| queue.next());
                let Some((system, cases)) = next else { break };
                let measured = machine::measure(options, mem, system, cases, &progress);
                if let Ok(mut results) = results.lock() {
                    results.entry(system.name).or_default().push(measured);
                }
            });
        }
    });
}

/// How much a boot grows with a size, from what it grew by with the two largest sizes below, each with
/// its size. [`None`] if there are not two.
fn predict(known: &[(u64, i64)], mib: u64) -> Option<i64> {
    let mut below: Vec<_> = known.iter().filter(|known| known.0 < mib).collect();
    below.sort();
    let [.., (small, less), (large, more)] = &below[..] else {
        return None;
    };
    let (less, more) = ((*less).max(1) as f64, (*more).max(1) as f64);
    let power = (more / less).ln() / (*large as f64 / *small as f64).ln();
    // CAST: It saturates.
    Some((more * (mib as f64 / *large as f64).powf(power.max(0.0))) as i64)
}

/// Which of the large cases a system is spared, and why.
fn too_large(report: &Report, system: &System, case: &Case, limit: u64) -> Option<Skipped> {
    let known: Vec<_> = report
        .rows
        .iter()
        .filter(|row| row.system == system.name && row.is_like(case))
        .filter_map(|row| Some((row.mib, row.figure("boot-growth")?)))
        .collect();
    let why = match predict(&known, case.mib) {
        _ if limit == 0 => return None,
        Some(growth) if growth <= i64::try_from(limit * 1_000_000_000).unwrap_or(i64::MAX) => {
            return None;
        }
        Some(growth) => format!(
            "the boot would take {:.1}e9 instructions more, by what smaller sizes took (--limit)",
            growth as f64 / 1e9
        ),
        None => "how long it would take is not known: measure two smaller sizes, too, or --limit 0"
            .into(),
    };
    Some(Skipped {
        name: case.name(),
        system: system.name.into(),
        why,
    })
}

/// Measures some cases with all systems that take them: what failed.
pub(super) fn all(options: &Options, cases: &[Case], report: &mut Report) -> Vec<String> {
    let most = cases.iter().map(|case| case.mib).max().unwrap_or(0);
    // Files, what lies between their pages, and room for the kernel. The same for all machines, as the
    // time of a boot depends on it.
    let mem = (3 * most + 3 * 1024) << 20;
    report.mem_mib = mem >> 20;
    report.deferred = options.deferred;
    report.nodes = options.nodes;
    let (large, small): (Vec<Case>, Vec<Case>) = cases.iter().partition(|case| case.is_large());
    let mut results = Results::new();
    run(
        options,
        mem,
        &jobs(&small, options.runs, |system| options.has(system)),
        &mut results,
    );
    report.fill(&results, cases);

    let mut more = jobs(&large, options.runs, |system| options.has(system));
    for (system, cases) in &mut more {
        cases.retain(|case| {
            let Some(skipped) = too_large(report, system, case, options.limit) else {
                return true;
            };
            // Each run is spared it for the same reason.
            if !report.skipped.contains(&skipped) {
                report.skipped.push(skipped);
            }
            false
        });
    }
    more.retain(|job| !job.1.is_empty());
    if !more.is_empty() {
        run(options, mem, &more, &mut results);
        report.fill(&results, cases);
    }
    let failures = results.iter().flat_map(|(system, measured)| {
        let failures = measured.iter().flat_map(|measured| &measured.failures);
        failures.map(move |why| format!("{system}: {why}"))
    });
    failures.collect()
}

#[cfg(test)]
mod tests {
    use super::super::suite::{
        self,
        Kind, //
    };
    use super::*;

    #[test]
    fn each_case_is_measured_by_whoever_takes_it() {
        let jobs = jobs(&suite::all(), 2, |_| true);
        assert_eq!(jobs.len(), 2 * SYSTEMS.len());
        let (forwards, backwards) = (&jobs[0].1, &jobs[SYSTEMS.len()].1);
        assert_eq!(jobs[0].0.name, jobs[SYSTEMS.len()].0.name);
        assert_eq!(forwards.first(), backwards.last());
        assert!(forwards
            .iter()
            .all(|case| matches!(case.kind, Kind::Memfd | Kind::MemfdThp)));
        assert_eq!(jobs[2].1.len(), suite::all().len());
    }

    #[test]
    fn growth_is_told_ahead() {
        // With the square of the size.
        let square = [(16, 100), (64, 1600), (32, 400)];
        assert_eq!(predict(&square, 256), Some(25_600));
        let linear = [(32, 400), (64, 800)];
        let told = predict(&linear, 1024).unwrap();
        assert!((12_700..12_900).contains(&told), "{told}");
        assert_eq!(predict(&linear, 64), None);
        assert_eq!(predict(&[(32, -5), (64, 0)], 1024), Some(1));
    }
}

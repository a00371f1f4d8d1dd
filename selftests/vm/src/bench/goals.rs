// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What must hold, as ratios to mainline's handler in mainline's kernel, measured in the same run.
//!
//! A miss is no failure of a benchmark: it is what the benchmark tells.

use serde::Serialize;

use super::cpus;
use super::report::{
    Report,
    Row, //
};
use super::suite::{
    Kind,
    Layout,
    EXTENTS,
    OURS,
    REFERENCE, //
};
use super::table;

/// A figure with its unit.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Value {
    Instructions(i64),
    Bytes(i64),
    /// How many times as much.
    Times(f64),
}

impl Value {
    pub(super) fn text(self) -> String {
        match self {
            Self::Instructions(value) => table::millions(value),
            Self::Bytes(value) => table::bytes(value),
            Self::Times(value) => format!("{value:.2}"),
        }
    }
}

/// One thing that must hold.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Goal {
    pub(super) what: String,
    /// What it was measured with, or why it was not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) note: Option<String>,
    pub(super) ours: Option<Value>,
    pub(super) reference: Option<Value>,
    /// Ours divided by the reference.
    pub(super) ratio: Option<f64>,
    /// What the ratio may be at most.
    pub(super) goal: f64,
    pub(super) met: Option<bool>,
}

const CONTIGUOUS_GIB: &str = "memfd-4k.contiguous.1024m";

const SCATTERED: &str = "memfd-4k.every-other.64m";

/// Two figures: what, figure, the system, its case, the case of the reference, goal.
type Pair = (
    &'static str,
    &'static str,
    &'static str,
    &'static str,
    &'static str,
    f64,
);

const PAIRS: [Pair; 13] = [
    (
        "boot growth, 1 GiB contiguous",
        "boot-growth",
        OURS,
        CONTIGUOUS_GIB,
        CONTIGUOUS_GIB,
        1.0 / 50.0,
    ),
    (
        "boot growth, 64 MiB every other page",
        "boot-growth",
        OURS,
        SCATTERED,
        SCATTERED,
        1.0 / 400.0,
    ),
    (
        "boot growth, 1 GiB every other page v C contiguous",
        "boot-growth",
        OURS,
        "memfd-4k.every-other.1024m",
        CONTIGUOUS_GIB,
        1.0 / 5.0,
    ),
    (
        "preserve, 4K pages, memfd-v2",
        "preserve",
        OURS,
        CONTIGUOUS_GIB,
        CONTIGUOUS_GIB,
        1.0,
    ),
    (
        "retrieve, 4K pages, memfd-v2",
        "retrieve",
        OURS,
        CONTIGUOUS_GIB,
        CONTIGUOUS_GIB,
        1.0,
    ),
    (
        "preserve, 4K pages in a row, rs-memfd-v1",
        "preserve",
        EXTENTS,
        CONTIGUOUS_GIB,
        CONTIGUOUS_GIB,
        0.5,
    ),
    (
        "preserve, every other 4K page, rs-memfd-v1",
        "preserve",
        EXTENTS,
        SCATTERED,
        SCATTERED,
        0.5,
    ),
    (
        "retrieve, 4K pages in a row, rs-memfd-v1",
        "retrieve",
        EXTENTS,
        CONTIGUOUS_GIB,
        CONTIGUOUS_GIB,
        0.5,
    ),
    (
        "retrieve, every other 4K page, rs-memfd-v1",
        "retrieve",
        EXTENTS,
        SCATTERED,
        SCATTERED,
        0.5,
    ),
    (
        "retrieve, 1 GiB in aligned pages, rs-memfd-v1",
        "retrieve",
        EXTENTS,
        "memfd-4k.aligned.1024m",
        "memfd-4k.aligned.1024m",
        0.1,
    ),
    (
        "metadata, 1 GiB contiguous, rs-memfd-v1",
        "metadata",
        EXTENTS,
        CONTIGUOUS_GIB,
        CONTIGUOUS_GIB,
        1.0 / 64.0,
    ),
    (
        "1 GiB of HugeTLB 2M adds, v C in 4K pages",
        "adds",
        OURS,
        "hugetlb-2m.contiguous.1024m",
        CONTIGUOUS_GIB,
        1.0 / 50.0,
    ),
    (
        "1 GiB of HugeTLB 1G adds, v C in 4K pages",
        "adds",
        OURS,
        "hugetlb-1g.contiguous.1024m",
        CONTIGUOUS_GIB,
        1.0 / 200.0,
    ),
];

/// Sizes that a statement about growth takes.
const SIZES: usize = 4;
/// How many times as much a MiB may cost among the larger sizes as among the smaller ones, to be called linear.
const LINEAR: f64 = 1.25;

/// Two idle boots of one kernel may differ by as much.
const SAME: f64 = 1.002;

fn goal(what: &str, ours: Option<Value>, reference: Option<Value>, goal: f64) -> Goal {
    let number = |value: Value| match value {
        // CAST: A ratio has few digits that count.
        Value::Instructions(value) | Value::Bytes(value) => value as f64,
        Value::Times(value) => value,
    };
    let ratio = ours
        .zip(reference)
        .map(|(ours, reference)| number(ours) / number(reference).max(1.0));
    Goal {
        what: what.into(),
        note: None,
        ours,
        reference,
        ratio,
        goal,
        met: ratio.map(|ratio| ratio <= goal),
    }
}

fn figure(row: &Row, name: &str) -> Option<Value> {
    let value = row.figure(name)?;
    Some(match name {
        "metadata" | "free" => Value::Bytes(value),
        _ => Value::Instructions(value),
    })
}

/// Instructions for a MiB that are none: four for a page.
const NONE: f64 = 1000.0;

/// How many times as much the boot grows for a MiB among the larger half of the sizes as among the smaller half, and
/// the sizes. What a boot takes more or less at any size makes no difference. [`None`] if fewer than four were
/// measured.
fn linearity(report: &Report, system: &str, layout: Layout) -> Option<(f64, Vec<u64>)> {
    let mut points: Vec<(u64, f64)> = report
        .rows
        .iter()
        .filter(|row| (row.kind, row.layout, row.files) == (Kind::Memfd, layout, 1))
        .filter(|row| row.system == system && !row.name.ends_with(".collapsed"))
        // CAST: As above.
        .filter_map(|row| Some((row.mib, row.figure("boot-growth")? as f64)))
        .collect();
    points.sort_by_key(|point| point.0);
    if points.len() < SIZES {
        return None;
    }
    let (first, last) = (points.first()?, points.last()?);
    let middle = points.get(points.len() / 2)?;
    let slope = |from: &(u64, f64), to: &(u64, f64)| {
        // A boot that does not grow is as linear as can be.
        ((to.1 - from.1) / (to.0 - from.0) as f64).max(NONE)
    };
    let sizes = points.iter().map(|point| point.0).collect();
    Some((slope(middle, last) / slope(first, middle), sizes))
}

fn linear(report: &Report, layout: Layout) -> Goal {
    let of = |system| linearity(report, system, layout);
    let (ours, reference) = (of(OURS), of(REFERENCE));
    let sizes = ours.as_ref().map(|(_, sizes)| sizes.clone());
    let times = ours.map(|(times, _)| times);
    Goal {
        note: sizes.as_deref().map(|sizes| {
            let (first, last) = (sizes.first(), sizes.last());
            let text = |size: Option<&u64>| size.map(u64::to_string).unwrap_or_default();
            format!("{}-{} MiB", text(first), text(last))
        }),
        reference: reference.map(|(times, _)| Value::Times(times)),
        // What counts is that ours is linear, whatever the reference is.
        ratio: times,
        met: times.map(|times| times <= LINEAR),
        ..goal(
            &format!("growth per MiB, larger v smaller sizes, {}", layout.name()),
            times.map(Value::Times),
            None,
            LINEAR,
        )
    }
}

/// Memory that is free after the boot: that of the reference divided by ours, so that less is better.
fn free(report: &Report) -> Goal {
    let of = |system| report.row(system, CONTIGUOUS_GIB)?.figure("free");
    let (ours, reference) = (of(OURS), of(REFERENCE));
    let ratio = ours
        .zip(reference)
        .map(|(ours, reference)| reference as f64 / ours.max(1) as f64);
    Goal {
        ratio,
        met: ratio.map(|ratio| ratio <= 1.001),
        ..goal(
            "free memory beside 1 GiB contiguous, C v ours",
            ours.map(Value::Bytes),
            reference.map(Value::Bytes),
            1.001,
        )
    }
}

/// Everything that must hold, measured or not.
pub(super) fn all(report: &Report) -> Vec<Goal> {
    let mut goals: Vec<Goal> = Vec::new();
    for (what, name, system, ours, reference, limit) in PAIRS {
        let of = |system, case| figure(report.row(system, case)?, name);
        goals.push(goal(
            what,
            of(system, ours),
            of(REFERENCE, reference),
            limit,
        ));
    }
    for layout in [Layout::Contiguous, Layout::EveryOther] {
        goals.push(linear(report, layout));
    }
    let idle = |system| {
        report
            .alone(system)?
            .figure("boot")
            .map(Value::Instructions)
    };
    goals.push(goal("idle boot", idle(OURS), idle(REFERENCE), SAME));
    goals.push(free(report));
    goals.extend(report.two_cpus.iter().map(|row| Goal {
        ratio: Some(row.ratio),
        met: Some(row.ratio <= cpus::GOAL),
        ..goal(
            &format!("longest of two CPUs, retrieve, {}", row.what),
            Some(Value::Times(row.ratio)),
            None,
            cpus::GOAL,
        )
    }));
    goals
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::example;
    use super::*;

    fn find<'a>(goals: &'a [Goal], part: &str) -> &'a Goal {
        goals.iter().find(|goal| goal.what.contains(part)).unwrap()
    }

    #[test]
    fn ratios_are_to_the_reference() {
        let goals = all(&example());
        let boot = find(&goals, "boot growth, 1 GiB contiguous");
        assert_eq!(boot.ratio, Some(0.5));
        assert_eq!(boot.met, Some(false));
        let preserve = find(&goals, "preserve, 4K pages, memfd-v2");
        assert_eq!((preserve.ratio, preserve.met), (Some(0.5), Some(true)));
        assert_eq!(find(&goals, "idle boot").met, Some(true));
        assert_eq!(find(&goals, "free memory").met, Some(true));
    }

    #[test]
    fn growth_with_the_square_is_not_linear() {
        let mut report = example();
        let goals = all(&report);
        let linear = find(&goals, "every-other");
        assert_eq!((linear.ratio, linear.met), (Some(1.0), Some(true)));
        for row in &mut report.rows {
            let square = i64::try_from(row.mib * row.mib * 1000).unwrap();
            row.figures.insert("boot-growth".into(), square);
        }
        let goals = all(&report);
        assert_eq!(find(&goals, "every-other").met, Some(false));
        // Three sizes show no line.
        report.rows.retain(|row| [8, 16, 32].contains(&row.mib));
        let goals = all(&report);
        assert_eq!(find(&goals, "every-other").met, None);
        assert_eq!(find(&goals, "boot growth, 1 GiB").met, None);
    }

    #[test]
    fn a_boot_that_does_not_grow_is_good() {
        let mut report = example();
        for row in &mut report.rows {
            if row.system == OURS {
                row.figures.insert("boot-growth".into(), -5);
            }
        }
        let goals = all(&report);
        assert_eq!(
            find(&goals, "boot growth, 1 GiB contiguous").met,
            Some(true)
        );
    }
}

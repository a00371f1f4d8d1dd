// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Tables for people, of at most 100 columns.

use super::goals::{
    self,
    Goal, //
};
use super::report::{
    Alone,
    Report,
    Row, //
};

/// Instructions in millions, with three digits that count.
pub(super) fn millions(value: i64) -> String {
    // CAST: Digits that do not count may go.
    let value = value as f64 / 1e6;
    match value.abs() {
        0.0 => "0".into(),
        size if size < 0.001 => format!("{value:.4}"),
        size if size < 1.0 => format!("{value:.3}"),
        size if size < 10.0 => format!("{value:.2}"),
        size if size < 100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

/// Bytes, in KiB, MiB or GiB.
pub(super) fn bytes(value: i64) -> String {
    match value {
        0 => "0".into(),
        value if value.abs() < 1 << 20 => format!("{} KiB", value >> 10),
        // CAST: As above.
        value if value.abs() < 1 << 30 => format!("{:.2} MiB", value as f64 / f64::from(1 << 20)),
        value => format!("{:.2} GiB", value as f64 / f64::from(1 << 30)),
    }
}

/// Ours divided by the reference, as a person says it.
pub(super) fn ratio(value: f64) -> String {
    match value {
        value if value <= 0.0 => "none".into(),
        value if value < 0.1 => format!("1/{:.0}", 1.0 / value),
        value => format!("{value:.3}"),
    }
}

fn or_dash(text: Option<String>) -> String {
    text.unwrap_or_else(|| "-".into())
}

/// Heading and figure of what is shown of a kernel by itself.
const ALONE: [(&str, &str); 4] = [
    ("kexec load", "kexec-load"),
    ("freeze", "freeze"),
    ("jump", "jump"),
    ("boot", "boot"),
];

fn alone(row: &Alone) -> String {
    let mut line = format!("{:20}", row.system);
    for (_, name) in ALONE {
        line += &format!(" {:>11}", or_dash(row.figure(name).map(millions)));
    }
    let free = row.figure("free").map(bytes);
    line + &format!(" {:>11} {:>15}", millions(row.modules()), or_dash(free))
}

/// Heading and figure of what is shown of a case, in instructions.
const PHASES: [(&str, &str); 7] = [
    ("preserve", "preserve"),
    ("freeze+", "freeze-growth"),
    ("boot+", "boot-growth"),
    ("session", "session"),
    ("retrieve", "retrieve"),
    ("access", "access"),
    ("finish", "finish"),
];

fn case(row: &Row) -> String {
    let mut line = format!("  {:18}", row.system);
    for (_, name) in PHASES {
        line += &format!(" {:>9}", or_dash(row.figure(name).map(millions)));
    }
    line + &format!(" {:>9}", or_dash(row.figure("metadata").map(bytes)))
}

/// Name and pages of a case, and in how many pieces they lie for each system.
fn heading(report: &Report, row: &Row) -> String {
    let same = report.rows.iter().filter(|other| other.name == row.name);
    let pieces: Vec<_> = same
        .filter_map(|row| row.figure("fragments"))
        .map(|pieces| pieces.to_string())
        .collect();
    format!(
        "{} ({} pages, in pieces: {})",
        row.name,
        row.pages,
        pieces.join(", ")
    )
}

fn goal(goal: &Goal) -> String {
    let what = match &goal.note {
        Some(note) => format!("{} ({note})", goal.what),
        None => goal.what.clone(),
    };
    let verdict = match goal.met {
        Some(true) => "pass",
        Some(false) => "miss",
        None => "-",
    };
    format!(
        "{what:58} {:>9} {:>9} {:>8} {:>6} {verdict:>5}",
        or_dash(goal.ours.map(goals::Value::text)),
        or_dash(goal.reference.map(goals::Value::text)),
        or_dash(goal.ratio.map(ratio)),
        ratio(goal.goal),
    )
}

/// Everything but the comparisons that print themselves.
pub(super) fn lines(report: &Report) -> Vec<String> {
    let mut lines = vec![
        format!(
            "Guest instructions in millions: QEMU -icount, one CPU, {}.",
            report.machine()
        ),
        String::new(),
    ];
    let mut line = format!("{:20}", "nothing preserved");
    for (heading, _) in ALONE {
        line += &format!(" {heading:>11}");
    }
    lines.push(line + &format!(" {:>11} {:>15}", "modules", "free memory"));
    lines.extend(report.systems.iter().map(alone));

    lines.push(String::new());
    let mut line = format!("{:20}", "memory");
    for (heading, _) in PHASES {
        line += &format!(" {heading:>9}");
    }
    lines.push(line + &format!(" {:>9}", "metadata"));
    let mut before = "";
    for row in &report.rows {
        if before != row.name {
            lines.push(heading(report, row));
        }
        before = &row.name;
        lines.push(case(row));
    }
    if !report.skipped.is_empty() {
        lines.push(String::new());
    }
    for skipped in &report.skipped {
        lines.push(format!(
            "not measured: {}, {}:",
            skipped.name, skipped.system
        ));
        lines.push(format!("  {}", skipped.why));
    }

    lines.push(String::new());
    lines.push(format!(
        "{:58} {:>9} {:>9} {:>8} {:>6} {:>5}",
        "what must hold", "ours", "C", "ratio", "goal", ""
    ));
    lines.extend(report.goals.iter().map(goal));
    lines
}

/// Prints everything but the comparisons that print themselves.
pub(super) fn print(report: &Report) {
    for line in lines(report) {
        println!("{line}");
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::example;
    use super::super::report::Skipped;
    use super::*;

    #[test]
    fn numbers_are_short() {
        let shown: Vec<_> = [
            0,
            99,
            4159,
            3_100_000,
            34_600_000,
            -4_255_383,
            5_951_000_000,
        ]
        .into_iter()
        .map(millions)
        .collect();
        let expected = ["0", "0.0001", "0.004", "3.10", "34.6", "-4.26", "5951"];
        assert_eq!(shown, expected);
        assert_eq!(bytes(12 << 10), "12 KiB");
        assert_eq!(bytes(4 << 20), "4.00 MiB");
        assert_eq!(bytes(9 << 29), "4.50 GiB");
        assert_eq!(ratio(0.02), "1/50");
        assert_eq!(ratio(1.0), "1.000");
        assert_eq!(ratio(-0.1), "none");
    }

    #[test]
    fn tables_fit_a_terminal() {
        let mut report = example();
        report.skipped.push(Skipped {
            name: "memfd-4k.every-other.1024m".into(),
            system: "patched-rust".into(),
            why: "the boot would take about 1000.0e9 instructions more, by smaller sizes".into(),
        });
        let lines = lines(&report);
        assert!(lines.len() > 50);
        for line in lines {
            assert!(line.chars().count() <= 100, "{line}");
        }
    }
}

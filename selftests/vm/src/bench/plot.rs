// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What memory adds to a live update against its size: a drawing for each layout, both axes logarithmic.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::report::{
    Report,
    Row, //
};
use super::suite::Layout;

/// The area of a drawing's lines, and what is left of and above it.
const WIDTH: f64 = 360.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 64.0;
const TOP: f64 = 56.0;
/// From one drawing to the next, and the room below for what the lines mean.
const STEP: f64 = WIDTH + LEFT + 24.0;
const BELOW: f64 = 48.0;
const LEGEND: f64 = 18.0;

/// Colours that people who do not see all of them tell apart (Okabe and Ito).
const COLOURS: [&str; 7] = [
    "#000000", "#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9",
];

/// A logarithmic axis from one power of its base to another.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Axis {
    base: f64,
    low: i32,
    high: i32,
}

impl Axis {
    fn new(base: f64, values: impl Iterator<Item = f64> + Clone) -> Option<Self> {
        let power = |value: f64| value.max(1.0).ln() / base.ln();
        let low = values.clone().map(power).reduce(f64::min)?;
        let high = values.map(power).reduce(f64::max)?;
        // CAST: Powers of numbers that fit 64 bits. What is a power itself must not become the next one.
        let (low, high) = ((low + 1e-9).floor() as i32, (high - 1e-9).ceil() as i32);
        let high = high.max(low + 1);
        Some(Self { base, low, high })
    }

    /// How far a value is on it, from 0 to 1.
    fn at(self, value: f64) -> f64 {
        let power = value.max(1.0).ln() / self.base.ln();
        (power - f64::from(self.low)) / f64::from(self.high - self.low)
    }

    fn ticks(self) -> impl Iterator<Item = f64> {
        (self.low..=self.high).map(move |power| self.base.powi(power))
    }
}

/// What is drawn as one line: points of size and cost.
type Lines<'a> = BTreeMap<(&'a str, &'a str, u64), Vec<(f64, f64)>>;

/// The lines of one layout.
fn lines(report: &Report, layout: Layout) -> Lines<'_> {
    let mut lines = Lines::new();
    for row in report.rows.iter().filter(|row| row.layout == layout) {
        // CAST: Points of a drawing.
        if let Some(adds) = row.figure("adds") {
            let point = (row.mib as f64, adds as f64);
            lines.entry(key(row)).or_default().push(point);
        }
    }
    for points in lines.values_mut() {
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
    }
    lines
}

fn key(row: &Row) -> (&str, &str, u64) {
    (row.kind.name(), &row.system, row.files)
}

/// Instructions, short.
fn short(value: f64) -> String {
    match value {
        value if value >= 1e9 => format!("{}e9", value / 1e9),
        value if value >= 1e6 => format!("{}e6", value / 1e6),
        value => format!("{value}"),
    }
}

/// One drawing.
fn drawing(
    out: &mut String,
    title: &str,
    lines: &Lines<'_>,
    colours: &BTreeMap<(&str, &str, u64), usize>,
    axes: (Axis, Axis),
) {
    let (x, y) = axes;
    let at = |point: &(f64, f64)| {
        let (right, up) = (x.at(point.0) * WIDTH, y.at(point.1) * HEIGHT);
        (LEFT + right, TOP + HEIGHT - up)
    };
    // Writing to a String cannot fail.
    let mut line = |text: String| {
        let _ = writeln!(out, "{text}");
    };
    line(format!(
        r#"<text x="{:.0}" y="{:.0}" text-anchor="middle" font-weight="bold">{title}</text>"#,
        LEFT + WIDTH / 2.0,
        TOP - 12.0
    ));
    for tick in x.ticks() {
        let (at, _) = at(&(tick, 1.0));
        line(format!(
            r##"<path d="M{at:.1} {TOP}v{HEIGHT}" stroke="#ddd"/><text x="{at:.1}" y="{:.0}" text-anchor="middle">{tick}</text>"##,
            TOP + HEIGHT + 16.0
        ));
    }
    for tick in y.ticks() {
        let (_, at) = at(&(1.0, tick));
        line(format!(
            r##"<path d="M{LEFT} {at:.1}h{WIDTH}" stroke="#ddd"/><text x="{:.0}" y="{:.1}" text-anchor="end">{}</text>"##,
            LEFT - 6.0,
            at + 4.0,
            short(tick)
        ));
    }
    line(format!(
        r#"<text x="{:.0}" y="{:.0}" text-anchor="middle">MiB</text>"#,
        LEFT + WIDTH / 2.0,
        TOP + HEIGHT + 34.0
    ));
    for (key, points) in lines {
        let colour = colours
            .get(key)
            .and_then(|at| COLOURS.get(at % COLOURS.len()))
            .unwrap_or(&"#000000");
        let path: Vec<String> = points
            .iter()
            .map(|point| {
                let (x, y) = at(point);
                format!("{x:.1},{y:.1}")
            })
            .collect();
        let number = colours.get(key).copied().unwrap_or(0);
        let (dash, fill) = (
            dash(number),
            if number < COLOURS.len() {
                *colour
            } else {
                "white"
            },
        );
        line(format!(
            r#"<polyline points="{}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>"#,
            path.join(" ")
        ));
        for point in points {
            let (x, y) = at(point);
            line(format!(
                r#"<circle cx="{x:.1}" cy="{y:.1}" r="3" fill="{fill}" stroke="{colour}"/>"#
            ));
        }
    }
}

/// The second round through the colours is dashed, and its points are hollow, so that all lines differ.
fn dash(number: usize) -> &'static str {
    match number / COLOURS.len() {
        0 => "",
        1 => r#" stroke-dasharray="6 3""#,
        _ => r#" stroke-dasharray="2 3""#,
    }
}

/// The whole picture. Empty if nothing was measured.
pub(super) fn svg(report: &Report) -> String {
    let drawings: Vec<_> = Layout::ALL
        .into_iter()
        .map(|layout| (layout.name(), lines(report, layout)))
        .filter(|(_, lines)| !lines.is_empty())
        .collect();
    let points = drawings
        .iter()
        .flat_map(|(_, lines)| lines.values().flatten().copied());
    let x = Axis::new(2.0, points.clone().map(|point| point.0));
    let y = Axis::new(10.0, points.map(|point| point.1));
    let Some(axes) = x.zip(y) else {
        return String::new();
    };
    let mut colours = BTreeMap::new();
    for key in drawings.iter().flat_map(|(_, lines)| lines.keys()) {
        let next = colours.len();
        colours.entry(*key).or_insert(next);
    }

    let width = STEP * drawings.len() as f64 + 8.0;
    let height = TOP + HEIGHT + BELOW + LEGEND * (colours.len() as f64 + 1.0);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"8\" y=\"20\">Guest instructions that memory adds to a live update, from preserve to \
         finish ({}, one CPU)</text>\n",
        report.arch
    );
    for (number, (name, lines)) in drawings.iter().enumerate() {
        let _ = writeln!(
            out,
            r#"<g transform="translate({:.0} 0)">"#,
            STEP * number as f64
        );
        drawing(&mut out, name, lines, &colours, axes);
        out.push_str("</g>\n");
    }
    for (&(kind, system, files), &number) in &colours {
        let y = TOP + HEIGHT + BELOW + LEGEND * (number as f64 + 0.5);
        let colour = COLOURS.get(number % COLOURS.len()).unwrap_or(&"#000000");
        let files = match files {
            1 => String::new(),
            files => format!(", {files} files"),
        };
        let _ = writeln!(
            out,
            r#"<path d="M{LEFT} {y:.0}h28" stroke="{colour}" stroke-width="2"{}/><text x="{:.0}" y="{:.0}">{kind}, {system}{files}</text>"#,
            dash(number),
            LEFT + 36.0,
            y + 4.0
        );
    }
    out.push_str("</svg>\n");
    out
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::example;
    use super::*;

    #[test]
    fn axes_end_at_powers() {
        let axis = Axis::new(10.0, [20.0, 3000.0].into_iter()).unwrap();
        assert_eq!((axis.low, axis.high), (1, 4));
        assert_eq!(axis.at(10.0), 0.0);
        assert_eq!(axis.at(10_000.0), 1.0);
        let exact = Axis::new(2.0, [8.0, 1024.0].into_iter()).unwrap();
        assert_eq!((exact.low, exact.high), (3, 10));
        // One value is no reason to divide by zero.
        let one = Axis::new(10.0, [100.0].into_iter()).unwrap();
        assert_eq!((one.low, one.high), (2, 3));
        assert!(Axis::new(10.0, [].into_iter()).is_none());
    }

    #[test]
    fn each_system_has_a_line_in_each_layout() {
        let report = example();
        let svg = svg(&report);
        let drawings: usize = Layout::ALL
            .iter()
            .map(|layout| lines(&report, *layout).len())
            .sum();
        assert_eq!(svg.matches("<polyline").count(), drawings);
        assert_eq!(svg.matches("<circle").count(), report.rows.len());
        assert!(svg.ends_with("</svg>\n") && !svg.contains("NaN"));
        // What is opened is closed.
        assert_eq!(svg.matches("<g ").count(), svg.matches("</g>").count());
        assert_eq!(svg.matches("<text").count(), svg.matches("</text>").count());
    }

    #[test]
    fn nothing_has_no_picture() {
        let mut report = example();
        report.rows.clear();
        assert!(svg(&report).is_empty());
    }
}

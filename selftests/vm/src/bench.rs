// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! `make bench`: what a live update costs, in guest instructions.
//!
//! [`suite`] says what there is to measure, [`measure`] has that done, each time by a [`machine`], and
//! [`phases`] tells the parts of a boot.
//! [`report`] is what comes out, for machines; [`table`], [`plot`] and [`goals`] show it to people, and
//! [`compare`] shows what differs between two of them.
//!
//! Two comparisons have an order of their own: [`pair`] has both handlers change places in one kernel, and
//! [`kinds`] goes through pages of all sizes. [`cpus`] compares one CPU with two.

mod compare;
mod cpus;
mod goals;
mod kinds;
mod machine;
mod measure;
mod pair;
mod phases;
mod plot;
mod progress;
mod report;
mod suite;
mod table;

use std::fs;
use std::process::ExitCode;

use anyhow::{
    bail,
    Context,
    Result, //
};

use crate::arch::{
    top,
    Arch,
    Build,
    Variant, //
};
use crate::build;

pub use self::compare::main as compare_main;
pub use self::compare::Options as CompareOptions;
use self::report::Report;

/// What to measure.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Only measurements whose name matches one of these globs, which have commas between them; `all` takes
    /// everything. Without it, what fits into a quarter of an hour on two cores.
    #[arg(long, value_name = "GLOB,...")]
    test: Option<String>,
    /// Lists the measurements and runs none; those of the default have a star.
    #[arg(long)]
    list: bool,
    /// Only these systems. What must hold is compared with vanilla-c.
    #[arg(long, value_name = "NAME,...", value_delimiter = ',', value_parser = suite::SYSTEMS.map(|system| system.name))]
    system: Vec<String>,
    /// Architecture.
    #[arg(long, value_enum, default_value_t = Arch::X86_64)]
    arch: Arch,
    /// How often to measure, forwards and backwards through the sizes in turn; figures are the means.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10))]
    runs: u32,
    /// Virtual machines at a time.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// Kernels that initialise the page structures of most memory by threads, late in boot. The comparisons that
    /// are made in another way are left out.
    #[arg(long)]
    deferred: bool,
    /// NUMA nodes, each with as much memory. The same are left out.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=2))]
    nodes: u32,
    /// The longest boot to wait for, in 10^9 instructions; 0 waits for all. How long one takes is known
    /// from smaller sizes.
    #[arg(long, default_value_t = 10)]
    limit: u64,
    /// How much memory of each kind the measurement huge-pages compares.
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u64).range(2..=65536))]
    mib: u64,
}

impl Options {
    /// Whether the system is one of those that are measured.
    fn has(&self, system: &suite::System) -> bool {
        self.system.is_empty() || self.system.iter().any(|name| name == system.name)
    }

    /// The kernel of that variant that is measured.
    fn kernel(&self, variant: Variant) -> Variant {
        if self.deferred {
            variant.deferred()
        } else {
            variant
        }
    }
}

/// The comparison of pages of all sizes.
const HUGE_PAGES: &str = "huge-pages";
/// The comparison of one CPU and two.
const TWO_CPUS: &str = "two-cpus";

/// What the user chose.
struct Choice {
    cases: Vec<suite::Case>,
    pairs: Vec<pair::Case>,
    huge_pages: bool,
    two_cpus: bool,
}

fn choose(test: Option<&str>) -> Result<Choice> {
    let filters = test
        .filter(|test| *test != "all")
        .map(|test| {
            let globs = test.split(',').map(crate::check::glob);
            globs.collect::<Result<Vec<_>>>()
        })
        .transpose()?;
    // Without a glob, the names decide nothing.
    let named = |name: &str| {
        filters
            .as_ref()
            .is_none_or(|filters| filters.iter().any(|filter| filter.is_match(name)))
    };
    let all = test.is_some();
    Ok(Choice {
        cases: suite::all()
            .into_iter()
            .filter(|case| (all || case.default) && named(&case.name()))
            .collect(),
        pairs: pair::CASES
            .into_iter()
            .filter(|case| all && named(case.name))
            .collect(),
        huge_pages: all && named(HUGE_PAGES),
        two_cpus: named(TWO_CPUS),
    })
}

fn list() {
    for case in suite::all() {
        let star = if case.default { "*" } else { " " };
        let systems: Vec<_> = suite::SYSTEMS
            .iter()
            .filter(|system| system.takes(case.kind))
            .map(|system| system.name)
            .collect();
        println!("{star} {:36} {}", case.name(), systems.join(", "));
    }
    for case in pair::CASES {
        println!("  {:36} handlers change places in one kernel", case.name);
    }
    println!("* {TWO_CPUS:36} how much of retrieving a second CPU takes over");
    println!("  {HUGE_PAGES:36} pages of all sizes, one after the other");
}

/// Measures, prints tables and writes `build/bench.json` and `build/bench.svg`.
///
/// # Errors
///
/// If something cannot be built or a run fails. What was measured until then is written.
pub fn main(options: &Options) -> Result<ExitCode> {
    if options.list {
        list();
        return Ok(ExitCode::SUCCESS);
    }
    let mut choice = choose(options.test.as_deref())?;
    if options.deferred || options.nodes > 1 {
        // These have machines of their own.
        choice.pairs.clear();
        choice.huge_pages = false;
        choice.two_cpus = false;
    }
    let more = choice.huge_pages || choice.two_cpus;
    if choice.cases.is_empty() && choice.pairs.is_empty() && !more {
        bail!(
            "no measurement has that name, or none with --deferred or --nodes; \
             selftests/vm/lab bench --list shows all"
        );
    }
    if more || !choice.pairs.is_empty() {
        build::everything(Build::new(options.arch, Variant::Plain))?;
    }
    let mut report = Report::new(options.arch);
    let mut failures = Vec::new();
    if !choice.cases.is_empty() {
        build::all(&[
            Build::new(options.arch, options.kernel(Variant::Plain)),
            Build::new(options.arch, options.kernel(Variant::Vanilla)),
        ])?;
        failures = measure::all(options, &choice.cases, &mut report);
    }
    if choice.two_cpus {
        report.two_cpus = cpus::measure(options.arch)?;
    }
    if !choice.cases.is_empty() {
        report.goals = goals::all(&report);
        table::print(&report);
    }
    pair::measure_all(options.arch, &choice.pairs, &mut report)?;
    if choice.huge_pages {
        println!();
        report.huge_pages = Some(kinds::measure(options.arch, options.mib)?);
    }

    let json = top().join("build/bench.json");
    let svg = top().join("build/bench.svg");
    let text = serde_json::to_string_pretty(&report)?;
    fs::write(&json, text).with_context(|| json.display().to_string())?;
    let mut written = json.display().to_string();
    if !report.rows.is_empty() {
        fs::write(&svg, plot::svg(&report)).with_context(|| svg.display().to_string())?;
        written = format!("{written} and {}", svg.display());
    }
    println!("\nAlso in {written}.");
    if failures.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    for failure in &failures {
        eprintln!("bench: {failure}");
    }
    bail!("not everything was measured, see above; what was not is missing in the tables")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_choose() {
        let default = choose(None).unwrap();
        assert!(!default.cases.is_empty() && default.pairs.is_empty() && !default.huge_pages);
        let all = choose(Some("all")).unwrap();
        assert!(all.cases.len() > default.cases.len());
        assert!(all.pairs.len() == pair::CASES.len() && all.huge_pages && all.two_cpus);
        let one = choose(Some(HUGE_PAGES)).unwrap();
        assert!(one.huge_pages && one.cases.is_empty() && one.pairs.is_empty());
        let some = choose(Some("memfd-4k.every-other.*")).unwrap();
        assert!(some.cases.len() > 3 && some.pairs.is_empty());
        let two = choose(Some("memfd-4k.aligned.64m,two-cpus")).unwrap();
        assert!(two.cases.len() == 1 && two.two_cpus);
    }
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! One virtual machine that goes through some cases, with one kernel and one handler.
//!
//! In each kernel it retrieves the memory of the case before and preserves that of the next. The first
//! update and the last one find nothing preserved: they tell what a boot takes by itself.

use std::collections::BTreeMap;
use std::time::Duration;

use super::phases::{
    self,
    Boot, //
};
use super::progress::Progress;
use super::suite::{
    Case,
    System, //
};
use crate::arch::{
    Build,
    Variant, //
};
use crate::run::{
    self,
    Options,
    Outcome,
    Stage, //
};

/// Figures by name: instructions, bytes for `metadata` and `free`, a number for `fragments`.
pub(super) type Figures = BTreeMap<String, i64>;

/// What one machine told.
#[derive(Debug, Default)]
pub(super) struct Measured {
    /// Boots that found nothing preserved.
    pub(super) idle: Vec<Boot>,
    /// Loading the next kernel, and modules; free memory after a boot that found nothing preserved.
    pub(super) alone: Figures,
    /// By name of the case.
    pub(super) cases: BTreeMap<String, Figures>,
    pub(super) release: String,
    pub(super) build_id: String,
    /// Why something was not measured.
    pub(super) failures: Vec<String>,
}

/// What happens in one kernel: a case is retrieved, another one is preserved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Step {
    retrieve: Option<Case>,
    preserve: Option<Case>,
    /// The next kernel is loaded once more, to time that.
    kexec: bool,
}

/// What happens in each kernel of a machine.
pub(super) fn stages(cases: &[Case]) -> Vec<Step> {
    let idle = Step {
        retrieve: None,
        preserve: None,
        kexec: false,
    };
    let mut steps = vec![idle];
    let mut before = None;
    for &case in cases {
        steps.push(Step {
            retrieve: before,
            preserve: Some(case),
            // Once is enough, and with nothing preserved yet.
            kexec: before.is_none(),
        });
        before = Some(case);
    }
    steps.push(Step {
        retrieve: before,
        ..idle
    });
    steps.push(idle);
    steps
}

/// The command of a step in the kernel `number`.
fn command(step: &Step, system: &System, number: usize) -> String {
    let mut command = String::from("lu_bench modules");
    for module in system.modules {
        command += &format!(" /m/{module}.ko");
    }
    if let Some(format) = system.format {
        command += &format!(" && echo {format} > /sys/module/luo_memfd/parameters/format");
    }
    if step.kexec {
        command += &format!(" && lu_bench kexec {}", number + 1);
    }
    if let Some(case) = step.retrieve {
        command += &format!(" && lu_bench retrieve {}", case.args());
    }
    if let Some(case) = step.preserve {
        let (little, all) = (case.little().args(), case.args());
        command += &format!(
            " && lu_bench preserve {little} --discard >/dev/null && lu_bench preserve {all}"
        );
    }
    command
}

/// Has a command tell its figures three times, when it has ended. Where the kernel writes a message into one of the
/// lines, two are left.
fn thrice(command: &str) -> String {
    const TOLD: &str = "/tmp/told";
    format!("{{ {command}; }} > {TOLD}; status=$?; cat {TOLD} {TOLD} {TOLD}; [ $status = 0 ]")
}

/// The figures that were told alike twice.
fn agreed(told: BTreeMap<&str, Vec<i64>>) -> Figures {
    let twice = |(name, values): (&str, Vec<i64>)| {
        let alike = |value: &&i64| values.iter().filter(|other| other == value).count() > 1;
        Some((name.to_owned(), *values.iter().find(alike)?))
    };
    told.into_iter().filter_map(twice).collect()
}

/// QEMU's arguments for nodes with as much memory each; one CPU is on the first.
fn nodes(nr: u32, mem: u64) -> Vec<String> {
    if nr < 2 {
        return Vec::new();
    }
    let each = mem / u64::from(nr);
    let args = (0..nr).flat_map(|node| {
        let cpus = if node == 0 { ",cpus=0" } else { "" };
        [
            "-object".to_owned(),
            format!("memory-backend-ram,id=m{node},size={each}"),
            "-numa".to_owned(),
            format!("node,nodeid={node},memdev=m{node}{cpus}"),
        ]
    });
    args.collect()
}

fn options(bench: &super::Options, mem: u64, system: &System, steps: &[Step]) -> Options {
    let arch = bench.arch;
    let plain = Build::new(arch, bench.kernel(Variant::Plain)).dir();
    let modules = system.modules.iter().map(|module| {
        let name = format!("{module}.ko");
        (plain.join("modules").join(&name), format!("/m/{name}"))
    });
    let stages = steps.iter().zip(1..).map(|(step, number)| Stage {
        cmd: thrice(&command(step, system, number)),
        ..Stage::default()
    });
    Options {
        arch,
        variant: bench.kernel(system.kernel),
        mem,
        smp: 1,
        // Where the kernel lies makes a difference, and chance decides it.
        append: vec!["nokaslr".into()],
        icount: true,
        files: modules.collect(),
        timeout: Some(Duration::from_secs(3600)),
        no_modules: true,
        qemu: nodes(bench.nodes, mem),
        stages: stages.collect(),
        ..Options::default()
    }
}

/// What `lu_bench` told in one kernel. A message of the kernel may stand before it in the line.
fn told(line: &str) -> Option<(&str, i64)> {
    let (_, told) = line.split_once("BENCH ")?;
    let mut words = told.split_whitespace();
    Some((words.next()?, words.next()?.parse().ok()?))
}

/// What is known of the case that is preserved in a kernel from that kernel.
const BEFORE: [&str; 3] = ["fragments", "preserve", "metadata"];
/// And what is known only of some.
const SOMETIMES: [&str; 2] = ["collapse", "collapsed"];
/// And from the next one.
const AFTER: [&str; 5] = ["free", "session", "retrieve", "access", "finish"];

/// Why a machine did not get through, with the end of what it said.
pub(super) fn trouble(outcome: &Outcome) -> String {
    let failed = outcome.stages.iter().find(|stage| stage.status != Some(0));
    let why = outcome.setup.clone().or_else(|| {
        failed.map(|stage| match stage.status {
            Some(_) => format!("kernel {} failed: {}", stage.number, stage.why),
            None => format!("kernel {} was not reached", stage.number),
        })
    });
    let end = outcome.console.len().saturating_sub(20);
    let lines = outcome.console.iter().skip(end);
    let lines: String = lines.map(|line| format!("\n  {}", line.text)).collect();
    format!("{}{lines}", why.unwrap_or_default())
}

/// The figures of the case that is preserved in one kernel and retrieved in the next.
fn figures(here: &Figures, next: &Figures, boot: Boot) -> Result<Figures, &'static str> {
    let mut figures = Figures::new();
    for (from, names) in [(here, &BEFORE[..]), (next, &AFTER[..])] {
        for name in names {
            figures.insert((*name).into(), *from.get(*name).ok_or(*name)?);
        }
    }
    let sometimes = SOMETIMES.map(|name| Some((name.into(), *here.get(name)?)));
    figures.extend(sometimes.into_iter().flatten());
    figures.insert("freeze".into(), boot.freeze);
    figures.insert("boot".into(), boot.boot);
    figures.extend(boot.jump.map(|jump| ("jump".into(), jump)));
    Ok(figures)
}

fn gather(steps: &[Step], system: &System, outcome: &Outcome) -> Measured {
    let mut kernels = vec![BTreeMap::<_, Vec<_>>::new(); steps.len()];
    for line in &outcome.console {
        let kernel = line.stage.checked_sub(1).and_then(|at| kernels.get_mut(at));
        if let (Some(kernel), Some((name, value))) = (kernel, told(&line.text)) {
            kernel.entry(name).or_default().push(value);
        }
    }
    let kernels: Vec<Figures> = kernels.into_iter().map(agreed).collect();
    let mut measured = Measured::default();
    if outcome.status() != 0 {
        measured.failures.push(trouble(outcome));
    }
    if let Some(mark) = outcome.marks.iter().find(|mark| mark.record.ev == "boot") {
        measured.release = mark.record.release.clone().unwrap_or_default();
        measured.build_id = mark.record.build_id.clone().unwrap_or_default();
    }
    let boots = phases::boots(outcome);
    for ((step, pair), boot) in steps.iter().zip(kernels.windows(2)).zip(boots) {
        let ([here, next], Some(boot)) = (pair, boot) else {
            continue;
        };
        let Some(case) = step.preserve else {
            measured.idle.push(boot);
            if let Some(free) = next.get("free") {
                measured.alone.insert("free".into(), *free);
            }
            continue;
        };
        match figures(here, next, boot) {
            Ok(figures) => {
                measured.cases.insert(case.name(), figures);
            }
            // The kernel in which it failed has told why.
            Err(_) if !measured.failures.is_empty() => {}
            Err(name) => {
                let what = format!("{} has no figure for {name}", case.name());
                measured.failures.push(what);
            }
        }
    }
    let once = |name: &str| {
        let value = kernels.iter().find_map(|figures| figures.get(name))?;
        Some((name.to_owned(), *value))
    };
    measured.alone.extend(once("kexec-load"));
    for module in system.modules {
        measured.alone.extend(once(&format!("module.{module}")));
    }
    measured
}

/// Goes through some cases in this order.
pub(super) fn measure(
    bench: &super::Options,
    mem: u64,
    system: &System,
    cases: &[Case],
    progress: &Progress,
) -> Measured {
    let steps = stages(cases);
    let options = options(bench, mem, system, &steps);
    let outcome = run::run(&options, &mut progress.machine(system.name));
    gather(&steps, system, &outcome)
}

#[cfg(test)]
mod tests {
    use super::super::suite::{
        all,
        SYSTEMS, //
    };
    use super::*;

    #[test]
    fn each_case_is_preserved_once_and_retrieved_in_the_next_kernel() {
        let cases: Vec<_> = all().into_iter().take(3).collect();
        let steps = stages(&cases);
        assert_eq!(steps.len(), cases.len() + 3);
        for (number, case) in cases.iter().enumerate() {
            assert_eq!(steps[number + 1].preserve, Some(*case));
            assert_eq!(steps[number + 2].retrieve, Some(*case));
        }
        assert_eq!(steps.iter().filter(|step| step.kexec).count(), 1);
        // Two updates with nothing preserved.
        let idle = steps.iter().rev().skip(1);
        assert_eq!(idle.filter(|step| step.preserve.is_none()).count(), 2);
    }

    #[test]
    fn commands_stop_at_the_first_failure() {
        let cases: Vec<_> = all().into_iter().take(2).collect();
        let steps = stages(&cases);
        let command = command(&steps[1], &SYSTEMS[1], 2);
        assert!(command.starts_with("lu_bench modules /m/memfd_luo.ko && lu_bench kexec 3 && "));
        assert!(command.ends_with(&format!("&& lu_bench preserve {}", cases[0].args())));
        assert_eq!(command.matches(';').count(), 0);
    }

    #[test]
    fn what_is_told_twice_counts() {
        let told = [
            ("whole", vec![12, 12, 12]),
            ("cut", vec![1, 12, 12]),
            ("lost", vec![12, 12]),
            ("unknown", vec![1, 12]),
        ];
        let figures = agreed(told.into());
        assert_eq!(figures.len(), 3);
        assert!(figures.values().all(|value| *value == 12));
    }

    #[test]
    fn figures_are_read() {
        assert_eq!(told("BENCH preserve 12"), Some(("preserve", 12)));
        assert_eq!(told("[ 0.1] x BENCH free 3\r"), Some(("free", 3)));
        assert_eq!(told("BENCH preserve"), None);
        assert_eq!(told("preserve 12"), None);
    }
}

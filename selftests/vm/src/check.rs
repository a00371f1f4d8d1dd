// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! `make check`: the declared tests of `selftests/tests/`, run on the VM runner, and the host's own.
//!
//! A test is a list of stages. It passes if the runner answers the expected status
//! and the console shows what it must and nothing it must not. Anything else, a lost
//! VM or a skip that is not declared included, is a failure; its log is kept in `build/check/`, and what it says
//! about the failure is shown at the end.

pub(crate) mod declared;
mod evidence;
mod host;
mod judge;

use std::fs;
use std::path::PathBuf;
use std::process::{
    Command,
    ExitCode,
    Stdio, //
};
use std::sync::atomic::{
    AtomicUsize,
    Ordering, //
};
use std::sync::Mutex;
use std::time::Instant;

use anyhow::{
    bail,
    Context,
    Result, //
};
use regex::Regex;

use self::declared::Declared;
use crate::arch::{
    top,
    Arch,
    Build,
    Variant, //
};
use crate::build;
use crate::run::SELF;

/// What to check.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Architecture (default: both).
    #[arg(long, value_enum)]
    arch: Option<Arch>,
    /// Only tests whose name matches this glob (`*` and `?`).
    #[arg(long, value_name = "GLOB")]
    test: Option<String>,
    /// Which kernels.
    #[arg(long, value_enum, default_value_t = Variant::Plain)]
    variant: Variant,
    /// Virtual machines at a time.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// Lists the tests and runs none.
    #[arg(long)]
    list: bool,
}

/// How a test ended.
enum Verdict {
    Pass,
    Fail(String),
    Skip(String),
}

/// What is run: a declared test on a build, or a command on the host.
enum Job {
    Vm(Box<Declared>, Build),
    Host(host::HostTest),
}

impl Job {
    fn name(&self) -> String {
        match self {
            Job::Vm(test, build) => format!("{}.{}", test.name, build.name()),
            Job::Host(test) => test.name.clone(),
        }
    }

    fn log(&self) -> PathBuf {
        let dir = top().join("build/check");
        dir.join(format!("{}.log", self.name()))
    }
}

/// Glob to anchored regex.
pub(crate) fn glob(pattern: &str) -> Result<Regex> {
    let body = regex::escape(pattern)
        .replace(r"\*", ".*")
        .replace(r"\?", ".");
    Ok(Regex::new(&format!("^{body}$"))?)
}

/// The kernel image a stage names.
fn stage_kernel(name: &str, build: Build) -> Result<Build> {
    Ok(match name {
        "other" => Build::new(build.arch, Variant::Other),
        "plain" => Build::new(build.arch, Variant::Plain),
        "vanilla" => Build::new(build.arch, Variant::Vanilla),
        "vanilla-iommufd" => Build::new(build.arch, Variant::VanillaIommufd),
        unknown => bail!(
            "a stage names the kernel {unknown:?}; known are other, plain, vanilla, vanilla-iommufd"
        ),
    })
}

/// What guests boot. With all checkers, it would take minutes in an emulated machine in an emulated one.
fn guest_kernel(build: Build) -> Build {
    Build::new(build.arch, Variant::Plain)
}

/// A declared test.
pub(crate) fn declared(name: &str) -> Result<Declared> {
    let mut tests = declared::load()?.into_iter();
    tests
        .find(|test| test.name == name)
        .with_context(|| format!("there is no test {name}"))
}

/// The runner with all that a test declares.
pub(crate) fn command(test: &Declared, build: Build) -> Result<Command> {
    let mut run = Command::new(SELF);
    run.arg("run").args(["--arch", build.arch.name()]);
    match build.variant {
        Variant::Debug => drop(run.args(["--variant", "debug"])),
        Variant::Deferred => drop(run.args(["--variant", "deferred"])),
        Variant::Locked => drop(run.args(["--variant", "locked"])),
        Variant::Disk => drop(run.args(["--variant", "disk"])),
        Variant::Iommufd => drop(run.args(["--variant", "iommufd"])),
        _ => {}
    }
    if let Some(cpus) = test.cpus(build.variant) {
        run.args(["--smp", &cpus.to_string()]);
    }
    run.args(&test.args);
    let bin = top().join("build").join(build.arch.name()).join("bin");
    for name in &test.files {
        run.arg("--file")
            .arg(format!("{}:/bin/{name}", bin.join(name).display()));
    }
    if test.linux_guest {
        let kernel = guest_kernel(build).image();
        run.arg("--file")
            .arg(format!("{}:/boot/guest", kernel.display()));
    }
    for stage in &test.stages {
        if let Some(kernel) = &stage.kernel {
            run.arg("--stage-kernel")
                .arg(stage_kernel(kernel, build)?.image());
        }
        if let Some(modules) = &stage.modules {
            run.args(["--stage-modules", modules]);
        }
        if let Some(append) = &stage.append {
            run.args(["--stage-append", append]);
        }
        if stage.no_update {
            run.arg("--no-update");
        }
        run.args(["--stage", &stage.cmd]);
    }
    Ok(run)
}

fn perform(job: &Job) -> Result<Verdict> {
    let log = job.log();
    let out = fs::File::create(&log)?;
    let mut command = match job {
        Job::Vm(test, build) => command(test, *build)?,
        Job::Host(test) => test.command(),
    };
    let status = command
        .stdin(Stdio::null())
        .stdout(out.try_clone()?)
        .stderr(out)
        .status()?;
    let text = String::from_utf8_lossy(&fs::read(&log)?).into_owned();
    let verdict = match job {
        Job::Vm(test, build) => judge::judge(test, build.variant, status.code(), &text)?,
        Job::Host(test) if status.code() == Some(test.expect) => Verdict::Pass,
        Job::Host(test) => Verdict::Fail(format!("ended with {status}, expected {}", test.expect)),
    };
    Ok(match verdict {
        Verdict::Fail(why) => Verdict::Fail(format!("{why}; see {}", log.display())),
        other => other,
    })
}

/// The jobs the options select.
fn select(options: &Options) -> Result<Vec<Job>> {
    let arches = options.arch.map_or(Arch::ALL.to_vec(), |a| vec![a]);
    let filter = options.test.as_deref().map(glob).transpose()?;
    let mut jobs: Vec<Job> = Vec::new();
    if options.variant == Variant::Plain {
        jobs.extend(host::tests().into_iter().map(Job::Host));
    }
    for test in declared::load()? {
        for &arch in &arches {
            if test.runs_on(arch, options.variant) {
                // A kernel without patches is only for single stages.
                let build = Build::new(arch, options.variant.patched());
                jobs.push(Job::Vm(Box::new(test.clone()), build));
            }
        }
    }
    if filter.is_none() && !options.list {
        jobs.retain(|job| !matches!(job, Job::Host(test) if test.on_request));
    }
    if let Some(filter) = filter {
        jobs.retain(|job| {
            let name = job.name();
            let short = match job {
                Job::Vm(test, _) => test.name.as_str(),
                Job::Host(test) => test.name.as_str(),
            };
            filter.is_match(&name) || filter.is_match(short)
        });
    }
    Ok(jobs)
}

/// Builds what the jobs need.
fn prepare(jobs: &[Job]) -> Result<()> {
    let mut builds: Vec<Build> = Vec::new();
    let mut want = |build: Build| {
        if !builds.contains(&build) {
            builds.push(build);
        }
    };
    for job in jobs {
        if let Job::Vm(test, build) = job {
            want(*build);
            if test.linux_guest {
                want(guest_kernel(*build));
            }
            for stage in &test.stages {
                if let Some(kernel) = &stage.kernel {
                    want(stage_kernel(kernel, *build)?);
                }
            }
        }
    }
    build::all(&builds)
}

/// Runs the selected tests and prints KTAP.
///
/// # Errors
///
/// If a test list cannot be read or something the tests need cannot be built.
pub fn main(options: &Options) -> Result<ExitCode> {
    if options.variant == Variant::Other {
        bail!("tests start on plain or debug kernels; other is what some of them update into");
    }
    let jobs = select(options)?;
    if options.list {
        for job in &jobs {
            match job {
                Job::Vm(test, _) => println!("{:40} {}", job.name(), test.about),
                Job::Host(test) => println!("{:40} {}", job.name(), test.about),
            }
        }
        return Ok(ExitCode::SUCCESS);
    }
    if jobs.is_empty() {
        bail!("no test has that name; selftests/vm/lab check --list shows all");
    }
    prepare(&jobs)?;
    fs::create_dir_all(top().join("build/check")).context("build/check cannot be made")?;

    println!("KTAP version 1\n1..{}", jobs.len());
    let next = AtomicUsize::new(0);
    // Passed, failed, skipped, and the number of the next line.
    let count = Mutex::new([0usize; 4]);
    let failures = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..options.jobs.max(1) {
            scope.spawn(|| {
                while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let start = Instant::now();
                    let verdict = perform(job).unwrap_or_else(|e| Verdict::Fail(format!("{e:#}")));
                    if let (Verdict::Fail(_), Ok(mut failures)) = (&verdict, failures.lock()) {
                        failures.push(job);
                    }
                    let seconds = start.elapsed().as_secs_f32();
                    let Ok(mut count) = count.lock() else { return };
                    let [passed, failed, skipped, line] = &mut *count;
                    *line += 1;
                    let (counter, word, note) = match verdict {
                        Verdict::Pass => (passed, "ok", String::new()),
                        Verdict::Fail(why) => (failed, "not ok", format!(" # {why}")),
                        Verdict::Skip(why) => (skipped, "ok", format!(" # SKIP {why}")),
                    };
                    *counter += 1;
                    println!("{word} {line} {} ({seconds:.0} s){note}", job.name());
                }
            });
        }
    });
    let Ok([passed, failed, skipped, _]) = count.into_inner() else {
        bail!("a test thread panicked")
    };
    for job in failures.into_inner().unwrap_or_default() {
        let log = fs::read(job.log()).unwrap_or_default();
        println!("# failed: {}", job.name());
        for line in evidence::of(&String::from_utf8_lossy(&log)) {
            println!("#   {line}");
        }
    }
    println!("{passed} passed, {failed} failed, {skipped} skipped");
    Ok(if failed == 0 && passed > 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_are_anchored() {
        assert!(glob("memfd.*").unwrap().is_match("memfd.holes"));
        assert!(!glob("memfd").unwrap().is_match("memfd.holes"));
    }
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The runner: stages in a virtual machine, with a live update between them.
//!
//! Demo, tests, benchmarks and a user's own experiment are lists of stages for it. [`main`] is the
//! command, [`run`] the same for other code.

mod cmdline;
mod cpio;
mod disk;
mod host;
mod kvm;
mod machine;
mod options;
mod plan;
mod record;
mod scan;
mod share;
mod watch;

use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::path::{
    Path,
    PathBuf, //
};
use std::process::ExitCode;
use std::sync::atomic::{
    AtomicBool,
    Ordering, //
};
use std::sync::{
    Arc,
    OnceLock, //
};

use signal_hook::consts::{
    SIGHUP,
    SIGINT,
    SIGTERM, //
};

/// The running program, which stays itself when its file is built anew meanwhile.
pub(crate) const SELF: &str = "/proc/self/exe";

pub use self::options::{
    Modules,
    Options,
    Stage, //
};
pub use self::record::{
    Mark,
    Record, //
};

use self::host::HostCommand;
use self::machine::{
    Accel,
    Spec, //
};
use self::plan::Planned;
use self::watch::Watch;

/// Status of a run that was interrupted, as a shell gives it for SIGINT.
const INTERRUPTED: u8 = 130;

/// Why no machine could be started.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The command line makes no sense.
    #[error("{0}; selftests/vm/run --help explains and has examples")]
    Usage(String),
    /// Something is missing on the host.
    #[error("{0}")]
    Setup(String),
}

/// A line of the console.
#[derive(Clone, Debug)]
pub struct Line {
    /// The stage whose kernel printed it.
    pub stage: usize,
    /// Microseconds since the machine was started.
    pub host_us: u64,
    /// The line, without its end.
    pub text: String,
}

/// Takes what a run shows while it goes on.
pub trait Sink {
    /// A line of the console.
    fn console(&mut self, line: &Line);
    /// Something the runner itself has to say.
    fn note(&mut self, text: &str);
    /// A record of the guest.
    fn mark(&mut self, _mark: &Mark) {}
}

/// How a stage ended.
#[derive(Clone, Debug, Default)]
pub struct StageOutcome {
    /// From 1.
    pub number: usize,
    /// `None` if it was not reached.
    pub status: Option<u8>,
    /// The sentence to a status that is not 0.
    pub why: String,
    /// What its kernel complained about.
    pub problems: Vec<String>,
}

/// How a run ended.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Every stage.
    pub stages: Vec<StageOutcome>,
    /// Everything on the console.
    pub console: Vec<Line>,
    /// Everything on the result channel.
    pub marks: Vec<Mark>,
    /// Why nothing could be run.
    pub setup: Option<String>,
    /// How the command on the host failed.
    pub host_failure: Option<String>,
    /// What QEMU itself had to say.
    pub complaint: Option<String>,
    /// The work directory, if it is kept: `console.log`, `marks`, `state/`, `share/`.
    pub work: Option<PathBuf>,
}

impl Outcome {
    /// The exit status: the first failing stage's.
    pub fn status(&self) -> u8 {
        if self.setup.is_some() {
            return 127;
        }
        for stage in &self.stages {
            match stage.status {
                Some(0) => {}
                Some(status) => return status,
                None => return 125,
            }
        }
        u8::from(self.host_failure.is_some())
    }
}

/// Prints to standard output and standard error.
#[derive(Debug)]
struct Terminal;

impl Sink for Terminal {
    fn console(&mut self, line: &Line) {
        // Nobody listens any more if this fails; the status is still wanted.
        let _ = writeln!(std::io::stdout(), "{}", line.text);
    }

    fn note(&mut self, text: &str) {
        let _ = writeln!(std::io::stderr(), "run: {text}");
    }
}

/// What `--help` prints; `selftests/vm/run` does so without this program.
fn help() -> &'static str {
    let text = include_str!("run/help.txt");
    text.split_once('\n').map_or(text, |(_licence, help)| help)
}

/// The command.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let options = match Options::parse(args) {
        Ok(Some(options)) => options,
        Ok(None) => {
            print!("{}", help());
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("run: {error}");
            return ExitCode::from(127);
        }
    };
    let outcome = run(&options, &mut Terminal);

    report(&outcome, &mut Terminal);
    ExitCode::from(outcome.status())
}

fn report(outcome: &Outcome, out: &mut dyn Sink) {
    if let Some(why) = &outcome.setup {
        out.note(why);
        return;
    }
    for stage in &outcome.stages {
        let number = stage.number;
        match stage.status {
            Some(0) => {}
            Some(status) => out.note(&format!("stage {number} failed ({status}): {}", stage.why)),
            None => out.note(&format!("stage {number} was not reached")),
        }
        for problem in &stage.problems {
            out.note(&format!("stage {number}: {problem}"));
        }
    }
    if let Some(why) = &outcome.host_failure {
        out.note(why);
    }
    if let Some(text) = &outcome.complaint {
        out.note(&format!("QEMU said: {text}"));
    }
    if outcome.status() == 0 {
        let us = outcome.marks.last().map_or(0, |mark| mark.host_us);
        let (count, seconds) = (outcome.stages.len(), us as f64 / 1e6);
        out.note(&format!(
            "{count} of {count} stages passed in {seconds:.1} s"
        ));
    }
    if let Some(work) = &outcome.work {
        out.note(&format!("the work directory is {}", work.display()));
    }
}

/// Runs the stages.
pub fn run(options: &Options, out: &mut dyn Sink) -> Outcome {
    attempt(options, out).unwrap_or_else(|error| Outcome {
        setup: Some(error.to_string()),
        ..Outcome::default()
    })
}

fn attempt(options: &Options, out: &mut dyn Sink) -> Result<Outcome, Error> {
    let stages = plan::resolve(options)?;
    let interrupted = interrupted()?;
    let work = tempfile::Builder::new()
        .prefix("lu-run.")
        .tempdir()
        .map_err(|error| {
            let dir = std::env::temp_dir();
            Error::Setup(format!(
                "no work directory in {}: {error}; set TMPDIR",
                dir.display()
            ))
        })?;
    let dir = work.path();
    let (share, state) = (dir.join("share"), dir.join("state"));
    for path in [&share, &state] {
        fs::create_dir(path).map_err(share::at(path))?;
    }
    for disk in &options.disks {
        disk.create(&state)?;
    }
    let initrd = share.join("initrd");
    share::initrd(options.arch, &initrd)?;
    share::tree(&share, options, &stages)?;

    let accel = match stages.first() {
        _ if options.icount => Accel::Icount,
        Some(first) if kvm::usable(options.arch, &first.kernel, dir, out) => Accel::Kvm,
        _ => Accel::Tcg,
    };
    let mut watch = Watch::new(out, options.timeout(), dir, &stages)?;
    let mut host: Option<HostCommand> = None;
    for group in stages.chunk_by(|stage, _| stage.next.is_some()) {
        let (Some(first), Some(last)) = (group.first(), group.last()) else {
            continue;
        };
        let mut machine = Spec {
            arch: options.arch,
            accel,
            mem: options.mem,
            smp: options.smp,
            kernel: &first.kernel,
            initrd: &initrd,
            cmdline: &first.cmdline,
            work: dir,
            shares: Some((&share, &state)),
            more: &options.qemu,
        }
        .start()?;
        if let (Some(command), None) = (&options.host, &host) {
            host = Some(HostCommand::start(command, dir, &last.kernel)?);
        }
        watch.follow(&mut machine, group, || {
            let caught = interrupted.load(Ordering::Relaxed);
            caught.then(|| (INTERRUPTED, "the run was interrupted".to_owned()))
        });
        drop(machine);
        listen(dir, &mut watch, group)?;
        if !watch.well() {
            break;
        }
    }
    let failure = host.as_mut().and_then(HostCommand::failure);
    drop(host);
    let mut outcome = watch.finish(failure);
    if options.keep {
        outcome.work = Some(work.keep());
    }
    Ok(outcome)
}

/// Takes up what QEMU itself had to say. If no kernel has spoken, it could not be started.
fn listen(dir: &Path, watch: &mut Watch<'_>, group: &[Planned]) -> Result<(), Error> {
    let complaint = fs::read_to_string(dir.join("qemu.log")).unwrap_or_default();
    let complaint = complaint.trim();

    if complaint.is_empty() {
        return Ok(());
    }
    if !group.iter().any(|stage| watch.spoke(stage.number)) {
        return Err(Error::Setup(format!("QEMU did not start: {complaint}")));
    }
    watch.complaint(complaint);
    Ok(())
}

/// Set by the signals that ask a program to end. A second one ends it at once.
fn interrupted() -> Result<Arc<AtomicBool>, Error> {
    static FLAG: OnceLock<Arc<AtomicBool>> = OnceLock::new();

    if let Some(flag) = FLAG.get() {
        return Ok(flag.clone());
    }
    let flag = FLAG.get_or_init(Arc::default).clone();
    for signal in [SIGHUP, SIGINT, SIGTERM] {
        signal_hook::flag::register_conditional_shutdown(signal, INTERRUPTED.into(), flag.clone())
            .and_then(|_| signal_hook::flag::register(signal, flag.clone()))
            .map_err(|error| Error::Setup(format!("signals cannot be caught: {error}")))?;
    }
    Ok(flag)
}

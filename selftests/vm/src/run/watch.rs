// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Follows a machine through its stages and judges each.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::{
    Duration,
    Instant, //
};

use super::machine::{
    Event,
    Machine, //
};
use super::plan::Planned;
use super::record::{
    self,
    Mark,
    Record, //
};
use super::{
    scan,
    share,
    Error,
    Line,
    Outcome,
    Sink,
    StageOutcome, //
};

/// How long a kernel that has panicked may take to reboot. Early in boot it does not, whatever `panic=` says.
const PANIC: Duration = Duration::from_secs(5);

/// How long a machine may take to switch itself off.
const OFF: Duration = Duration::from_secs(20);

/// More of the same would only repeat itself.
const PROBLEMS_SHOWN: usize = 5;

/// Follows all machines of a run.
pub(super) struct Watch<'a> {
    out: &'a mut dyn Sink,
    timeout: Duration,
    /// When the first machine was started.
    start: Instant,
    log: File,
    marks: File,
    problems: Vec<(usize, String)>,
    outcome: Outcome,
}

/// Where a machine is.
#[derive(Debug)]
struct Current {
    /// The stage as the result channel knows it.
    stage: usize,
    /// The last stage of this machine.
    last: usize,
    /// The stage as the console knows it: other kernel messages are between the two.
    console: usize,
    /// This kernel's init has spoken on the console.
    init_seen: bool,
    booted: bool,
    began: Instant,
    exit: Option<u8>,
    jumping: Option<Instant>,
    /// It has said all it had to say.
    over: Option<Instant>,
    panicked: Option<Instant>,
}

impl<'a> Watch<'a> {
    pub(super) fn new(
        out: &'a mut dyn Sink,
        timeout: Duration,
        work: &Path,
        stages: &[Planned],
    ) -> Result<Self, Error> {
        let create = |name| {
            let path = work.join(name);
            File::create(&path).map_err(share::at(&path))
        };
        let stages = stages
            .iter()
            .map(|s| StageOutcome {
                number: s.number,
                ..Default::default()
            })
            .collect();
        Ok(Self {
            out,
            timeout,
            start: Instant::now(),
            log: create("console.log")?,
            marks: create("marks")?,
            problems: Vec::new(),
            outcome: Outcome {
                stages,
                ..Outcome::default()
            },
        })
    }

    /// Follows one machine to its end.
    pub(super) fn follow(
        &mut self,
        machine: &mut Machine,
        stages: &[Planned],
        mut stop: impl FnMut() -> Option<(u8, String)>,
    ) {
        let number = |planned: Option<&Planned>| planned.map_or(0, |p| p.number);
        let first = number(stages.first());
        let mut current = Current {
            stage: first,
            last: number(stages.last()),
            console: first,
            init_seen: false,
            booted: false,
            began: Instant::now(),
            exit: None,
            jumping: None,
            over: None,
            panicked: None,
        };
        loop {
            machine.accept();
            match machine.events.recv_timeout(Duration::from_millis(50)) {
                Ok(Event::Closed) => break,
                Ok(event) => self.event(&mut current, event),
                Err(_) if machine.ended().is_some() => break,
                Err(_) => {}
            }
            if let Some((status, why)) = stop() {
                self.conclude(current.stage, status, why);
                break;
            }
            let past = |since: Option<Instant>, most| since.is_some_and(|at| at.elapsed() > most);
            if past(current.over, OFF) || past(current.panicked, PANIC) {
                break;
            }
            if current.over.is_none() {
                let since = current.jumping.unwrap_or(current.began);
                if since.elapsed() > self.timeout {
                    machine.registers().lines().for_each(|l| self.out.note(l));
                    let stage = self.settle(&current);
                    let seconds = self.timeout.as_secs();
                    self.conclude(stage, 124, format!("no end after {seconds} s (--timeout)"));
                    break;
                }
            }
        }
        machine.finish();
        while let Ok(event) = machine.events.try_recv() {
            self.event(&mut current, event);
        }
        if current.over.is_none() {
            let stage = self.settle(&current);
            let last = self.last_words(stage);
            self.conclude(
                stage,
                125,
                format!("the machine was lost without a result; {last}"),
            );
        }
    }

    /// The stage that a machine which is no more was in. If that is the one it was about to jump
    /// to, the one before it is complete.
    fn settle(&mut self, current: &Current) -> usize {
        if current.jumping.is_none() || current.console <= current.stage {
            return current.stage;
        }
        self.conclude(current.stage, current.exit.unwrap_or(0), String::new());
        current.stage + 1
    }

    /// The best clue to why a machine is gone.
    fn last_words(&self, stage: usize) -> String {
        if let Some((_, problem)) = self.problems.iter().rev().find(|(s, _)| *s == stage) {
            return format!("its kernel said: {problem}");
        }
        match self
            .outcome
            .console
            .iter()
            .rev()
            .find(|line| !line.text.trim().is_empty())
        {
            Some(line) => format!("its last words were: {}", line.text.trim()),
            None => "it said nothing".into(),
        }
    }

    fn event(&mut self, current: &mut Current, event: Event) {
        match event {
            Event::Console(time, text) => self.console(current, time, text),
            Event::Record(time, record) => self.record(current, time, *record),
            Event::Garbage(what) => {
                self.conclude(current.stage, 125, format!("not a result: {what}"));
            }
            Event::Closed => {}
        }
    }

    fn console(&mut self, current: &mut Current, time: Instant, text: String) {
        if scan::message(&text).is_some_and(|message| message.starts_with("Linux version ")) {
            if current.init_seen && current.console < current.last {
                current.console += 1;
            }
            current.init_seen = false;
        }
        if let Some((_, number)) = text.split_once("lu-init: stage ") {
            if let Ok(number) = number.trim().parse() {
                current.console = number;
                current.init_seen = true;
            }
        }
        if let Some(record) = record::jump_line(&text) {
            self.mark(current.stage, time, record);
        }
        if let Some(problem) = scan::problem(&text) {
            self.problems.push((current.console, problem.to_owned()));
            if problem.starts_with("Kernel panic ") {
                current.panicked = Some(time);
            }
        }
        // Losing the log is no reason to lose the run.
        let _ = writeln!(self.log, "{text}");
        let line = Line {
            stage: current.console,
            host_us: self.since(time),
            text,
        };
        self.out.console(&line);
        self.outcome.console.push(line);
    }

    fn record(&mut self, current: &mut Current, time: Instant, record: Record) {
        let stage = current.stage;

        match record.ev.as_str() {
            "boot" => {
                let jumped = current.jumping.is_some() && record.stage == Some(stage + 1);
                if jumped {
                    self.conclude(stage, current.exit.unwrap_or(0), String::new());
                    current.stage = stage + 1;
                    current.began = current.jumping.unwrap_or(time);
                    (current.exit, current.jumping) = (None, None);
                } else if current.booted || record.stage != Some(stage) {
                    let which = record.stage.unwrap_or(0);
                    self.conclude(
                        stage,
                        125,
                        format!("the machine booted stage {which} instead"),
                    );
                }
                current.booted = true;
            }
            "exit" => {
                let status = status_of(&record);
                current.exit = Some(status);
                let known = scan::HARMLESS_TAINTS | record.taint_before.unwrap_or(0);
                let new = record.taint.unwrap_or(0) & !known;
                if new != 0 {
                    self.problems
                        .push((stage, format!("the kernel is tainted ({new:#x})")));
                }
                if status != 0 {
                    self.conclude(
                        stage,
                        status,
                        format!("the command ended with {}", ended(&record)),
                    );
                }
            }
            "jump" => current.jumping = Some(time),
            "refused" => {
                current.jumping = None;
                if record.by.as_deref() == Some("init") {
                    let errno = rustix::io::Errno::from_raw_os_error(record.errno.unwrap_or(0));
                    self.conclude(
                        stage,
                        126,
                        format!("the kernel refused the live update: {errno}"),
                    );
                }
            }
            "failed" => {
                let why = record.why.clone().unwrap_or_default();
                self.conclude(stage, 127, format!("the stage could not be set up: {why}"));
            }
            "off" => {
                current.over = Some(time);
                match current.exit {
                    Some(status) => self.conclude(stage, status, String::new()),
                    None => self.conclude(stage, 125, "it ended without a result".into()),
                }
            }
            _ => {}
        }
        self.mark(current.stage, time, record);
    }

    fn mark(&mut self, stage: usize, time: Instant, record: Record) {
        let mark = Mark {
            in_stage: stage,
            host_us: self.since(time),
            record,
        };

        if let Ok(line) = serde_json::to_string(&mark) {
            // The same as for the log.
            let _ = writeln!(self.marks, "{line}");
        }
        self.out.mark(&mark);
        self.outcome.marks.push(mark);
    }

    fn since(&self, time: Instant) -> u64 {
        u64::try_from(time.saturating_duration_since(self.start).as_micros()).unwrap_or(u64::MAX)
    }

    /// Says how a stage ended. The first word about it stands.
    fn conclude(&mut self, number: usize, status: u8, why: String) {
        if let Some(stage) = self.outcome.stages.iter_mut().find(|s| s.number == number) {
            if stage.status.is_none() {
                stage.status = Some(status);
                stage.why = why;
            }
        }
    }

    /// Whether anything was seen of a stage.
    pub(super) fn spoke(&self, stage: usize) -> bool {
        self.outcome.console.iter().any(|line| line.stage == stage)
            || self.outcome.marks.iter().any(|mark| mark.in_stage == stage)
    }

    /// Notes what QEMU itself had to say.
    pub(super) fn complaint(&mut self, text: &str) {
        self.outcome.complaint = Some(text.to_owned());
    }

    /// Whether every stage so far is well, so that another machine makes sense.
    pub(super) fn well(&self) -> bool {
        self.problems.is_empty()
            && self
                .outcome
                .stages
                .iter()
                .all(|stage| matches!(stage.status, None | Some(0)))
    }

    /// Gives the sum of everything.
    pub(super) fn finish(mut self, host: Option<String>) -> Outcome {
        for stage in &mut self.outcome.stages {
            let mut seen: Vec<_> = self
                .problems
                .iter()
                .filter(|p| p.0 == stage.number)
                .map(|p| p.1.clone())
                .collect();
            let more = seen.len().saturating_sub(PROBLEMS_SHOWN);
            seen.truncate(PROBLEMS_SHOWN);
            if more > 0 {
                seen.push(format!("and {more} more"));
            }
            if stage.status == Some(0) && !seen.is_empty() {
                stage.status = Some(1);
                stage.why = "the command was happy, the kernel was not".into();
            }
            stage.problems = seen;
        }
        self.outcome.host_failure = host;
        self.outcome
    }
}

/// A command's status as the runner gives it on: what the runner says itself is not a command's to
/// say.
fn status_of(record: &Record) -> u8 {
    match (record.code, record.signal) {
        (Some(124..=127), _) => 1,
        (Some(code), _) => code,
        (None, Some(signal)) => signal.saturating_add(128),
        (None, None) => 1,
    }
}

fn ended(record: &Record) -> String {
    match (record.code, record.signal) {
        (Some(code @ 124..=127), _) => format!("status {code} (reported as 1)"),
        (Some(code), _) => format!("status {code}"),
        (None, signal) => format!("signal {}", signal.unwrap_or(0)),
    }
}

#[cfg(test)]
#[path = "watch_tests.rs"]
mod tests;

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The process that has the guest: starts it, hands it over, and answers requests.

mod resume;

use std::fs::File;
use std::os::unix::net::{
    UnixListener,
    UnixStream, //
};
use std::path::Path;
use std::process;
use std::sync::{
    Mutex,
    PoisonError, //
};
use std::thread;
use std::time::Duration;

use anyhow::{
    bail,
    ensure,
    Result, //
};

pub(crate) use resume::{
    resume,
    Resume,
    Step, //
};

use crate::control::{
    self,
    Reply,
    Request,
    Saved, //
};
use crate::handover::{
    Keeper,
    Outgoing, //
};
use crate::machine::Machine;
use crate::receiver;
use crate::state::State;
use crate::timeline::Timeline;

/// A guest and what this process knows of its update.
#[derive(Debug)]
pub(crate) struct Host {
    name: String,
    machine: Machine,
    /// There while the guest is suspended.
    suspended: Mutex<Option<Outgoing>>,
    /// The file of the state that a VMM of this kernel would go on from, if there is to be one.
    kept: Option<File>,
}

impl Host {
    pub(crate) fn new(name: &str, machine: Machine) -> Self {
        Self {
            name: name.to_string(),
            machine,
            suspended: Mutex::new(None),
            kept: None,
        }
    }

    fn say(&self, what: &str) {
        say(&self.name, what);
    }

    /// Starts the guest and answers requests until it ends.
    pub(crate) fn run(self, listener: &UnixListener) -> Result<()> {
        self.machine.vcpus.start();
        self.serve(listener)
    }

    fn serve(&self, listener: &UnixListener) -> Result<()> {
        thread::scope(|scope| {
            for stream in listener.incoming() {
                let stream = stream?;
                scope.spawn(move || {
                    // A client that is gone does not need its answer.
                    let _ = self.handle(&stream);
                });
            }
            Ok(())
        })
    }

    fn handle(&self, stream: &UnixStream) -> Result<()> {
        let request = control::receive(stream)?;
        let stop = matches!(request, Request::Stop);
        let result = self.perform(&request);
        let reply = Reply {
            error: result.err().map(|error| format!("{error:#}")),
            progress: self.machine.watch.progress(),
        };
        control::answer(stream, &reply)?;
        if stop {
            process::exit(0);
        }
        Ok(())
    }

    fn perform(&self, request: &Request) -> Result<()> {
        match request {
            Request::Suspend {
                hold,
                check,
                linger,
                die_after,
                fail_after,
            } => {
                let linger = Duration::from_millis(*linger);
                let at = |step| {
                    if *die_after == Some(step) {
                        self.say(&format!("dies after {step:?} as it was told"));
                        process::abort();
                    }
                    ensure!(
                        *fail_after != Some(step),
                        "gives up after {step:?} as it was told"
                    );
                    Ok(())
                };
                self.suspend(hold.as_deref(), *check, linger, at)
            }
            Request::Continue => self.go_on(),
            Request::Stop => {
                // A conversion in between would be taken for something that the host sees.
                self.machine.vcpus.stop();
                self.tell_memory("ends");
                self.tell_card("ends");
                Ok(())
            }
            Request::Wait { beats, seconds } => {
                let timeout = Duration::from_secs(*seconds);
                let progress = self.machine.watch.wait(*beats, timeout);
                ensure!(progress.faults.is_empty(), "{}", progress.faults.join("; "));
                let seen = progress
                    .first
                    .map_or(0, |first| progress.beat.saturating_sub(first) + 1);
                ensure!(
                    seen >= *beats,
                    "only {seen} heartbeats came where {beats} were due"
                );
                Ok(())
            }
        }
    }

    fn suspend(
        &self,
        hold: Option<&Path>,
        check: bool,
        linger: Duration,
        at: impl Fn(Saved) -> Result<()>,
    ) -> Result<()> {
        let mut suspended = self
            .suspended
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        ensure!(suspended.is_none(), "the guest is suspended already");
        let machine = &self.machine;
        let faults = machine.watch.progress().faults;
        // It would look in the new kernel as if the update had done it.
        ensure!(
            faults.is_empty(),
            "the guest is not well: {}",
            faults.join("; ")
        );
        let session = Keeper::new(&self.name, hold)?.create()?;
        machine.shape.freeze();
        let saved = (|| {
            // The bulk goes first, while the guest still runs.
            session.memory(&machine.memory)?;
            if let Some(card) = &machine.card {
                session.card(card)?;
            }
            at(Saved::Memory)?;
            thread::sleep(linger);
            let mut timeline = Timeline::default();
            timeline.mark();
            machine.vcpus.stop();
            timeline.mark();
            at(Saved::Stop)?;
            if let Some(card) = &machine.card {
                card.silence()?;
            }
            let state = machine.save(&mut timeline, check)?;
            session.state(&State::write(&state, self.kept.as_ref())?)?;
            at(Saved::State)?;
            Ok(timeline)
        })();
        match saved {
            Ok(timeline) => {
                let beat = machine.watch.progress().beat;
                self.say(&format!("suspended after heartbeat {beat}"));
                self.tell(&timeline);
                if check {
                    self.tell_memory("is suspended");
                }
                self.tell_card("is suspended");
                let waited = machine.shape.waited();
                if waited > 0 {
                    self.say(&format!(
                        "vCPUs waited {waited} times for memory that is preserved"
                    ));
                }
                *suspended = Some(session);
                Ok(())
            }
            Err(error) => {
                self.say("not suspended, the guest runs on");
                let _ = session.abandon();
                self.runs_on()?;
                Err(error)
            }
        }
    }

    fn go_on(&self) -> Result<()> {
        let mut suspended = self
            .suspended
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let Some(session) = suspended.take() else {
            bail!("the guest is not suspended");
        };
        let given_up = session.abandon();
        self.runs_on()?;
        self.say("runs on in the old kernel");
        given_up
    }

    /// Lets the guest run when its memory is not preserved any more.
    fn runs_on(&self) -> Result<()> {
        if let Some(state) = &self.kept {
            State::claim(state)?;
        }
        self.machine.shape.thaw()?;
        self.machine.vcpus.start();
        Ok(())
    }

    fn tell(&self, timeline: &Timeline) {
        for (phase, took) in timeline.phases(self.machine.hz) {
            self.say(&format!("phase {phase}: {}", show(took)));
        }
        let ticks: Vec<String> = timeline.ticks().iter().map(u64::to_string).collect();
        self.say(&format!(
            "points: hz={} {}",
            self.machine.hz,
            ticks.join(" ")
        ));
    }

    /// Tells what came for the guest's card.
    fn tell_card(&self, when: &str) {
        let machine = &self.machine;
        let Some(card) = &machine.card else { return };
        match receiver::progress(&machine.memory) {
            Ok((taken, waiting)) => self.say(&format!(
                "{when} with {taken} frames taken, {waiting} waiting, {} missed",
                card.missed()
            )),
            Err(error) => self.say(&format!("{when}, and what came is not known: {error:#}")),
        }
    }

    /// Tells how much memory there is, which must not fail for that.
    fn tell_memory(&self, when: &str) {
        let machine = &self.machine;
        if let Ok(allocated) = machine.memory.allocated() {
            self.say(&format!(
                "{when} with {} KiB of {} MiB of memory allocated",
                allocated >> 10,
                machine.memory.size() >> 20
            ));
        }
        if let Some((pages, conversions)) = machine.shape.private() {
            let sees = match machine.shape.is_hidden(&machine.memory) {
                Ok(true) => "nothing",
                _ => "SOMETHING",
            };
            self.say(&format!(
                "{when} with {pages} private pages, where the host finds {sees}, after {conversions} conversions"
            ));
        }
    }
}

fn say(name: &str, what: &str) {
    println!("VMM {name}: {what}");
}

fn show(took: Option<Duration>) -> String {
    took.map_or_else(
        || "unknown".to_string(),
        |took| format!("{:.1} ms", took.as_secs_f64() * 1000.0),
    )
}

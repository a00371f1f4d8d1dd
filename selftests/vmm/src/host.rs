// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The process that has the guest: starts it, hands it over, takes it over, and answers requests.

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
use std::time::Duration;

use anyhow::{
    bail,
    ensure,
    Context,
    Result, //
};

use crate::arch;
use crate::control::{
    self,
    Reply,
    Request, //
};
use crate::handover::{
    Keeper,
    Outgoing, //
};
use crate::machine::{
    Machine,
    Record, //
};
use crate::memory::{
    Backend,
    Memory, //
};
use crate::state::{
    Kind,
    State, //
};
use crate::timeline::{
    self,
    Timeline, //
};

/// How long the first sign of a resumed guest is waited for.
const FIRST_SIGN: Duration = Duration::from_secs(60);

/// Where a test wants a resuming VMM to die.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
pub(crate) enum Step {
    /// When it has the files.
    Retrieve,
    /// When memory and state are checked.
    Check,
    /// When the vCPUs are ready to run.
    Restore,
}

/// How a guest is to be resumed.
#[derive(Debug, Default)]
pub(crate) struct Resume<'a> {
    pub(crate) hold: Option<&'a Path>,
    pub(crate) skip_check: bool,
    pub(crate) damage: bool,
    pub(crate) damage_state: bool,
    pub(crate) die_after: Option<Step>,
}

/// A guest and what this process knows of its update.
#[derive(Debug)]
pub(crate) struct Host {
    name: String,
    machine: Machine,
    /// There while the guest is suspended, with the state file that is in it.
    suspended: Mutex<Option<(Outgoing, File)>>,
}

impl Host {
    pub(crate) fn new(name: &str, machine: Machine) -> Self {
        Self {
            name: name.to_string(),
            machine,
            suspended: Mutex::new(None),
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
        std::thread::scope(|scope| {
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
            Request::Suspend { hold, check } => self.suspend(hold.as_deref(), *check),
            Request::Continue => self.go_on(),
            Request::Stop => Ok(()),
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

    fn suspend(&self, hold: Option<&Path>, check: bool) -> Result<()> {
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
        let kept = (|| {
            // The bulk goes first, while the guest still runs.
            session.memory(&machine.memory)?;
            let mut timeline = Timeline::default();
            timeline.mark();
            machine.vcpus.stop();
            timeline.mark();
            let state = machine.save(&mut timeline, check)?;
            session.state(&state)?;
            Ok((state, timeline))
        })();
        match kept {
            Ok((state, timeline)) => {
                let beat = machine.watch.progress().beat;
                self.say(&format!("suspended after heartbeat {beat}"));
                for (phase, took) in timeline.phases(machine.hz) {
                    self.say(&format!("phase {phase}: {}", show(took)));
                }
                *suspended = Some((session, state));
                Ok(())
            }
            Err(error) => {
                machine.vcpus.start();
                self.say("not suspended, the guest runs on");
                let _ = session.abandon();
                Err(error)
            }
        }
    }

    fn go_on(&self) -> Result<()> {
        let mut suspended = self
            .suspended
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let Some((session, _)) = suspended.take() else {
            bail!("the guest is not suspended");
        };
        let given_up = session.abandon();
        self.machine.vcpus.start();
        self.say("runs on in the old kernel");
        given_up
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

/// Takes over a guest that the previous kernel left, and answers requests until it ends.
pub(crate) fn resume(name: &str, listener: &UnixListener, how: &Resume<'_>) -> Result<()> {
    let died = |step| {
        if how.die_after == Some(step) {
            say(name, &format!("dies after {step:?} as it was told"));
            process::abort();
        }
    };
    let began = arch::counter();
    let incoming = Keeper::new(name, how.hold)?.find()?;
    let (memory, state_file) = incoming.files()?;
    let retrieved = arch::counter();
    died(Step::Retrieve);

    if how.damage_state {
        State::damage(&state_file)?;
    }
    let state = State::read(&state_file).context("the guest's state")?;
    let record = Record::read(&state)?;
    let memory = Memory::adopt(Backend::from_number(record.backend)?, memory, record.size)?;
    if how.damage {
        memory.damage()?;
    }
    if record.is_checked() && !how.skip_check {
        ensure!(
            memory.checksum()? == record.checksum,
            "the guest's memory has changed: its checksum is wrong"
        );
        ensure!(
            memory.pages()? == record.pages,
            "the guest's memory is in other physical pages"
        );
        say(
            name,
            "memory has the same checksum and is in the same physical pages",
        );
    }
    let checked = arch::counter();
    died(Step::Check);

    let machine = Machine::restore(name, &state, memory)?;
    let restored = arch::counter();
    died(Step::Restore);

    let old: Vec<u64> = state.list(Kind::Timeline, 0)?;
    ensure!(
        old.len() == timeline::OLD,
        "the timeline has another length"
    );
    let mut timeline = Timeline::continued(old);
    timeline.mark_at(timeline::kernel_began(machine.hz));
    for tick in [began, retrieved, checked, restored] {
        timeline.mark_at(tick);
    }

    State::claim(&state_file)?;
    let host = Host::new(name, machine);
    host.machine.vcpus.start();
    // The guest runs, and nobody can resume it again: whatever fails now must not end it.
    if let Err(error) = incoming.finish() {
        host.say(&format!(
            "the session cannot be finished, its memory stays pinned until it is: {error:#}"
        ));
    }
    std::thread::scope(|scope| {
        scope.spawn(|| host.tell_first(timeline, record.beat));
        host.serve(listener)
    })
}

impl Host {
    /// Waits for the guest's first sign of life and tells what the update took.
    fn tell_first(&self, mut timeline: Timeline, saved: u64) {
        let progress = self.machine.watch.wait(1, FIRST_SIGN);
        match progress.first {
            Some(first) if Some(first) == saved.checked_add(1) => {
                self.say(&format!("heartbeat {first} follows {saved}"));
            }
            other => self.say(&format!("heartbeat {other:?} where {saved} was the last")),
        }
        if let Some(tick) = self.machine.vcpus.first_exit() {
            timeline.mark_at(tick);
        }
        for (phase, took) in timeline.phases(self.machine.hz) {
            self.say(&format!("phase {phase}: {}", show(took)));
        }
        let total = timeline.total(self.machine.hz);
        self.say(&format!("blackout: {}", show(total)));
    }
}

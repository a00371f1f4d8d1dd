// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Takes a guest over.

use std::fs::File;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process;
use std::thread;
use std::time::Duration;

use anyhow::{
    ensure,
    Context,
    Result, //
};

use super::{
    say,
    show,
    Host, //
};
use crate::arch;
use crate::handover::{
    Incoming,
    Keeper, //
};
use crate::keeper;
use crate::machine::{
    Machine,
    Record,
    Wrong, //
};
use crate::memory::{
    Backend,
    Memory, //
};
use crate::receiver;
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
    /// When it has the session.
    Session,
    /// When it has the state.
    State,
    /// When it has the memory, too.
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
    pub(crate) keep: bool,
    pub(crate) kept: bool,
    pub(crate) skip_check: bool,
    pub(crate) damage: bool,
    pub(crate) damage_state: bool,
    pub(crate) wrong: Option<Wrong>,
    pub(crate) die_after: Option<Step>,
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
    let sessions = Keeper::new(name, how.hold)?;
    let incoming = match how.kept {
        false => Some(sessions.find()?),
        // A session that has the files keeps any VM from having them.
        true => sessions.give_up().map(|()| None)?,
    };
    died(Step::Session);
    let state_file = match &incoming {
        Some(incoming) => incoming.state()?,
        None => keeper::state(name)?,
    };
    died(Step::State);
    if how.damage_state {
        State::damage(&state_file)?;
    }
    let state = State::read(&state_file).context("the guest's state")?;
    let record = Record::read(&state)?;
    let backend = Backend::from_number(record.backend)?;
    let files = match &incoming {
        Some(incoming) => incoming.memory(backend)?,
        None => keeper::memory(name, backend.is_private())?,
    };
    let memory = Memory::adopt(backend, files, record.size)?;
    ensure!(
        !record.has_card() || !how.keep && !how.kept,
        "a card cannot be kept for another VMM"
    );
    let retrieved = arch::counter();
    died(Step::Retrieve);

    if how.damage {
        match record.has_card() {
            true => receiver::damage(&memory)?,
            false => memory.damage()?,
        }
    }
    if record.is_checked() && !how.skip_check {
        compare(name, &memory, &record)?;
    }
    let checked = arch::counter();
    died(Step::Check);

    // From here on it is lost with this process: nobody else may have a card that is bound.
    let card = match &incoming {
        Some(incoming) if record.has_card() => Some(incoming.card(&memory, record.has_iommu())?),
        _ => None,
    };
    let machine = Machine::restore(name, &state, memory, card, how.wrong)?;
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
    let mut host = Host::new(name, machine);
    host.machine.shape.thaw()?;
    host.tell_card("goes on");
    host.machine.vcpus.start();
    // The guest runs, and nobody can resume it again: whatever fails now must not end it.
    if let Some(Err(error)) = incoming.map(Incoming::finish) {
        host.say(&format!(
            "the session cannot be finished, its memory stays pinned until it is: {error:#}"
        ));
    }
    if how.kept {
        host.kept = Some(state_file);
    } else if how.keep {
        match keep(&host, &state_file) {
            Ok(()) => host.kept = Some(state_file),
            Err(error) => host.say(&format!("nobody keeps the guest's files: {error:#}")),
        }
    }
    thread::scope(|scope| {
        scope.spawn(|| host.tell_first(timeline, record.beat));
        host.serve(listener)
    })
}

fn keep(host: &Host, state: &File) -> Result<()> {
    keeper::start(&host.name, state, &host.machine.memory.duplicates()?)
}

fn compare(name: &str, memory: &Memory, record: &Record) -> Result<()> {
    ensure!(
        memory.checksum()? == record.checksum,
        "the guest's memory has changed: its checksum is wrong"
    );
    ensure!(
        memory.pages()? == record.pages,
        "the guest's memory is in other physical pages"
    );
    let what = match memory.backend().is_private() {
        true => "shared memory",
        false => "memory",
    };
    say(
        name,
        &format!("{what} has the same checksum and is in the same physical pages"),
    );
    Ok(())
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
        self.tell(&timeline);
        let total = timeline.total(self.machine.hz);
        self.say(&format!("blackout: {}", show(total)));
    }
}

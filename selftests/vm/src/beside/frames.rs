// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Sends numbered frames to a network card of a machine, whatever the machine is doing.
//!
//! The card has `-netdev dgram` with sockets of the file system. The sender says in the state directory, in
//! `due`, again and again, how many frames were due by now: a machine's own clock may be wrong by far if its
//! CPU is emulated. It begins when `go` appears there, no longer waits from one frame to the next when `fast` does,
//! and when `stop` does, it says in `sent` which number would be the next one. One number is left out once `lose`
//! appears. If it is asked to, it tells all the time how many are in the machine's memory.

#[path = "../../../progs/src/vfio/descriptor.rs"]
pub mod descriptor;
#[path = "../../../progs/src/vfio/frame.rs"]
pub mod frame;
mod outside;

use std::fs;
use std::io::ErrorKind;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::atomic::{
    AtomicU64,
    Ordering, //
};
use std::sync::Arc;
use std::thread;
use std::time::{
    Duration,
    Instant, //
};

use anyhow::{
    Context,
    Result, //
};

use super::Machine;

/// What to send, and where.
#[derive(Debug, clap::Args)]
pub struct Options {
    #[command(flatten)]
    machine: Machine,
    /// Milliseconds from one frame to the next.
    #[arg(long, default_value_t = 20)]
    every: u64,
    /// Tell how many frames are in the machine's memory, whoever runs there.
    #[arg(long)]
    watch: bool,
}

/// Sends until it is told to stop.
pub(super) fn main(options: &Options) -> Result<()> {
    let machine = &options.machine;
    let [to, from] = ["net.vm", "net.host"].map(|name| machine.work.join(name));
    let socket = UnixDatagram::bind(from).context("the sender's socket")?;
    let [go, fast, lose, stop] =
        ["go", "fast", "lose", "stop"].map(|name| machine.state.join(name));
    while !go.exists() {
        thread::sleep(Duration::from_millis(20));
    }
    let sent = Arc::new(AtomicU64::new(0));
    if options.watch {
        let sent = sent.clone();
        let mut ring = outside::Ring::new(machine)?;
        thread::spawn(move || ring.tell(&sent));
    }
    let start = Instant::now();
    let (state, every) = (machine.state.clone(), options.every);
    thread::spawn(move || tell_due(&state, start, every));
    let (mut number, mut lost) = (0, false);
    while !stop.exists() {
        if !lost && lose.exists() {
            lost = true;
            number += 1;
        }
        match socket.send_to(&frame::frame(number), &to) {
            Ok(_) => number += 1,
            // The machine was switched off.
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => return Ok(()),
            Err(error) => return Err(error).context(format!("frame {number}")),
        }
        sent.store(number, Ordering::Relaxed);
        if !fast.exists() {
            let due = Duration::from_millis(options.every.saturating_mul(number));
            thread::sleep(due.saturating_sub(start.elapsed()));
        }
    }
    put(&machine.state, "sent", number)
}

/// Writes down a number. It appears with its content.
///
/// All have the same length. The machine opens a file and asks for its length; if it was another file by then, and a
/// longer one, reading fails.
fn put(state: &Path, name: &str, number: u64) -> Result<()> {
    let draft = state.join(format!("{name}.new"));
    fs::write(&draft, format!("{number:020}"))?;
    Ok(fs::rename(draft, state.join(name))?)
}

/// Says how many frames were due, also while none can be sent.
fn tell_due(state: &Path, start: Instant, every: u64) {
    let due = || start.elapsed().as_millis() as u64 / every.max(1);
    while put(state, "due", due()).is_ok() {
        thread::sleep(Duration::from_millis(50));
    }
}

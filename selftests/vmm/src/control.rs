// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! How a running VMM is told what to do: one request and one reply, as JSON lines over a Unix socket.

use std::fs;
use std::io::{
    BufRead,
    BufReader,
    Write, //
};
use std::os::unix::net::{
    UnixListener,
    UnixStream, //
};
use std::path::PathBuf;
use std::time::{
    Duration,
    Instant, //
};

use anyhow::{
    bail,
    Context,
    Result, //
};
use serde::{
    Deserialize,
    Serialize, //
};

use crate::watch::Progress;

pub(crate) const DIRECTORY: &str = "/run/vmm";
/// A VMM that was just started needs a moment until it listens.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where a test wants a suspending VMM to die, or to give up.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize, clap::ValueEnum)]
pub(crate) enum Saved {
    /// When the memory is in the session, and the guest runs.
    Memory,
    /// When the vCPUs are stopped.
    Stop,
    /// When the state is in the session, too.
    State,
}

/// What a VMM can be asked for.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) enum Request {
    /// Stop the guest and put everything into a session.
    Suspend {
        hold: Option<PathBuf>,
        check: bool,
        /// How long the guest runs on with its memory in the session.
        linger: u64,
        die_after: Option<Saved>,
        fail_after: Option<Saved>,
    },
    /// No live update after all: let the guest run on.
    Continue,
    /// Answer when this many heartbeats were seen.
    Wait { beats: u64, seconds: u64 },
    /// End, and the guest with it.
    Stop,
}

/// What it answers.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Reply {
    pub(crate) error: Option<String>,
    pub(crate) progress: Progress,
}

fn path(name: &str) -> PathBuf {
    PathBuf::from(DIRECTORY).join(format!("{name}.sock"))
}

/// Listens for requests to the guest `name`.
pub(crate) fn listen(name: &str) -> Result<UnixListener> {
    let path = path(name);
    fs::create_dir_all(DIRECTORY).context(DIRECTORY)?;
    if UnixStream::connect(&path).is_ok() {
        bail!("a guest called {name} is running already");
    }
    let _ = fs::remove_file(&path);
    UnixListener::bind(&path).with_context(|| path.display().to_string())
}

/// Reads a request.
pub(crate) fn receive(stream: &UnixStream) -> Result<Request> {
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    serde_json::from_str(&line).context("not a request")
}

/// Answers it.
pub(crate) fn answer(mut stream: &UnixStream, reply: &Reply) -> Result<()> {
    let mut line = serde_json::to_string(reply)?;
    line.push('\n');
    Ok(stream.write_all(line.as_bytes())?)
}

/// Asks the VMM of the guest `name`.
pub(crate) fn ask(name: &str, request: &Request) -> Result<Progress> {
    let path = path(name);
    let start = Instant::now();
    let mut stream = loop {
        match UnixStream::connect(&path) {
            Ok(stream) => break stream,
            Err(_) if start.elapsed() < PATIENCE => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(error) => {
                return Err(error).with_context(|| format!("no guest called {name} is running"))
            }
        }
    };
    let mut line = serde_json::to_string(request)?;
    line.push('\n');
    stream.write_all(line.as_bytes())?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    let reply: Reply = serde_json::from_str(&line).context("the VMM ended without an answer")?;
    match reply.error {
        None => Ok(reply.progress),
        Some(error) => bail!("{error}"),
    }
}

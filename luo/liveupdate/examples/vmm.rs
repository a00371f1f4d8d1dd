// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A VMM reduced to what a live update asks of it, with all ways out. Its "guest" counts in its memory.
//!
//! ```text
//! vmm start NAME     a new guest; then, on standard input:
//!     suspend        stop the guest and put it into the session: the kernel may be replaced
//!     continue       the kernel is not replaced after all: the guest goes on
//! vmm resume NAME    in the new kernel
//! ```
//!
//! `luo/examples/vmm.c` is the same in C; each goes on with what the other one suspended.

use anyhow::{
    bail,
    ensure,
    Context,
    Result, //
};
use liveupdate::{
    Error,
    IncomingSession,
    LiveUpdate,
    Session,
    SessionName,
    Token, //
};
use rustix::{
    fs::{
        ftruncate,
        memfd_create,
        MemfdFlags, //
    },
    io::Errno, //
};
use std::{
    fs::File,
    io::{
        BufRead,
        BufReader, //
    },
    os::unix::fs::FileExt,
    sync::mpsc::{
        channel,
        Receiver,
        RecvTimeoutError, //
    },
    thread,
    time::Duration, //
};

/// The VMM chooses tokens, and must know them in the next kernel: constants, not what a run gave out.
const MEMORY: Token = Token(1);
const STATE: Token = Token(2);

const SIZE: u64 = 16 << 20;
const PAGE: u64 = 4096;
const MAGIC: u64 = u64::from_ne_bytes(*b"vmm-demo");
const PATIENCE: Duration = Duration::from_secs(5);

/// What stands for the guest's memory, its CPUs and devices.
struct Guest {
    memory: File,
    counter: u64,
}

impl Guest {
    fn new() -> Result<Self> {
        // A file whose size nobody else changes, and that nobody executes.
        let memory = memfd_create("guest", MemfdFlags::CLOEXEC | MemfdFlags::NOEXEC_SEAL)?;
        ftruncate(&memory, SIZE)?;
        Ok(Self {
            memory: memory.into(),
            counter: 0,
        })
    }

    /// What a guest does all day.
    fn run(&mut self) -> Result<()> {
        self.counter += 1;
        let at = self.counter % (SIZE / PAGE) * PAGE;
        self.memory
            .write_all_at(&self.counter.to_ne_bytes(), at)
            .context("guest memory")
    }

    /// All that is not in its memory, in a file of its own: this is what a VMM knows of vCPUs and devices.
    fn save(&self) -> Result<File> {
        let state: File =
            memfd_create("state", MemfdFlags::CLOEXEC | MemfdFlags::NOEXEC_SEAL)?.into();
        let words = [MAGIC, self.counter];
        state.write_all_at(&words.map(u64::to_ne_bytes).concat(), 0)?;
        Ok(state)
    }

    /// The files may come from another version of this program: they are checked before they are used.
    fn restore(memory: File, state: &File) -> Result<Self> {
        let word = |file: &File, at| -> Result<u64> {
            let mut bytes = [0; 8];
            file.read_exact_at(&mut bytes, at)?;
            Ok(u64::from_ne_bytes(bytes))
        };
        ensure!(word(state, 0)? == MAGIC, "the state is not of this VMM");
        ensure!(
            memory.metadata()?.len() == SIZE,
            "the memory has another size"
        );
        let counter = word(state, 8)?;
        for back in 0..counter.min(SIZE / PAGE) {
            let expected = counter - back;
            let found = word(&memory, expected % (SIZE / PAGE) * PAGE)?;
            ensure!(
                found == expected,
                "the guest wrote {expected} and finds {found}"
            );
        }
        Ok(Self { memory, counter })
    }
}

/// Opens the device only for that moment: no other VMM of this host can open it meanwhile.
fn create(name: &SessionName) -> Result<Session> {
    Ok(LiveUpdate::open_wait(PATIENCE)?.create_session(name)?)
}

/// The guest runs until there is a word on standard input. Without standard input, it runs on.
fn run_until_word(guest: &mut Guest, words: &Receiver<String>) -> Result<String> {
    loop {
        guest.run()?;
        match words.recv_timeout(Duration::from_millis(1)) {
            Ok(word) => return Ok(word),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => thread::sleep(Duration::from_millis(1)),
        }
    }
}

/// Puts the guest, which has been stopped, into a session. If that fails, the session is closed, which takes
/// everything back: the guest is as it was.
fn suspend(guest: &Guest, name: &SessionName) -> Result<Session> {
    let session = create(name)?;
    // A VMM whose memory is large does this while its guest still runs: the file is fixed in size from here on,
    // and still written.
    session.preserve(&guest.memory, MEMORY)?;
    session.preserve(&guest.save()?, STATE)?;
    Ok(session)
}

fn serve(mut guest: Guest, name: &SessionName, words: &Receiver<String>) -> Result<()> {
    loop {
        match run_until_word(&mut guest, words)?.trim() {
            "suspend" => {}
            "" => continue,
            word => {
                eprintln!("no such word: {word}");
                continue;
            }
        }
        match suspend(&guest, name) {
            Err(error) => eprintln!("not suspended, the guest goes on: {error:#}"),
            Ok(session) => {
                println!("suspended at {}", guest.counter);
                // Nothing may change the guest from here to the jump. It is this descriptor, and not the process,
                // that keeps the session; `luoctl hold` can keep it as well.
                while !words.recv().is_ok_and(|word| word.trim() == "continue") {
                    thread::sleep(Duration::from_millis(1));
                }
                drop(session);
                println!("continued at {}", guest.counter);
            }
        }
    }
}

/// Retrieves a file. If no handler is loaded for it, nothing is lost: it is asked for again.
fn retrieve(session: &IncomingSession, token: Token) -> Result<File> {
    for _ in 0..5 {
        match session.retrieve(token) {
            Ok(file) => return Ok(file.into()),
            Err(error) if error.errno() == Some(Errno::NODEV) => {
                eprintln!("{error}; load its module, this tries again");
                thread::sleep(Duration::from_secs(1));
            }
            // The kernel could not bring it back, and never will.
            Err(error) => return Err(error.into()),
        }
    }
    bail!("no handler was loaded for token {token}")
}

fn resume(name: &SessionName) -> Result<Guest> {
    let session = match LiveUpdate::open_wait(PATIENCE)?.retrieve_session(name) {
        Err(error @ Error::RetrieveSession { .. }) => {
            return Err(error).context("there is no guest to resume; `start` makes a new one")
        }
        session => session?,
    };
    // If something fails from here on, the session is dropped, which finishes it: the memory is freed, and what was
    // in it is lost. A VMM that has another chance, another version of itself for example, keeps it instead.
    let memory = retrieve(&session, MEMORY)?;
    let state = retrieve(&session, STATE)?;
    let guest = Guest::restore(memory, &state)?;
    // The files belong to this process now. A session that cannot be finished yet is kept as it is.
    session.finish().map_err(Error::from)?;
    println!("resumed at {}", guest.counter);
    Ok(guest)
}

fn main() -> Result<()> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [action, name] = arguments.as_slice() else {
        bail!("usage: vmm start|resume NAME");
    };
    let name = SessionName::new(name.as_str())?;
    let guest = match action.as_str() {
        "start" => Guest::new()?,
        "resume" => resume(&name)?,
        _ => bail!("usage: vmm start|resume NAME"),
    };
    let (sender, words) = channel();
    thread::spawn(move || {
        for line in BufReader::new(std::io::stdin())
            .lines()
            .map_while(Result::ok)
        {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    serve(guest, &name, &words)
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Times what a live update makes of some memory, step by step.
//!
//! Under QEMU's `-icount shift=0` a nanosecond of the guest's clock is one instruction, so the
//! figures are exact and repeatable. Each is a line `BENCH name value`.

mod fill;
mod prepare;
mod shape;

use std::io::{
    BufRead,
    BufReader, //
};
use std::process::{
    Command,
    Stdio, //
};
use std::sync::atomic::Ordering;
use std::{
    os::fd::OwnedFd,
    thread, //
};

use anyhow::{
    anyhow,
    bail,
    Context,
    Result, //
};
use clap::{
    Parser,
    Subcommand, //
};
use liveupdate::{
    IncomingSession,
    LiveUpdate,
    Session,
    SessionName,
    Token, //
};
use progs::{
    memory::{
        self,
        Map, //
    },
    sys, //
};
use rustix::time::{
    clock_gettime,
    ClockId, //
};

use crate::fill::Filled;
use crate::shape::Shape;

#[derive(Debug, Parser)]
#[command(about = "Times what a live update makes of some memory, step by step")]
struct Cli {
    /// Name of the session.
    #[arg(long, global = true, default_value = "bench")]
    session: String,
    #[command(subcommand)]
    command: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Fills and preserves files; a child keeps the session open.
    Preserve {
        #[command(flatten)]
        shape: Shape,
        /// Close the session at once, instead of keeping it for an update.
        #[arg(long)]
        discard: bool,
        /// Is the child that keeps the session.
        #[arg(long, hide = true)]
        child: bool,
    },
    /// Retrieves the files, reads every page, finishes the session.
    Retrieve {
        #[command(flatten)]
        shape: Shape,
        /// How many threads retrieve the files.
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
        threads: u64,
    },
    /// Tells how much memory is free, and loads modules.
    Modules {
        /// Files, in this order.
        modules: Vec<std::path::PathBuf>,
    },
    /// Loads the kernel of a stage to jump into once more, without the files of the host in between.
    Kexec {
        /// Number of the stage.
        stage: u32,
    },
}

fn now() -> u64 {
    let t = clock_gettime(ClockId::Monotonic);
    t.tv_sec.unsigned_abs() * 1_000_000_000 + t.tv_nsec.unsigned_abs()
}

/// Runs and times one step.
fn timed<T>(name: &str, step: impl FnOnce() -> Result<T>) -> Result<T> {
    let start = now();
    let value = step().with_context(|| name.to_string())?;
    println!("BENCH {name} {}", now() - start);
    Ok(value)
}

/// What every page begins with.
fn mark(offset: u64) -> u64 {
    offset ^ 0x9e37_79b9_7f4a_7c15
}

/// The token of each file.
fn tokens(shape: &Shape) -> impl Iterator<Item = Token> {
    (1..=shape.files).map(Token)
}

/// Bytes that are free, to the page.
fn free() -> Result<u64> {
    // Has the CPUs add up what they have counted.
    sys::set("/proc/sys/vm/stat_refresh", "1")?;
    sys::mem_free()
}

fn preserve(name: &str, shape: &Shape) -> Result<(Session, Filled)> {
    let filled = fill::populate(shape)?;
    println!("BENCH fragments {}", fill::fragments(shape, &filled.files)?);
    if shape.collapse {
        timed("collapse", || {
            let mut files = filled.files.iter();
            files.try_for_each(|file| fill::collapse(shape, file))
        })?;
        println!("BENCH collapsed {}", fill::fragments(shape, &filled.files)?);
    }
    let session = LiveUpdate::open()?.create_session(&SessionName::new(name)?)?;
    let before = free()?;
    let start = now();
    for (token, file) in tokens(shape).zip(&filled.files) {
        session.preserve(file, token)?;
    }
    let took = now() - start;
    // Whatever the kernel keeps for it, of any handler.
    let metadata = before.saturating_sub(free()?);
    println!("BENCH preserve {took}\nBENCH metadata {metadata}");
    Ok((session, filled))
}

/// Starts the child that preserves and stays, and waits until it has preserved.
fn spawn() -> Result<()> {
    let child = Command::new(std::env::current_exe()?)
        .args(std::env::args_os().skip(1))
        .arg("--child")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    for line in BufReader::new(child.stdout.context("the child has a pipe")?).lines() {
        let line = line?;
        if line == "READY" {
            return Ok(());
        }
        println!("{line}");
    }
    bail!("the child ended before it had preserved the files")
}

/// How many pages of a file do not begin with what they should.
fn wrong(map: &Map, size: u64) -> Result<usize> {
    Ok((0..size)
        .step_by(usize::try_from(memory::page())?)
        .filter(|&offset| map.word(offset).load(Ordering::Relaxed) != mark(offset))
        .count())
}

/// Retrieves the files in several threads.
fn files(session: &IncomingSession, shape: &Shape, threads: u64) -> Result<Vec<OwnedFd>> {
    let tokens: Vec<_> = tokens(shape).collect();
    let each = tokens.len().div_ceil(usize::try_from(threads)?);
    let some = |tokens: &[Token]| -> Result<Vec<OwnedFd>> {
        let files = tokens.iter().map(|token| Ok(session.retrieve(*token)?));
        files.collect()
    };
    thread::scope(|scope| {
        let (first, rest) = tokens.split_at(each.min(tokens.len()));
        let others: Vec<_> = rest
            .chunks(each)
            .map(|tokens| scope.spawn(move || some(tokens)))
            .collect();
        let mut files = some(first)?;
        for other in others {
            let more = other.join().map_err(|_| anyhow!("a thread panicked"))??;
            files.extend(more);
        }
        Ok(files)
    })
}

fn retrieve(name: &str, shape: &Shape, threads: u64) -> Result<()> {
    let size = shape.file_size()?;
    let session = timed("session", || {
        Ok(LiveUpdate::open()?.retrieve_session(&SessionName::new(name)?)?)
    })?;
    sys::counters(1);
    let files = timed("retrieve", || files(&session, shape, threads));
    sys::counters(2);
    let files = files?;
    let maps = files
        .iter()
        .map(|file| Ok(Map::aligned(file, size, false, shape.kind.align())?))
        .collect::<Result<Vec<_>>>()?;
    let bad = timed("access", || {
        maps.iter()
            .try_fold(0, |bad, map| Ok(bad + wrong(map, size)?))
    })?;
    if bad > 0 {
        bail!("{bad} pages came back with other contents");
    }
    timed("finish", || Ok(session.finish()?))?;
    // What is measured next in this kernel finds all memory free.
    drop((maps, files));
    match shape.kind.pool() {
        Some(pool) => pool.set(0).map(drop),
        None => Ok(()),
    }
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    // Or parts of this program would come from the host in the middle of a step, and be waited for.
    rustix::mm::mlockall(rustix::mm::MlockAllFlags::CURRENT).context("mlockall")?;
    match cli.command {
        Action::Preserve {
            shape, child: true, ..
        } => {
            let _kept = preserve(&cli.session, &shape)?;
            println!("READY");
            loop {
                std::thread::park();
            }
        }
        Action::Preserve {
            shape,
            discard: true,
            ..
        } => preserve(&cli.session, &shape).map(drop),
        Action::Preserve { .. } => spawn(),
        Action::Retrieve { shape, threads } => retrieve(&cli.session, &shape, threads),
        Action::Modules { modules } => {
            println!("BENCH free {}", free()?);
            prepare::modules(&modules)
        }
        Action::Kexec { stage } => prepare::kexec(stage),
    }
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Times the preservation and the retrieval of one memfd.
//!
//! Under QEMU's `-icount shift=0` a nanosecond of the guest's clock is one instruction, so the
//! figures are exact and repeatable. Each is a line `BENCH name value`.

use std::fs;
use std::io::{
    BufRead,
    BufReader, //
};
use std::os::fd::OwnedFd;
use std::process::{
    Command,
    Stdio, //
};

use anyhow::{
    bail,
    Context,
    Result, //
};
use clap::{
    Parser,
    Subcommand,
    ValueEnum, //
};
use liveupdate::{
    LiveUpdate,
    Session,
    SessionName,
    Token, //
};
use progs::{
    hugetlb::{
        huge_memfd,
        Pool, //
    },
    memory::{
        self,
        Map,
        HUGE, //
    }, //
};
use rustix::fs::MemfdFlags;
use rustix::time::{
    clock_gettime,
    ClockId, //
};

const TOKEN: Token = Token(1);

/// Where the pages of the memfd lie.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Layout {
    /// One after the other, as the page allocator gives them.
    Contiguous,
    /// No two of them neighbours.
    Scattered,
    /// Huge pages of 2 MiB.
    Huge,
    /// Huge pages of 2 MiB from a pool of HugeTLB.
    #[value(name = "hugetlb-2m")]
    Hugetlb2m,
    /// Huge pages of 1 GiB from a pool of HugeTLB.
    #[value(name = "hugetlb-1g")]
    Hugetlb1g,
}

impl Layout {
    /// The pool that the pages come from.
    fn pool(self) -> Option<Pool> {
        match self {
            Self::Hugetlb2m => Some(Pool(2 << 20)),
            Self::Hugetlb1g => Some(Pool(1 << 30)),
            Self::Contiguous | Self::Scattered | Self::Huge => None,
        }
    }

    /// What addresses of a mapping have to be multiples of.
    fn align(self) -> u64 {
        self.pool().map_or(HUGE, |pool| pool.0)
    }
}

#[derive(Debug, Parser)]
#[command(about = "Times the preservation and the retrieval of one memfd")]
struct Cli {
    /// Name of the session.
    #[arg(long, global = true, default_value = "bench")]
    session: String,
    #[command(subcommand)]
    command: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Fills and preserves a memfd; a child keeps the session open.
    Preserve {
        #[arg(long)]
        mib: u64,
        #[arg(long, value_enum, default_value_t = Layout::Contiguous)]
        layout: Layout,
        /// Close the session at once, instead of keeping it for an update.
        #[arg(long)]
        discard: bool,
        /// Is the child that keeps the session.
        #[arg(long, hide = true)]
        child: bool,
    },
    /// Retrieves the memfd, reads every page, finishes the session.
    Retrieve {
        #[arg(long)]
        mib: u64,
        #[arg(long, value_enum, default_value_t = Layout::Contiguous)]
        layout: Layout,
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

/// Has the pool of a layout get as many pages as a file needs.
fn fill(pool: Pool, size: u64) -> Result<()> {
    let nr = size / pool.0;
    if !size.is_multiple_of(pool.0) || nr == 0 {
        bail!("{size} bytes are no whole number of huge pages");
    }
    let now = pool.set(nr)?;
    if now != nr {
        bail!("the pool has {now} huge pages of {nr}");
    }
    Ok(())
}

fn populate(mib: u64, layout: Layout) -> Result<OwnedFd> {
    let size = mib << 20;
    let fd = match layout.pool() {
        Some(pool) => {
            fill(pool, size)?;
            huge_memfd(pool.0, MemfdFlags::ALLOW_SEALING)?
        }
        None => memory::memfd("bench")?,
    };
    rustix::fs::ftruncate(&fd, size)?;
    let map = Map::aligned(&fd, size, true, layout.align())?;
    let between = match layout {
        Layout::Contiguous | Layout::Hugetlb2m | Layout::Hugetlb1g => None,
        Layout::Huge => {
            fs::write("/sys/kernel/mm/transparent_hugepage/shmem_enabled", "force")?;
            None
        }
        Layout::Scattered => {
            let other = memory::memfd("between")?;
            rustix::fs::ftruncate(&other, size)?;
            Some(Map::new(&other, size, true)?)
        }
    };
    for offset in (0..size).step_by(usize::try_from(memory::page())?) {
        map.word(offset)
            .store(mark(offset), std::sync::atomic::Ordering::Relaxed);
        if let Some(other) = &between {
            other
                .word(offset)
                .store(1, std::sync::atomic::Ordering::Relaxed);
        }
    }
    Ok(fd)
}

fn preserve(name: &str, mib: u64, layout: Layout) -> Result<Session> {
    let fd = populate(mib, layout)?;
    let session = LiveUpdate::open()?.create_session(&SessionName::new(name)?)?;
    timed("preserve", || Ok(session.preserve(&fd, TOKEN)?))?;
    Ok(session)
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
    bail!("the child ended before it had preserved the file")
}

fn retrieve(name: &str, mib: u64, layout: Layout) -> Result<()> {
    let size = mib << 20;
    let session = timed("session", || {
        Ok(LiveUpdate::open()?.retrieve_session(&SessionName::new(name)?)?)
    })?;
    let fd = timed("retrieve", || Ok(session.retrieve(TOKEN)?))?;
    let map = Map::aligned(&fd, size, false, layout.align())?;
    let bad = timed("access", || {
        Ok((0..size)
            .step_by(usize::try_from(memory::page())?)
            .filter(|&o| map.word(o).load(std::sync::atomic::Ordering::Relaxed) != mark(o))
            .count())
    })?;
    if bad > 0 {
        bail!("{bad} pages came back with other contents");
    }
    timed("finish", || Ok(session.finish()?))?;
    // What is measured next in this kernel finds all memory free.
    drop((map, fd));
    match layout.pool() {
        Some(pool) => pool.set(0).map(drop),
        None => Ok(()),
    }
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    match cli.command {
        Action::Preserve {
            mib,
            layout,
            child: true,
            ..
        } => {
            let _session = preserve(&cli.session, mib, layout)?;
            println!("READY");
            loop {
                std::thread::park();
            }
        }
        Action::Preserve {
            mib,
            layout,
            discard: true,
            ..
        } => preserve(&cli.session, mib, layout).map(drop),
        Action::Preserve { .. } => spawn(),
        Action::Retrieve { mib, layout } => retrieve(&cli.session, mib, layout),
    }
}

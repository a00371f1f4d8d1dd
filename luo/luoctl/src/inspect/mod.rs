// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! `luoctl inspect`: what one kernel hands over to the next, from KHO's root to the last record of a file.
//!
//! It never opens `/dev/liveupdate`: the first open of that device takes over all sessions, and what
//! describes them is freed.

mod copy;
mod kcore;
mod show;

use anyhow::{
    bail,
    Context as _,
    Result, //
};
use kho::{
    abi::{
        root::Root,
        PageSize, //
    },
    walk::{
        walk,
        Memory,
        Report, //
    },
};
use serde::Serialize;
use std::{
    fs,
    io::ErrorKind,
    path::{
        Path,
        PathBuf, //
    },
    thread,
    time::Duration, //
};

use self::{
    copy::{
        Copy,
        Header,
        Recorder, //
    },
    kcore::Kcore,
};
use crate::output::print;

const DEBUGFS: &str = "/sys/kernel/debug/kho";
const KCORE: &str = "/proc/kcore";
/// How often the root is read again if it was just being changed.
const TRIES: u32 = 5;

const DETAILS: &str = "\
It reads KHO's files in debugfs and memory through /proc/kcore, as root, at any
time and without side effects. Nothing is preserved that is not shown: what
nothing refers to is counted, too.

What was handed over to this kernel (--in) is complete until something opens
/dev/liveupdate: then the lists of sessions are freed. To look at them later,
save a copy before, for example in the initramfs. A copy has addresses and
names, but no contents of files.

What this kernel is going to hand over (--out) lacks the sessions: they are
written when the kernel is left, so the memory of their files is counted as
what nothing refers to yet.

With --verify, the exit status is 0 only if all checksums are right, all that
is referred to is preserved, nothing is used twice, and something refers to
every preserved page (with --out, the last is not asked for).

Examples:
  luoctl inspect                              what this kernel was given
  luoctl inspect --out                        what the next one would be given
  luoctl inspect --verify --save /run/handover
  luoctl inspect --json /run/handover | jq '.luo.sessions[].files[].bytes'";

/// Show what is handed over, from KHO's root to the last record.
#[derive(Debug, clap::Args)]
#[command(after_help = DETAILS)]
pub(crate) struct Args {
    /// What was handed over to this kernel; the default if anything was.
    #[arg(long = "in", conflicts_with = "outgoing")]
    incoming: bool,
    /// What this kernel is going to hand over.
    #[arg(long = "out")]
    outgoing: bool,
    /// Fail unless all of it is right.
    #[arg(long)]
    verify: bool,
    /// Print JSON instead of a tree.
    #[arg(long)]
    json: bool,
    /// Save a copy of all that describes it, for this command to read.
    #[arg(long, value_name = "COPY")]
    save: Option<PathBuf>,
    /// A copy to read instead of the running kernel.
    #[arg(conflicts_with_all = ["incoming", "outgoing"])]
    file: Option<PathBuf>,
}

/// Who hands it over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Direction {
    /// The previous kernel to the one that is asked.
    In,
    /// The one that is asked to the next.
    Out,
}

#[derive(Serialize)]
struct Found<'a> {
    direction: Direction,
    #[serde(flatten)]
    report: &'a Report,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let (header, mut memory): (_, Box<dyn Memory>) = match &args.file {
        Some(path) => {
            let (header, copy) = Copy::open(path)?;
            (header, Box::new(copy))
        }
        None => (running(args)?, Box::new(Kcore::open(Path::new(KCORE))?)),
    };
    let report = match &args.save {
        None => look(&header, &mut *memory)?,
        Some(path) => {
            let mut recorder = Recorder::create(path, &header, &mut *memory)?;
            let report = look(&header, &mut recorder)?;
            let result = recorder.finish();
            result.with_context(|| format!("cannot write {}", path.display()))?;
            report
        }
    };
    let direction = header.direction;
    print(&if args.json {
        let report = &report;
        serde_json::to_string_pretty(&Found { direction, report })? + "\n"
    } else {
        show::tree(direction, &report)
    })?;
    match args.verify {
        true => verify(direction, &report),
        false => Ok(()),
    }
}

fn look(header: &Header, memory: &mut dyn Memory) -> Result<Report> {
    walk(&header.root, memory, header.page).map_err(|fault| {
        anyhow::anyhow!(
            "the tree of preserved memory cannot be read: {fault}; a kernel without the patches 0033 to \
             0035 gives its memory away at boot"
        )
    })
}

fn verify(direction: Direction, report: &Report) -> Result<()> {
    let problems = (report.problems.len() as u64).saturating_add(report.more_problems);
    if problems > 0 {
        bail!("{problems} things are wrong; see above");
    }
    let left = report.unreferenced.pages;
    if left == 0 || direction == Direction::Out {
        return Ok(());
    }
    if report.is_without_sessions() {
        bail!(
            "there are no sessions, but {left} pages that nothing refers to: if something has opened \
             /dev/liveupdate since boot, the sessions are taken over and can be verified no more"
        );
    }
    bail!("nothing refers to {left} preserved pages")
}

/// The root of the running kernel.
fn running(args: &Args) -> Result<Header> {
    let shift = rustix::param::page_size().trailing_zeros();
    let page = PageSize::new(shift).context("pages of this size are not known")?;
    let root = |name: &str| Path::new(DEBUGFS).join(name).join("fdt");
    let direction = match (args.incoming, args.outgoing) {
        (true, _) => Direction::In,
        (_, true) => Direction::Out,
        _ if root("in").exists() => Direction::In,
        _ => Direction::Out,
    };
    let path = root(match direction {
        Direction::In => "in",
        Direction::Out => "out",
    });
    for left in (0..TRIES).rev() {
        let root = fs::read(&path).map_err(|error| explain(error, direction))?;
        match Root::parse(&root) {
            Ok(_) => {
                return Ok(Header {
                    direction,
                    page,
                    root,
                })
            }
            // Something may be adding to it.
            Err(_) if left > 0 => thread::sleep(Duration::from_millis(20)),
            Err(error) => {
                return Err(anyhow::Error::new(error)).with_context(|| {
                    format!(
                        "cannot use {}; without patch 0034 the kernel does not show all of it",
                        path.display()
                    )
                })
            }
        }
    }
    bail!("{} changes all the time; try again", path.display())
}

/// Says what to do if the root cannot be read.
fn explain(error: std::io::Error, direction: Direction) -> anyhow::Error {
    let mounted = Path::new("/sys/kernel/debug/kernel_page_tables").exists()
        || fs::read_dir("/sys/kernel/debug").is_ok_and(|mut dir| dir.next().is_some());
    let advice = match (error.kind(), direction) {
        (ErrorKind::PermissionDenied, _) => {
            "KHO's files in debugfs cannot be read: run this as root; a kernel that is locked down shows them \
             to nobody"
        }
        (ErrorKind::NotFound, _) if !mounted => {
            "debugfs is not mounted: `mount -t debugfs none /sys/kernel/debug`"
        }
        (ErrorKind::NotFound, _) if !Path::new(DEBUGFS).exists() => {
            "KHO is off: boot the kernel with `kho=on` (it needs CONFIG_KEXEC_HANDOVER_DEBUGFS=y)"
        }
        (ErrorKind::NotFound, Direction::In) => {
            "nothing was handed over to this kernel: it was not started by a live update; `--out` shows what it \
             is going to hand over"
        }
        (ErrorKind::NotFound, Direction::Out) => {
            "the kernel does not show what it hands over: without patch 0034 it does not do so after a live update"
        }
        _ => "KHO's files in debugfs cannot be read",
    };
    anyhow::Error::new(error).context(advice)
}

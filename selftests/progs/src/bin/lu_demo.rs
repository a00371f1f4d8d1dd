// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The demo's part in the guest: fills and preserves a memfd, and proves that it survived.
//!
//! What has to be remembered for the proof is in `/state`; the memory itself is only in the guest.
//! Lines that begin with `DEMO` tell the host what happens and when.

use std::fs;
use std::io::{
    BufRead,
    BufReader, //
};
use std::os::fd::{
    AsFd,
    OwnedFd, //
};
use std::process::{
    Command,
    Stdio, //
};

use anyhow::{
    bail,
    ensure,
    Context,
    Result, //
};
use clap::{
    Parser,
    Subcommand, //
};
use liveupdate::{
    LiveUpdate,
    SessionName,
    Token, //
};
use progs::memory::{
    self,
    Map,
    HUGE, //
};
use progs::pattern::{
    digest,
    Layout, //
};
use rustix::fs::SealFlags;
use rustix::mm::Advice;

const SESSION: &str = "demo";
const TOKEN: Token = Token(1);
const STATE: &str = "/state/demo";
const SEED: u64 = 0x11fe;
/// Where the file's position is left.
const POSITION: u64 = 0x1234;

#[derive(Debug, Parser)]
#[command(about = "The demo's part in the guest")]
struct Cli {
    /// Size of the memfd in MiB.
    #[arg(long, default_value_t = 512)]
    mib: u64,
    #[command(subcommand)]
    command: Action,
}

#[derive(Clone, Copy, Debug, Subcommand)]
enum Action {
    /// In the old kernel: fill and preserve.
    Fill,
    /// The process that keeps the session open.
    #[command(hide = true)]
    Hold,
    /// In the new kernel: retrieve, verify, finish.
    Verify {
        /// Changes one byte first, to show that the verification notices.
        #[arg(long)]
        sabotage: bool,
    },
}

fn say(what: &str) {
    println!("DEMO {what}");
}

/// Data in the first half and in every fourth MiB of the second; holes in between.
fn layout(mib: u64) -> Layout {
    let size = mib << 20;
    let data = std::iter::once(0..size / 2)
        .chain((size / 2..size).step_by(4 << 20).map(|o| o..o + (1 << 20)));
    Layout::ranges(SEED, size, data)
}

fn hash(fd: impl AsFd, size: u64) -> Result<u64> {
    let mut buffer = vec![0; 1 << 20];
    let mut value = 0;
    let mut offset = 0;
    while offset < size {
        let n = rustix::io::pread(fd.as_fd(), &mut buffer[..], offset)?;
        ensure!(n > 0, "the file ends at {offset}");
        value = digest(
            value,
            buffer
                .get(..n)
                .context("pread returned more than asked for")?,
        );
        offset += n as u64;
    }
    Ok(value)
}

fn kernel_identity() -> Result<[String; 3]> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?
        .trim()
        .to_string();
    let notes = fs::read("/sys/kernel/notes").unwrap_or_default();
    // An ELF note: sizes of name and value, type 3, then the name "GNU" and the value.
    let id = notes
        .windows(8)
        .position(|w| w == b"\x03\0\0\0GNU\0")
        .and_then(|at| notes.get(at + 8..at + 28))
        .map(|b| b.iter().map(|b| format!("{b:02x}")).collect::<String>());
    let uname = rustix::system::uname();
    Ok([
        boot,
        id.unwrap_or_else(|| uname.version().to_string_lossy().into_owned()),
        uname.release().to_string_lossy().into_owned(),
    ])
}

/// How many kexecs the kernel says there have been.
fn kexec_count() -> String {
    let out = Command::new("dmesg")
        .output()
        .map(|o| String::from_utf8_lossy(&o.stdout).into_owned())
        .unwrap_or_default();
    out.lines()
        .find_map(|l| {
            l.split_once("(count ")
                .map(|(_, r)| r.trim_end_matches(')').to_string())
        })
        .unwrap_or_else(|| "0".into())
}

fn fill(mib: u64) -> Result<OwnedFd> {
    let layout = layout(mib);
    let fd = memory::memfd(SESSION)?;
    rustix::fs::ftruncate(&fd, mib << 20)?;
    // The first quarter in huge pages.
    let advice = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";
    if fs::write(advice, "advise").is_ok() {
        let map = Map::new(&fd, (mib << 20) / 4, true)?;
        map.advise(Advice::LinuxHugepage)?;
        for offset in (0..(mib << 20) / 4).step_by(usize::try_from(HUGE)?) {
            map.word(offset)
                .store(1, std::sync::atomic::Ordering::Relaxed);
        }
    }
    layout.write_data(&fd)?;
    rustix::fs::seek(&fd, rustix::fs::SeekFrom::Start(POSITION))?;
    rustix::fs::fcntl_add_seals(&fd, SealFlags::GROW | SealFlags::SHRINK)?;
    Ok(fd)
}

fn hold(mib: u64) -> Result<()> {
    let size = mib << 20;
    say("fill start");
    let fd = fill(mib)?;
    say("fill end");
    let session = LiveUpdate::open()?.create_session(&SessionName::new(SESSION)?)?;
    say("preserve start");
    session.preserve(&fd, TOKEN)?;
    say("preserve end");
    let pfns = digest(
        0,
        &memory::pfns(&fd, size)?
            .iter()
            .flat_map(|p| p.to_le_bytes())
            .collect::<Vec<_>>(),
    );
    fs::create_dir_all(STATE)?;
    let [boot, build, release] = kernel_identity()?;
    fs::write(
        format!("{STATE}/facts"),
        [
            boot,
            build,
            release,
            kexec_count(),
            format!("{:016x}", hash(&fd, size)?),
            format!("{pfns:016x}"),
            memory::huge_mapped(&fd, size / 4)?.to_string(),
        ]
        .join("\n"),
    )?;
    say("ready");
    loop {
        std::thread::park();
    }
}

/// Starts the holder and waits until it is ready.
fn start(mib: u64) -> Result<()> {
    let child = Command::new(std::env::current_exe()?)
        .args(["--mib", &mib.to_string(), "hold"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    for line in BufReader::new(child.stdout.context("the child has a pipe")?).lines() {
        let line = line?;
        println!("{line}");
        if line == "DEMO ready" {
            return Ok(());
        }
    }
    bail!("the holder ended early")
}

fn verify(mib: u64, sabotage: bool) -> Result<()> {
    let size = mib << 20;
    let facts = fs::read_to_string(format!("{STATE}/facts"))?;
    let facts: Vec<&str> = facts.lines().collect();
    let [boot, build, release, count, sum, pfns, huge] = facts[..] else {
        bail!("{STATE}/facts is not what `fill` writes")
    };

    say("retrieve start");
    let session = LiveUpdate::open()?.retrieve_session(&SessionName::new(SESSION)?)?;
    let fd = session.retrieve(TOKEN)?;
    say("retrieve end");
    if sabotage {
        rustix::io::pwrite(&fd, b"!", size / 3)?;
    }

    say("verify start");
    let new_sum = format!("{:016x}", hash(&fd, size)?);
    let new_pfns = format!(
        "{:016x}",
        digest(
            0,
            &memory::pfns(&fd, size)?
                .iter()
                .flat_map(|p| p.to_le_bytes())
                .collect::<Vec<_>>()
        )
    );
    let content = layout(mib).verify(&fd);
    let [new_boot, new_build, new_release] = kernel_identity()?;
    let new_count = kexec_count();
    let position = rustix::fs::tell(&fd)?;
    let seals = rustix::fs::fcntl_get_seals(&fd)?;
    let new_huge = memory::huge_mapped(&fd, size / 4)?.to_string();
    say("verify end");
    say("finish start");
    session.finish()?;
    say("finish end");

    let mut good = true;
    let mut proof = |what: &str, old: &str, new: &str, ok: bool| {
        println!(
            "DEMO proof {}|{what}|{old}|{new}",
            if ok { "ok" } else { "BAD" }
        );
        good &= ok;
    };
    proof("boot id changed", boot, &new_boot, boot != new_boot);
    proof(
        "kernel release changed",
        release,
        &new_release,
        release != new_release,
    );
    proof(
        "kernel build id changed",
        build,
        &new_build,
        build != new_build,
    );
    proof(
        "kexec count grew",
        count,
        &new_count,
        new_count.parse::<u64>().unwrap_or(0) > count.parse::<u64>().unwrap_or(0),
    );
    proof(
        "hash of all bytes is the same",
        sum,
        &new_sum,
        sum == new_sum,
    );
    proof("same physical pages", pfns, &new_pfns, pfns == new_pfns);
    proof(
        "bytes in huge pages",
        huge,
        &new_huge,
        huge == new_huge && huge != "0",
    );
    proof(
        "every byte is as it was written",
        "",
        &content.as_ref().err().cloned().unwrap_or_default(),
        content.is_ok(),
    );
    proof(
        "file position",
        &POSITION.to_string(),
        &position.to_string(),
        position == POSITION,
    );
    proof(
        "seals",
        "GROW + SHRINK",
        &seals
            .iter_names()
            .map(|(n, _)| n)
            .collect::<Vec<_>>()
            .join(" + "),
        seals == (SealFlags::GROW | SealFlags::SHRINK),
    );
    ensure!(good, "the memfd did not survive");
    Ok(())
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    match cli.command {
        Action::Fill => start(cli.mib),
        Action::Hold => hold(cli.mib),
        Action::Verify { sabotage } => verify(cli.mib, sabotage),
    }
}

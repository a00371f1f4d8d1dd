// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Tests what the next kernel makes of preserved memory, wherever it lies; runs as root in a guest.
//!
//! A seed stands for a layout: files that are written in turns with one that is then given back, in runs
//! of random length and with folios of all orders. The next kernel must not use any of that memory, and
//! must have all other memory.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::{
    Path,
    PathBuf, //
};
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{
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
use progs::{
    expect::{
        is,
        same,
        works,
        Check, //
    },
    memory::{
        self,
        page,
        Map, //
    },
    pattern::{
        self,
        Layout, //
    },
    sys::{
        self,
        Setting, //
    },
    tap::{
        Outcome,
        Report, //
    }, //
};

/// How many files a layout has.
const FILES: u64 = 3;

/// Which large folios memfds get.
const LARGE: &str = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";

/// How long another process may have the device open.
const PATIENCE: Duration = Duration::from_secs(20);

/// How much a boot may differ from another without a preserved file, in bytes.
const NOISE: u64 = 256 << 10;

/// Tests what the next kernel makes of preserved memory.
#[derive(Parser)]
#[command(name = "lu_kho")]
struct Cli {
    /// Where notes outlive the kernel.
    #[arg(long, default_value = "/state/lu_kho")]
    state: PathBuf,
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Note how much memory there is after an update without any files.
    Idle,
    /// Preserve files.
    Preserve(Chosen),
    /// Use all memory, then retrieve and verify the files.
    Verify(Chosen),
}

#[derive(Clone, Copy, clap::Args)]
struct Chosen {
    /// Stands for a layout.
    #[arg(long)]
    seed: u64,
    /// How much to preserve.
    #[arg(long, default_value_t = 64)]
    mib: u64,
}

/// Pages that are written at a time.
#[derive(Debug)]
struct Run {
    /// Which file, or none that is kept.
    file: Option<u64>,
    pages: u64,
    large: bool,
}

/// Numbers that depend on nothing but a seed (splitmix64).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }
}

fn runs(chosen: Chosen) -> Vec<Run> {
    let (mut numbers, mut runs) = (Numbers(chosen.seed), Vec::new());
    let mut left = (chosen.mib << 20) / page();
    while left > 0 {
        let file = Some(numbers.below(2 * FILES)).filter(|file| *file < FILES);
        let pages = 1 + match numbers.below(16) {
            0..=10 => numbers.below(4),
            11..=14 => numbers.below(64),
            _ => numbers.below(800),
        };
        let pages = pages.min(left);
        let large = numbers.below(2) == 1;
        if file.is_some() {
            left -= pages;
        }
        runs.push(Run { file, pages, large });
    }
    runs
}

/// What belongs in a file.
fn contents(chosen: Chosen, file: u64) -> Layout {
    let pages = runs(chosen)
        .iter()
        .filter(|run| run.file == Some(file))
        .map(|run| run.pages)
        .sum::<u64>();
    Layout::full(chosen.seed * FILES + file, pages * page())
}

/// Appends a run of pages to a file.
fn append(fd: &OwnedFd, seed: u64, at: u64, len: u64) -> Result<()> {
    let mut buf = vec![0; usize::try_from(len)?];
    pattern::fill(seed, at, &mut buf);
    let mut done = 0;
    while done < buf.len() {
        done += rustix::io::pwrite(fd, &buf[done..], at + done as u64)?;
    }
    Ok(())
}

fn files(chosen: Chosen) -> Result<Vec<OwnedFd>> {
    let fds = (0..=FILES).map(|_| Ok(memory::memfd("kho")?));
    let mut fds = fds.collect::<Result<Vec<_>>>()?;
    let mut ends = vec![0; fds.len()];
    let setting = Path::new(LARGE).exists().then_some(LARGE);
    let before = setting.map(|path| Setting::change(path, "never"));
    let _before = before.transpose()?;
    for run in runs(chosen) {
        let file = run.file.unwrap_or(FILES);
        let which = usize::try_from(file)?;
        if let Some(path) = setting {
            sys::set(path, if run.large { "within_size" } else { "never" })?;
        }
        let len = run.pages * page();
        append(&fds[which], chosen.seed * FILES + file, ends[which], len)?;
        ends[which] += len;
    }
    // What lies between the files becomes free.
    fds.truncate(usize::try_from(FILES)?);
    Ok(fds)
}

/// A figure of /proc/meminfo, in bytes.
fn meminfo(name: &str) -> Result<u64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let kib = line.and_then(|line| line.split_whitespace().next());
    let kib: u64 = kib.context("/proc/meminfo lacks a figure")?.parse()?;
    Ok(kib << 10)
}

impl Cli {
    fn note(&self, key: &str, value: u64) -> Result<()> {
        fs::create_dir_all(&self.state)?;
        Ok(fs::write(self.state.join(key), value.to_string())?)
    }

    fn noted(&self, key: &str) -> Result<u64> {
        let path = self.state.join(key);
        let text = fs::read_to_string(&path);
        Ok(text.with_context(|| path.display().to_string())?.parse()?)
    }

    fn idle(&self) -> Result<()> {
        self.note("total", meminfo("MemTotal")?)?;
        self.note("free", sys::mem_free()?)
    }

    /// What is missing is what is preserved, but for `noise`.
    fn missing(&self, key: &str, now: u64, noise: u64) -> Result<Check> {
        let (idle, files) = (self.noted(key)?, self.noted("preserved")?);
        // With up to 16 bytes of tables for each page of a file.
        let (least, most) = (files - noise, files + files / 256 + NOISE + noise);
        let missing = idle.saturating_sub(now);
        let text = format!("{missing} bytes are missing, it should be {least} to {most}");
        println!("# {key}: {text}");
        Ok(is((least..=most).contains(&missing), &text))
    }

    fn verify(&self, chosen: Chosen) -> Result<Outcome> {
        let (total, free) = (meminfo("MemTotal")?, sys::mem_free()?);
        let mut report = Report::new(&format!("kho.{}", chosen.seed));
        report.check("total", self.missing("total", total, 0)?);
        let noise = sys::slack(total / 1000);
        report.check("free", self.missing("free", free, noise)?);
        report.check("fill", fill()?);
        let device = LiveUpdate::open_wait(PATIENCE)?;
        let session = device.retrieve_session(&SessionName::new("lu_kho")?)?;
        for file in 0..FILES {
            let check = match session.retrieve(Token(file + 1)) {
                Ok(fd) => contents(chosen, file).verify(&fd),
                Err(error) => Err(format!("{error:?}")),
            };
            report.check(&format!("file-{file}"), check);
        }
        report.check("finish", works(session.finish()));
        drop(device);
        // Everything is restored, and was freed with the last descriptor. What stays is the tree that debugfs
        // shows, with a bit for each page, half a bit for each page of twice the size, and so on.
        let idle = self.noted("total")?;
        let lost = idle.abs_diff(meminfo("MemTotal")?);
        let most = NOISE + 2 * idle / page() / 8;
        println!(
            "# {lost} bytes of {idle} more or less than without files, it should be at most {most}"
        );
        report.check("whole", is(lost <= most, "memory was not restored"));
        Ok(report.end())
    }
}

/// Uses nearly all free memory, which the kernel clears. What is written to each page is still there when all
/// have been written to: none is used for two things.
fn fill() -> Result<Check> {
    let len = sys::mem_free()?.saturating_sub(128 << 20) / page() * page();
    // Faster, where there is room for them.
    let large = Path::new(LARGE)
        .exists()
        .then(|| Setting::change(LARGE, "always"));
    let _large = large.transpose()?;
    let fd = memory::memfd("fill")?;
    rustix::fs::ftruncate(&fd, len)?;
    let map = Map::new(&fd, len, true)?;
    let (mut bad, step) = (0, usize::try_from(page())?);
    for round in 1..=2 {
        for at in (0..len).step_by(step) {
            let word = map.word(at);
            let last = if round == 1 { 0 } else { at ^ 1 };
            bad += u64::from(word.load(Ordering::Relaxed) != last);
            word.store(at ^ round, Ordering::Relaxed);
        }
    }
    println!("# {len} bytes used");
    Ok(same(bad, 0))
}

fn preserve(cli: &Cli, chosen: Chosen) -> Result<()> {
    let fds = files(chosen)?;
    let sizes = (0..FILES).map(|file| contents(chosen, file).size);
    cli.note("preserved", sizes.sum())?;
    let session = LiveUpdate::open_wait(PATIENCE)?.create_session(&SessionName::new("lu_kho")?)?;
    for (fd, token) in fds.iter().zip(1..) {
        session.preserve(fd, Token(token))?;
    }
    sys::leave_behind(|| ())?;
    drop(session);
    Ok(())
}

fn main() -> Result<ExitCode> {
    let cli = Cli::parse();
    match cli.action {
        Action::Idle => cli.idle()?,
        Action::Preserve(chosen) => preserve(&cli, chosen)?,
        Action::Verify(chosen) => return Ok(cli.verify(chosen)?.into()),
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layout_is_as_large_as_asked_for_and_the_same_each_time() {
        for seed in 0..20 {
            let chosen = Chosen { seed, mib: 8 };
            let sum: u64 = (0..FILES).map(|file| contents(chosen, file).size).sum();
            assert_eq!(sum, 8 << 20);
            let text = format!("{:?}", runs(chosen));
            assert_eq!(text, format!("{:?}", runs(chosen)));
            let other = Chosen { seed: 20, mib: 8 };
            assert_ne!(text, format!("{:?}", runs(other)));
        }
    }
}

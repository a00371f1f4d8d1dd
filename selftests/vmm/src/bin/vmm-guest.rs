// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The only program of the Linux guest: watches from inside that nothing is lost.
//!
//! Ten times a second it writes a line to the console. `gap` is the longest time for which a CPU did
//! not get to run, which is how long the guest noticed the update of its host. The word `BAD` and a
//! reason follow if
//!
//! * a clock went back, on one CPU or from one to another;
//! * a word of its memory changed by itself;
//! * another process, which it feeds through a pipe that always has data in it, died or missed some;
//! * a periodic timer did not expire as often as it should have.

use std::fs::File;
use std::io::{
    self,
    Read,
    Write, //
};
use std::process::{
    Child,
    ChildStdin,
    Command,
    Stdio, //
};
use std::sync::atomic::{
    AtomicBool,
    AtomicU64,
    Ordering, //
};
use std::thread;
use std::time::Duration;

use rustix::mount::{
    mount,
    MountFlags, //
};
use rustix::thread::{
    sched_setaffinity,
    CpuSet, //
};
use rustix::time::{
    clock_gettime,
    timerfd_create,
    timerfd_settime,
    ClockId,
    Itimerspec,
    TimerfdClockId,
    TimerfdFlags,
    TimerfdTimerFlags,
    Timespec, //
};

const BEAT: Duration = Duration::from_millis(100);
const SAMPLE: Duration = Duration::from_millis(5);
/// So many periods the timer may be late. They are counted, not measured: an update of the host that
/// comes meanwhile may take longer than all of them.
const PATIENCE: usize = 500;
/// Period of the timer.
const PERIOD: Duration = Duration::from_millis(20);
/// 8 MiB of numbers.
const WORDS: usize = 1 << 20;
/// Changes of them between two beats.
const CHANGES: usize = 1000;
/// Numbers that are kept in the pipe.
const IN_FLIGHT: u64 = 1000;
const NUMBER: u64 = 8;

/// The latest time that any CPU has seen, the longest gap, and whether time went back.
static LATEST: AtomicU64 = AtomicU64::new(0);
static GAP: AtomicU64 = AtomicU64::new(0);
static WENT_BACK: AtomicBool = AtomicBool::new(false);

fn now() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000
        + u64::try_from(time.tv_nsec).unwrap_or(0)
}

/// Looks at the clock all the time, on one CPU.
fn sample(cpu: usize) {
    let mut set = CpuSet::new();
    set.set(cpu);
    // Without it the thread wanders, and sees less of one CPU.
    let _ = sched_setaffinity(None, &set);
    let mut last = now();
    loop {
        thread::sleep(SAMPLE);
        let latest = LATEST.load(Ordering::SeqCst);
        let time = now();
        if time < latest {
            WENT_BACK.store(true, Ordering::SeqCst);
        }
        LATEST.fetch_max(time, Ordering::SeqCst);
        GAP.fetch_max(time.saturating_sub(last), Ordering::SeqCst);
        last = time;
    }
}

/// Memory that only this program changes, and its sum.
struct Memory {
    words: Vec<u64>,
    sum: u64,
    random: u64,
}

impl Memory {
    fn new() -> Self {
        let words: Vec<u64> = (0..WORDS as u64)
            .map(|n| n.wrapping_mul(0x9e37_79b9))
            .collect();
        let sum = words.iter().fold(0u64, |sum, word| sum.wrapping_add(*word));
        Self {
            words,
            sum,
            random: 1,
        }
    }

    fn change(&mut self) {
        for _ in 0..CHANGES {
            self.random = self
                .random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let place = (self.random >> 40) as usize % WORDS;
            if let Some(word) = self.words.get_mut(place) {
                self.sum = self.sum.wrapping_sub(*word).wrapping_add(self.random);
                *word = self.random;
            }
        }
    }

    fn is_whole(&self) -> bool {
        self.words
            .iter()
            .fold(0u64, |sum, word| sum.wrapping_add(*word))
            == self.sum
    }
}

/// A process that gets consecutive numbers through a pipe.
struct Reader {
    child: Child,
    pipe: ChildStdin,
    written: u64,
}

impl Reader {
    fn start() -> io::Result<Self> {
        let mut child = Command::new("/init")
            .arg("reader")
            .stdin(Stdio::piped())
            .spawn()?;
        let pipe = child.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?;
        let mut reader = Self {
            child,
            pipe,
            written: 0,
        };
        reader.feed()?;
        Ok(reader)
    }

    /// Fills the pipe up to what is kept in it, and returns how much was in it.
    fn feed(&mut self) -> io::Result<u64> {
        let there = rustix::io::ioctl_fionread(&self.pipe)? / NUMBER;
        let count = IN_FLIGHT.saturating_sub(there);
        for number in self.written..self.written + count {
            self.pipe.write_all(&number.to_le_bytes())?;
        }
        self.written += count;
        Ok(there)
    }
}

/// The process at the other end: takes a few numbers at a time.
fn read() -> ! {
    let mut pipe = io::stdin().lock();
    let mut expected = 0u64;
    loop {
        for _ in 0..10 {
            let mut bytes = [0; 8];
            if pipe.read_exact(&mut bytes).is_err() || u64::from_le_bytes(bytes) != expected {
                println!("MON BAD pipe: number {expected} is missing");
                std::process::exit(1);
            }
            expected += 1;
        }
        thread::sleep(BEAT);
    }
}

/// A periodic timer, whose expirations the kernel counts.
struct Timer {
    file: File,
    began: u64,
    expired: u64,
}

impl Timer {
    fn start() -> io::Result<Self> {
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK)?;
        let period = Timespec {
            tv_sec: 0,
            tv_nsec: PERIOD.as_nanos() as i64,
        };
        let setting = Itimerspec {
            it_interval: period,
            it_value: period,
        };
        let began = now();
        timerfd_settime(&timer, TimerfdTimerFlags::empty(), &setting)?;
        Ok(Self {
            file: timer.into(),
            began,
            expired: 0,
        })
    }

    fn due(&self) -> u64 {
        now().saturating_sub(self.began) / PERIOD.as_nanos() as u64
    }

    /// It expires neither too often nor too seldom. A CPU of the guest that the host does not run for a
    /// while is late with the interrupt, so the timer has time to catch up; one that is lost never does.
    fn check(&mut self) -> Result<(), String> {
        let mut due = 0;
        for _ in 0..PATIENCE {
            due = self.due();
            let mut count = [0; 8];
            if self.file.read_exact(&mut count).is_ok() {
                self.expired += u64::from_le_bytes(count);
            }
            let (expired, most) = (self.expired, self.due());
            if expired > most {
                return Err(format!("the timer expired {expired} times, {most} are due"));
            }
            if expired + 2 >= due {
                return Ok(());
            }
            thread::sleep(PERIOD);
        }
        let expired = self.expired;
        Err(format!("the timer expired {expired} times, {due} are due"))
    }
}

fn monitor() -> io::Result<()> {
    mount("proc", "/proc", "proc", MountFlags::empty(), None)?;
    let cpus = thread::available_parallelism().map_or(1, usize::from);
    for cpu in 0..cpus {
        thread::spawn(move || sample(cpu));
    }
    let mut memory = Memory::new();
    let mut reader = Reader::start()?;
    let mut timer = Timer::start()?;
    for beat in 1u64.. {
        thread::sleep(BEAT);
        let mut bad = Vec::new();
        if WENT_BACK.load(Ordering::SeqCst) {
            bad.push("the clock went back".to_string());
        }
        memory.change();
        if beat % 10 == 0 && !memory.is_whole() {
            bad.push("memory has changed".to_string());
        }
        if let Some(status) = reader.child.try_wait()? {
            bad.push(format!("the reader ended: {status}"));
        }
        let in_flight = reader.feed()?;
        if let Err(why) = timer.check() {
            bad.push(why);
        }
        println!(
            "MON beat={beat} up={:.3}s gap={:.1}ms cpus={cpus} pipe={}+{in_flight} timer={}{}",
            now() as f64 / 1e9,
            GAP.load(Ordering::SeqCst) as f64 / 1e6,
            reader.written - in_flight,
            timer.expired,
            if bad.is_empty() {
                String::new()
            } else {
                format!(" BAD {}", bad.join(", "))
            }
        );
    }
    Ok(())
}

fn main() {
    if std::env::args().nth(1).as_deref() == Some("reader") {
        read();
    }
    if let Err(error) = monitor() {
        println!("MON BAD the monitor failed: {error}");
    }
    // Init must not end.
    loop {
        thread::park();
    }
}

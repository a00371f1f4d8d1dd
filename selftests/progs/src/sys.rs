// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The parts of the system that the cases look at and turn.

use crate::expect::{
    is,
    Check, //
};
use anyhow::{
    bail,
    Context,
    Result, //
};
use rustix::io::Errno;
use std::{
    fs,
    io,
    os::fd::{
        AsRawFd,
        OwnedFd, //
    },
    path::Path,
    thread,
    time::Duration, //
};

/// Where the kernel takes commands that make handlers fail, in test builds only.
pub const HOOK: &str = "/dev/luo_test";

/// Tells the kernel's test hook to do something; false if this kernel has none.
pub fn hook(command: &str) -> Result<bool> {
    if !Path::new(HOOK).exists() {
        return Ok(false);
    }
    fs::write(HOOK, command).with_context(|| format!("{HOOK} refused \"{command}\""))?;
    Ok(true)
}

/// The errno of an I/O error, which one that came from a system call has.
pub fn errno(error: &io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

/// Has an emulator that looks for it tell how many instructions each CPU has executed, as the numbers with
/// this name. To all others, it is an instruction that does nothing.
#[inline(always)]
pub fn counters(name: u8) {
    match name {
        // SAFETY: These change nothing.
        #[cfg(target_arch = "x86_64")]
        1 => unsafe { std::arch::asm!("nop dword ptr [rax + rax + 0x4c550001]") },
        // SAFETY: As above.
        #[cfg(target_arch = "x86_64")]
        2 => unsafe { std::arch::asm!("nop dword ptr [rax + rax + 0x4c550002]") },
        // SAFETY: As above: the register is not one.
        #[cfg(target_arch = "aarch64")]
        1 => unsafe { std::arch::asm!("movz xzr, #0x4c01") },
        // SAFETY: As above.
        #[cfg(target_arch = "aarch64")]
        2 => unsafe { std::arch::asm!("movz xzr, #0x4c02") },
        _ => {}
    }
}

/// Free memory in bytes, with what the kernel keeps for convenience given back, and with the pages
/// that each processor keeps at hand, which can be many after much was freed.
pub fn mem_free() -> Result<u64> {
    let _ = fs::write("/proc/sys/vm/drop_caches", "3");
    let text = fs::read_to_string("/proc/meminfo")?;
    let line = text.lines().find_map(|l| l.strip_prefix("MemFree:"));
    let number = line.and_then(|l| l.split_whitespace().next());
    let kib: u64 = number.context("/proc/meminfo has no MemFree")?.parse()?;
    let zones = fs::read_to_string("/proc/zoneinfo")?;
    let counts = zones
        .lines()
        .filter_map(|l| l.trim_start().strip_prefix("count:"));
    let at_hand: u64 = counts
        .filter_map(|count| count.trim().parse::<u64>().ok())
        .sum();
    Ok((kib << 10) + at_hand * crate::memory::page())
}

/// Waits until at least `bytes` are free, since some of it is freed later; then the last figure.
pub fn wait_mem_free(bytes: u64) -> Result<u64> {
    let mut free = mem_free()?;
    for _ in 0..20 {
        if free >= bytes {
            break;
        }
        thread::sleep(Duration::from_millis(100));
        free = mem_free()?;
    }
    Ok(free)
}

/// After `before` bytes were free, `gain` more become free, but for `slack`.
///
/// # Errors
///
/// If the free memory cannot be read.
pub fn given_back(before: u64, gain: u64, slack: u64) -> Result<Check> {
    let want = (before + gain).saturating_sub(slack);
    let after = wait_mem_free(want)?;
    let missing = (before + gain).saturating_sub(after);
    let text = format!("{missing} of {gain} bytes are missing, {slack} may be");
    println!("# {text}");
    Ok(is(after >= want, &text))
}

/// Where the kernel lists memory that nothing points to.
const KMEMLEAK: &str = "/sys/kernel/debug/kmemleak";

/// How much memory may be missing where `plain` may be: a kernel with checkers keeps what is freed in
/// quarantine, and its own records.
pub fn slack(plain: u64) -> u64 {
    if Path::new(KMEMLEAK).exists() {
        (plain * 4).max(16 << 20)
    } else {
        plain
    }
}

/// What the kernel thinks has been lost in the code under test, if it can tell.
pub fn leaks() -> Result<Option<Vec<String>>> {
    const OURS: [&str; 6] = ["luo_", "kho_", "memfd", "gmem", "shmem", "liveupdate"];

    if !Path::new(KMEMLEAK).exists() {
        return Ok(None);
    }
    for _ in 0..2 {
        set(KMEMLEAK, "scan")?;
        // What is younger than five seconds is not reported.
        thread::sleep(Duration::from_secs(6));
    }
    let text = fs::read_to_string(KMEMLEAK)?;
    let reports = text.split("unreferenced object").skip(1);
    let ours = reports.filter(|report| OURS.iter().any(|name| report.contains(name)));
    Ok(Some(
        ours.map(|report| format!("unreferenced object{report}"))
            .collect(),
    ))
}

/// True if the module is loaded.
pub fn module_loaded(name: &str) -> bool {
    Path::new("/sys/module").join(name).join("refcnt").exists()
}

/// Unloads a module if nothing uses it.
pub fn rmmod(name: &str) -> rustix::io::Result<()> {
    let name = std::ffi::CString::new(name).map_err(|_| Errno::INVAL)?;
    // SAFETY: The name is a string that ends with a NUL and outlives the call.
    let status = unsafe { libc::syscall(libc::SYS_delete_module, name.as_ptr(), libc::O_NONBLOCK) };
    answer(status)
}

/// The last line of a kernel's refusal, if there was one.
pub fn answer(status: libc::c_long) -> rustix::io::Result<()> {
    if status == 0 {
        return Ok(());
    }
    Err(errno(&io::Error::last_os_error()))
}

/// Reboots into the loaded kernel, which the caller expects to be refused: the refusal.
pub fn refused_reboot() -> Result<Errno> {
    rustix::fs::sync();
    let status = std::process::Command::new("lu-reboot").status()?;
    match status.code() {
        Some(code) if code > 0 => Ok(Errno::from_raw_os_error(code)),
        _ => bail!("lu-reboot ended with {status}"),
    }
}

/// Writes to a file of sysfs, procfs or debugfs.
pub fn set(path: &str, value: &str) -> Result<()> {
    fs::write(path, value).with_context(|| format!("cannot write \"{value}\" to {path}"))
}

/// A setting that is put back when this is dropped.
#[derive(Debug)]
pub struct Setting {
    path: String,
    before: String,
}

impl Setting {
    /// Changes a setting. If the kernel shows a choice, the one in brackets is in force.
    pub fn change(path: &str, value: &str) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
        let chosen = text
            .split_once('[')
            .and_then(|(_, rest)| rest.split_once(']'));
        let before = chosen.map_or(text.trim(), |(chosen, _)| chosen).into();
        set(path, value)?;
        let path = path.into();
        Ok(Self { path, before })
    }
}

impl Drop for Setting {
    fn drop(&mut self) {
        let _ = fs::write(&self.path, &self.before);
    }
}

/// Makes one of the next allocations of this thread fail.
#[derive(Debug)]
pub struct FailNth(OwnedFd);

impl FailNth {
    const ENGINES: [&'static str; 2] = ["failslab", "fail_page_alloc"];

    /// Gets ready, or says why this kernel cannot do it.
    pub fn new() -> Result<std::result::Result<Self, String>> {
        let path = "/proc/thread-self/fail-nth";
        if !Path::new(path).exists() {
            return Ok(Err("the kernel has no fault injection".into()));
        }
        for engine in Self::ENGINES {
            let dir = format!("/sys/kernel/debug/{engine}");
            if !Path::new(&dir).exists() {
                return Ok(Err(format!("{dir} is missing")));
            }
            // By default neither sleeping allocations nor single pages fail.
            set(&format!("{dir}/ignore-gfp-wait"), "N")?;
            set(&format!("{dir}/verbose"), "0")?;
        }
        set("/sys/kernel/debug/fail_page_alloc/min-order", "0")?;
        let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, rustix::fs::Mode::empty())?;
        Ok(Ok(Self(fd)))
    }

    /// Calls `work` while its `nth` allocation fails: what it returned, and whether there was one.
    pub fn inject<T>(&self, nth: u32, work: impl FnOnce() -> T) -> Result<(T, bool)> {
        let number = nth.to_string();
        rustix::io::pwrite(&self.0, number.as_bytes(), 0)?;
        let result = work();
        let mut left = [0; 16];
        let len = rustix::io::pread(&self.0, &mut left, 0)?;
        rustix::io::pwrite(&self.0, b"0", 0)?;
        let left: u32 = std::str::from_utf8(&left[..len])?.trim().parse()?;
        Ok((result, left == 0))
    }
}

/// Leaves a process behind that has all descriptors and mappings of this one, and returns when it has
/// run `work`. It is a session of its own without standard descriptors, so nobody waits for it.
pub fn leave_behind(work: impl FnOnce()) -> Result<()> {
    let (done, signal) = rustix::pipe::pipe()?;
    // SAFETY: This process has one thread, so the child may do everything.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()).context("cannot leave a process behind"),
        0 => {
            let _ = rustix::process::setsid();
            if let Ok(null) = fs::File::options().read(true).write(true).open("/dev/null") {
                for standard in 0..3 {
                    // SAFETY: Both are open descriptors of this process, which uses the standard
                    // ones for nothing but messages.
                    unsafe { libc::dup2(null.as_raw_fd(), standard) };
                }
            }
            work();
            let _ = rustix::io::write(&signal, b"!");
            loop {
                thread::sleep(Duration::from_secs(3600));
            }
        }
        _ => {
            drop(signal);
            match rustix::io::read(&done, &mut [0])? {
                0 => bail!("the process that was to be left behind died"),
                _ => Ok(()),
            }
        }
    }
}

/// Lets this thread run on the processor only that it is on.
pub fn stay() -> Result<()> {
    // SAFETY: All zero is a set without processors.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: Both calls only look at, or change, what they are given; the number is that of a processor.
    let ret = unsafe {
        libc::CPU_SET(libc::sched_getcpu() as usize, &mut set);
        libc::sched_setaffinity(0, size_of_val(&set), &raw const set)
    };
    anyhow::ensure!(ret == 0, "{}", io::Error::last_os_error());
    Ok(())
}

/// A child process.
#[derive(Debug)]
pub struct Child(libc::pid_t);

impl Child {
    /// Its process ID.
    pub fn id(&self) -> i32 {
        self.0
    }

    /// Kills it, and waits until it has ended: its exit status, or 128 and the signal that killed it.
    pub fn kill(self) -> Result<u8> {
        // SAFETY: The process is a child of this one that nobody has waited for.
        let status = unsafe { libc::kill(self.0, libc::SIGKILL) };
        anyhow::ensure!(status == 0, "{}", io::Error::last_os_error());
        self.wait()
    }

    /// Waits until it ends: its exit status, or 128 and the signal that killed it.
    pub fn wait(self) -> Result<u8> {
        let mut status = 0;
        // SAFETY: `status` is valid for the call, and this is a child of this process.
        if unsafe { libc::waitpid(self.0, &mut status, 0) } != self.0 {
            bail!("the child was lost: {}", io::Error::last_os_error());
        }
        Ok(if libc::WIFSIGNALED(status) {
            128 + libc::WTERMSIG(status) as u8
        } else {
            libc::WEXITSTATUS(status) as u8
        })
    }
}

/// Runs `work` in a child process, beside this one. No other thread may be running.
pub fn fork(work: impl FnOnce() -> u8) -> Result<Child> {
    // SAFETY: This process has one thread, so the child may do everything.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()).context("cannot fork"),
        0 => std::process::exit(work().into()),
        child => Ok(Child(child)),
    }
}

/// Runs `work` in a child process: its exit status, or 128 and the signal that killed it.
pub fn in_child(work: impl FnOnce() -> u8) -> Result<u8> {
    fork(work)?.wait()
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! PID 1 of the live update test machine: prepares one stage, runs its command, and jumps into the
//! next stage's kernel if the command succeeded.

mod channel;
mod kernel;
mod mounts;

use std::fmt;
use std::fs::{
    self,
    OpenOptions, //
};
use std::io;
use std::os::fd::AsFd;
use std::path::{
    Path,
    PathBuf, //
};
use std::process::Command;

use lu_init::record::Record;
use rustix::process::{
    wait,
    WaitOptions,
    WaitStatus, //
};
use rustix::system::{
    reboot,
    RebootCommand, //
};

use crate::channel::Channel;

/// Why a stage could not be prepared.
#[derive(Debug)]
pub(crate) struct Failure {
    doing: String,
    source: io::Error,
}

impl Failure {
    pub(crate) fn new(doing: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self {
            doing: doing.into(),
            source: source.into(),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.doing, self.source)
    }
}

fn main() {
    // Errors end in the same place as success: the machine is switched off and the host, which has
    // been told what there was to tell, draws the conclusion.
    if let Err(failure) = boot() {
        println!("lu-init: {failure}");
    }
    // Ends at once if the kernel can; QEMU's -no-reboot makes the second way end it too.
    let _ = reboot(RebootCommand::PowerOff);
    let _ = reboot(RebootCommand::Restart);
    loop {
        std::thread::park();
    }
}

fn boot() -> Result<(), Failure> {
    mounts::kernel()?;
    console().map_err(|error| Failure::new("opening /dev/console", error))?;
    let channel =
        Channel::open().map_err(|error| Failure::new("opening the result channel", error))?;
    let tell = |record| {
        channel
            .send(record)
            .map_err(|error| Failure::new("writing a result to the host", error))
    };

    tell(
        Record::new("boot")
            .number(
                "stage",
                kernel::option("lu.stage")
                    .and_then(|s| s.parse().ok())
                    .unwrap_or(0),
            )
            .text("release", &kernel::read_line("/proc/sys/kernel/osrelease"))
            .text("version", &kernel::read_line("/proc/sys/kernel/version"))
            .text(
                "boot_id",
                &kernel::read_line("/proc/sys/kernel/random/boot_id"),
            )
            .text("build_id", &kernel::build_id()),
    )?;
    if kernel::option("lu.probe").is_some() {
        return Ok(());
    }
    match stage(&channel) {
        Ok(()) => Ok(()),
        Err(failure) => {
            tell(Record::new("failed").text("why", &failure.to_string()))?;
            Err(failure)
        }
    }
}

/// Makes the console standard input, output and error, whatever the kernel gave.
fn console() -> io::Result<()> {
    let console = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/console")?;

    rustix::stdio::dup2_stdin(&console)?;
    rustix::stdio::dup2_stdout(&console)?;
    rustix::stdio::dup2_stderr(&console)?;
    Ok(())
}

fn stage(channel: &Channel) -> Result<(), Failure> {
    let tell = |record| {
        channel
            .send(record)
            .map_err(|error| Failure::new("writing a result to the host", error))
    };
    let number = kernel::option("lu.stage").unwrap_or_default();
    let taint_at_boot = kernel::taint();

    println!("lu-init: stage {number}");
    mounts::applets()?;
    mounts::shares()?;
    mounts::files()?;
    channel
        .serve()
        .map_err(|error| Failure::new("opening the socket for marks", error))?;

    let share = Path::new(mounts::SHARE);
    let dir = share.join("stage").join(&number);
    for module in kernel::modules(&dir)? {
        kernel::load_module(&module)?;
        let name = module
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        tell(Record::new("module").text("name", &name))?;
    }
    let next = next(&dir)?;
    if let Some(next) = &next {
        tell(Record::new("loading"))?;
        println!("lu-init: loading the next kernel");
        kernel::load_next(next, &share.join("initrd"))?;
        println!("lu-init: the next kernel is loaded");
        tell(Record::new("loaded"))?;
    }

    tell(Record::new("begin"))?;
    println!("lu-init: the command of stage {number} begins");
    let status = run(&dir, &number)?;
    let end = Record::new("exit").number("taint_before", taint_at_boot);
    let end = end.number("taint", kernel::taint());
    let drained = rustix::termios::tcdrain(io::stdout().as_fd());
    let success = status.exit_status() == Some(0);
    tell(match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => end.number("code", u64::try_from(code).unwrap_or(255)),
        (None, signal) => end.number("signal", u64::try_from(signal.unwrap_or(0)).unwrap_or(0)),
    })?;
    drained.map_err(|error| Failure::new("draining the console", error))?;

    if success && next.is_some() {
        tell(Record::new("jump").text("by", "init"))?;
        let errno = lu_init::jump();
        println!("lu-init: the kernel refused the live update: {errno}");
        let errno = u64::try_from(errno.raw_os_error()).unwrap_or(0);
        tell(
            Record::new("refused")
                .text("by", "init")
                .number("errno", errno),
        )?;
    }
    tell(Record::new("off"))
}

/// The directory of the stage that comes after a live update, if one comes.
fn next(dir: &Path) -> Result<Option<PathBuf>, Failure> {
    let file = dir.join("next");
    let next = fs::read_to_string(&file)
        .map_err(|error| Failure::new(file.display().to_string(), error))?;
    let next = next.trim();

    Ok((!next.is_empty()).then(|| dir.with_file_name(next)))
}

/// Runs the command and waits for it alone. Whatever it leaves behind lives on, and is reaped here.
fn run(dir: &Path, number: &str) -> Result<WaitStatus, Failure> {
    let read = |path: PathBuf| {
        fs::read_to_string(&path).map_err(|error| Failure::new(path.display().to_string(), error))
    };
    let command = read(dir.join("cmd"))?;
    let stages = read(Path::new(mounts::SHARE).join("stages"))?;
    let child = Command::new("/bin/sh")
        .args(["-c", &command])
        .current_dir("/")
        .env_clear()
        .envs([
            ("PATH", "/lu/bin:/bin:/sbin:/usr/bin:/usr/sbin"),
            ("HOME", "/tmp"),
            ("TERM", "dumb"),
            ("LU_STAGE", number),
            ("LU_STAGES", stages.trim()),
        ])
        .spawn()
        .map_err(|error| Failure::new("running /bin/sh", error))?;

    loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid.as_raw_pid() as u32 == child.id() => return Ok(status),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(Failure::new("waiting for the command", error)),
        }
    }
}

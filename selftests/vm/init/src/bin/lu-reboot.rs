// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! `lu-reboot`: jumps into the loaded kernel from within a stage, or says why the kernel refuses. With a
//! command, that command is what jumps.
//! Called as `lu-load KERNEL [INITRD]` it loads another kernel to jump into, as `lu-mark NAME` it puts a mark
//! on the host's timeline.

use std::path::Path;
use std::process::{
    Command,
    ExitCode, //
};

use lu_init::{
    jump,
    kexec,
    tell_init, //
};

fn main() -> ExitCode {
    let mut args = std::env::args();
    let called = args.next().unwrap_or_default();

    if called.ends_with("lu-mark") {
        return mark(args.next());
    }
    if called.ends_with("lu-load") {
        return load(args.next(), args.next());
    }
    let command: Vec<_> = args.collect();
    if let Err(error) = tell_init("jump") {
        eprintln!("lu-reboot: init does not answer ({error}); this works inside a stage only");
        return ExitCode::from(255);
    }
    let (errno, exit) = match command.split_first() {
        None => {
            let errno = jump();
            println!("lu-reboot: the kernel refused the live update: {errno}");
            let errno = errno.raw_os_error();
            (errno, ExitCode::from(u8::try_from(errno).unwrap_or(255)))
        }
        Some((program, args)) => (0, run(program, args)),
    };
    if let Err(error) = tell_init(&format!("refused {errno}")) {
        eprintln!("lu-reboot: init does not answer ({error})");
    }
    exit
}

/// Runs a command that should have jumped.
fn run(program: &str, args: &[String]) -> ExitCode {
    match Command::new(program).args(args).status() {
        Ok(status) => {
            println!("lu-reboot: {program} has not jumped: {status}");
            let code = status.code().and_then(|code| u8::try_from(code).ok());
            // It should not have come back, whatever it says.
            ExitCode::from(code.filter(|code| *code != 0).unwrap_or(255))
        }
        Err(error) => {
            eprintln!("lu-reboot: cannot run {program}: {error}");
            ExitCode::from(255)
        }
    }
}

fn load(kernel: Option<String>, initrd: Option<String>) -> ExitCode {
    let Some(kernel) = kernel else {
        eprintln!("usage: lu-load KERNEL [INITRD]    (instead of the next stage's; its exit status is the errno)");
        return ExitCode::from(255);
    };
    let line = std::fs::read_to_string("/proc/cmdline").unwrap_or_default();
    match kexec::load(Path::new(&kernel), initrd.as_deref().map(Path::new), &line) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("lu-load: the kernel refused {kernel}: {error}");
            let errno = error.raw_os_error().unwrap_or(255);
            ExitCode::from(u8::try_from(errno).unwrap_or(255))
        }
    }
}

fn mark(name: Option<String>) -> ExitCode {
    let Some(name) = name else {
        eprintln!("usage: lu-mark NAME    (puts a mark on the host's timeline)");
        return ExitCode::from(2);
    };
    match tell_init(&format!("mark {}", name.replace('\n', " "))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lu-mark: init does not answer ({error}); this works inside a stage only");
            ExitCode::FAILURE
        }
    }
}

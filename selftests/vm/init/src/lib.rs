// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What `lu-init` and `lu-reboot` share: clocks, the socket between them, loading a kernel, and the jump.

use std::io::{
    self,
    BufRead,
    BufReader,
    Write, //
};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{
    SocketAddr,
    UnixStream, //
};

use rustix::io::Errno;
use rustix::system::{
    reboot,
    RebootCommand, //
};
use rustix::time::{
    clock_gettime,
    ClockId, //
};

pub mod kexec;
pub mod record;

/// Name of the abstract socket on which init takes marks from other processes.
///
/// It is abstract so that nothing a test mounts can hide it.
pub const SOCKET: &str = "lu-init";

/// Microseconds since this kernel booted.
pub fn uptime_us() -> u64 {
    let ts = clock_gettime(ClockId::Boottime);

    ts.tv_sec as u64 * 1_000_000 + ts.tv_nsec as u64 / 1_000
}

/// The CPU's own counter, which unlike every clock of the kernel goes on over a kexec, and its
/// frequency, or 0 where that is unknown.
///
/// With QEMU's `-icount shift=0` it counts instructions.
#[cfg(target_arch = "x86_64")]
pub fn ticks() -> (u64, u64) {
    // SAFETY: the instruction only reads a counter, and every x86_64 CPU has it.
    (unsafe { core::arch::x86_64::_rdtsc() }, 0)
}

/// The CPU's own counter, which unlike every clock of the kernel goes on over a kexec, and its
/// frequency.
#[cfg(target_arch = "aarch64")]
pub fn ticks() -> (u64, u64) {
    let (count, hz): (u64, u64);

    // SAFETY: both registers are readable from user space and reading them has no effect.
    unsafe {
        core::arch::asm!("mrs {}, cntvct_el0", out(reg) count, options(nomem, nostack));
        core::arch::asm!("mrs {}, cntfrq_el0", out(reg) hz, options(nomem, nostack));
    }
    (count, hz)
}

/// Sends one line to init and waits until it has reached the host.
pub fn tell_init(line: &str) -> io::Result<()> {
    let address = SocketAddr::from_abstract_name(SOCKET)?;
    let mut stream = UnixStream::connect_addr(&address)?;

    writeln!(stream, "{line}")?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer)?;
    if answer.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(())
}

/// Jumps into the loaded kernel. Returns only if this kernel refuses to.
///
/// The line on the console is the last thing the host can see of this kernel, so it carries the
/// clocks from which the blackout is counted.
pub fn jump() -> Errno {
    let open = |path| std::fs::OpenOptions::new().write(true).open(path);
    // The kernel puts a time in front of it, by which the counter at its other messages can be told: the
    // last one says when nothing is left but to jump. What cannot be written is no reason to stay.
    if let Ok(mut messages) = open("/dev/kmsg") {
        let (ticks, _) = ticks();
        let _ = messages.write_all(format!("lu-init: ticks={ticks}\n").as_bytes());
    }
    if let Ok(mut console) = open("/dev/console") {
        let (ticks, hz) = ticks();
        let _ = writeln!(
            console,
            "lu-init: live update up={} ticks={ticks} hz={hz}",
            uptime_us()
        );
        let _ = rustix::termios::tcdrain(&console);
    }
    match reboot(RebootCommand::Kexec) {
        Err(errno) => errno,
        // reboot(2) does not return from a jump that works.
        Ok(()) => Errno::IO,
    }
}

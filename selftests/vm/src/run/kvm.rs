// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Whether KVM can be used: only a kernel that came up with it proves that.

use std::fs;
use std::path::Path;
use std::time::{
    Duration,
    Instant, //
};

use super::machine::{
    Accel,
    Event,
    Spec, //
};
use super::{
    cmdline,
    share,
    Sink, //
};
use crate::arch::{
    cache,
    Arch, //
};

/// How long the probe may take; with KVM a boot takes about a second.
const PATIENCE: Duration = Duration::from_secs(10);

/// Boots the kernel once with KVM, or remembers how that went since the host has been up.
pub(super) fn usable(arch: Arch, kernel: &Path, work: &Path, out: &mut dyn Sink) -> bool {
    let native = match arch {
        Arch::X86_64 => cfg!(target_arch = "x86_64"),
        Arch::Arm64 => cfg!(target_arch = "aarch64"),
    };
    let openable = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/kvm")
        .is_ok();
    if !native || !openable {
        return false;
    }
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let answer = cache().join(format!("kvm-{arch}-{}", boot.trim()));
    if let Ok(text) = fs::read_to_string(&answer) {
        return text.trim() == "yes";
    }
    out.note("finding out whether KVM works here (once until the next boot, up to 10 s)");
    let Some(works) = probe(arch, kernel, work) else {
        return false;
    };
    // If it cannot be kept it is found out again.
    let _ = fs::write(&answer, if works { "yes\n" } else { "no\n" });
    works
}

/// `None` if the probe could not even be made.
fn probe(arch: Arch, kernel: &Path, work: &Path) -> Option<bool> {
    let work = work.join("probe");
    fs::create_dir_all(&work).ok()?;
    let initrd = work.join("initrd");
    share::initrd(arch, &initrd).ok()?;
    let mut machine = Spec {
        arch,
        accel: Accel::Kvm,
        mem: 1 << 30,
        smp: 1,
        kernel,
        initrd: &initrd,
        cmdline: &format!("{} panic=-1 lu.probe=1", cmdline::base(arch, false)),
        work: &work,
        shares: None,
        more: &[],
    }
    .start()
    .ok()?;
    let start = Instant::now();

    while start.elapsed() < PATIENCE {
        machine.accept();
        match machine.events.recv_timeout(Duration::from_millis(50)) {
            Ok(Event::Record(_, record)) if record.ev == "boot" => return Some(true),
            Ok(Event::Closed) => break,
            _ => {}
        }
    }
    Some(false)
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A network card that is given away goes on receiving.
//!
//! These need a machine with one igb that is bound to vfio-pci, a sender of frames on the host, and a trace
//! of what is written to configuration space: see `vfio.toml`.

use super::{
    freeze::poison,
    Case, //
};
use crate::{
    expect::{
        is,
        refused,
        same,
        works,
        Check, //
    },
    memory::{
        memfd,
        page,
        Map, //
    },
    run::{
        New,
        Old, //
    },
    sys::{
        self,
        Setting, //
    },
    vfio::{
        self,
        igb::{
            self,
            Ring, //
        },
        trace,
        Device, //
    }, //
};
use anyhow::{
    Context,
    Result, //
};
use liveupdate::Token;
use rustix::io::Errno;
use std::{
    fs,
    os::fd::{
        AsFd,
        OwnedFd, //
    },
    path::Path,
    sync::atomic::Ordering,
    thread,
    time::{
        Duration,
        Instant, //
    }, //
};

pub(super) const CASES: &[Case] = &[
    Case::update(
        "vfio.receive",
        "An igb receives through a live update: every frame of the time in between is in memory",
        receive_old,
        receive_new,
    )
    .on_request(),
    Case::update(
        "vfio.again",
        "What cannot be handed over is refused, the igb works on, and the next attempt succeeds",
        again_old,
        receive_new,
    )
    .on_request(),
    Case::update(
        "vfio.driver",
        "Only vfio-pci gets an igb that goes on receiving, and it can be bound late",
        receive_old,
        driver_new,
    )
    .on_request(),
    Case::update(
        "vfio.unclaimed",
        "An igb that nobody retrieves is stopped when the session is finished",
        receive_old,
        unclaimed_new,
    )
    .on_request(),
    Case::update(
        "vfio.unbound",
        "An igb that is retrieved but not bound is stopped when the session is finished",
        receive_old,
        unbound_new,
    )
    .on_request(),
    Case::update(
        "vfio.stopped",
        "Without its file being preserved the igb is stopped by the kexec: the other cases would notice",
        stopped_old,
        receive_new,
    )
    .on_request(),
];

const MEMORY: u64 = 1;
const DEVICE: u64 = 2;

/// What the sender on the host looks for, and what it says when it has stopped.
const GO: &str = "/state/go";
const STOP: &str = "/state/stop";
const SENT: &str = "/state/sent";
/// How many milliseconds there are between frames.
const EVERY: &str = "/state/every";

const PATIENCE: Duration = Duration::from_secs(20);

/// A receiver that runs.
struct Running {
    memory: OwnedFd,
    ring: Ring,
    device: Device,
    registers: vfio::Registers,
}

/// Memory with the ring, of which `preserve` makes sure that it stays where it is.
fn memory() -> Result<OwnedFd> {
    let _setting = Setting::change(
        "/sys/kernel/mm/transparent_hugepage/shmem_enabled",
        "always",
    )?;
    let fd = memfd("ring")?;
    rustix::fs::ftruncate(&fd, igb::SIZE)?;
    let map = Map::new(&fd, igb::SIZE, true)?;
    for at in (0..igb::SIZE).step_by(page() as usize) {
        map.word(at).store(0, Ordering::Relaxed);
    }
    Ok(fd)
}

fn run(old: &mut Old<'_>) -> Result<Running> {
    let memory = memory()?;
    old.preserve(&memory, MEMORY)?;
    let ring = Ring::new(Map::new(&memory, igb::SIZE, true)?);
    let place = ring.fill()?;

    let device = Device::bind(vfio::open_cdev()?)?;
    device.enable()?;
    let registers = device.map(0)?;
    old.common.check("link", igb::start(&registers, place));
    fs::write(GO, "")?;
    old.common.check("receives", ring.wait(20, PATIENCE));
    Ok(Running {
        memory,
        ring,
        device,
        registers,
    })
}

/// Writes down what must be the same in the next kernel.
fn note(old: &mut Old<'_>, running: &Running) -> Result<()> {
    let common = &old.common;
    common.note("settings", &igb::settings(&running.registers))?;
    common.note("config", &running.device.config()?)?;
    common.note("sysfs", &vfio::sysfs()?.display().to_string())?;
    common.note("trace", &trace::len()?.to_string())?;
    common.note("before", &running.ring.received().to_string())
}

fn keep(old: &mut Old<'_>, running: Running) {
    let Running {
        memory,
        ring,
        device,
        registers,
    } = running;
    old.keep(memory);
    ring.leak();
    std::mem::forget((device, registers));
}

fn receive_old(old: &mut Old<'_>) -> Result<()> {
    let running = run(old)?;
    old.preserve(running.device.fd(), DEVICE)?;
    note(old, &running)?;
    keep(old, running);
    Ok(())
}

fn stopped_old(old: &mut Old<'_>) -> Result<()> {
    let running = run(old)?;
    note(old, &running)?;
    keep(old, running);
    Ok(())
}

/// Everything that is refused, in the old kernel.
fn again_old(old: &mut Old<'_>) -> Result<()> {
    let unbound = vfio::open_cdev()?;
    let answer = old.session()?.preserve(&unbound, Token(9));
    drop(unbound);
    old.common
        .check("unbound", refused(answer, &[Errno::OPNOTSUPP]));
    old.close_session();

    let running = run(old)?;
    old.preserve(running.device.fd(), DEVICE)?;
    let eventfd = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC)?;
    running.device.interrupts(Some(eventfd.as_fd()))?;
    let answer = sys::refused_reboot()?;
    old.common.check("interrupts", same(answer, Errno::BUSY));
    running.device.interrupts(None)?;

    // The file after it cannot be frozen: by then the device is.
    let bad = memfd("bad")?;
    rustix::io::pwrite(&bad, &[1; 5 * 4096], 0)?;
    old.preserve(&bad, 3)?;
    poison(&bad, page())?;
    let answer = sys::refused_reboot()?;
    old.common
        .check("other-file", same(answer, Errno::HWPOISON));

    let settings = igb::settings(&running.registers);
    let command = works(running.device.command());
    old.common.check("usable", command);
    let count = running.ring.received();
    old.common
        .check("receives-on", running.ring.wait(count + 10, PATIENCE));
    old.common.check(
        "same-settings",
        same(igb::settings(&running.registers), settings),
    );

    // And all of it once more, as if nothing had happened.
    old.close_session();
    old.preserve(&running.memory, MEMORY)?;
    old.preserve(running.device.fd(), DEVICE)?;
    note(old, &running)?;
    keep(old, running);
    Ok(())
}

/// Retrieves the memory, and looks at what came while nobody could tell the device anything.
fn look(new: &mut New<'_>) -> Result<(OwnedFd, Ring)> {
    let before: u64 = noted(new, "before")?.parse()?;
    let memory = new.retrieve(MEMORY)?;
    let ring = Ring::new(Map::new(&memory, igb::SIZE, true)?);
    let meanwhile = ring.received();
    println!("# {before} frames before the update, {meanwhile} when the next kernel looks");
    new.common.check("meanwhile", enough(meanwhile - before)?);
    new.common.check("frames", ring.verify(meanwhile));
    Ok((memory, ring))
}

/// At least half of the frames are here that were sent since this kernel runs. Some came before it, between
/// the old kernel's last look and its end, so that a few alone prove nothing.
fn enough(frames: u64) -> Result<Check> {
    let every: u64 = fs::read_to_string(EVERY)?.trim().parse()?;
    let uptime = fs::read_to_string("/proc/uptime")?;
    let uptime: f64 = uptime.split(' ').next().context("no time")?.parse()?;
    let sent = (uptime * 1000.0) as u64 / every;
    let text = format!("{frames} frames came since the old kernel, and about {sent} were sent since the new one runs");
    println!("# {text}");
    Ok(is(sent > 20 && frames >= sent / 2, &text))
}

fn noted(new: &New<'_>, key: &str) -> Result<String> {
    new.common.noted(key)?.context("nothing was written down")
}

/// The device does not use memory any more.
fn check_stopped(new: &mut New<'_>, ring: &Ring) -> Result<()> {
    let master = vfio::is_master()?;
    new.common
        .check("no-master", is(!master, "it may still use memory"));
    let count = ring.received();
    thread::sleep(Duration::from_millis(500));
    new.common.check("silent", same(ring.received(), count));
    let device = Device::bind(vfio::open_cdev()?);
    new.common.check("opened-again", works(device));
    Ok(())
}

fn unclaimed_new(new: &mut New<'_>) -> Result<()> {
    let (_memory, ring) = look(new)?;
    new.common
        .check("running", is(vfio::is_master()?, "it does not run"));
    new.finish()?;
    check_stopped(new, &ring)
}

fn unbound_new(new: &mut New<'_>) -> Result<()> {
    let (_memory, ring) = look(new)?;
    let fd = new.retrieve(DEVICE)?;
    new.common
        .check("running", is(vfio::is_master()?, "it does not run"));
    new.finish()?;
    drop(fd);
    check_stopped(new, &ring)
}

/// Whether this is the last kernel of the run.
fn is_last() -> bool {
    std::env::var("LU_STAGE") == std::env::var("LU_STAGES")
}

/// Another driver is tried, and then that of VFIO.
fn driver_new(new: &mut New<'_>) -> Result<()> {
    let device = vfio::sysfs()?;
    vfio::unbind(&device)?;
    let other = vfio::bind_to(&device, "virtio-pci");
    new.common
        .check("other-driver", refused(other, &[Errno::BUSY]));
    let answer = new.session()?.retrieve(Token(DEVICE));
    new.common
        .check("no-driver", refused(answer, &[Errno::NODEV]));
    new.common
        .check("late", works(vfio::bind_to(&device, "vfio-pci")));
    receive_new(new)
}

fn receive_new(new: &mut New<'_>) -> Result<()> {
    let (memory, ring) = look(new)?;
    let sysfs = vfio::sysfs()?.display().to_string();
    new.common
        .check("address", same(sysfs, noted(new, "sysfs")?));
    new.common
        .check("not-opened", refused(vfio::open_cdev(), &[Errno::BUSY]));

    let fd = new.retrieve(DEVICE)?;
    let device = Device::bind(fd)?;
    new.common
        .check("config", same(device.config()?, noted(new, "config")?));
    let registers = device.map(0)?;
    let settings = igb::settings(&registers);
    new.common
        .check("settings", same(settings, noted(new, "settings")?));
    new.common.check("missed", same(igb::missed(&registers), 0));
    let writes = trace::check(noted(new, "trace")?.parse()?, &noted(new, "sysfs")?);
    new.common.check("trace", writes);

    let now = ring.received();
    new.common.check("goes-on", ring.wait(now + 20, PATIENCE));
    if !is_last() {
        new.finish()?;
        new.hand_on_all(&[(memory.as_fd(), MEMORY), (device.fd(), DEVICE)])?;
        new.common.note("trace", &trace::len()?.to_string())?;
        return new.common.note("before", &ring.received().to_string());
    }
    fs::write(STOP, "")?;
    let sent = sent()?;
    println!("# {sent} frames were sent in all");
    new.common.check("last", ring.wait(sent, PATIENCE));
    new.common.check("all", ring.verify(sent));
    new.common.check("none-more", same(ring.received(), sent));
    new.common.check("head", same(igb::head(&registers), sent));
    new.finish()?;
    new.common.check("finished", works(device.command()));
    Ok(())
}

/// How many frames the sender has sent, once it has stopped.
fn sent() -> Result<u64> {
    let start = Instant::now();
    while !Path::new(SENT).exists() {
        anyhow::ensure!(start.elapsed() < PATIENCE, "the sender does not stop");
        thread::sleep(Duration::from_millis(20));
    }
    Ok(fs::read_to_string(SENT)?.trim().parse()?)
}

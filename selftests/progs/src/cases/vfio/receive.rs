// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! An igb receives through a live update.
//!
//! A program on the host sends frames to it all the time.

use super::{
    check_same,
    is_last,
    note,
    noted,
    PATIENCE, //
};
use crate::{
    expect::{
        is,
        refused,
        same,
        works,
        Check, //
    },
    memory::Map,
    run::{
        New,
        Old, //
    },
    vfio::{
        igb::{
            self,
            Ring, //
        },
        trace,
        Device,
        PciDevice,
        Registers, //
    }, //
};
use anyhow::{
    ensure,
    Context,
    Result, //
};
use liveupdate::Token;
use rustix::io::Errno;
use std::{
    fs,
    os::fd::{
        AsFd,
        BorrowedFd,
        OwnedFd, //
    },
    path::Path,
    thread,
    time::{
        Duration,
        Instant, //
    }, //
};

pub(super) const MEMORY: u64 = 1;
pub(super) const DEVICE: u64 = 2;

/// What is written down about it.
pub(super) const NAME: &str = "igb";

/// What the sender on the host looks for, and what it says when it has stopped.
const GO: &str = "/state/go";
pub(super) const STOP: &str = "/state/stop";
const SENT: &str = "/state/sent";
/// How many frames were due by now. It does not stop when they do.
const DUE: &str = "/state/due";
/// Where the ring is in physical memory, for who looks into it from outside.
const RING: &str = "/state/ring";

/// For how many frames the device is left alone.
const ALONE: u64 = 20;
/// If so many are sent to a device that runs, one comes.
const SOME: u64 = 10;

/// A receiver that runs.
pub(super) struct Running {
    pub(super) place: PciDevice,
    pub(super) memory: OwnedFd,
    pub(super) ring: Ring,
    pub(super) device: Device,
    pub(super) registers: Registers,
}

/// Starts one, whose memory is preserved.
pub(super) fn run(old: &mut Old<'_>) -> Result<Running> {
    let memory = super::memory("ring", igb::SIZE)?;
    old.preserve(&memory, MEMORY)?;
    let ring = Ring::new(Map::new(&memory, igb::SIZE, true)?);
    let start = ring.fill()?;

    let place = PciDevice::find(igb::MODEL)?;
    let device = Device::bind(place.open()?)?;
    start_at(old, place, memory, ring, device, start)
}

/// Lets a device receive into the ring at an address.
pub(super) fn begin(old: &mut Old<'_>, device: &Device, start: u64) -> Result<Registers> {
    device.enable()?;
    let registers = device.map(0)?;
    old.common.check("link", igb::start(&registers, start));
    Ok(registers)
}

/// Starts one whose ring is at an address, and has the host send.
pub(super) fn start_at(
    old: &mut Old<'_>,
    place: PciDevice,
    memory: OwnedFd,
    ring: Ring,
    device: Device,
    start: u64,
) -> Result<Running> {
    let registers = begin(old, &device, start)?;
    // Behind an IOMMU it may be in pieces, and then nobody can look.
    if let Ok(place) = ring.place() {
        fs::write(RING, place.to_string())?;
    }
    fs::write(GO, "")?;
    let frames = old.common.options.frames;
    old.common.check("receives", ring.wait(frames, PATIENCE));
    Ok(Running {
        place,
        memory,
        ring,
        device,
        registers,
    })
}

impl Running {
    /// It goes on receiving, and nobody has changed it.
    pub(super) fn check_unchanged(&self, old: &mut Old<'_>, settings: &str) {
        old.common.check("usable", works(self.device.command()));
        let count = self.ring.received();
        old.common
            .check("receives-on", self.ring.wait(count + 10, PATIENCE));
        let now = igb::settings(&self.registers);
        old.common
            .check("same-settings", same(now, settings.into()));
    }

    /// Writes down what the next kernel must find, and leaves all of it behind.
    pub(super) fn leave(self, old: &mut Old<'_>) -> Result<()> {
        let settings = igb::settings(&self.registers);
        note(old, NAME, &self.place, &self.device, &settings)?;
        let before = self.ring.received();
        println!("# frames: before={before}");
        old.common.note("igb.before", &before.to_string())?;
        old.common.note("igb.due", &due()?.to_string())?;
        old.keep(self.memory);
        self.ring.leak();
        std::mem::forget((self.device, self.registers));
        Ok(())
    }
}

pub(super) fn old(old: &mut Old<'_>) -> Result<()> {
    let running = run(old)?;
    old.preserve(running.device.fd(), DEVICE)?;
    running.leave(old)
}

pub(super) fn stopped_old(old: &mut Old<'_>) -> Result<()> {
    run(old)?.leave(old)
}

/// Looks at what came while nobody could tell the device anything.
pub(super) fn look_at(new: &mut New<'_>, memory: OwnedFd) -> Result<(OwnedFd, Ring)> {
    let before: u64 = noted(new, NAME, "before")?.parse()?;
    let ring = Ring::new(Map::new(&memory, igb::SIZE, true)?);
    let noted_due: u64 = noted(new, NAME, "due")?.parse()?;
    // Some came between the old kernel's last look and its end. Without those, too, it has to be enough.
    let (first, first_due) = (ring.received(), due()?);
    wait_due(first_due + ALONE)?;
    let (meanwhile, now) = (ring.received(), due()?);
    println!("# frames: before={before} meanwhile={meanwhile}");
    let all = enough(
        meanwhile - before,
        now - noted_due,
        "the old kernel's last look",
    );
    let late = enough(meanwhile - first, now - first_due, "the new one's first");
    new.common.check("meanwhile", all.and(late));
    new.common.check("frames", ring.verify(meanwhile));
    Ok((memory, ring))
}

/// At least half of the frames that were due came.
fn enough(count: u64, due: u64, since: &str) -> Check {
    let text = format!("{count} frames came since {since}, of about {due}");
    println!("# {text}");
    is(count >= due.min(igb::SLOTS) / 2, &text)
}

fn due() -> Result<u64> {
    let text = fs::read_to_string(DUE).context("the sender does not say what is due")?;
    Ok(text.trim().parse()?)
}

fn wait_due(count: u64) -> Result<()> {
    while due()? < count {
        thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// Frames are sent, and none comes.
pub(super) fn silent(ring: &Ring) -> Result<Check> {
    let received = ring.received();
    wait_due(due()? + SOME)?;
    Ok(same(ring.received(), received))
}

/// Retrieves the memory, and looks.
pub(super) fn look(new: &mut New<'_>) -> Result<(OwnedFd, Ring)> {
    let memory = new.retrieve(MEMORY)?;
    look_at(new, memory)
}

/// Another driver is tried, and then that of VFIO.
pub(super) fn driver_new(new: &mut New<'_>) -> Result<()> {
    let device = PciDevice::find(igb::MODEL)?;
    device.unbind()?;
    let other = device.bind_to("virtio-pci");
    new.common
        .check("other-driver", refused(other, &[Errno::BUSY]));
    let answer = new.session()?.retrieve(Token(DEVICE));
    new.common
        .check("no-driver", refused(answer, &[Errno::NODEV]));
    new.common.check("late", works(device.bind_to("vfio-pci")));
    self::new(new)
}

pub(super) fn new(new: &mut New<'_>) -> Result<()> {
    new_with(new, &[])
}

/// The same if there are other files in the session, which are handed on with it.
pub(super) fn new_with(new: &mut New<'_>, others: &[(BorrowedFd<'_>, u64)]) -> Result<()> {
    let (memory, ring) = look(new)?;
    let fd = take(new)?;
    go_on(new, &memory, &ring, &Device::bind(fd)?, others)
}

/// Retrieves the device, which nobody else could have.
pub(super) fn take(new: &mut New<'_>) -> Result<OwnedFd> {
    let place = PciDevice::find(igb::MODEL)?;
    let path = noted(new, NAME, "path")?;
    new.common.check("address", same(place.path(), path));
    new.common
        .check("not-opened", refused(place.open(), &[Errno::BUSY]));
    new.retrieve(DEVICE)
}

/// The device, which can be used again, is as it was, and goes on. What there is in `before` has to be preserved before
/// it.
pub(super) fn go_on(
    new: &mut New<'_>,
    memory: &OwnedFd,
    ring: &Ring,
    device: &Device,
    before: &[(BorrowedFd<'_>, u64)],
) -> Result<()> {
    let registers = device.map(0)?;
    check_same(new, NAME, device, &igb::settings(&registers))?;
    new.common.check("missed", same(igb::missed(&registers), 0));

    let now = ring.received();
    let frames = new.common.options.frames;
    new.common
        .check("goes-on", ring.wait(now + frames, PATIENCE));
    if !is_last() {
        new.finish()?;
        let mut files = vec![(memory.as_fd(), MEMORY)];
        files.extend(before);
        files.push((device.fd(), DEVICE));
        new.hand_on_all(&files)?;
        new.common.note("igb.trace", &trace::len()?.to_string())?;
        new.common.note("igb.due", &due()?.to_string())?;
        let before = ring.received().to_string();
        return new.common.note("igb.before", &before);
    }
    fs::write(STOP, "")?;
    let sent = all_sent()?;
    new.common.check("last", ring.wait(sent, PATIENCE));
    println!("# frames: sent={sent} here={}", ring.received());
    new.common.check("all", ring.verify(sent));
    new.common.check("none-more", same(ring.received(), sent));
    new.common.check("head", same(igb::head(&registers), sent));
    new.finish()?;
    new.common.check("finished", works(device.command()));
    Ok(())
}

/// How many frames the sender has sent, once it has stopped.
fn all_sent() -> Result<u64> {
    let start = Instant::now();
    loop {
        if let Some(sent) = sent()? {
            return Ok(sent);
        }
        ensure!(start.elapsed() < PATIENCE, "the sender does not stop");
        thread::sleep(Duration::from_millis(20));
    }
}

/// How many frames the sender has sent, if it has stopped.
pub(super) fn sent() -> Result<Option<u64>> {
    if !Path::new(SENT).exists() {
        return Ok(None);
    }
    Ok(Some(fs::read_to_string(SENT)?.trim().parse()?))
}

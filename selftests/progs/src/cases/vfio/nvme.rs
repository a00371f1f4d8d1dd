// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Requests of an NVMe controller that are under way when the kernel is replaced.
//!
//! QEMU answers a few of them in a second. What is on the disk is a file that the guest can look at
//! without the controller.

use super::{
    check_same,
    is_last,
    note,
    noted,
    progress::{
        Look,
        RATE, //
    },
    receive,
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
    pattern,
    run::{
        Common,
        New,
        Old, //
    },
    vfio::{
        nvme::{
            self,
            Controller,
            Queues,
            Request,
            BLOCK, //
        },
        trace,
        Device,
        PciDevice,
        Space, //
    }, //
};
use anyhow::Result;
use rustix::io::Errno;
use std::{
    fs::{
        self,
        File, //
    },
    os::{
        fd::{
            AsFd,
            BorrowedFd,
            OwnedFd, //
        },
        unix::fs::FileExt, //
    },
    time::Duration, //
};

pub(super) const MEMORY: u64 = 3;
const DEVICE: u64 = 4;

/// What is written down about it.
const NAME: &str = "nvme";

/// The disk.
const DISK: &str = "/state/disk";

/// Number of requests that are submitted before the update, as many as there is room for.
const BEFORE: u64 = nvme::ENTRIES - 1;
/// Number of those after it. The queues start anew on the way.
const AFTER: u64 = 33;

/// A prime number of blocks. The disk has more, and there are fewer requests, however many kernels follow one another.
const BLOCKS: u64 = 1021;
const _: () = assert!(6 * BEFORE + AFTER <= BLOCKS && BLOCKS <= nvme::REQUESTS);

/// What is on the disk at first, and what is written.
const THERE: u64 = 7;
const WRITTEN: u64 = 8;

/// So long do as many requests take as there is room for, and as long again.
const ALL: Duration = Duration::from_secs(BEFORE / RATE * 2);

/// The request with a number. None is for the block of another one.
fn request(number: u64) -> Request {
    Request {
        write: number % 4 == 3,
        // Up and down, as no driver of a disk could foresee it.
        block: number * 61 % BLOCKS,
    }
}

fn content(seed: u64, block: u64) -> Vec<u8> {
    let mut bytes = vec![0; BLOCK as usize];
    pattern::fill(seed, block * BLOCK, &mut bytes);
    bytes
}

/// Puts onto the disk what is to be read.
pub(super) fn fill_disk() -> Result<()> {
    let mut all = vec![0; (BLOCKS * BLOCK) as usize];
    pattern::fill(THERE, 0, &mut all);
    let disk = File::options().write(true).open(DISK)?;
    disk.write_all_at(&all, 0)?;
    Ok(disk.sync_all()?)
}

/// A controller that runs.
pub(super) struct Running {
    pub(super) place: PciDevice,
    memory: OwnedFd,
    pub(super) queues: Queues,
    pub(super) device: Device,
    pub(super) controller: Controller,
}

/// Memory that it is to use, which is preserved.
pub(super) fn memory(old: &mut Old<'_>) -> Result<OwnedFd> {
    let memory = super::memory("queues", nvme::SIZE)?;
    old.preserve(&memory, MEMORY)?;
    Ok(memory)
}

/// The queues in it, where it is mapped for the controller from an address on, if that is so.
fn queues(memory: &OwnedFd, base: Option<u64>) -> Result<Queues> {
    let map = Map::new(memory, nvme::SIZE, true)?;
    match base {
        Some(base) => Ok(Queues::new_at(map, base)),
        None => Queues::new(map),
    }
}

/// Opens it, and preserves the memory that it is to use.
pub(super) fn run(
    old: &mut Old<'_>,
    interrupts: impl FnOnce(&Device) -> Result<bool>,
) -> Result<Running> {
    let memory = memory(old)?;
    let queues = queues(&memory, None)?;
    let place = PciDevice::find(nvme::MODEL)?;
    let device = Device::bind(place.open()?)?;
    run_on(place, memory, queues, device, interrupts)
}

/// Enables one that is bound.
fn run_on(
    place: PciDevice,
    memory: OwnedFd,
    queues: Queues,
    device: Device,
    interrupts: impl FnOnce(&Device) -> Result<bool>,
) -> Result<Running> {
    device.enable()?;
    let interrupts = interrupts(&device)?;
    let controller = Controller::start(device.map(0)?, &queues, interrupts)?;
    Ok(Running {
        place,
        memory,
        queues,
        device,
        controller,
    })
}

impl Running {
    /// Submits that many requests more.
    pub(super) fn submit(&self, count: u64) {
        let first = self.queues.submitted();
        let requests: Vec<_> = (first..first + count).map(request).collect();
        for (number, request) in (first..).zip(&requests) {
            if request.write {
                self.queues.write(number, &content(WRITTEN, request.block));
            }
        }
        self.controller.submit(&self.queues, &requests);
    }

    /// Writes down what the next kernel must find, and leaves all of it behind.
    pub(super) fn leave(self, old: &mut Old<'_>) -> Result<()> {
        let settings = self.controller.settings();
        note(old, NAME, &self.place, &self.device, &settings)?;
        self.note_look(&old.common)?;
        old.keep(self.memory);
        self.queues.leak();
        std::mem::forget((self.device, self.controller));
        Ok(())
    }

    /// Lets the device go on over the update.
    pub(super) fn preserve(&self, old: &mut Old<'_>) -> Result<()> {
        old.preserve(self.device.fd(), DEVICE)
    }

    /// What has to be handed on.
    fn files(&self) -> [(BorrowedFd<'_>, u64); 2] {
        [(self.memory.as_fd(), MEMORY), (self.device.fd(), DEVICE)]
    }

    /// Writes down how far the controller is, at the last look of this kernel.
    fn note_look(&self, common: &Common<'_>) -> Result<()> {
        Look::at(&self.queues)?.note(common, NAME)
    }
}

/// Submits requests, and waits for the first of them.
fn start(old: &mut Old<'_>) -> Result<Running> {
    let running = run(old, |_| Ok(false))?;
    submit(old, running)
}

/// The same behind an IOMMU, with memory that is mapped in an address space from `base` on.
pub(super) fn start_at(
    old: &mut Old<'_>,
    space: &Space,
    memory: OwnedFd,
    base: u64,
) -> Result<Running> {
    let queues = queues(&memory, Some(base))?;
    let place = PciDevice::find(nvme::MODEL)?;
    let device = Device::bind_to(place.open()?, space)?;
    device.attach()?;
    let running = run_on(place, memory, queues, device, |_| Ok(false))?;
    submit(old, running)
}

fn submit(old: &mut Old<'_>, running: Running) -> Result<Running> {
    fill_disk()?;
    running.submit(BEFORE);
    let (queues, controller) = (&running.queues, &running.controller);
    old.common.check("first", queues.wait(3, PATIENCE));
    old.common.check("taken", controller.take(queues));
    let taken = queues.taken();
    println!("# {taken} of {BEFORE} requests are completed before the update");
    old.common
        .check("few", is(taken < BEFORE / 4, "too many are completed"));
    Ok(running)
}

pub(super) fn old(old: &mut Old<'_>) -> Result<()> {
    let running = start(old)?;
    running.preserve(old)?;
    running.leave(old)
}

pub(super) fn stopped_old(old: &mut Old<'_>) -> Result<()> {
    start(old)?.leave(old)
}

/// Every request whose completion was taken was completed once, read what was there, or wrote what it should.
pub(super) fn check_data(new: &mut New<'_>, name: &str, queues: &Queues) -> Result<()> {
    new.common
        .check(&format!("{name}.each-once"), queues.each_once());
    let disk = fs::read(DISK)?;
    let blocks: Vec<_> = disk.chunks(BLOCK as usize).collect();
    let look = |write: bool, seed: u64| -> Check {
        let taken = (0..queues.submitted()).filter(|number| queues.completions(*number) != 0);
        let wanted = taken.map(|number| (number, request(number)));
        for (number, request) in wanted.filter(|(_, request)| request.write == write) {
            let right = content(seed, request.block);
            let on_disk = blocks.get(request.block as usize);
            is(queues.read(number) == right, &format!("data of {number}"))?;
            is(
                on_disk == Some(&right.as_slice()),
                &format!("block {}", request.block),
            )?;
        }
        Ok(())
    };
    let (reads, writes) = (look(false, THERE), look(true, WRITTEN));
    new.common.check(&format!("{name}.reads"), reads);
    new.common.check(&format!("{name}.writes"), writes);
    Ok(())
}

/// Retrieves the memory, and looks at what was completed while nobody could tell the controller anything.
fn look(new: &mut New<'_>) -> Result<(OwnedFd, Queues)> {
    look_at(new, None)
}

/// The same where it is mapped for the controller from an address on, if that is so.
pub(super) fn look_at(new: &mut New<'_>, base: Option<u64>) -> Result<(OwnedFd, Queues)> {
    let memory = new.retrieve(MEMORY)?;
    let queues = queues(&memory, base)?;
    let (last, first) = (Look::noted(new, NAME)?, Look::at(&queues)?);
    // Some were completed between the old kernel's last look and its end. Without those, too, it has to be enough.
    let (now, submitted) = (first.later(&queues)?, queues.submitted());
    let completed = now.completed;
    println!("# {completed} of {submitted} requests are completed when the next kernel looks");
    let all = last.enough(&now, submitted, "the old kernel's last look");
    let late = first.enough(&now, submitted, "the new one's first");
    new.common.check("meanwhile", all.and(late));
    if completed < submitted {
        new.common
            .check("runs", queues.wait(completed + 1, PATIENCE));
    } else {
        new.common.skip(
            "runs",
            "the machine was too slow: all requests were completed",
        );
    }
    Ok((memory, queues))
}

/// Retrieves the controller, which must be as it was.
pub(super) fn retrieve(new: &mut New<'_>, memory: OwnedFd, queues: Queues) -> Result<Running> {
    retrieve_in(new, memory, queues, &Space::new()?)
}

/// The same, and binds it to an address space.
pub(super) fn retrieve_in(
    new: &mut New<'_>,
    memory: OwnedFd,
    queues: Queues,
    space: &Space,
) -> Result<Running> {
    let place = PciDevice::find(nvme::MODEL)?;
    let path = noted(new, NAME, "path")?;
    new.common.check("nvme.address", same(place.path(), path));
    new.common
        .check("nvme.not-opened", refused(place.open(), &[Errno::BUSY]));
    let device = Device::bind_to(new.retrieve(DEVICE)?, space)?;
    let controller = Controller::new(device.map(0)?);
    check_same(new, NAME, &device, &controller.settings())?;
    Ok(Running {
        place,
        memory,
        queues,
        device,
        controller,
    })
}

/// Takes completions that are there, and looks at what they say.
fn take(new: &mut New<'_>, name: &str, running: &Running) -> Result<()> {
    let taken = running.controller.take(&running.queues);
    new.common.check(&format!("{name}.taken"), taken);
    check_data(new, name, &running.queues)
}

/// Waits for all requests, and takes their completions.
pub(super) fn take_all(new: &mut New<'_>, name: &str, running: &Running) -> Result<()> {
    let queues = &running.queues;
    let all = queues.wait(queues.submitted(), ALL);
    new.common.check(&format!("{name}.all"), all);
    take(new, name, running)?;
    let none_left = same(queues.taken(), queues.submitted());
    new.common.check(&format!("{name}.none-left"), none_left);
    Ok(())
}

/// Takes over. In the last kernel, all that was under way is found done.
fn take_over(new: &mut New<'_>) -> Result<Running> {
    let (memory, queues) = look(new)?;
    let running = retrieve(new, memory, queues)?;
    if is_last() {
        take_all(new, "before", &running)?;
    }
    Ok(running)
}

/// The queues go on where they were.
pub(super) fn go_on(new: &mut New<'_>, running: &Running) -> Result<()> {
    running.submit(AFTER);
    take_all(new, "after", running)
}

/// Takes what is done, and submits as much again, most of which the next kernel finds under way.
fn refill(new: &mut New<'_>, running: &Running) -> Result<()> {
    take(new, "so-far", running)?;
    let queues = &running.queues;
    let under_way = queues.submitted().saturating_sub(queues.taken());
    running.submit(BEFORE.saturating_sub(under_way));
    let goes_on = queues.wait(queues.completed() + 1, PATIENCE);
    new.common.check("nvme.goes-on", goes_on);
    let start = trace::len()?.to_string();
    new.common.note("nvme.trace", &start)?;
    running.note_look(&new.common)
}

pub(super) fn new(new: &mut New<'_>) -> Result<()> {
    let running = take_over(new)?;
    if !is_last() {
        new.finish()?;
        new.hand_on_all(&running.files())?;
        return refill(new, &running);
    }
    go_on(new, &running)?;
    new.finish()?;
    let command = running.device.command();
    new.common.check("finished", works(command));
    Ok(())
}

pub(super) fn two_old(old: &mut Old<'_>) -> Result<()> {
    self::old(old)?;
    receive::old(old)
}

pub(super) fn two_new(new: &mut New<'_>) -> Result<()> {
    let running = take_over(new)?;
    // This finishes the session, and hands it on.
    receive::new_with(new, &running.files())?;
    if !is_last() {
        return refill(new, &running);
    }
    go_on(new, &running)
}

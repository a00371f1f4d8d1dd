// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! PCI devices that are given away go on running.
//!
//! These need certain machines and programs on the host: see `vfio.toml`. QEMU traces what is written to
//! configuration space.

mod agent;
mod damaged;
mod interrupts;
mod iommu;
mod late;
mod nvme;
mod progress;
mod receive;
mod refused;
mod slot;
mod stopped;
mod sweep;

pub(super) use self::iommu::CASES as IOMMU_CASES;

use super::Case;
use crate::{
    expect::same,
    memory::{
        memfd,
        page,
        Map, //
    },
    run::{
        New,
        Old, //
    },
    sys::Setting,
    vfio::{
        trace,
        Device,
        PciDevice, //
    }, //
};
use anyhow::{
    Context,
    Result, //
};
use std::{
    os::fd::OwnedFd,
    sync::atomic::Ordering,
    time::Duration, //
};

pub(super) const CASES: &[Case] = &[
    Case::update(
        "vfio.receive",
        "An igb receives through a live update: every frame of the time in between is in memory",
        receive::old,
        receive::new,
    )
    .on_request(),
    Case::update(
        "vfio.again",
        "What cannot be handed over is refused, the igb works on, and the next attempt succeeds",
        refused::again_old,
        receive::new,
    )
    .on_request(),
    Case::update(
        "vfio.load",
        "A kernel that cannot be loaded changes nothing: the igb goes on, and the update succeeds",
        refused::load_old,
        receive::new,
    )
    .on_request(),
    Case::update(
        "vfio.driver",
        "Only vfio-pci gets an igb that goes on receiving, and it can be bound late",
        receive::old,
        receive::driver_new,
    )
    .on_request(),
    Case::update(
        "vfio.unclaimed",
        "An igb that nobody retrieves is stopped when the session is finished",
        receive::old,
        stopped::unclaimed_new,
    )
    .on_request(),
    Case::update(
        "vfio.unbound",
        "An igb that is retrieved but not bound is stopped when the session is finished",
        receive::old,
        stopped::unbound_new,
    )
    .on_request(),
    Case::update(
        "vfio.removed",
        "An igb that is removed through sysfs before it is retrieved is stopped",
        receive::old,
        stopped::removed_new,
    )
    .on_request(),
    Case::update(
        "vfio.stays",
        "An igb that is not removed goes on: the case in which it is would notice",
        receive::old,
        stopped::stays_new,
    )
    .on_request(),
    Case::update(
        "vfio.removed-on",
        "An igb that is removed and goes on all the same: the case in which it is stopped would notice",
        receive::old,
        stopped::removed_on_new,
    )
    .on_request(),
    Case::update(
        "vfio.found-again",
        "An igb that is removed and found again after it could not be retrieved is left to who uses it then",
        receive::old,
        stopped::found_again_new,
    )
    .on_request(),
    Case::update(
        "vfio.damaged",
        "An igb whose header is of another version is stopped before its session is released, and no other",
        damaged::old,
        damaged::unknown_new,
    )
    .on_request(),
    Case::update(
        "vfio.damaged-nowhere",
        "The same of one whose header is not where it should be",
        damaged::old,
        damaged::missing_new,
    )
    .on_request(),
    Case::update(
        "vfio.damaged-unasked",
        "If nobody retrieves any card, all are stopped, as it may be any of them",
        damaged::old,
        damaged::unasked_new,
    )
    .on_request(),
    Case::update(
        "vfio.late",
        "If the handler of an igb comes while its session is finished, it is asked, and stops the igb",
        late::old,
        late::new,
    )
    .on_request(),
    Case::update(
        "vfio.late-closed",
        "The same if the session is closed instead",
        late::old,
        late::closed_new,
    )
    .on_request(),
    Case::update(
        "vfio.aborted",
        "An igb whose session is closed goes on until the kexec, and is stopped by it",
        refused::aborted_old,
        stopped::aborted_new,
    )
    .on_request(),
    Case::update(
        "vfio.stopped",
        "Without its file being preserved the igb is stopped by the kexec: the other cases would notice",
        receive::stopped_old,
        receive::new,
    )
    .on_request(),
    Case::update(
        "vfio.killed",
        "An igb is stopped when who retrieved its session is killed, and not the igb",
        receive::old,
        agent::killed_new,
    )
    .on_request(),
    Case::update(
        "vfio.killed-bound",
        "An igb is stopped when who retrieved its session, and the igb, and bound it, is killed",
        receive::old,
        agent::killed_bound_new,
    )
    .on_request(),
    Case::update(
        "vfio.gone",
        "If the igb is not there any more, its memory is, and the session can be finished",
        receive::old,
        slot::gone_new,
    )
    .on_request(),
    Case::update(
        "vfio.replaced",
        "Another card in the place of the igb is not taken for it, and is a card like any other",
        receive::old,
        slot::replaced_new,
    )
    .on_request(),
    Case::update(
        "vfio.another",
        "Another igb in the place of the igb is not taken for it, and is a card like any other",
        receive::old,
        slot::another_new,
    )
    .on_request(),
    Case::update(
        "vfio.nvme",
        "An NVMe controller goes on reading and writing through a live update",
        nvme::old,
        nvme::new,
    )
    .on_request(),
    Case::update(
        "vfio.nvme-stopped",
        "Without its file being preserved it is stopped by the kexec: the other case would notice",
        nvme::stopped_old,
        nvme::new,
    )
    .on_request(),
    Case::update(
        "vfio.two",
        "An igb and an NVMe controller of one session go on through a live update",
        nvme::two_old,
        nvme::two_new,
    )
    .on_request(),
    Case::local(
        "vfio.faults.preserve",
        "Whatever allocation fails, preserve of an igb is undone and works when it is tried again",
        sweep::preserve,
    )
    .on_request(),
    Case::update(
        "vfio.faults.retrieve",
        "Whatever allocation fails, retrieve of an igb loses nothing but that, which is stopped",
        sweep::retrieve_old,
        sweep::retrieve_new,
    )
    .on_request(),
    Case::update(
        "vfio.interrupts",
        "Interrupts that are set up again, and triggered once, tell a driver of all that came meanwhile",
        interrupts::old,
        interrupts::new,
    )
    .on_request(),
];

/// How long something may take that the device does at once.
const PATIENCE: Duration = Duration::from_secs(20);

/// Memory for a device, of which `preserve` makes sure that it stays where it is.
fn memory(name: &str, size: u64) -> Result<OwnedFd> {
    let _setting = Setting::change(
        "/sys/kernel/mm/transparent_hugepage/shmem_enabled",
        "always",
    )?;
    let fd = memfd(name)?;
    rustix::fs::ftruncate(&fd, size)?;
    let map = Map::new(&fd, size, true)?;
    for at in (0..size).step_by(page() as usize) {
        map.word(at).store(0, Ordering::Relaxed);
    }
    Ok(fd)
}

/// Writes down what must be the same in the next kernel. `prefix` tells one device from another.
fn note(
    old: &Old<'_>,
    prefix: &str,
    place: &PciDevice,
    device: &Device,
    settings: &str,
) -> Result<()> {
    let note = |key: &str, value: &str| old.common.note(&format!("{prefix}.{key}"), value);
    note("settings", settings)?;
    note("config", &device.config()?)?;
    note("path", &place.path())?;
    note("trace", &trace::len()?.to_string())
}

fn noted(new: &New<'_>, prefix: &str, key: &str) -> Result<String> {
    let noted = new.common.noted(&format!("{prefix}.{key}"))?;
    noted.with_context(|| format!("nobody wrote down {prefix}.{key}"))
}

/// Configuration space, registers and address are as they were, and nobody touched what must not be.
fn check_same(new: &mut New<'_>, prefix: &str, device: &Device, settings: &str) -> Result<()> {
    let (now, before) = (device.config()?, noted(new, prefix, "config")?);
    let differs = now.bytes().zip(before.bytes()).position(|(a, b)| a != b);
    // Two digits are a byte.
    let config = same(differs.map(|digit| digit / 2), None).and(same(now.len(), before.len()));
    new.common.check(&format!("{prefix}.config"), config);
    let settings = same(settings.into(), noted(new, prefix, "settings")?);
    new.common.check(&format!("{prefix}.settings"), settings);
    let start = noted(new, prefix, "trace")?.parse()?;
    let writes = trace::check(start, &noted(new, prefix, "path")?);
    new.common.check(&format!("{prefix}.trace"), writes);
    Ok(())
}

/// Whether this is the last kernel of the run.
fn is_last() -> bool {
    std::env::var("LU_STAGE") == std::env::var("LU_STAGES")
}

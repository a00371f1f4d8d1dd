// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Devices behind an IOMMU go on with what is mapped for them.
//!
//! These need a machine with Intel's IOMMU: see `iommu.toml`. QEMU traces what is written to its command
//! register, and the requests that it refuses.

mod accounts;
mod damaged;
mod faults;
mod other;
mod receive;
mod refused;
mod sessions;
mod stopped;
mod sweep;
mod thousand;
mod two;

use super::{
    agent::{
        killed_bound_new,
        killed_new, //
    },
    slot::{
        another_new,
        gone_new, //
    },
    stopped::{
        aborted_new,
        removed_new, //
    },
};
use crate::cases::Case;

pub(in crate::cases) const CASES: &[Case] = &[
    Case::update(
        "iommu.rx",
        "An igb receives through a live update, and an IOMMU translates for it all the time",
        receive::old,
        receive::new,
    )
    .on_request(),
    Case::update(
        "iommu.hugetlb",
        "The same with the memory in huge pages",
        receive::huge_old,
        receive::new,
    )
    .on_request(),
    Case::update(
        "iommu.thousand",
        "A page table that was handed over is replaced a thousand times, and no frame is lost",
        receive::old,
        thousand::new,
    )
    .on_request(),
    Case::update(
        "iommu.thousand-cleared",
        "If the entry of the igb is cleared and then set, frames are lost: the other case would notice",
        receive::old,
        thousand::cleared_new,
    )
    .on_request(),
    Case::update(
        "iommu.stopped",
        "Without the file of the igb being preserved, translation is off for a moment: the other cases would notice",
        receive::stopped_old,
        receive::new,
    )
    .on_request(),
    Case::update(
        "iommu.canary",
        "What is not mapped is not written to while there is no kernel, and that is noted as a fault",
        faults::canary_old,
        faults::canary_new,
    )
    .on_request(),
    Case::update(
        "iommu.canary-mapped",
        "If it is mapped, it is written to: the other case would notice",
        faults::mapped_old,
        faults::canary_new,
    )
    .on_request(),
    Case::update(
        "iommu.interrupts",
        "What is written to where interrupts are reaches no CPU while there is no kernel, or it boots",
        faults::interrupts_old,
        faults::interrupts_new,
    )
    .on_request(),
    Case::update(
        "iommu.old-only",
        "What only the previous kernel had mapped cannot be used any more once the page table is replaced",
        faults::old_only_old,
        faults::old_only_new,
    )
    .on_request(),
    Case::update(
        "iommu.accounts",
        "Page tables that are given up, or replaced, are given back to the last page",
        accounts::old,
        accounts::new,
    )
    .on_request(),
    Case::update(
        "iommu.accounts-kept",
        "If they are kept, that is seen: the other case would notice",
        accounts::old,
        accounts::kept_new,
    )
    .on_request(),
    Case::update(
        "iommu.two",
        "An igb and an NVMe controller with one page table go on, and get another one after each other",
        two::old,
        two::new,
    )
    .on_request(),
    Case::update(
        "iommu.two-half",
        "If only the igb gets another one, it goes on, and the controller is stopped",
        two::old,
        two::half_new,
    )
    .on_request(),
    Case::update(
        "iommu.two-apart",
        "An igb and an NVMe controller with a page table each go on, and both are taken over",
        two::apart_old,
        two::apart_new,
    )
    .on_request(),
    Case::update(
        "iommu.stale",
        "If the page table of an igb was replaced since the igb was preserved, the update is refused",
        sessions::stale_old,
        receive::new,
    )
    .on_request(),
    Case::local(
        "iommu.faults.preserve",
        "Whatever allocation fails, preserve of an iommufd is undone and works when it is tried again",
        sweep::preserve,
    )
    .on_request(),
    Case::local(
        "iommu.faults.device",
        "The same of a card whose page table is preserved",
        sweep::preserve_device,
    )
    .on_request(),
    Case::update(
        "iommu.faults.retrieve",
        "Whatever allocation fails, retrieve of a page table loses nothing else",
        sweep::retrieve_old,
        sweep::retrieve_new,
    )
    .on_request(),
    Case::update(
        "iommu.faults.attach",
        "Whatever allocation fails when a page table is replaced, the old one stays in force",
        receive::old,
        sweep::attach_new,
    )
    .on_request(),
    Case::update(
        "iommu.other",
        "A card that is not preserved cannot use memory, even if nothing but the IOMMU keeps it from that",
        other::old,
        other::new,
    )
    .on_request(),
    Case::update(
        "iommu.closure",
        "An update in which an igb could write to memory that is not preserved is refused",
        refused::closure_old,
        receive::new,
    )
    .on_request(),
    Case::update(
        "iommu.unclaimed",
        "An igb that nobody retrieves is stopped when the session is finished",
        receive::old,
        stopped::unclaimed_new,
    )
    .on_request(),
    Case::update(
        "iommu.unattached",
        "An igb to which nothing is attached is stopped when the session is finished",
        receive::old,
        stopped::unattached_new,
    )
    .on_request(),
    Case::update(
        "iommu.no-module",
        "Without the module for its page table, an igb can be taken over all the same",
        receive::old,
        receive::no_module_new,
    )
    .on_request(),
    Case::update(
        "iommu.removed",
        "An igb that is removed through sysfs before it is retrieved is stopped, and loses its translation",
        receive::old,
        removed_new,
    )
    .on_request(),
    Case::update(
        "iommu.aborted",
        "If the session is closed, mappings can be changed again, and the igb is stopped by the kexec",
        refused::aborted_old,
        aborted_new,
    )
    .on_request(),
    Case::update(
        "iommu.sessions",
        "A page table in a session of its own is kept until the igb does not use it any more",
        sessions::old,
        sessions::new,
    )
    .on_request(),
    Case::update(
        "iommu.killed",
        "An igb is stopped when who retrieved its session is killed, and not the igb",
        receive::old,
        killed_new,
    )
    .on_request(),
    Case::update(
        "iommu.killed-bound",
        "An igb is stopped when who retrieved its session, and the igb, and bound it, is killed",
        receive::old,
        killed_bound_new,
    )
    .on_request(),
    Case::update(
        "iommu.gone",
        "If the igb is not there any more, its place is blocked, and the session can be finished",
        receive::old,
        gone_new,
    )
    .on_request(),
    Case::update(
        "iommu.another",
        "Another igb in the place of the igb is not taken for it, and is a card like any other",
        receive::old,
        another_new,
    )
    .on_request(),
    Case::update(
        "iommu.off",
        "Without an IOMMU in the next kernel, an igb is stopped before translation is off",
        receive::old,
        stopped::off_new,
    )
    .on_request(),
    Case::update(
        "iommu.fail-boot",
        "If an allocation fails when the kernel takes the IOMMU over, an igb is stopped before its translation is gone",
        receive::old,
        stopped::fail_boot_new,
    )
    .on_request(),
    Case::update(
        "iommu.no-driver",
        "If nobody takes the IOMMU over, an igb is stopped although translation is on",
        receive::old,
        stopped::no_driver_new,
    )
    .on_request(),
    Case::update(
        "iommu.damaged",
        "A damaged hand-over is refused, nothing is freed that is in use, and the igb is stopped in the end",
        receive::old,
        damaged::invalid_new,
    )
    .on_request(),
    Case::update(
        "iommu.damaged-unknown",
        "The same of one that is of another version, or none",
        receive::old,
        damaged::unknown_new,
    )
    .on_request(),
    Case::update(
        "iommu.damaged-missing",
        "The same of one that names memory that is not there",
        receive::old,
        damaged::missing_new,
    )
    .on_request(),
    Case::update(
        "iommu.damaged-taken",
        "Who knows what was mapped takes the igb over all the same",
        receive::old,
        damaged::taken_new,
    )
    .on_request(),
    Case::local(
        "iommu.kinds",
        "Page tables that cannot be handed over are refused",
        refused::kinds,
    )
    .on_request(),
    Case::local(
        "iommu.ats",
        "A device with a TLB is refused, and that TLB is invalidated when something is unmapped",
        refused::ats,
    )
    .on_request(),
    Case::local(
        "iommu.first-stage",
        "So is that of a first stage",
        refused::first_stage,
    )
    .on_request(),
    Case::local(
        "vfio.iommu",
        "An igb behind an IOMMU is refused if its page table is not preserved",
        refused::old,
    )
    .on_request(),
];

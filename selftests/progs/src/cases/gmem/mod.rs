// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Guest memory of KVM (guest_memfd).

mod bad;
mod bad_policy;
mod coco;
mod faults;
mod hole;
mod limits;
mod link;
mod local;
mod policy;
mod private;
#[cfg(target_arch = "x86_64")]
mod scrub;
mod trouble;
mod update;

use super::Case;

/// Length of the files in pages.
const PAGES: u64 = 64;

pub(super) const CASES: &[Case] = &[
    Case::update(
        "gmem.basic",
        "Content comes back in the same pages, what nobody touched is zero, and holes are holes",
        update::basic_old,
        update::basic_new,
    )
    .on_request(),
    Case::update(
        "gmem.unretrieved",
        "Guest memory that nobody retrieves is free memory after finish",
        update::large_old,
        update::unretrieved_new,
    )
    .on_request(),
    Case::update(
        "gmem.closed",
        "Guest memory that is retrieved and closed without a VM is free memory after finish",
        update::large_old,
        update::closed_new,
    )
    .on_request(),
    Case::update(
        "gmem.relay",
        "Guest memory that never gets a VM goes through any number of kernels",
        update::relay_old,
        update::relay_new,
    )
    .on_request(),
    Case::update(
        "gmem.link",
        "What is retrieved goes to one VM at a time, of the right type, again and again",
        update::relay_old,
        link::link_new,
    )
    .on_request(),
    Case::update(
        "gmem.private",
        "Private memory comes back to a guest of the same kind, and to nobody else",
        private::old,
        private::new,
    )
    .on_request(),
    Case::update(
        "gmem.bad",
        "Each changed field is refused, alone, and what can be freed is free after finish",
        bad::old,
        bad::new,
    )
    .on_request(),
    Case::update(
        "gmem.bad-policy",
        "Memory policies that are damaged are left out, and the file comes back with its content",
        bad_policy::old,
        bad_policy::new,
    )
    .on_request(),
    Case::update(
        "gmem.coco",
        "Private memory that the host may not touch is handed over, and freed, without being touched",
        coco::old,
        coco::new,
    )
    .on_request(),
    Case::local(
        "gmem.coco-lax",
        "The kernel warns if the host touches private memory: fails on purpose",
        coco::lax,
    )
    .on_request(),
    Case::local(
        "gmem.faults-preserve",
        "Whatever allocation fails, preserve is undone and works when it is tried again",
        faults::preserve,
    )
    .on_request(),
    Case::update(
        "gmem.faults-retrieve",
        "Whatever allocation fails, retrieve loses nothing but the file, and finish frees it",
        faults::retrieve_old,
        faults::retrieve_new,
    )
    .on_request(),
    Case::update(
        "gmem.faults-link",
        "Whatever allocation fails, the memory can be linked to a VM afterwards",
        faults::link_old,
        faults::link_new,
    )
    .on_request(),
    Case::local(
        "gmem.frozen",
        "Memory is neither added nor taken away while preserved, and it is before and after",
        local::frozen,
    )
    .on_request()
    .on_host(),
    Case::local(
        "gmem.race",
        "What is allocated while the file is being preserved is preserved",
        local::race,
    )
    .on_request(),
    Case::local(
        "gmem.abort",
        "Taking back a preservation leaves the memory as it was",
        local::abort,
    )
    .on_request()
    .on_host(),
    Case::update(
        "gmem.size",
        "A file of 2^32 pages is refused, and one with a page less comes back",
        limits::size_old,
        limits::size_new,
    )
    .on_request(),
    Case::update(
        "gmem.memcg",
        "A memory limit of the process that retrieves a file does not lose it",
        update::large_old,
        limits::memcg_new,
    )
    .on_request(),
    Case::update(
        "gmem.no-kvm",
        "A kernel that cannot run VMs refuses the file, and lives",
        update::relay_old,
        limits::no_kvm_new,
    )
    .on_request(),
    Case::update(
        "gmem.policy",
        "Memory policies survive, and holes are filled from the nodes that they name",
        policy::old,
        policy::new,
    )
    .on_request(),
    Case::update(
        "gmem.policy-alone",
        "What is left of memory policies with one node, and after that with two; the memory is all there",
        policy::old,
        policy::alone,
    )
    .on_request(),
    Case::update(
        "gmem.policy-race",
        "The memory policy that a file has once it is preserved is the one that comes back",
        policy::race_old,
        policy::race_new,
    )
    .on_request(),
    Case::local(
        "gmem.policy-frozen",
        "Memory policies cannot be changed while preserved, and can before and after",
        policy::frozen,
    )
    .on_request()
    .on_host(),
    Case::local(
        "gmem.policy-many",
        "A file with too many memory policies is refused, and equal neighbours are one",
        policy::many,
    )
    .on_request()
    .on_host(),
    Case::local(
        "gmem.hole",
        "A guest that touches a hole of a preserved file stops, and goes on afterwards",
        hole::hole,
    )
    .on_request()
    .on_host(),
    #[cfg(target_arch = "x86_64")]
    Case::update(
        "gmem.scrub",
        "Private memory that nobody retrieves is zeroed before it is free",
        scrub::scrub_old,
        scrub::scrub_new,
    )
    .on_request(),
    Case::local(
        "gmem.window",
        "A page that was being allocated when the file was frozen is preserved",
        trouble::window,
    )
    .on_request(),
    Case::update(
        "gmem.broken",
        "Broken memory is refused by preserve and by freeze, and what is left of the guest goes on",
        trouble::broken_old,
        trouble::broken_new,
    )
    .on_request(),
];

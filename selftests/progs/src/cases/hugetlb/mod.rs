// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Memfds with huge pages of HugeTLB.

mod bad;
mod faults;
mod groups;
mod local;
mod pools;
mod relay;
mod trouble;
mod update;

use super::Case;
use crate::{
    expect::{
        same,
        Check, //
    },
    hugetlb::{
        Pool,
        State, //
    },
    pattern::Layout,
    run::Common, //
};
use anyhow::Result;

/// Two mebibytes, which both architectures have.
const M2: u64 = 2 << 20;
const POOL: Pool = Pool(M2);

pub(super) const CASES: &[Case] = &[
    Case::update(
        "hugetlb.basic",
        "Huge pages come back with their content, in the same physical pages, and the pool is exact",
        update::basic_old,
        update::basic_new,
    )
    .on_request(),
    Case::update(
        "hugetlb.gigantic",
        "A gigantic page comes back with its content, and the pool is exact",
        pools::gigantic_old,
        pools::gigantic_new,
    )
    .on_request(),
    Case::update(
        "hugetlb.sizes",
        "Every size of huge pages that the architecture has",
        pools::sizes_old,
        pools::sizes_new,
    )
    .on_request(),
    Case::update(
        "hugetlb.shape",
        "Length, holes, position, seals and mode are exact",
        update::shape_old,
        update::shape_new,
    )
    .on_request(),
    Case::update(
        "hugetlb.mappings",
        "Shared and private mappings work after the update, and reserve what they should",
        update::mappings_old,
        update::mappings_new,
    )
    .on_request(),
    Case::update(
        "hugetlb.surplus",
        "With surplus=1 the huge pages are surplus ones, which are freed with the file",
        pools::surplus_old,
        pools::surplus_new,
    )
    .on_request(),
    Case::update(
        "hugetlb.unretrieved",
        "Huge pages that nobody retrieves are free memory after finish",
        update::basic_old,
        pools::unretrieved_new,
    )
    .on_request(),
    Case::update(
        "hugetlb.bad",
        "Whatever was changed, the file is refused, alone, and what can be found of it is freed",
        bad::old,
        bad::new,
    )
    .on_request(),
    Case::update(
        "hugetlb.bad-pools",
        "A table of huge pages that contradicts itself is ignored at boot",
        |old| bad::pools_old(old, "poke pools 0 256"),
        |new| bad::pools_new(new, |nr| nr),
    )
    .on_request(),
    Case::update(
        "hugetlb.bad-pools-number",
        "A table of more huge pages than there can be leaves nothing to allocate at boot",
        |old| bad::pools_old(old, "poke pools 8 0xffffffffffffffff"),
        |new| bad::pools_new(new, |_| 0),
    )
    .on_request(),
    Case::local(
        "hugetlb.faults-preserve",
        "Whatever allocation fails, preserve is undone and works when it is tried again",
        faults::preserve,
    )
    .on_request(),
    Case::update(
        "hugetlb.faults-retrieve",
        "Whatever allocation fails, retrieve loses nothing but the file, and its memory is freed",
        faults::retrieve_old,
        faults::retrieve_new,
    )
    .on_request(),
    Case::update(
        "hugetlb.poisoned",
        "Broken memory is refused at preserve and at freeze, and then the others go through",
        faults::poisoned_old,
        faults::poisoned_new,
    )
    .on_request(),
    Case::update(
        "hugetlb.module",
        "The modules cannot be unloaded while a file is preserved or waits, and can be afterwards",
        faults::module_old,
        faults::module_new,
    )
    .on_request(),
    Case::update(
        "hugetlb.missing",
        "Without the handler its file cannot be had, and the session can be finished",
        faults::module_old,
        faults::missing_new,
    )
    .on_request(),
    Case::update(
        "hugetlb.groups",
        "Control groups are charged as they were, and what they have no room for can be retrieved later",
        groups::old,
        groups::new,
    )
    .on_request(),
    Case::update(
        "hugetlb.freeze",
        "If one of several files cannot be frozen, all stay preserved, and the next attempt works",
        trouble::freeze_old,
        trouble::freeze_new,
    )
    .on_request(),
    Case::update(
        "hugetlb.no-size",
        "Files with huge pages of a size that the new kernel lacks are refused, and their memory is freed",
        trouble::no_size_old,
        trouble::no_size_new,
    )
    .on_request(),
    Case::update(
        "hugetlb.broken",
        "Memory that breaks anywhere in a huge page, while it waits, is not given to anybody",
        trouble::broken_old,
        trouble::broken_new,
    )
    .on_request(),
    Case::update(
        "hugetlb.offline",
        "Huge pages cannot be taken out of use from preserve to finish, and can be before and after",
        trouble::offline_old,
        trouble::offline_new,
    )
    .on_request(),
    Case::local(
        "hugetlb.cma",
        "Huge pages of hugetlb_cma= are refused if there are no others",
        pools::cma,
    )
    .on_request(),
    Case::update(
        "hugetlb.boot-pool",
        "A kernel that is started with the same hugepages= does not allocate more on top",
        pools::boot_pool_old,
        pools::boot_pool_new,
    )
    .on_request(),
    Case::update(
        "hugetlb.relay",
        "A file goes through any number of kernels, and neither pool nor free memory drift",
        relay::old,
        relay::new,
    )
    .on_request(),
    Case::local(
        "hugetlb.frozen",
        "Truncate, punch, fallocate and growing mappings are refused while preserved, not before and after",
        local::frozen,
    )
    .on_request()
    .on_host(),
    Case::local(
        "hugetlb.abort",
        "Taking back a preservation leaves file and pool as they were",
        local::abort,
    )
    .on_request()
    .on_host(),
    Case::local(
        "hugetlb.refused",
        "Files of mounted hugetlbfs, SysV shared memory, read-only and short pools are refused",
        local::refuse,
    )
    .on_request()
    .on_host(),
];

fn layout(pages: u64) -> Layout {
    Layout::full(0x4096e71b, pages * M2)
}

/// Compares the pool with what it must be; it must also agree with itself.
fn pool(common: &mut Common<'_>, name: &str, pool: Pool, want: [u64; 4]) -> Result<State> {
    let state = pool.state()?;
    let have = [state.nr, state.free, state.resv, state.surplus];
    let result: Check = state.consistent().and_then(|()| same(have, want));
    common.check(&format!("{name} (nr, free, resv, surplus)"), result);
    Ok(state)
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Memfds with huge pages of HugeTLB.

mod local;
mod pools;
mod relay;
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
        "hugetlb.bad-header",
        "A changed header is refused, and the memory is free after finish",
        |old| pools::bad_old(old, "poke head 16 8192"),
        pools::bad_new,
    )
    .on_request(),
    Case::update(
        "hugetlb.bad-record",
        "A changed record is refused, and the memory is free after finish",
        |old| pools::bad_old(old, "poke array 0 8 137438953473"),
        pools::bad_new,
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
    .on_request(),
    Case::local(
        "hugetlb.abort",
        "Taking back a preservation leaves file and pool as they were",
        local::abort,
    )
    .on_request(),
    Case::local(
        "hugetlb.refused",
        "Files of mounted hugetlbfs, SysV shared memory, read-only and short pools are refused",
        local::refuse,
    )
    .on_request(),
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

// SPDX-License-Identifier: GPL-2.0-only

//! From which memory nodes the holes of a file are filled.
//!
//! C header: [`include/linux/mempolicy.h`](srctree/include/linux/mempolicy.h)

use super::{
    FrozenGuestMemfd,
    NewGuestMemfd, //
};
use kernel::{
    error::to_result,
    prelude::*, //
};
use luo::{
    abi::guest_memfd::policy::{
        Nodes,
        Policy, //
    },
    bindings, //
};

/// `NUMA_NO_NODE`.
const NO_NODE: i32 = -1;

/// The nodes that have memory. There may be others in a moment.
pub(crate) fn present() -> Nodes {
    let mut words = [0; Nodes::WORDS];
    const { assert!(Nodes::WORDS == bindings::LUO_HELPER_GMEM_NODE_WORDS as usize) };
    // SAFETY: There are as many words as are written.
    unsafe { bindings::luo_helper_gmem_nodes(words.as_mut_ptr()) };
    Nodes::new(words)
}

impl FrozenGuestMemfd {
    /// The first policy that is not before the page `index`. Pages from `end` on do not count.
    ///
    /// Fails with `EOPNOTSUPP` if it is of a kind that is not known.
    pub(super) fn policy(&self, index: u32, end: u32) -> Result<Option<Policy>> {
        let mut raw: bindings::luo_helper_gmem_policy = pin_init::zeroed();
        // SAFETY: By the type invariants this is a guest_memfd file, which is frozen. `raw` is valid for
        // writes.
        let is_there = unsafe {
            bindings::luo_helper_gmem_get_policy(self.file.as_ptr(), index.into(), &raw mut raw)
        };
        // Mappings may go beyond the end of the file, and so may policies.
        let within = |page: u64| u32::try_from(page).map_or(end, |page| page.min(end));
        let pages = within(raw.start).max(index)..within(raw.end);
        if !is_there || pages.is_empty() {
            return Ok(None);
        }
        let mode = u16::try_from(raw.mode).map_err(|_| EOPNOTSUPP)?;
        let home_node = match raw.home_node {
            NO_NODE => None,
            node => Some(u16::try_from(node).map_err(|_| EOPNOTSUPP)?),
        };
        Policy::new(pages, mode, home_node, Nodes::new(raw.nodes))
            .map(Some)
            .map_err(|_| EOPNOTSUPP)
    }
}

impl NewGuestMemfd {
    /// Sets a policy. If that fails, all is as it was.
    pub(crate) fn set_policy(&self, policy: &Policy) -> Result {
        let pages = policy.pages();
        let raw = bindings::luo_helper_gmem_policy {
            start: pages.start.into(),
            end: pages.end.into(),
            mode: policy.mode().into(),
            home_node: policy.home_node().map_or(NO_NODE, i32::from),
            nodes: *policy.nodes().words(),
        };
        // SAFETY: By the type invariants this is a guest_memfd file that nobody knows, so that it is not
        // frozen. `raw` is valid for reads.
        to_result(unsafe {
            bindings::luo_helper_gmem_set_policy(self.file.as_ptr(), &raw const raw)
        })
    }
}

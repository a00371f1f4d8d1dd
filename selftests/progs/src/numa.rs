// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Memory nodes, and memory policies of mappings.

use crate::{
    memory::{
        page,
        Map, //
    },
    sys::answer, //
};
use anyhow::{
    Context,
    Result, //
};
use rustix::io::Errno;
use std::{
    fmt,
    ops::Range,
    path::Path, //
};

/// Modes and flags.
pub mod mpol {
    /// `MPOL_DEFAULT`.
    pub const DEFAULT: u32 = 0;
    /// `MPOL_PREFERRED`.
    pub const PREFERRED: u32 = 1;
    /// `MPOL_BIND`.
    pub const BIND: u32 = 2;
    /// `MPOL_INTERLEAVE`.
    pub const INTERLEAVE: u32 = 3;
    /// `MPOL_LOCAL`.
    pub const LOCAL: u32 = 4;
    /// `MPOL_PREFERRED_MANY`.
    pub const PREFERRED_MANY: u32 = 5;
    /// `MPOL_WEIGHTED_INTERLEAVE`.
    pub const WEIGHTED_INTERLEAVE: u32 = 6;
    /// `MPOL_F_STATIC_NODES`.
    pub const STATIC_NODES: u32 = 1 << 15;
    /// `MPOL_F_RELATIVE_NODES`.
    pub const RELATIVE_NODES: u32 = 1 << 14;
    /// `MPOL_F_NUMA_BALANCING`.
    pub const NUMA_BALANCING: u32 = 1 << 13;
}

/// What the system call needs, and the C library has no number for.
const SET_MEMPOLICY_HOME_NODE: libc::c_long = 450;
/// `MPOL_F_NODE` and `MPOL_F_ADDR`.
const NODE: libc::c_ulong = 1;
const ADDR: libc::c_ulong = 2;
/// Nodes that the masks here have room for.
const NODES: libc::c_ulong = 1024;

/// A policy as the kernel tells it: mode with flags, and the first 64 nodes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Policy(pub u32, pub u64);

impl fmt::Debug for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x} of {:#b}", self.0, self.1)
    }
}

/// Whether there is a second node.
pub fn has_two() -> bool {
    Path::new("/sys/devices/system/node/node1").exists()
}

fn address(map: &Map, at: u64) -> usize {
    map.address() + (at * page()) as usize
}

/// Sets the policy of some pages of a mapping.
pub fn mbind(map: &Map, pages: Range<u64>, policy: Policy) -> rustix::io::Result<()> {
    let Policy(mode, mask) = policy;
    let len = (pages.end - pages.start) * page();
    // SAFETY: The mask is valid for the call and has as many bits as the kernel reads, which is one less
    // than it is told.
    let status = unsafe {
        libc::syscall(
            libc::SYS_mbind,
            address(map, pages.start),
            len,
            mode,
            &raw const mask,
            65,
            0,
        )
    };
    answer(status)
}

/// Sets the home node of some pages that have a policy.
pub fn set_home(map: &Map, pages: Range<u64>, node: u64) -> rustix::io::Result<()> {
    let len = (pages.end - pages.start) * page();
    let start = address(map, pages.start);
    // SAFETY: It changes only where new pages come from.
    answer(unsafe { libc::syscall(SET_MEMPOLICY_HOME_NODE, start, len, node, 0) })
}

fn get(flags: libc::c_ulong, address: usize) -> Result<(u32, u64)> {
    let mut mode: libc::c_int = 0;
    let mut mask = [0u64; NODES as usize / 64];
    // SAFETY: There are as many bits as are announced.
    let status = unsafe {
        libc::syscall(
            libc::SYS_get_mempolicy,
            &raw mut mode,
            mask.as_mut_ptr(),
            NODES,
            address,
            flags,
        )
    };
    answer(status).context("get_mempolicy")?;
    Ok((mode as u32, mask[0]))
}

/// The policy of each of the first pages of a mapping.
pub fn policies(map: &Map, pages: u64) -> Result<Vec<Policy>> {
    (0..pages)
        .map(|at| get(ADDR, address(map, at)).map(|(mode, mask)| Policy(mode, mask)))
        .collect()
}

/// The node that a page is on, which is allocated if it is not there.
pub fn node_of(map: &Map, at: u64) -> Result<u64> {
    get(NODE | ADDR, address(map, at)).map(|(node, _)| node.into())
}

/// The node of the processor that this runs on.
pub fn here() -> Result<u64> {
    let (mut cpu, mut node) = (0u32, 0u32);
    // SAFETY: Both numbers are valid for the call.
    let status = unsafe {
        libc::syscall(
            libc::SYS_getcpu,
            &raw mut cpu,
            &raw mut node,
            std::ptr::null::<u8>(),
        )
    };
    answer(status).map_err(|error: Errno| anyhow::anyhow!("getcpu: {error}"))?;
    Ok(node.into())
}

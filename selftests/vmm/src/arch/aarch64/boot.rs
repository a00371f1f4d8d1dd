// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The first instructions: EL1, MMU off.

use std::fs::File;

use anyhow::{
    Context,
    Result, //
};
use kvm_ioctls::VcpuFd;
use linux_loader::loader::{
    KernelLoader,
    PE, //
};
use vm_memory::{
    Bytes,
    GuestAddress, //
};

use super::{
    fdt,
    RAM_BASE, //
};
use crate::guest::Guest;
use crate::memory::Memory;
use crate::receiver;
use crate::tiny;

/// KVM's numbers of x0, the program counter and PSTATE.
const X0: u64 = 0x6030_0000_0010_0000;
const PC: u64 = 0x6030_0000_0010_0040;
const PSTATE: u64 = 0x6030_0000_0010_0042;
/// EL1 with its own stack pointer, all interrupts masked.
const EL1H: u64 = 0x3c5;
/// The most that a device tree needs.
const TREE: u64 = 64 << 10;

/// Prepares memory and the first vCPU; the others wait to be started by the guest.
pub(crate) fn boot(guest: &Guest, memory: &Memory, vcpus: &[VcpuFd]) -> Result<()> {
    let first = vcpus.first().context("a guest has a vCPU")?;
    let (entry, argument) = match guest {
        Guest::Tiny { sparse } => (tiny::load(memory, *sparse)?, tiny::ledger()),
        Guest::Receiver => (receiver::load(memory)?, tiny::ledger()),
        Guest::Linux {
            kernel,
            initrd,
            cmdline,
        } => linux(memory, vcpus.len(), kernel, initrd, cmdline)?,
    };
    for (register, value) in [(PC, entry), (X0, argument), (PSTATE, EL1H)] {
        first.set_one_reg(register, &value.to_le_bytes())?;
    }
    Ok(())
}

/// Loads a kernel and returns its entry and the address of its device tree.
fn linux(
    memory: &Memory,
    cpus: usize,
    kernel: &std::path::Path,
    initrd: &[u8],
    cmdline: &str,
) -> Result<(u64, u64)> {
    let map = memory.map();
    let mut image = File::open(kernel).with_context(|| kernel.display().to_string())?;
    let loaded = PE::load(map, Some(GuestAddress(RAM_BASE)), &mut image, None)
        .with_context(|| format!("{} is not a kernel that can be loaded", kernel.display()))?;
    let place = memory
        .end()
        .checked_sub(initrd.len() as u64)
        .map(|address| address & !0xffff)
        .context("the guest's memory is too small for its initrd")?;
    // The kernel's own data lies behind its image, so the upper half is left to the rest.
    let tree = place
        .checked_sub(TREE)
        .filter(|address| *address > loaded.kernel_end + memory.size() / 4)
        .context("the guest's memory is too small for its kernel")?;
    map.write_slice(initrd, GuestAddress(place))?;
    let line = format!("console=ttyAMA0 earlycon=pl011,0x9000000 panic=-1 {cmdline}");
    let range = (place, place + initrd.len() as u64);
    let bytes = fdt::tree(cpus, memory.size(), &line, range)?;
    map.write_slice(&bytes, GuestAddress(tree))?;
    Ok((loaded.kernel_load.0, tree))
}

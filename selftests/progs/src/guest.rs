// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Guests of a few instructions, which start at the second page: on x86 in real mode, on arm64 without
//! an MMU.

use crate::{
    gmem::Vm,
    memory::{
        page,
        Map, //
    }, //
};
use anyhow::Result;
use kvm_bindings::{
    kvm_userspace_memory_region2,
    KVM_MEM_GUEST_MEMFD, //
};
use kvm_ioctls::{
    VcpuExit,
    VcpuFd, //
};
use std::{
    os::fd::{
        AsFd,
        AsRawFd, //
    },
    sync::atomic::Ordering, //
};

/// Why a guest stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// It put out a number: to a port, or to memory that it does not have.
    Out(u16),
    /// It halted.
    Halt,
    /// There is no memory for it, from this address on: `KVM_EXIT_MEMORY_FAULT`.
    Fault(u64),
}

/// A guest with one vCPU.
#[derive(Debug)]
pub struct Guest {
    vcpu: VcpuFd,
    _map: Map,
}

/// A vCPU that is about to run the second page.
#[cfg(target_arch = "x86_64")]
fn start(vm: &Vm) -> Result<VcpuFd> {
    let vcpu = vm.0.create_vcpu(0)?;
    let mut special = vcpu.get_sregs()?;
    special.cs.base = 0;
    special.cs.selector = 0;
    vcpu.set_sregs(&special)?;
    let mut registers = vcpu.get_regs()?;
    registers.rip = page();
    registers.rflags = 2;
    vcpu.set_regs(&registers)?;
    Ok(vcpu)
}

/// A vCPU that is about to run the second page.
#[cfg(target_arch = "aarch64")]
fn start(vm: &Vm) -> Result<VcpuFd> {
    /// The program counter's number for KVM.
    const PC: u64 = 0x6030_0000_0010_0040;

    let mut init = kvm_bindings::kvm_vcpu_init::default();
    vm.0.get_preferred_target(&mut init)?;
    let vcpu = vm.0.create_vcpu(0)?;
    vcpu.vcpu_init(&init)?;
    vcpu.set_one_reg(PC, &page().to_le_bytes())?;
    Ok(vcpu)
}

impl Guest {
    /// Of the first `pages` pages, `private` is private memory, and the others are ordinary memory.
    #[cfg(target_arch = "x86_64")]
    pub fn private(
        vm: &Vm,
        memory: impl AsFd,
        pages: u64,
        private: u64,
        code: &[u8],
    ) -> Result<Self> {
        use crate::memory::memfd;
        use kvm_bindings::{
            kvm_memory_attributes,
            KVM_MEMORY_ATTRIBUTE_PRIVATE, //
        };

        let shared = memfd("shared")?;
        rustix::fs::ftruncate(&shared, pages * page())?;
        rustix::io::pwrite(&shared, code, page())?;
        let map = Map::new(&shared, pages * page(), true)?;
        let guest = Self::new(vm, memory, pages, map)?;
        vm.0.set_memory_attributes(kvm_memory_attributes {
            address: private * page(),
            size: page(),
            attributes: u64::from(KVM_MEMORY_ATTRIBUTE_PRIVATE),
            flags: 0,
        })?;
        Ok(guest)
    }

    /// All its memory is guest memory, and the host may see it.
    pub fn shared(vm: &Vm, memory: impl AsFd, pages: u64, code: &[u8]) -> Result<Self> {
        let map = Map::new(&memory, pages * page(), true)?;
        for (at, part) in (page()..).step_by(8).zip(code.chunks(8)) {
            let mut word = [0; 8];
            word[..part.len()].copy_from_slice(part);
            map.word(at)
                .store(u64::from_le_bytes(word), Ordering::Relaxed);
        }
        Self::new(vm, memory, pages, map)
    }

    fn new(vm: &Vm, memory: impl AsFd, pages: u64, map: Map) -> Result<Self> {
        let region = kvm_userspace_memory_region2 {
            slot: 0,
            flags: KVM_MEM_GUEST_MEMFD,
            guest_phys_addr: 0,
            memory_size: pages * page(),
            userspace_addr: map.address() as u64,
            guest_memfd: memory.as_fd().as_raw_fd() as u32,
            ..Default::default()
        };
        // SAFETY: The mapping is that large, and is there for as long as the vCPU, which is the only
        // user of the slot.
        unsafe { vm.0.set_user_memory_region2(region)? };
        let vcpu = start(vm)?;
        Ok(Self { vcpu, _map: map })
    }

    /// Lets it run until it stops.
    pub fn run(&mut self) -> Result<Stop> {
        match self.vcpu.run()? {
            VcpuExit::IoOut(_, &[low, high]) | VcpuExit::MmioWrite(_, &[low, high]) => {
                Ok(Stop::Out(u16::from_le_bytes([low, high])))
            }
            VcpuExit::Hlt => Ok(Stop::Halt),
            VcpuExit::MemoryFault { gpa, .. } => Ok(Stop::Fault(gpa)),
            other => anyhow::bail!("the guest stopped with {other:?}"),
        }
    }
}

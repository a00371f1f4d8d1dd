// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The VM as a whole: interrupt controllers, timer, clock.

use std::sync::Arc;

use anyhow::{
    ensure,
    Context,
    Result, //
};
use kvm_bindings::{
    kvm_clock_data,
    kvm_enable_cap,
    kvm_irqchip,
    kvm_pit_config,
    kvm_pit_state2,
    CpuId,
    KVM_CAP_EXIT_HYPERCALL,
    KVM_IRQCHIP_IOAPIC,
    KVM_IRQCHIP_PIC_MASTER,
    KVM_IRQCHIP_PIC_SLAVE,
    KVM_MAX_CPUID_ENTRIES,
    KVM_PIT_SPEAKER_DUMMY,
    KVM_X86_SW_PROTECTED_VM, //
};
use kvm_ioctls::{
    Cap,
    Kvm,
    VcpuFd,
    VmFd, //
};

use super::counter;
use super::vcpu::set_tsc_offset;
use crate::state::{
    Kind,
    State,
    Writer, //
};
use crate::timeline::duration;

/// Three pages for Intel's real mode, outside of memory.
const TSS: usize = 0xfffb_d000;
const CHIPS: [u32; 3] = [
    KVM_IRQCHIP_PIC_MASTER,
    KVM_IRQCHIP_PIC_SLAVE,
    KVM_IRQCHIP_IOAPIC,
];
const HYPERVISOR: u32 = 1 << 31;
const TSC_DEADLINE: u32 = 1 << 24;
/// Guests have no guests: their state is not saved.
const VMX: u32 = 1 << 5;
const SVM: u32 = 1 << 2;

/// A VM.
#[derive(Debug)]
pub(crate) struct Vm {
    pub(crate) fd: Arc<VmFd>,
}

/// Makes a VM with its interrupt controllers and timer, with private memory or without.
pub(crate) fn create_vm(kvm: &Kvm, private: bool) -> Result<Vm> {
    let kind = if private { KVM_X86_SW_PROTECTED_VM } else { 0 };
    let vm = kvm
        .create_vm_with_type(u64::from(kind))
        .with_context(|| format!("KVM does not make a VM of type {kind}"))?;
    if private {
        // The guest's conversions are not KVM's business.
        let hypercalls = kvm_enable_cap {
            cap: KVM_CAP_EXIT_HYPERCALL,
            args: [1 << super::MAP_GPA_RANGE, 0, 0, 0],
            ..Default::default()
        };
        vm.enable_cap(&hypercalls)
            .context("KVM does not pass on hypercalls")?;
    }
    vm.set_tss_address(TSS)?;
    vm.create_irq_chip()
        .context("KVM makes no interrupt controllers")?;
    let pit = kvm_pit_config {
        flags: KVM_PIT_SPEAKER_DUMMY,
        ..Default::default()
    };
    vm.create_pit2(pit).context("KVM makes no timer")?;
    Ok(Vm { fd: Arc::new(vm) })
}

/// Makes vCPUs that the guest can tell apart.
pub(crate) fn create_vcpus(kvm: &Kvm, vm: &Vm, count: usize) -> Result<Vec<VcpuFd>> {
    let supported = kvm
        .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
        .context("KVM does not tell what CPU it offers")?;
    let deadline = kvm.check_extension(Cap::TscDeadlineTimer);
    // One for all, or the guest would see as many clocks as CPUs.
    let offset = counter().wrapping_neg();
    (0..count)
        .map(|id| {
            let vcpu = vm.fd.create_vcpu(id as u64)?;
            // 0 stands for what the host's runs at. KVM's default is the host's first measurement,
            // and if a better one follows, the default needs a CPU that can scale the TSC: without
            // one the guest's stands still.
            vcpu.set_tsc_khz(0).context("KVM does not offer a TSC")?;
            set_tsc_offset(&vcpu, offset)?;
            vcpu.set_cpuid2(&cpuid(&supported, id, count, deadline)?)
                .context("KVM does not take the CPU's features")?;
            Ok(vcpu)
        })
        .collect()
}

fn cpuid(supported: &CpuId, id: usize, count: usize, deadline: bool) -> Result<CpuId> {
    let (id, count) = (u32::try_from(id)?, u32::try_from(count)?);
    let mut cpuid = supported.clone();
    for entry in cpuid.as_mut_slice() {
        match (entry.function, entry.index) {
            (1, _) => {
                entry.ebx = entry.ebx & 0x0000_ffff | id << 24 | count << 16;
                entry.ecx = entry.ecx & !VMX | HYPERVISOR;
                if deadline {
                    entry.ecx |= TSC_DEADLINE;
                }
            }
            // The levels of the topology: one thread to a core, all cores in one package.
            (0xb | 0x1f, 0) => {
                (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 1, 1 << 8, id);
            }
            (0xb | 0x1f, 1) => {
                (entry.eax, entry.ebx, entry.ecx, entry.edx) = (8, count, 2 << 8 | 1, id);
            }
            (0xb | 0x1f, _) => {
                (entry.eax, entry.ebx, entry.edx) = (0, 0, id);
            }
            (0x8000_0001, _) => entry.ecx &= !SVM,
            (0x8000_0008, _) => {
                entry.ecx = entry.ecx & !0xf0ff | 8 << 12 | (count - 1);
            }
            (0x8000_001e, _) => {
                (entry.eax, entry.ebx, entry.ecx) = (id, id, 0);
            }
            _ => {}
        }
    }
    Ok(cpuid)
}

/// How fast [`counter`] counts.
pub(crate) fn hz(vcpu: &VcpuFd) -> Result<u64> {
    Ok(u64::from(vcpu.get_tsc_khz()?) * 1000)
}

/// Saves what belongs to no vCPU.
pub(crate) fn save_vm(vm: &Vm, _vcpus: usize, writer: &mut Writer) -> Result<()> {
    for (number, chip_id) in CHIPS.into_iter().enumerate() {
        let mut chip = kvm_irqchip {
            chip_id,
            ..Default::default()
        };
        vm.fd
            .get_irqchip(&mut chip)
            .context("an interrupt controller")?;
        writer.put(Kind::Irqchip, number, &chip)?;
    }
    writer.put(Kind::Pit, 0, &vm.fd.get_pit2().context("the timer")?)?;
    let clock = vm.fd.get_clock().context("the clock")?;
    // Taken after the clock was read: the guest's time never includes what has not passed.
    writer.put(Kind::Counter, 0, &counter())?;
    writer.put(Kind::Clock, 0, &clock)
}

/// Restores what the vCPUs need to be there.
pub(crate) fn restore_vm(vm: &Vm, state: &State, hz: u64) -> Result<()> {
    for (number, chip_id) in CHIPS.into_iter().enumerate() {
        let chip: kvm_irqchip = state.get(Kind::Irqchip, number)?;
        ensure!(
            chip.chip_id == chip_id,
            "the state has interrupt controller {} in the place of {chip_id}",
            chip.chip_id
        );
        vm.fd
            .set_irqchip(&chip)
            .context("KVM does not take the state of an interrupt controller")?;
    }
    vm.fd
        .set_pit2(&state.get::<kvm_pit_state2>(Kind::Pit, 0)?)
        .context("KVM does not take the timer's state")?;
    let saved: kvm_clock_data = state.get(Kind::Clock, 0)?;
    let then: u64 = state.get(Kind::Counter, 0)?;
    // The guest's clock goes on by the time that has passed; if that cannot be known, by nothing.
    let passed = duration(counter().saturating_sub(then), hz);
    let clock = kvm_clock_data {
        clock: saved
            .clock
            .saturating_add(u64::try_from(passed.as_nanos()).unwrap_or(0)),
        ..Default::default()
    };
    vm.fd
        .set_clock(&clock)
        .context("KVM does not take the clock's state")
}

/// Restores what needs the vCPUs to be as they were: nothing, here.
pub(crate) fn restore_interrupts(_vm: &Vm, _vcpus: usize, _state: &State) -> Result<()> {
    Ok(())
}

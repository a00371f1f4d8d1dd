// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The VM as a whole.

use std::sync::Arc;

use anyhow::{
    ensure,
    Context,
    Result, //
};
use kvm_bindings::{
    kvm_vcpu_init,
    KVM_ARM_VCPU_POWER_OFF,
    KVM_ARM_VCPU_PSCI_0_2, //
};
use kvm_ioctls::{
    DeviceFd,
    Kvm,
    VcpuFd,
    VmFd, //
};

use super::gic;
use crate::state::{
    State,
    Writer, //
};

/// A VM with its interrupt controller.
#[derive(Debug)]
pub(crate) struct Vm {
    pub(crate) fd: Arc<VmFd>,
    gic: DeviceFd,
}

/// Makes a VM with its interrupt controller.
pub(crate) fn create_vm(kvm: &Kvm, private: bool) -> Result<Vm> {
    ensure!(
        !private,
        "KVM has no VMs with private memory on this architecture"
    );
    let fd = kvm.create_vm().context("KVM does not make a VM")?;
    let gic = gic::create(&fd).context("KVM makes no GICv3")?;
    Ok(Vm {
        fd: Arc::new(fd),
        gic,
    })
}

/// Makes vCPUs; all but the first wait to be started by the guest.
pub(crate) fn create_vcpus(_kvm: &Kvm, vm: &Vm, count: usize) -> Result<Vec<VcpuFd>> {
    let mut init = kvm_vcpu_init::default();
    vm.fd.get_preferred_target(&mut init)?;
    let [features, ..] = &mut init.features;
    *features |= 1 << KVM_ARM_VCPU_PSCI_0_2;
    let vcpus = (0..count)
        .map(|id| {
            let vcpu = vm.fd.create_vcpu(id as u64)?;
            let mut init = init;
            if let ([features, ..], 1..) = (&mut init.features, id) {
                *features |= 1 << KVM_ARM_VCPU_POWER_OFF;
            }
            vcpu.vcpu_init(&init).context("KVM does not start a vCPU")?;
            Ok(vcpu)
        })
        .collect::<Result<Vec<_>>>()?;
    gic::init(&vm.gic).context("KVM does not start the GICv3")?;
    Ok(vcpus)
}

/// How fast [`super::counter`] counts.
pub(crate) fn hz(_vcpu: &VcpuFd) -> Result<u64> {
    let hz;
    // SAFETY: reads a register, which Linux lets user space do.
    unsafe {
        std::arch::asm!("mrs {}, cntfrq_el0", out(reg) hz, options(nomem, nostack));
    }
    Ok(hz)
}

/// Saves what belongs to no vCPU, and what the GIC knows of them.
pub(crate) fn save_vm(vm: &Vm, vcpus: usize, writer: &mut Writer) -> Result<()> {
    gic::save(&vm.gic, vcpus, writer)
}

/// Restores what the vCPUs need to be there: nothing, here.
pub(crate) fn restore_vm(_vm: &Vm, _state: &State, _hz: u64) -> Result<()> {
    Ok(())
}

/// Restores what needs the vCPUs to be as they were.
pub(crate) fn restore_interrupts(vm: &Vm, vcpus: usize, state: &State) -> Result<()> {
    gic::restore(&vm.gic, vcpus, state)
}

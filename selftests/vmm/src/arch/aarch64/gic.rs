// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The GICv3 and its state. Without an ITS there are no LPIs, so nothing of it is in guest memory.

use anyhow::{
    ensure,
    Context,
    Result, //
};
use kvm_bindings::{
    kvm_create_device,
    kvm_device_attr,
    kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V3,
    KVM_DEV_ARM_VGIC_CTRL_INIT,
    KVM_DEV_ARM_VGIC_GRP_ADDR,
    KVM_DEV_ARM_VGIC_GRP_CPU_SYSREGS,
    KVM_DEV_ARM_VGIC_GRP_CTRL,
    KVM_DEV_ARM_VGIC_GRP_DIST_REGS,
    KVM_DEV_ARM_VGIC_GRP_LEVEL_INFO,
    KVM_DEV_ARM_VGIC_GRP_NR_IRQS,
    KVM_DEV_ARM_VGIC_GRP_REDIST_REGS,
    KVM_VGIC_V3_ADDR_TYPE_DIST,
    KVM_VGIC_V3_ADDR_TYPE_REDIST, //
};
use kvm_ioctls::{
    DeviceFd,
    VmFd, //
};

use super::{
    GIC_DIST,
    GIC_REDIST, //
};
use crate::state::{
    Kind,
    State,
    Writer, //
};

/// Private ones (32) and shared ones.
const IRQS: u32 = 64;
const SGI_BASE: u64 = 0x1_0000;

/// Registers of 32 bits that follow each other: offset and how many.
type Run = (u64, u64);

/// The distributor's. CTLR comes first: KVM queues a pending interrupt when it is told of it, and only
/// if the distributor is on; what comes before that is never delivered. Trigger types come before
/// pending state, which depends on them. Enabling, pending and active state is written through the
/// registers that set it, which is enough for a GIC that is new.
const DIST: [Run; 8] = [
    (0x0000, 1),
    (0x0080 + 4, 1),
    (0x0c00 + 8, 2),
    (0x0400 + 32, 8),
    // IROUTER has 64 bits, which KVM takes in two halves.
    (0x6000 + 32 * 8, 64),
    (0x0100 + 4, 1),
    (0x0200 + 4, 1),
    (0x0300 + 4, 1),
];

/// A redistributor's, in the same order.
const REDIST: [Run; 8] = [
    (0x0000, 1),
    (0x0014, 1),
    (SGI_BASE + 0x080, 1),
    (SGI_BASE + 0xc00, 2),
    (SGI_BASE + 0x400, 8),
    (SGI_BASE + 0x100, 1),
    (SGI_BASE + 0x200, 1),
    (SGI_BASE + 0x300, 1),
];

/// A register of the CPU interface, as op0, op1, CRn, CRm and op2.
const fn icc(crn: u64, crm: u64, op2: u64) -> u64 {
    3 << 14 | crn << 7 | crm << 3 | op2
}

const ICC_SRE: u64 = icc(12, 12, 5);
const ICC_CTLR: u64 = icc(12, 12, 4);
const ICC: [u64; 7] = [
    ICC_SRE,
    ICC_CTLR,
    icc(4, 6, 0),
    icc(12, 8, 3),
    icc(12, 12, 3),
    icc(12, 12, 6),
    icc(12, 12, 7),
];
/// Active priorities of both groups; those behind the first exist only with more priority bits.
const ICC_AP0: u64 = icc(12, 8, 4);
const ICC_AP1: u64 = icc(12, 9, 0);

/// The affinity of a vCPU in the upper half of an attribute.
fn affinity(vcpu: usize) -> u64 {
    // KVM numbers vCPUs below 16 in the lowest field.
    (vcpu as u64) << 32
}

fn attribute<T>(group: u32, attr: u64, value: *const T) -> kvm_device_attr {
    kvm_device_attr {
        flags: 0,
        group,
        attr,
        addr: value as u64,
    }
}

fn set<T>(gic: &DeviceFd, group: u32, attr: u64, value: T) -> Result<()> {
    gic.set_device_attr(&attribute(group, attr, &raw const value))
        .with_context(|| format!("the GIC does not take {group}/{attr:#x}"))
}

fn get<T: Default>(gic: &DeviceFd, group: u32, attr: u64) -> Result<T> {
    let mut value = T::default();
    let mut request = attribute(group, attr, &raw mut value);
    // SAFETY: the kernel writes a value of the group's size to `value`; every caller asks for the
    // type that the group's description in the kernel's documentation names.
    unsafe { gic.get_device_attr(&mut request) }
        .with_context(|| format!("the GIC does not tell {group}/{attr:#x}"))?;
    Ok(value)
}

pub(super) fn create(vm: &VmFd) -> Result<DeviceFd> {
    let mut device = kvm_create_device {
        type_: kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V3,
        fd: 0,
        flags: 0,
    };
    let gic = vm.create_device(&mut device)?;
    for (kind, address) in [
        (KVM_VGIC_V3_ADDR_TYPE_DIST, GIC_DIST),
        (KVM_VGIC_V3_ADDR_TYPE_REDIST, GIC_REDIST),
    ] {
        set(&gic, KVM_DEV_ARM_VGIC_GRP_ADDR, u64::from(kind), address)?;
    }
    set(&gic, KVM_DEV_ARM_VGIC_GRP_NR_IRQS, 0, IRQS)?;
    Ok(gic)
}

/// To be called when all vCPUs are there.
pub(super) fn init(gic: &DeviceFd) -> Result<()> {
    let init = u64::from(KVM_DEV_ARM_VGIC_CTRL_INIT);
    let request = attribute(KVM_DEV_ARM_VGIC_GRP_CTRL, init, std::ptr::null::<u8>());
    Ok(gic.set_device_attr(&request)?)
}

fn offsets(runs: &[Run]) -> impl Iterator<Item = u64> + '_ {
    runs.iter()
        .flat_map(|(start, count)| (0..*count).map(move |n| start + n * 4))
}

/// The registers of the CPU interface that exist with this many priority bits.
fn icc_registers(ctlr: u64) -> Vec<u64> {
    let count = match (ctlr >> 8 & 7) + 1 {
        7.. => 4,
        6 => 2,
        _ => 1,
    };
    let active = |first| (0..count).map(move |n| first + n);
    ICC.into_iter()
        .chain(active(ICC_AP0))
        .chain(active(ICC_AP1))
        .collect()
}

pub(super) fn save(gic: &DeviceFd, vcpus: usize, writer: &mut Writer) -> Result<()> {
    let dist = offsets(&DIST)
        .map(|offset| get::<u32>(gic, KVM_DEV_ARM_VGIC_GRP_DIST_REGS, offset))
        .collect::<Result<Vec<_>>>()?;
    writer.put_list(Kind::GicDist, 0, &dist)?;
    // The lines of the shared interrupts 32 to 63.
    let level: u32 = get(gic, KVM_DEV_ARM_VGIC_GRP_LEVEL_INFO, 32)?;
    writer.put(Kind::GicLevel, 0, &level)?;
    for vcpu in 0..vcpus {
        let whose = affinity(vcpu);
        let redist = offsets(&REDIST)
            .map(|offset| get::<u32>(gic, KVM_DEV_ARM_VGIC_GRP_REDIST_REGS, whose | offset))
            .collect::<Result<Vec<_>>>()?;
        writer.put_list(Kind::GicRedist, vcpu, &redist)?;
        let ctlr = get(gic, KVM_DEV_ARM_VGIC_GRP_CPU_SYSREGS, whose | ICC_CTLR)?;
        let cpu = icc_registers(ctlr)
            .into_iter()
            .map(|register| get::<u64>(gic, KVM_DEV_ARM_VGIC_GRP_CPU_SYSREGS, whose | register))
            .collect::<Result<Vec<_>>>()?;
        writer.put_list(Kind::GicCpu, vcpu, &cpu)?;
        let level: u32 = get(gic, KVM_DEV_ARM_VGIC_GRP_LEVEL_INFO, whose)?;
        writer.put(Kind::GicLevel, 1 + vcpu, &level)?;
    }
    Ok(())
}

pub(super) fn restore(gic: &DeviceFd, vcpus: usize, state: &State) -> Result<()> {
    let dist: Vec<u32> = state.list(Kind::GicDist, 0)?;
    ensure!(
        dist.len() == offsets(&DIST).count(),
        "the distributor's state has another size"
    );
    for (offset, value) in offsets(&DIST).zip(dist) {
        set(gic, KVM_DEV_ARM_VGIC_GRP_DIST_REGS, offset, value)?;
    }
    for vcpu in 0..vcpus {
        let whose = affinity(vcpu);
        let redist: Vec<u32> = state.list(Kind::GicRedist, vcpu)?;
        ensure!(
            redist.len() == offsets(&REDIST).count(),
            "the redistributor's state has another size"
        );
        for (offset, value) in offsets(&REDIST).zip(redist) {
            set(gic, KVM_DEV_ARM_VGIC_GRP_REDIST_REGS, whose | offset, value)?;
        }
        let cpu: Vec<u64> = state.list(Kind::GicCpu, vcpu)?;
        let ctlr = *cpu
            .get(1)
            .context("the CPU interface's state is too short")?;
        let registers = icc_registers(ctlr);
        ensure!(
            cpu.len() == registers.len(),
            "the CPU interface's state has another size"
        );
        for (register, value) in registers.into_iter().zip(cpu) {
            set(
                gic,
                KVM_DEV_ARM_VGIC_GRP_CPU_SYSREGS,
                whose | register,
                value,
            )?;
        }
        let level: u32 = state.get(Kind::GicLevel, 1 + vcpu)?;
        set(gic, KVM_DEV_ARM_VGIC_GRP_LEVEL_INFO, whose, level)?;
    }
    let level: u32 = state.get(Kind::GicLevel, 0)?;
    set(gic, KVM_DEV_ARM_VGIC_GRP_LEVEL_INFO, 32, level)
}

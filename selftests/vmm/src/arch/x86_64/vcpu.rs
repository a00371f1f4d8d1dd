// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The state of a vCPU.

use anyhow::{
    bail,
    ensure,
    Context,
    Result, //
};
use kvm_bindings::{
    kvm_cpuid_entry2,
    kvm_debugregs,
    kvm_device_attr,
    kvm_lapic_state,
    kvm_mp_state,
    kvm_msr_entry,
    kvm_regs,
    kvm_sregs,
    kvm_vcpu_events,
    kvm_xcrs,
    kvm_xsave,
    CpuId,
    Msrs,
    KVMIO,
    KVM_MAX_CPUID_ENTRIES, //
};
use kvm_ioctls::{
    Kvm,
    VcpuFd, //
};
use vmm_sys_util::ioctl::ioctl_with_ref;
use vmm_sys_util::ioctl_iow_nr;
use zerocopy::{
    FromBytes,
    Immutable,
    IntoBytes,
    KnownLayout, //
};

use super::counter;
use crate::state::{
    Kind,
    State,
    Writer, //
};

const MSR_TSC: u32 = 0x10;
const MSR_TSC_DEADLINE: u32 = 0x6e0;
/// `KVM_VCPU_TSC_CTRL` and its `KVM_VCPU_TSC_OFFSET`.
const TSC_CTRL: u32 = 0;
const TSC_OFFSET: u64 = 0;

ioctl_iow_nr!(KVM_SET_DEVICE_ATTR, KVMIO, 0xe1, kvm_device_attr);
ioctl_iow_nr!(KVM_GET_DEVICE_ATTR, KVMIO, 0xe2, kvm_device_attr);

/// How the guest's TSC is derived from the host's.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Tsc {
    offset: u64,
    /// The guest's and the host's TSC when they were read.
    guest: u64,
    host: u64,
    khz: u64,
}

/// What all vCPUs' clocks are restored by.
///
/// There is one for all, or the guest would see as many clocks as CPUs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    /// The offset of the guest's TSC, if the host's does not go on from where it was.
    reset: Option<u64>,
    /// For tests: the guest's counter is set back.
    back: bool,
}

impl Clock {
    pub(crate) fn new(state: &State, back: bool) -> Result<Self> {
        let first: Tsc = state.get(Kind::Tsc, 0)?;
        let now = counter();
        Ok(Self {
            reset: (now < first.host).then(|| first.guest.wrapping_sub(now)),
            back,
        })
    }
}

/// Reads the offset of the guest's TSC; kvm-ioctls has attributes of vCPUs on arm64 only.
fn tsc_offset(vcpu: &VcpuFd) -> Result<u64> {
    let mut offset = 0u64;
    let attr = kvm_device_attr {
        group: TSC_CTRL,
        attr: TSC_OFFSET,
        addr: &raw mut offset as u64,
        flags: 0,
    };
    // SAFETY: the kernel writes 8 bytes to `addr`, which is `offset`, alive until behind the call.
    let result = unsafe { ioctl_with_ref(vcpu, KVM_GET_DEVICE_ATTR(), &attr) };
    ensure!(
        result == 0,
        "KVM does not tell the TSC's offset: {}",
        std::io::Error::last_os_error()
    );
    Ok(offset)
}

/// Reads all MSRs that KVM says must be saved and that this CPU has.
fn msrs(vcpu: &VcpuFd) -> Result<Vec<kvm_msr_entry>> {
    let list = Kvm::new()?.get_msr_index_list()?;
    let mut entries: Vec<kvm_msr_entry> = Vec::new();
    for &index in list.as_slice() {
        let entry = kvm_msr_entry {
            index,
            ..Default::default()
        };
        let mut one = Msrs::from_entries(&[entry])?;
        // The list is of what KVM knows; a CPU without the feature refuses the MSR.
        if vcpu.get_msrs(&mut one).is_ok_and(|count| count == 1) {
            entries.extend_from_slice(one.as_slice());
        }
    }
    // The deadline counts in the TSC, so it comes behind everything else.
    entries.sort_by_key(|entry| entry.index == MSR_TSC_DEADLINE);
    Ok(entries)
}

/// Saves a vCPU that is stopped.
pub(crate) fn save_vcpu(number: usize, vcpu: &VcpuFd, writer: &mut Writer) -> Result<()> {
    // First: asking for it has KVM act on an INIT or SIPI that waits.
    writer.put(Kind::MpState, number, &vcpu.get_mp_state()?)?;
    writer.put(Kind::VcpuEvents, number, &vcpu.get_vcpu_events()?)?;
    writer.put(Kind::Regs, number, &vcpu.get_regs()?)?;
    writer.put(Kind::Sregs, number, &vcpu.get_sregs()?)?;
    writer.put(Kind::Xcrs, number, &vcpu.get_xcrs()?)?;
    writer.put(Kind::Xsave, number, &vcpu.get_xsave()?)?;
    writer.put(Kind::DebugRegs, number, &vcpu.get_debug_regs()?)?;
    writer.put(Kind::Lapic, number, &vcpu.get_lapic()?)?;
    let cpuid = vcpu.get_cpuid2(KVM_MAX_CPUID_ENTRIES)?;
    writer.put_list(Kind::Cpuid, number, cpuid.as_slice())?;

    let mut msrs = msrs(vcpu)?;
    let guest = msrs.iter().find(|msr| msr.index == MSR_TSC);
    let tsc = Tsc {
        guest: guest.context("KVM does not tell the TSC")?.data,
        host: counter(),
        offset: tsc_offset(vcpu)?,
        khz: u64::from(vcpu.get_tsc_khz()?),
    };
    msrs.retain(|msr| msr.index != MSR_TSC);
    writer.put(Kind::Tsc, number, &tsc)?;
    writer.put_list(Kind::Msrs, number, &msrs)
}

/// Restores a vCPU.
pub(crate) fn restore_vcpu(
    number: usize,
    vcpu: &VcpuFd,
    state: &State,
    clock: Clock,
) -> Result<()> {
    let cpuid: Vec<kvm_cpuid_entry2> = state.list(Kind::Cpuid, number)?;
    vcpu.set_cpuid2(&CpuId::from_entries(&cpuid)?)
        .context("KVM does not offer the CPU that the guest runs on")?;
    vcpu.set_regs(&state.get::<kvm_regs>(Kind::Regs, number)?)
        .context("registers")?;
    vcpu.set_sregs(&state.get::<kvm_sregs>(Kind::Sregs, number)?)
        .context("system registers")?;
    vcpu.set_xcrs(&state.get::<kvm_xcrs>(Kind::Xcrs, number)?)
        .context("XCRs")?;
    let xsave: kvm_xsave = state.get(Kind::Xsave, number)?;
    // SAFETY: no feature that makes the area larger than this structure was enabled: that takes
    // arch_prctl(2), which this program does not call.
    unsafe { vcpu.set_xsave(&xsave) }.context("FPU")?;
    vcpu.set_debug_regs(&state.get::<kvm_debugregs>(Kind::DebugRegs, number)?)
        .context("debug registers")?;
    vcpu.set_lapic(&state.get::<kvm_lapic_state>(Kind::Lapic, number)?)
        .context("local APIC")?;
    restore_tsc(vcpu, state.get(Kind::Tsc, number)?, clock)?;
    restore_msrs(vcpu, &state.list(Kind::Msrs, number)?)?;
    vcpu.set_vcpu_events(&state.get::<kvm_vcpu_events>(Kind::VcpuEvents, number)?)
        .context("events")?;
    vcpu.set_mp_state(state.get::<kvm_mp_state>(Kind::MpState, number)?)
        .context("run state")?;
    // Tells the guest's watchdogs that it was stopped. A guest without the paravirtual clock has no
    // place to be told in.
    match vcpu.kvmclock_ctrl() {
        Err(error) if error.errno() != libc::EINVAL => Err(error).context("the pause"),
        _ => Ok(()),
    }
}

/// Sets the offset of the guest's TSC.
pub(super) fn set_tsc_offset(vcpu: &VcpuFd, offset: u64) -> Result<()> {
    let attr = kvm_device_attr {
        group: TSC_CTRL,
        attr: TSC_OFFSET,
        addr: &raw const offset as u64,
        flags: 0,
    };
    // SAFETY: the kernel reads 8 bytes from `addr`, which is `offset`, alive until behind the call.
    let result = unsafe { ioctl_with_ref(vcpu, KVM_SET_DEVICE_ATTR(), &attr) };
    ensure!(
        result == 0,
        "KVM does not take the TSC's offset: {}",
        std::io::Error::last_os_error()
    );
    Ok(())
}

/// Has the guest's TSC go on as if nothing had happened, or from where it was if the host's was reset.
fn restore_tsc(vcpu: &VcpuFd, saved: Tsc, clock: Clock) -> Result<()> {
    let Some(offset) = clock.reset else {
        // It is the same TSC at the same rate, whatever this kernel measures it to be.
        let offset = match clock.back {
            false => saved.offset,
            true => (saved.guest / 2).wrapping_sub(counter()),
        };
        return set_tsc_offset(vcpu, offset);
    };
    let khz = u64::from(vcpu.get_tsc_khz()?);
    // Two measurements of one clock differ a little; another clock needs a CPU that can scale it.
    if saved.khz.abs_diff(khz) > khz / 1000 {
        vcpu.set_tsc_khz(u32::try_from(saved.khz)?)
            .with_context(|| {
                format!(
                    "the TSC runs at {khz} kHz here, and the guest's at {}",
                    saved.khz
                )
            })?;
    }
    set_tsc_offset(vcpu, offset)
}

fn restore_msrs(vcpu: &VcpuFd, entries: &[kvm_msr_entry]) -> Result<()> {
    for entry in entries {
        let set = vcpu.set_msrs(&Msrs::from_entries(&[*entry])?)?;
        // What is not there and was 0 is as good as restored.
        if set != 1 && entry.data != 0 {
            bail!(
                "KVM does not take {:#x} for MSR {:#x}",
                entry.data,
                entry.index
            );
        }
    }
    Ok(())
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! x86_64: in-kernel APICs, PIC and PIT; memory from address 0.

mod boot;
mod mptable;
mod uart;
mod vcpu;
mod vm;

pub(crate) use boot::boot;
pub(crate) use uart::Uart;
pub(crate) use vcpu::{
    restore_vcpu,
    save_vcpu,
    Clock, //
};
pub(crate) use vm::{
    create_vcpus,
    create_vm,
    hz,
    restore_interrupts,
    restore_vm,
    save_vm,
    Vm, //
};

/// Where memory begins.
pub(crate) const RAM_BASE: u64 = 0;
/// More would reach into the addresses of the APICs.
pub(crate) const RAM_MAX: u64 = 3 << 30;
/// The port of the tiny guest's heartbeat, and the one where it reports an error.
pub(crate) const BEAT: u64 = 0x510;
pub(crate) const FAULT: u64 = 0x514;

/// Where a guest finds the registers of its network card.
pub(crate) const CARD: u64 = 0xd000_0000;

/// `KVM_HC_MAP_GPA_RANGE`: a guest converts memory. Of its flags, that it is to be private.
pub(crate) const MAP_GPA_RANGE: u64 = 12;
pub(crate) const MAP_PRIVATE: u64 = 1 << 4;

const SERIAL: std::ops::Range<u64> = 0x3f8..0x400;

/// Which register of the serial port is at `address`.
pub(crate) fn uart_offset(address: u64) -> Option<u64> {
    SERIAL.contains(&address).then(|| address - SERIAL.start)
}

/// Whether this write is the keyboard controller's reset.
pub(crate) fn is_reset(address: u64, data: &[u8]) -> bool {
    address == 0x64 && data.first() == Some(&0xfe)
}

/// The TSC, which kexec does not reset.
pub(crate) fn counter() -> u64 {
    // SAFETY: every x86_64 CPU has the instruction, and Linux lets user space use it.
    unsafe { std::arch::x86_64::_rdtsc() }
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! arm64: GICv3, generic timers and a PL011; memory from 1 GiB.

mod boot;
mod fdt;
mod gic;
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
pub(crate) const RAM_BASE: u64 = 1 << 30;
/// What a guest of this VMM can have.
pub(crate) const RAM_MAX: u64 = 8 << 30;
/// The register of the tiny guest's heartbeat, and the one where it reports an error.
pub(crate) const BEAT: u64 = 0x0901_0000;
pub(crate) const FAULT: u64 = 0x0901_0008;

/// Where a guest finds the registers of its network card.
pub(crate) const CARD: u64 = 0x1000_0000;

/// A guest converts memory: there are no VMs here that could.
pub(crate) const MAP_GPA_RANGE: u64 = u64::MAX;
pub(crate) const MAP_PRIVATE: u64 = 1 << 4;

const SERIAL: std::ops::Range<u64> = 0x0900_0000..0x0900_1000;
/// The serial port's interrupt, counted from the first shared one.
const SERIAL_SPI: u32 = 1;
const GIC_DIST: u64 = 0x0800_0000;
const GIC_DIST_SIZE: u64 = 0x1_0000;
const GIC_REDIST: u64 = 0x080a_0000;
/// Size for each vCPU.
const GIC_REDIST_SIZE: u64 = 0x2_0000;

/// Which register of the serial port is at `address`.
pub(crate) fn uart_offset(address: u64) -> Option<u64> {
    SERIAL.contains(&address).then(|| address - SERIAL.start)
}

/// A reset is asked for through PSCI here.
pub(crate) fn is_reset(_address: u64, _data: &[u8]) -> bool {
    false
}

/// The generic timer's counter, which kexec does not reset.
pub(crate) fn counter() -> u64 {
    let count;
    // SAFETY: reads a register, which Linux lets user space do.
    unsafe {
        std::arch::asm!("isb", "mrs {}, cntvct_el0", out(reg) count, options(nomem, nostack));
    }
    count
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The serial port: as much of a PL011 as a console needs, output only.

use std::io::Write;
use std::sync::Arc;

use anyhow::{
    Context,
    Result, //
};
use kvm_bindings::{
    KVM_ARM_IRQ_TYPE_SHIFT,
    KVM_ARM_IRQ_TYPE_SPI, //
};
use kvm_ioctls::VmFd;

use super::{
    Vm,
    SERIAL_SPI, //
};
use crate::devices::Console;
use crate::state::{
    Kind,
    State,
    Writer, //
};

const IRQ: u32 = KVM_ARM_IRQ_TYPE_SPI << KVM_ARM_IRQ_TYPE_SHIFT | (32 + SERIAL_SPI);
const DR: u64 = 0x00;
const FR: u64 = 0x18;
const IMSC: usize = 5;
const RIS: usize = 6;
/// Registers that keep what is written to them, and RIS.
const KEPT: [u64; 7] = [0x24, 0x28, 0x2c, 0x30, 0x34, 0x38, 0x3c];
const MIS: u64 = 0x40;
const ICR: u64 = 0x44;
/// Both queues are empty.
const EMPTY: u32 = 1 << 7 | 1 << 4;
const SENT: u32 = 1 << 5;
/// What the driver finds at the end of the register page.
const ID: [u8; 8] = [0x11, 0x10, 0x14, 0x00, 0x0d, 0xf0, 0x05, 0xb1];

/// The port.
#[derive(Debug)]
pub(crate) struct Uart<W: Write> {
    vm: Arc<VmFd>,
    kept: [u32; KEPT.len()],
    out: W,
}

impl Uart<Console> {
    pub(crate) fn new(vm: &Vm, console: Console) -> Result<Self> {
        Ok(Self {
            vm: vm.fd.clone(),
            kept: [0; KEPT.len()],
            out: console,
        })
    }

    pub(crate) fn restore(vm: &Vm, console: Console, state: &State) -> Result<Self> {
        let kept: [u32; KEPT.len()] = state
            .list(Kind::Serial, 0)?
            .try_into()
            .ok()
            .context("the serial port's state has another size")?;
        let uart = Self {
            vm: vm.fd.clone(),
            kept,
            out: console,
        };
        uart.interrupt();
        Ok(uart)
    }

    pub(crate) fn save(&self, writer: &mut Writer) -> Result<()> {
        writer.put_list(Kind::Serial, 0, &self.kept)
    }

    pub(crate) fn console(&self) -> &Console {
        &self.out
    }

    fn pending(&self) -> u32 {
        self.kept[IMSC] & self.kept[RIS]
    }

    fn interrupt(&self) {
        // It fails only for an interrupt that does not exist.
        let _ = self.vm.set_irq_line(IRQ, self.pending() != 0);
    }

    pub(crate) fn write(&mut self, offset: u64, data: &[u8]) {
        let value = data
            .iter()
            .take(4)
            .rev()
            .fold(0u32, |value, byte| value << 8 | u32::from(*byte));
        match offset {
            DR => {
                // An error is a lost byte of a console.
                let _ = self.out.write(&value.to_le_bytes()[..1]);
                self.kept[RIS] |= SENT;
            }
            ICR => self.kept[RIS] &= !value,
            _ => {
                let place = KEPT.iter().position(|register| *register == offset);
                if let Some(place @ ..RIS) = place {
                    self.kept[place] = value;
                    // The queue is empty as soon as somebody wants to know.
                    self.kept[RIS] |= SENT;
                }
            }
        }
        self.interrupt();
    }

    pub(crate) fn read(&mut self, offset: u64, data: &mut [u8]) {
        let value = match offset {
            FR => EMPTY,
            MIS => self.pending(),
            0xfe0.. => {
                let place = usize::try_from((offset - 0xfe0) / 4).unwrap_or(usize::MAX);
                u32::from(ID.get(place).copied().unwrap_or(0))
            }
            _ => KEPT
                .iter()
                .zip(self.kept)
                .find_map(|(register, value)| (*register == offset).then_some(value))
                .unwrap_or(0),
        };
        data.fill(0);
        for (to, from) in data.iter_mut().zip(value.to_le_bytes()) {
            *to = from;
        }
    }
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The serial port: a 16550 of vm-superio on interrupt 4.

use std::io;
use std::io::Write;

use anyhow::{
    anyhow,
    Context,
    Result, //
};
use vm_superio::serial::{
    NoEvents,
    SerialState, //
};
use vm_superio::{
    Serial,
    Trigger, //
};
use vmm_sys_util::eventfd::{
    EventFd,
    EFD_NONBLOCK, //
};

use super::Vm;
use crate::devices::Console;
use crate::state::{
    Kind,
    State,
    Writer, //
};

const GSI: u32 = 4;
const REGISTERS: usize = 9;

/// Interrupts the guest.
#[derive(Debug)]
pub(crate) struct Line(EventFd);

impl Trigger for Line {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.write(1)
    }
}

fn line(vm: &Vm) -> Result<Line> {
    let event = EventFd::new(EFD_NONBLOCK)?;
    vm.fd
        .register_irqfd(&event, GSI)
        .context("KVM does not take the serial port's interrupt")?;
    Ok(Line(event))
}

/// The port.
#[derive(Debug)]
pub(crate) struct Uart<W: Write>(Serial<Line, NoEvents, W>);

impl Uart<Console> {
    pub(crate) fn new(vm: &Vm, console: Console) -> Result<Self> {
        Ok(Self(Serial::new(line(vm)?, console)))
    }

    /// The port as it was. An interrupt that the guest has not seen yet is raised again, once too
    /// often at worst, which a driver of this device is used to.
    pub(crate) fn restore(vm: &Vm, console: Console, state: &State) -> Result<Self> {
        let bytes = state.bytes(Kind::Serial, 0)?;
        let (registers, input) = bytes
            .split_first_chunk::<REGISTERS>()
            .context("the serial port's state is too short")?;
        let [low, high, enable, identification, control, status, modem, modem_status, scratch] =
            *registers;
        let saved = SerialState {
            baud_divisor_low: low,
            baud_divisor_high: high,
            interrupt_enable: enable,
            interrupt_identification: identification,
            line_control: control,
            line_status: status,
            modem_control: modem,
            modem_status,
            scratch,
            in_buffer: input.to_vec(),
        };
        Serial::from_state(&saved, line(vm)?, NoEvents, console)
            .map(Self)
            .map_err(|error| anyhow!("the serial port's state is not valid: {error:?}"))
    }

    pub(crate) fn save(&self, writer: &mut Writer) -> Result<()> {
        let state = self.0.state();
        let mut bytes = vec![
            state.baud_divisor_low,
            state.baud_divisor_high,
            state.interrupt_enable,
            state.interrupt_identification,
            state.line_control,
            state.line_status,
            state.modem_control,
            state.modem_status,
            state.scratch,
        ];
        bytes.extend_from_slice(&state.in_buffer);
        writer.put(Kind::Serial, 0, bytes.as_slice())
    }

    pub(crate) fn console(&self) -> &Console {
        self.0.writer()
    }

    pub(crate) fn write(&mut self, offset: u64, data: &[u8]) {
        if let (Ok(offset), [value]) = (u8::try_from(offset), data) {
            // An error is a lost byte or interrupt of a console.
            let _ = self.0.write(offset, *value);
        }
    }

    pub(crate) fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if let (Ok(offset), [value]) = (u8::try_from(offset), data) {
            *value = self.0.read(offset);
        }
    }
}

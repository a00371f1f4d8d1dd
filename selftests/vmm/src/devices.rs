// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What the guest finds behind its I/O addresses: a serial port and the heartbeat register.

use std::io::{
    self,
    Write, //
};
use std::sync::{
    Arc,
    Mutex,
    MutexGuard,
    PoisonError, //
};

use crate::arch::{
    self,
    Uart,
    Vm, //
};
use crate::state::{
    Kind,
    State,
    Writer, //
};
use crate::tiny;
use crate::watch::Watch;
use anyhow::{
    bail,
    Result, //
};

/// A longer line is cut.
const LINE: usize = 1024;

/// The devices of one guest.
#[derive(Debug)]
pub(crate) struct Devices {
    uart: Mutex<Uart<Console>>,
    watch: Arc<Watch>,
}

impl Devices {
    /// New devices.
    pub(crate) fn new(vm: &Vm, name: &str, watch: &Arc<Watch>) -> Result<Self> {
        let console = Console::new(name, watch, Vec::new());
        Ok(Self {
            uart: Mutex::new(Uart::new(vm, console)?),
            watch: watch.clone(),
        })
    }

    /// The devices as they were saved.
    pub(crate) fn restore(vm: &Vm, name: &str, watch: &Arc<Watch>, state: &State) -> Result<Self> {
        let line = state.bytes(Kind::Line, 0)?;
        if line.len() > LINE {
            bail!("the saved line of the console is too long");
        }
        let console = Console::new(name, watch, line.to_vec());
        Ok(Self {
            uart: Mutex::new(Uart::restore(vm, console, state)?),
            watch: watch.clone(),
        })
    }

    fn uart(&self) -> MutexGuard<'_, Uart<Console>> {
        self.uart.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn save(&self, writer: &mut Writer) -> Result<()> {
        let uart = self.uart();
        writer.put(Kind::Line, 0, uart.console().line.as_slice())?;
        uart.save(writer)
    }

    /// The guest writes.
    pub(crate) fn write(&self, address: u64, data: &[u8]) -> Result<()> {
        let value = || {
            data.iter()
                .rev()
                .fold(0u64, |value, byte| value << 8 | u64::from(*byte))
        };
        match address {
            arch::BEAT => {
                self.watch.beat(value());
            }
            arch::FAULT => {
                self.watch.fault(tiny::fault(value()));
            }
            _ => {
                if let Some(offset) = arch::uart_offset(address) {
                    self.uart().write(offset, data);
                } else if arch::is_reset(address, data) {
                    bail!("the guest asked for a reset");
                }
            }
        }
        Ok(())
    }

    /// The guest reads. Where there is nothing, all bits are set.
    pub(crate) fn read(&self, address: u64, data: &mut [u8]) {
        match arch::uart_offset(address) {
            Some(offset) => self.uart().read(offset, data),
            None => data.fill(0xff),
        }
    }
}

/// What the guest writes to its serial port: shown line by line, and searched for the monitor's reports.
#[derive(Debug)]
pub(crate) struct Console {
    name: String,
    watch: Arc<Watch>,
    line: Vec<u8>,
}

impl Console {
    fn new(name: &str, watch: &Arc<Watch>, line: Vec<u8>) -> Self {
        Self {
            name: name.to_string(),
            watch: watch.clone(),
            line,
        }
    }

    fn complete(&mut self) {
        let line = String::from_utf8_lossy(&self.line).trim_end().to_string();
        self.line.clear();
        // Times in brackets would look like messages of the host's kernel to whoever reads along.
        println!("{}| {}", self.name, line.replacen("[ ", "( ", 1));
        if let Some((_, report)) = line.split_once("MON ") {
            let beat = report
                .split_whitespace()
                .find_map(|word| word.strip_prefix("beat=")?.parse().ok());
            self.watch.report(report);
            if report.contains("BAD") {
                self.watch.fault(format!("the monitor found: {report}"));
            }
            if let Some(beat) = beat {
                self.watch.beat(beat);
            }
        }
    }
}

impl Write for Console {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for &byte in bytes {
            if byte == b'\n' || self.line.len() >= LINE {
                self.complete();
            }
            if byte != b'\n' {
                self.line.push(byte);
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

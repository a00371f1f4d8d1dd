// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Takes a card out of a machine while its kernel is replaced, and may put another one there.
//!
//! QEMU asks the guest before it removes a card, and between two kernels nobody answers. What removes it at
//! once is that the slot's power is switched off, so that is done, with QEMU's socket for tests, as the guest
//! would do it: in the slot control register of the root port.

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use anyhow::{
    bail,
    Context,
    Result, //
};
use serde_json::{
    json,
    Map,
    Value, //
};

use crate::qmp::{
    Lines,
    Qmp, //
};

/// What the old kernel says when it has ended.
pub(crate) const JUMP: &str = "Starting new kernel";

/// The capability of PCI Express, and where its slot control register is.
const EXPRESS: u64 = 0x10;
const SLOT_CONTROL: u64 = 0x18;
/// Without power and light, and with both.
const OFF: u64 = 1 << 10 | 3 << 8;
const ON: u64 = 1 << 8;

/// Which slot, and what is to be there.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// QEMU's control socket.
    #[arg(long)]
    qmp: PathBuf,
    /// The socket of its option -qtest.
    #[arg(long)]
    qtest: PathBuf,
    /// The console, which tells that the old kernel has ended.
    #[arg(long)]
    log: PathBuf,
    /// Physical address of the root port's configuration space.
    #[arg(long, value_parser = hexadecimal)]
    port: u64,
    /// ID of the card.
    #[arg(long)]
    card: String,
    /// Properties of another one, such as driver=e1000e,bus=rp0.
    #[arg(long)]
    plug: Option<String>,
}

pub(crate) fn hexadecimal(text: &str) -> Result<u64, String> {
    let digits = text.strip_prefix("0x").ok_or("it begins with 0x")?;
    u64::from_str_radix(digits, 16).map_err(|error| error.to_string())
}

/// Configuration space of a root port, or of a card.
pub(crate) struct Port {
    pub(crate) lines: Lines,
    pub(crate) base: u64,
}

impl Port {
    pub(crate) fn command(&mut self, command: &str) -> Result<u64> {
        self.lines.send(command)?;
        let answer = self.lines.receive()?;
        let rest = answer
            .trim()
            .strip_prefix("OK")
            .with_context(|| format!("QEMU answered {command:?} with {answer:?}"))?;
        match rest.trim() {
            "" => Ok(0),
            value => hexadecimal(value).map_err(anyhow::Error::msg),
        }
    }

    fn byte(&mut self, offset: u64) -> Result<u64> {
        let address = self.base + offset;
        self.command(&format!("readb {address:#x}"))
    }

    /// Where its capability of PCI Express is.
    fn express(&mut self) -> Result<u64> {
        let mut at = self.byte(0x34)?;
        // There cannot be more of them.
        for _ in 0..48 {
            if self.byte(at)? == EXPRESS {
                return Ok(at);
            }
            at = self.byte(at + 1)?;
        }
        bail!("there is no root port at {:#x}", self.base)
    }

    fn control(&mut self, value: u64) -> Result<()> {
        let address = self.base + self.express()? + SLOT_CONTROL;
        self.command(&format!("writew {address:#x} {value:#x}"))?;
        Ok(())
    }
}

/// Waits for the old kernel's end, and does it before there is another one.
///
/// # Errors
///
/// If QEMU does not do it.
pub fn main(options: &Options) -> Result<()> {
    let mut qmp = Qmp::connect(&options.qmp)?;
    let mut port = Port {
        lines: Lines::connect(&options.qtest)?,
        base: options.port,
    };
    while !fs::read_to_string(&options.log)
        .unwrap_or_default()
        .contains(JUMP)
    {
        thread::sleep(Duration::from_millis(5));
    }
    qmp.execute("stop", json!({}))?;
    port.control(OFF)?;
    qmp.wait_deleted(&options.card)?;
    if let Some(plug) = &options.plug {
        port.control(ON)?;
        qmp.execute("device_add", properties(plug)?)?;
    }
    qmp.execute("cont", json!({}))?;
    Ok(())
}

fn properties(text: &str) -> Result<Value> {
    let mut map = Map::new();
    for word in text.split(',') {
        let (name, value) = word
            .split_once('=')
            .with_context(|| format!("{word:?} is no property"))?;
        map.insert(name.to_owned(), value.into());
    }
    Ok(map.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_are_what_qemu_takes() {
        assert_eq!(
            properties("driver=e1000e,bus=rp0").unwrap(),
            json!({"driver": "e1000e", "bus": "rp0"})
        );
        assert!(properties("e1000e").is_err());
    }
}

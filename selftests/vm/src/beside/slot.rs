// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Takes a card out of a machine while its kernel is replaced, and may put another one there.
//!
//! QEMU asks the guest before it removes a card, and between two kernels nobody answers. What removes it at
//! once is that the slot's power is switched off, so that is done, with QEMU's socket for tests, as the guest
//! would do it: in the slot control register of the root port.

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

use super::between::{
    configuration,
    function,
    Memory, //
};
use super::Machine;

/// The capability of PCI Express, and where its slot control register is.
const EXPRESS: u64 = 0x10;
const SLOT_CONTROL: u64 = 0x18;
/// Without power and light, and with both.
const OFF: u64 = 1 << 10 | 3 << 8;
const ON: u64 = 1 << 8;

/// Which slot, and what is to be there.
#[derive(Debug, clap::Args)]
pub struct Options {
    #[command(flatten)]
    machine: Machine,
    /// The root port on bus 0, as in its option addr.
    #[arg(long, value_parser = function)]
    port: u64,
    /// ID of the card.
    #[arg(long)]
    card: String,
    /// Properties of another one, such as driver=e1000e,bus=rp0.
    #[arg(long)]
    plug: Option<String>,
}

/// Configuration space of a root port.
struct Port {
    memory: Memory,
    base: u64,
}

impl Port {
    fn byte(&mut self, offset: u64) -> Result<u64> {
        let address = self.base + offset;
        self.memory.command(&format!("readb {address:#x}"))
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
        self.memory
            .command(&format!("writew {address:#x} {value:#x}"))?;
        Ok(())
    }
}

/// Waits for the old kernel's end, and does it before there is another one.
pub(super) fn main(options: &Options) -> Result<()> {
    let (mut qmp, memory) = options.machine.stop()?;
    let mut port = Port {
        base: configuration(&mut qmp)? + options.port,
        memory,
    };
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

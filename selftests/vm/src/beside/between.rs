// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The moment between two kernels, when the old one has ended and the next one has not begun.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{
    anyhow,
    bail,
    Context,
    Result, //
};
use serde_json::json;
use zerocopy::{
    FromBytes,
    Immutable,
    IntoBytes, //
};

use super::Machine;
use crate::qmp::{
    Lines,
    Qmp, //
};

/// What the old kernel says when it has ended.
const JUMP: &str = "Starting new kernel";
/// What the next one says first.
const BEGIN: &str = "Linux version";

impl Machine {
    /// Connects to its control socket, and to that of the option -qtest.
    pub(super) fn connect(&self) -> Result<(Qmp, Memory)> {
        let qmp = Qmp::connect(&self.qmp)?;
        Ok((qmp, Memory::connect(&self.work.join("qtest"))?))
    }

    /// Waits for the old kernel's last words.
    pub(super) fn wait(&self) {
        self.wait_until(|text| text.contains(JUMP));
    }

    /// Waits until its console satisfies.
    pub(super) fn wait_until(&self, said: impl Fn(&str) -> bool) {
        while !said(&fs::read_to_string(&self.log).unwrap_or_default()) {
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits for the old kernel's end, and stops the machine there.
    pub(super) fn stop(&self) -> Result<(Qmp, Memory)> {
        self.stop_after(|text| text.contains(JUMP))
    }

    /// Waits for the beginning of the next one, which has looked at nothing yet, and stops the machine there. After
    /// its last words the old one still tells IOMMUs what to go on with.
    pub(super) fn stop_next(&self) -> Result<(Qmp, Memory)> {
        self.stop_after(|text| {
            let next = text.split_once(JUMP);
            next.is_some_and(|(_, next)| next.contains(BEGIN))
        })
    }

    fn stop_after(&self, said: impl Fn(&str) -> bool) -> Result<(Qmp, Memory)> {
        let (mut qmp, memory) = self.connect()?;
        self.wait_until(said);
        qmp.execute("stop", json!({}))?;
        Ok((qmp, memory))
    }
}

/// Physical address at which the configuration space of all devices begins, bus 0 first.
pub(super) fn configuration(qmp: &mut Qmp) -> Result<u64> {
    let answer = qmp.execute("query-target", json!({}))?;
    match answer["arch"].as_str().unwrap_or_default() {
        // Where the firmware of q35 puts it.
        "x86_64" => Ok(0xb000_0000),
        // Where virt has it behind all memory.
        "aarch64" => Ok(0x40_1000_0000),
        other => bail!("where is the configuration space of {other:?}?"),
    }
}

/// Where in the configuration space of all devices that of one is, such as 10.0 on bus 0, or 2:10.0 on bus 2.
pub(super) fn function(text: &str) -> Result<u64, String> {
    let (bus, place) = text.split_once(':').unwrap_or(("0", text));
    let (device, function) = place.split_once('.').ok_or("it has a dot")?;
    let number = |digits, end| match u64::from_str_radix(digits, 16) {
        Ok(number) if number < end => Ok(number),
        _ => Err(format!("{digits:?} is no number, or too much")),
    };
    Ok(number(bus, 256)? << 20 | number(device, 32)? << 15 | number(function, 8)? << 12)
}

/// All that a machine has at physical addresses, through QEMU's socket for tests.
pub(super) struct Memory(Lines);

impl Memory {
    pub(super) fn connect(path: &Path) -> Result<Self> {
        Ok(Self(Lines::connect(path)?))
    }

    /// Has QEMU read or write something. What is written answers with 0.
    pub(super) fn command(&mut self, command: &str) -> Result<u64> {
        match self.ask(command)?.as_str() {
            "" => Ok(0),
            value => hexadecimal(value).map_err(anyhow::Error::msg),
        }
    }

    /// Has QEMU do something, and gives what it says besides that it is done.
    fn ask(&mut self, command: &str) -> Result<String> {
        self.0.send(command)?;
        let answer = self.0.receive()?;
        let rest = answer
            .trim()
            .strip_prefix("OK")
            .with_context(|| format!("QEMU answered {command:?} with {answer:?}"))?;
        Ok(rest.trim().to_owned())
    }

    /// Reads as many bytes as a `T` has.
    pub(super) fn read<T: FromBytes>(&mut self, phys: u64) -> Result<T> {
        let answer = self.ask(&format!("read {phys:#x} {:#x}", size_of::<T>()))?;
        let digits = answer.strip_prefix("0x").context("QEMU read nothing")?;
        let mut bytes = Vec::new();
        for pair in digits.as_bytes().chunks(2) {
            bytes.push(u8::from_str_radix(std::str::from_utf8(pair)?, 16)?);
        }
        T::read_from_bytes(&bytes).map_err(|_| anyhow!("QEMU read {} bytes", bytes.len()))
    }

    /// Writes the bytes of a value.
    pub(super) fn write<T: IntoBytes + Immutable>(&mut self, phys: u64, value: &T) -> Result<()> {
        let digits: String = value
            .as_bytes()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        self.ask(&format!("write {phys:#x} {:#x} 0x{digits}", size_of::<T>()))?;
        Ok(())
    }
}

pub(super) fn hexadecimal(text: &str) -> Result<u64, String> {
    let digits = text.strip_prefix("0x").ok_or("it begins with 0x")?;
    u64::from_str_radix(digits, 16).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_have_their_place() {
        assert_eq!(function("10.0"), Ok(0x80000));
        assert_eq!(function("1.7"), Ok(0xf000));
        assert_eq!(function("2:1.0"), Ok(0x208000));
        for wrong in ["10", "20.0", "1.8", "x.0", "100:1.0", ":1.0"] {
            assert!(function(wrong).is_err(), "{wrong}");
        }
    }
}

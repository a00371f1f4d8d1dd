// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What QEMU writes down of writes to configuration space (`-trace pci_cfg_write -D $LU_WORK/state/trace`).

use crate::expect::{
    is,
    Check, //
};
use anyhow::Result;
use std::{
    fs::{
        self,
        File, //
    },
    io::{
        self,
        Read, //
    }, //
};

/// Where it does.
const TRACE: &str = "/state/trace";

/// How much there is by now, to be given to [`check`].
///
/// # Errors
///
/// If there is no trace.
pub fn len() -> Result<u64> {
    Ok(fs::metadata(TRACE)?.len())
}

/// What there is by now. Reading it may add to it, so that there need not be an end.
fn text() -> io::Result<String> {
    let mut text = String::new();
    let file = File::open(TRACE)?;
    let len = file.metadata()?.len();
    file.take(len).read_to_string(&mut text)?;
    Ok(text)
}

/// Where a device has the registers that could stop it.
struct Capabilities {
    /// Control and status of power management.
    power: Option<u64>,
    /// Device control of PCI Express.
    control: Option<u64>,
}

impl Capabilities {
    /// Those of the device at an address without its domain.
    fn of(address: &str) -> Result<Self> {
        let config = fs::read(format!("/sys/bus/pci/devices/0000:{address}/config"))?;
        let byte = |at: u8| config.get(usize::from(at)).copied().unwrap_or(0);
        let mut this = Self {
            power: None,
            control: None,
        };
        let mut at = byte(0x34);
        // There cannot be more of them.
        for _ in 0..48 {
            match byte(at) {
                _ if at == 0 => break,
                1 => this.power = Some(u64::from(at) + 4),
                0x10 => this.control = Some(u64::from(at) + 8),
                _ => {}
            }
            at = byte(at.saturating_add(1));
        }
        Ok(this)
    }
}

/// One line of QEMU's trace: the device's address, where in it, and what was written.
fn write_of(line: &str) -> Option<(&str, u64, u64)> {
    let (_, rest) = line.split_once("pci_cfg_write ")?;
    let (_, rest) = rest.split_once(' ')?;
    let (device, rest) = rest.split_once(" @0x")?;
    let (offset, value) = rest.split_once(" <- 0x")?;
    Some((
        device,
        u64::from_str_radix(offset, 16).ok()?,
        u64::from_str_radix(value.trim(), 16).ok()?,
    ))
}

/// From `start` on, nothing was written that stops or moves the card or a bridge above it, whose addresses
/// make the path `sysfs`.
pub fn check(start: u64, sysfs: &str) -> Check {
    let text = text().map_err(|e| e.to_string())?;
    let text = text
        .get(start as usize..)
        .ok_or("the trace is shorter than it was")?;
    // QEMU leaves out the domain, of which there is one.
    let path: Vec<_> = sysfs
        .split('/')
        .filter_map(|name| name.strip_prefix("0000:"))
        .collect();
    let mut places = Vec::new();
    for address in &path {
        places.push(Capabilities::of(address).map_err(|e| format!("{e:#}"))?);
    }
    let mut seen = 0;
    for line in text.lines() {
        let Some((device, offset, value)) = write_of(line) else {
            continue;
        };
        let Some(place) = path.iter().position(|address| *address == device) else {
            continue;
        };
        let is_bridge = place + 1 < path.len();
        seen += 1;
        let stops = match offset {
            // Both bits stay: decoding, and being a bus master.
            4 => value & 6 != 6,
            // BARs.
            0x10..0x18 => true,
            // The number of a bridge's bus, and of those below, or more BARs.
            0x18..0x1b => true,
            0x1b..0x28 => !is_bridge,
            // A reset of what is below a bridge.
            0x3e => is_bridge && value & 1 << 6 != 0,
            // A state other than D0, or a reset of the function.
            at if Some(at) == places[place].power => value & 3 != 0,
            at if Some(at) == places[place].control => !is_bridge && value & 1 << 15 != 0,
            _ => false,
        };
        if stops {
            return Err(format!("\"{line}\" was written"));
        }
    }
    println!("# {seen} writes to the configuration of the card and the bridges above it");
    is(seen > 0, "the trace has no write to the card")
}

/// Whether translation was switched off from `start` on, and the device at an address was stopped before that.
///
/// # Errors
///
/// If there is no trace, or it cannot be read.
pub fn stopped_before_off(start: u64, address: &str) -> Result<bool> {
    let text = text()?;
    let address = address.trim_start_matches("0000:");
    Ok(is_stopped_before_off(
        text.get(start as usize..).unwrap_or(""),
        address,
    ))
}

fn is_stopped_before_off(text: &str, address: &str) -> bool {
    let mut stopped = false;
    for line in text.lines() {
        match write_of(line) {
            Some((device, 4, value)) if device == address => stopped = value & 4 == 0,
            _ if is_off(line) => return stopped,
            _ => {}
        }
    }
    false
}

/// Whether a line is of a command to the IOMMU with translation off.
fn is_off(line: &str) -> bool {
    line.contains("vtd_reg_write_gcmd ") && !has_bit(line, 31)
}

/// Whether a bit is set in what was written.
fn has_bit(line: &str, bit: u32) -> bool {
    number(line, " value ").is_some_and(|value| value & 1 << bit != 0)
}

/// How often an IOMMU was told to invalidate the TLB of a device (`-trace vtd_inv_desc`).
///
/// # Errors
///
/// If there is no trace, or it cannot be read.
pub fn tlbs_of_devices() -> Result<usize> {
    let text = text()?;
    Ok(text.matches("invalidate desc type device ").count())
}

/// The hexadecimal number that follows a name.
fn number(line: &str, name: &str) -> Option<u64> {
    let (_, rest) = line.split_once(name)?;
    let word = rest.split_whitespace().next()?.trim_end_matches(',');
    u64::from_str_radix(word.trim_start_matches("0x"), 16).ok()
}

/// What QEMU writes down of an IOMMU from `start` on (`-trace vtd_reg_write_gcmd -trace vtd_dmar_fault`, and for the
/// last two `-trace vtd_reg_ir_root -trace vtd_ir_remap_msi`).
#[derive(Debug, Default, Eq, PartialEq)]
pub struct Iommu {
    /// How often a command was given with translation on.
    pub on: usize,
    /// How often one was given with translation off.
    pub off: usize,
    /// How often one was given with interrupt remapping off.
    pub open: usize,
    /// The addresses that a device used, and that were not mapped for it.
    pub faults: Vec<u64>,
    /// How many entries the tables of interrupts have that it was given.
    pub interrupts: Vec<u64>,
    /// The addresses of the interrupts that it let through.
    pub delivered: Vec<u64>,
}

impl Iommu {
    /// What is there of the device with the requester ID `source`.
    ///
    /// # Errors
    ///
    /// If there is no trace, or it cannot be read.
    pub fn since(start: u64, source: u16) -> Result<Self> {
        let text = text()?;
        Ok(Self::of(text.get(start as usize..).unwrap_or(""), source))
    }

    fn of(text: &str, source: u16) -> Self {
        let mut this = Self::default();
        for line in text.lines() {
            if line.contains("vtd_reg_write_gcmd ") {
                match is_off(line) {
                    false => this.on += 1,
                    true => this.off += 1,
                }
                this.open += usize::from(!has_bit(line, 25));
            } else if line.contains("vtd_reg_ir_root ") {
                this.interrupts.extend(number(line, " size "));
            } else if line.contains("vtd_ir_remap_msi ") {
                this.delivered.extend(number(line, "(addr "));
            } else if line.contains("vtd_dmar_fault ")
                && number(line, " sid ") == Some(source.into())
            {
                this.faults.extend(number(line, " addr "));
            }
        }
        this
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_trace_is_read() {
        let line = "pci_cfg_write igb 01:00.0 @0x4 <- 0x107";
        assert_eq!(write_of(line), Some(("01:00.0", 4, 0x107)));
        assert_eq!(write_of("something else"), None);
    }

    #[test]
    fn commands_and_faults_are_counted() {
        let text = "vtd_reg_write_gcmd status 0x80000000 value 0xc0000000\n\
            vtd_reg_write_gcmd status 0x80000000 value 0x4000000\n\
            vtd_dmar_fault sid 0x100 fault 5 addr 0x12000 write 1\n\
            vtd_dmar_fault sid 0x8 fault 5 addr 0x13000 write 1\n\
            vtd_reg_ir_root addr 0x5000 size 0x100\n\
            vtd_ir_remap_msi (addr 0xfee00018, data 0x0) -> (addr 0xfee00000, data 0x4021)\n";
        let seen = Iommu::of(text, 0x100);
        assert_eq!((seen.on, seen.off, seen.faults), (1, 1, vec![0x12000]));
        assert_eq!(
            (seen.open, seen.interrupts, seen.delivered),
            (2, vec![0x100], vec![0xfee0_0018])
        );
        assert!(!is_stopped_before_off(text, "01:00.0"));
        let stop = "pci_cfg_write igb 01:00.0 @0x4 <- 0x103\n";
        assert!(is_stopped_before_off(&format!("{stop}{text}"), "01:00.0"));
        assert!(!is_stopped_before_off(&format!("{text}{stop}"), "01:00.0"));
    }
}

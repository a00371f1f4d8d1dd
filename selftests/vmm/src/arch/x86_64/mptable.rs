// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The table (Intel's MultiProcessor Specification 1.4) from which the guest learns of its CPUs.

use anyhow::{
    Context,
    Result, //
};
use vm_memory::{
    Bytes,
    GuestAddress,
    GuestMemoryMmap, //
};

/// In the last KiB of low memory, where the guest looks for it.
pub(super) const ADDRESS: u64 = 0x9_fc00;
const LAPIC: u32 = 0xfee0_0000;
const IOAPIC: u32 = 0xfec0_0000;
const POINTER: usize = 16;
const HEADER: usize = 44;
const VERSION: u8 = 4;

fn negated_sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0u8, |sum, byte| sum.wrapping_sub(*byte))
}

fn table(cpus: u8) -> Result<Vec<u8>> {
    let ioapic = cpus;
    let mut entries: Vec<u8> = Vec::new();
    let mut count = 0u16;
    let mut add = |bytes: &[u8]| {
        entries.extend_from_slice(bytes);
        count += 1;
    };
    for id in 0..cpus {
        // Enabled; the first one boots. Signature and features are not looked at.
        let flags = 1 | u8::from(id == 0) << 1;
        let mut cpu = [0; 20];
        for (to, from) in cpu.iter_mut().zip([0, id, 0x14, flags, 0, 6, 0, 0, 1, 2]) {
            *to = from;
        }
        add(&cpu);
    }
    add(b"\x01\x00ISA   ");
    let [a, b, c, d] = IOAPIC.to_le_bytes();
    add(&[2, ioapic, 0x11, 1, a, b, c, d]);
    for irq in 0..16 {
        // The timer comes in at pin 2, as on a PC.
        let pin = if irq == 0 { 2 } else { irq };
        if irq != 2 {
            add(&[3, 0, 0, 0, 0, irq, ioapic, pin]);
        }
    }
    // The PIC's and the NMI's pins at each local APIC.
    add(&[4, 3, 0, 0, 0, 0, 0, 0]);
    add(&[4, 1, 0, 0, 0, 0, 0xff, 1]);

    let mut header = Vec::with_capacity(HEADER);
    header.extend_from_slice(b"PCMP");
    header.extend_from_slice(&u16::try_from(HEADER + entries.len())?.to_le_bytes());
    header.extend_from_slice(&[VERSION, 0]);
    header.extend_from_slice(b"LUVMM   liveupdate  ");
    header.extend_from_slice(&[0; 6]);
    header.extend_from_slice(&count.to_le_bytes());
    header.extend_from_slice(&LAPIC.to_le_bytes());
    header.extend_from_slice(&[0; 4]);
    header.extend_from_slice(&entries);
    let sum = negated_sum(&header);
    *header.get_mut(7).context("the header has a checksum")? = sum;

    let mut all = Vec::with_capacity(POINTER + header.len());
    all.extend_from_slice(b"_MP_");
    all.extend_from_slice(&(u32::try_from(ADDRESS)? + POINTER as u32).to_le_bytes());
    all.extend_from_slice(&[1, VERSION, 0, 0, 0, 0, 0, 0]);
    let sum = negated_sum(&all);
    *all.get_mut(10).context("the pointer has a checksum")? = sum;
    all.extend_from_slice(&header);
    Ok(all)
}

/// Writes the table for `cpus` CPUs.
pub(super) fn write(memory: &GuestMemoryMmap, cpus: usize) -> Result<()> {
    let table = table(u8::try_from(cpus)?)?;
    Ok(memory.write_slice(&table, GuestAddress(ADDRESS))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_parts_sum_up_to_nothing() {
        let table = table(2).unwrap();
        assert_eq!(negated_sum(&table[..POINTER]), 0);
        assert_eq!(negated_sum(&table[POINTER..]), 0);
        assert_eq!(
            u16::from_le_bytes([table[POINTER + 4], table[POINTER + 5]]) as usize,
            table.len() - POINTER
        );
        assert!(ADDRESS as usize + table.len() <= 0xa_0000);
    }
}

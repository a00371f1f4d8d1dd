// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The first instructions: 64-bit mode, everything mapped where it is.

use std::fs::File;

use anyhow::{
    ensure,
    Context,
    Result, //
};
use kvm_bindings::{
    kvm_msr_entry,
    kvm_regs,
    kvm_segment,
    Msrs, //
};
use kvm_ioctls::VcpuFd;
use linux_loader::bootparam::{
    boot_e820_entry,
    boot_params, //
};
use linux_loader::loader::{
    BzImage,
    KernelLoader, //
};
use vm_memory::{
    Bytes,
    GuestAddress,
    GuestMemoryMmap, //
};

use super::mptable;
use crate::guest::Guest;
use crate::memory::Memory;
use crate::receiver;
use crate::tiny;

const GDT: u64 = 0x500;
const ZERO_PAGE: u64 = 0x7000;
const STACK: u64 = 0x8ff0;
const PML4: u64 = 0x9000;
const PDPT: u64 = 0xa000;
/// Four pages that map 4 GiB.
const PD: u64 = 0xb000;
const CMDLINE: u64 = 0x2_0000;
const HIGH: u64 = 0x10_0000;
/// The 64-bit entry of a kernel is this far behind its beginning.
const ENTRY_64: u64 = 0x200;
const RAM: u32 = 1;

const CODE: u64 = 0x00af_9b00_0000_ffff;
const DATA: u64 = 0x00cf_9300_0000_ffff;
const TSS: u64 = 0x008f_8b00_0000_ffff;

/// A segment register as the CPU would load it from its table.
fn segment(descriptor: u64, index: u16) -> kvm_segment {
    let bit = |n: u32| (descriptor >> n & 1) as u8;
    kvm_segment {
        base: 0,
        limit: 0xffff_ffff,
        selector: index * 8,
        type_: (descriptor >> 40 & 0xf) as u8,
        present: 1,
        dpl: 0,
        db: bit(54),
        s: bit(44),
        l: bit(53),
        g: bit(55),
        avl: 0,
        unusable: 0,
        padding: 0,
    }
}

fn tables(memory: &GuestMemoryMmap) -> Result<()> {
    const PRESENT_WRITABLE: u64 = 3;
    const LARGE: u64 = 1 << 7;
    for (number, descriptor) in [0, 0, CODE, DATA, TSS].into_iter().enumerate() {
        memory.write_obj(descriptor, GuestAddress(GDT + number as u64 * 8))?;
    }
    memory.write_obj(PDPT | PRESENT_WRITABLE, GuestAddress(PML4))?;
    for gib in 0..4u64 {
        let table = PD + gib * 0x1000;
        memory.write_obj(table | PRESENT_WRITABLE, GuestAddress(PDPT + gib * 8))?;
        for number in 0..512 {
            let page = gib << 30 | number << 21 | PRESENT_WRITABLE | LARGE;
            memory.write_obj(page, GuestAddress(table + number * 8))?;
        }
    }
    Ok(())
}

fn start_at(vcpu: &VcpuFd, regs: &kvm_regs) -> Result<()> {
    const PROTECTED: u64 = 1 | 1 << 1 | 1 << 4 | 1 << 31;
    const PAE_SSE: u64 = 1 << 5 | 1 << 9 | 1 << 10;
    const LONG: u64 = 1 << 8 | 1 << 10;
    let mut sregs = vcpu.get_sregs()?;
    sregs.gdt.base = GDT;
    sregs.gdt.limit = 5 * 8 - 1;
    sregs.cs = segment(CODE, 2);
    let data = segment(DATA, 3);
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    sregs.tr = segment(TSS, 4);
    sregs.cr0 = PROTECTED;
    sregs.cr3 = PML4;
    sregs.cr4 = PAE_SSE;
    sregs.efer = LONG;
    vcpu.set_sregs(&sregs)?;
    vcpu.set_regs(regs)?;
    // Fast string operations, which firmware switches on.
    let misc = kvm_msr_entry {
        index: 0x1a0,
        data: 1,
        ..Default::default()
    };
    vcpu.set_msrs(&Msrs::from_entries(&[misc])?)?;
    Ok(())
}

/// The registers of a guest of a few instructions.
fn small(entry: u64) -> kvm_regs {
    kvm_regs {
        rip: entry,
        rdi: tiny::ledger(),
        rsp: STACK,
        rflags: 2,
        ..Default::default()
    }
}

/// Prepares memory and the first vCPU; the others wait to be started by the guest.
pub(crate) fn boot(guest: &Guest, memory: &Memory, vcpus: &[VcpuFd]) -> Result<()> {
    let first = vcpus.first().context("a guest has a vCPU")?;
    tables(memory.map())?;
    let regs = match guest {
        Guest::Tiny { sparse } => small(tiny::load(memory, *sparse)?),
        Guest::Receiver => small(receiver::load(memory)?),
        Guest::Linux {
            kernel,
            initrd,
            cmdline,
        } => {
            mptable::write(memory.map(), vcpus.len())?;
            kvm_regs {
                rip: linux(memory, kernel, initrd, cmdline)?,
                rsi: ZERO_PAGE,
                rsp: STACK,
                rflags: 2,
                ..Default::default()
            }
        }
    };
    start_at(first, &regs)
}

/// Loads a kernel by its 64-bit boot protocol.
fn linux(memory: &Memory, kernel: &std::path::Path, initrd: &[u8], cmdline: &str) -> Result<u64> {
    let map = memory.map();
    let mut image = File::open(kernel).with_context(|| kernel.display().to_string())?;
    let loaded = BzImage::load(map, None, &mut image, Some(GuestAddress(HIGH)))
        .with_context(|| format!("{} is not a kernel that can be loaded", kernel.display()))?;
    let mut params = boot_params {
        hdr: loaded.setup_header.context("a bzImage has a header")?,
        ..Default::default()
    };

    let place = memory
        .end()
        .checked_sub(initrd.len() as u64)
        .map(|address| address & !0xfff)
        .filter(|address| *address > loaded.kernel_end)
        .context("the guest's memory is too small for its kernel and initrd")?;
    map.write_slice(initrd, GuestAddress(place))?;
    params.hdr.ramdisk_image = u32::try_from(place)?;
    params.hdr.ramdisk_size = u32::try_from(initrd.len())?;

    let line = format!("console=ttyS0 earlycon=uart8250,io,0x3f8 reboot=k panic=-1 pci=off 8250.nr_uarts=1 i8042.noaux i8042.nomux i8042.nopnp i8042.nokbd {cmdline}\0");
    let limit = params.hdr.cmdline_size as usize;
    ensure!(
        line.len() <= limit,
        "the command line is longer than {limit}"
    );
    map.write_slice(line.as_bytes(), GuestAddress(CMDLINE))?;
    params.hdr.cmd_line_ptr = u32::try_from(CMDLINE)?;
    params.hdr.type_of_loader = 0xff;

    let ranges = [(0, mptable::ADDRESS), (HIGH, memory.size() - HIGH)];
    for (entry, (addr, size)) in params.e820_table.iter_mut().zip(ranges) {
        *entry = boot_e820_entry {
            addr,
            size,
            r#type: RAM,
        };
    }
    params.e820_entries = ranges.len() as u8;
    map.write_obj(params, GuestAddress(ZERO_PAGE))?;
    Ok(loaded.kernel_load.0 + ENTRY_64)
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Damages what one kernel tells the next about a page table that a device goes on using, when there is none of them.
//!
//! The page table itself stays as it is. The old kernel has to have left KHO's root in the state directory, as `fdt`.

use anyhow::Result;
use kho::abi::{
    iommu::{
        AreaSer,
        IommuSer,
        TableSer,
        COMPATIBLE, //
    },
    running::TranslatingSer,
    vmalloc::KhoVmalloc, //
};
use serde_json::json;

use super::between::Memory;
use super::handed::Handed;
use super::Machine;

/// Where in what the IOMMU core of the kernel hands over are its own size, the address of the first IOMMU's table of
/// devices, the first device, and the address of the first page of all such tables.
const CORE_SIZE: u64 = 0;
const CORE_TABLE: u64 = 16;
const CORE_DEVICE: u64 = 8 + 64 * 24;
const CORE_PAGE: u64 = TranslatingSer::PAGES_AT as u64;

/// What is wrong. Where it is not the checksum, that fits.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Damage {
    /// Something that is no header.
    Magic,
    /// A header of a later version.
    Version,
    /// A bit of the header, so that its checksum does not fit.
    Header,
    /// More devices than there can be.
    Devices,
    /// A list of the page table's pages that is nowhere.
    List,
    /// A bit in the number of a page, so that the checksum of its record does not fit.
    Page,
    /// A page that is listed twice.
    Twice,
    /// A page that is not preserved.
    Nowhere,
    /// A bit of an area, so that its checksum does not fit.
    Area,
    /// An area that is longer than the address space.
    Long,
    /// What the IOMMU core hands over has another size.
    CoreSize,
    /// It tells another table of devices than the IOMMU uses.
    CoreTable,
    /// It does not list the device.
    CoreDevice,
    /// It takes its own memory, which is more than a page, for a page of such a table.
    CorePage,
}

/// What to damage, and where.
#[derive(Debug, clap::Args)]
pub struct Options {
    #[command(flatten)]
    machine: Machine,
    /// What is to be wrong.
    #[arg(value_enum)]
    damage: Damage,
}

/// Changes the header at an address. A checksum that is to fit is made anew.
fn change(memory: &mut Memory, phys: u64, fits: bool, f: impl FnOnce(&mut IommuSer)) -> Result<()> {
    let mut header: IommuSer = memory.read(phys)?;
    f(&mut header);
    if fits {
        header.checksum = header.sum();
    }
    memory.write(phys, &header)
}

/// Where the records of a list begin: its first page is the second word of a page that lists pages.
fn records(memory: &mut Memory, list: &KhoVmalloc) -> Result<u64> {
    memory.read(list.first + size_of::<u64>() as u64)
}

/// Changes the second page of a page table, of which the first is given, too.
fn change_page(
    memory: &mut Memory,
    header: &IommuSer,
    f: impl FnOnce(&TableSer, TableSer) -> TableSer,
) -> Result<()> {
    let first = records(memory, &header.tables)?;
    let second = first + size_of::<TableSer>() as u64;
    let (top, page) = (memory.read(first)?, memory.read(second)?);
    memory.write(second, &f(&top, page))
}

/// Changes the first area.
fn change_area(memory: &mut Memory, header: &IommuSer, f: impl FnOnce(&mut AreaSer)) -> Result<()> {
    let first = records(memory, &header.areas)?;
    let mut area: AreaSer = memory.read(first)?;
    f(&mut area);
    memory.write(first, &area)
}

fn damage(memory: &mut Memory, fdt: &[u8], damage: Damage) -> Result<()> {
    let mut handed = Handed::find(memory, fdt)?;
    let core = handed.shared(TranslatingSer::COMPATIBLE.to_bytes())?;
    let phys = handed.file(COMPATIBLE.to_bytes())?;
    let header: IommuSer = memory.read(phys)?;
    let too_many = IommuSer::MAX_DEVICES as u32 + 1;
    match damage {
        Damage::Magic => change(memory, phys, true, |raw| raw.magic ^= 1),
        Damage::Version => change(memory, phys, true, |raw| raw.version += 1),
        Damage::Header => change(memory, phys, false, |raw| raw.last ^= 1 << 20),
        Damage::Devices => change(memory, phys, true, |raw| raw.nr_devices = too_many),
        Damage::List => change(memory, phys, true, |raw| raw.tables.first = 1 << 45),
        Damage::Page => change_page(memory, &header, |_, page| TableSer {
            pfn: page.pfn ^ 1,
            ..page
        }),
        Damage::Twice => change_page(memory, &header, |top, _| *top),
        Damage::Nowhere => change_page(memory, &header, |_, _| TableSer::new(1)),
        Damage::Area => change_area(memory, &header, |area| area.iova ^= 1 << 12),
        Damage::Long => change_area(memory, &header, |area| {
            area.length = 1 << 63;
            area.checksum = area.sum();
        }),
        Damage::CoreSize => {
            let at = core + CORE_SIZE;
            let size: u32 = memory.read(at)?;
            memory.write(at, &(size + 8))
        }
        Damage::CoreTable => {
            let at = core + CORE_TABLE;
            let table: u64 = memory.read(at)?;
            memory.write(at, &(table ^ 1 << 12))
        }
        Damage::CoreDevice => memory.write(core + CORE_DEVICE, &0u64),
        Damage::CorePage => memory.write(core + CORE_PAGE, &core),
    }
}

/// Waits for the old kernel's end, and does it before the next one looks.
pub(super) fn main(options: &Options) -> Result<()> {
    let (mut qmp, mut memory) = options.machine.stop_next()?;
    let fdt = options.machine.root()?;
    damage(&mut memory, &fdt, options.damage)?;
    qmp.execute("cont", json!({}))?;
    Ok(())
}

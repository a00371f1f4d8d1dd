// SPDX-License-Identifier: GPL-2.0-only OR BSD-3-Clause

//! Files that stand for devices, and the state that they share.

use super::{
    File,
    Flb,
    Result,
    Walk, //
};
use crate::abi::{
    iommu::{
        self,
        AreaSer,
        DeviceSer,
        IommuSer,
        TableSer, //
    },
    luo::{
        self,
        FlbSer, //
    },
    running::{
        PciSer,
        TranslatingSer, //
    },
    vfio_pci::{
        self,
        ConfigSer,
        VfioPciSer, //
    },
    Error, //
};
use std::{
    format,
    string::String,
    vec::Vec, //
};
use zerocopy::FromBytes as _;

impl Walk<'_> {
    pub(super) fn vfio_pci(&mut self, phys: u64, file: &mut File) -> Result {
        let raw: VfioPciSer = self.read_value(phys)?;
        let header = vfio_pci::Header::parse(&raw, self.page)?;
        let identity = header.identity();
        file.says = Some(format!(
            "PCI device {} ({:04x}:{:04x})",
            address(identity.domain, identity.bdf),
            identity.vendor,
            identity.device
        ));
        let (pages, all) = self.array(header.config())?;
        file.list_pages += all;
        let nr = vfio_pci::Header::records(header.cfg_size());
        let mut offset = 0;
        self.records(&pages, nr.into(), |_, record: ConfigSer| {
            file.records += 1;
            record.parse(offset)?;
            // No overflow: a configuration space is small.
            offset += ConfigSer::BYTES as u32;
            Ok(())
        })
    }

    pub(super) fn iommu(&mut self, phys: u64, file: &mut File) -> Result {
        let raw: IommuSer = self.read_value(phys)?;
        let header = iommu::Header::parse(&raw, self.page)?;
        let device = |device: &DeviceSer| address(device.domain, device.bdf);
        let devices: Vec<String> = header.devices().iter().map(device).collect();
        file.says = Some(format!(
            "page table with {} for {}",
            match header.nr_areas() {
                1 => "1 area".into(),
                nr => format!("{nr} areas"),
            },
            match devices.as_slice() {
                [] => "no device".into(),
                devices => devices.join(", "),
            }
        ));
        let (pages, all) = self.array(header.tables())?;
        file.list_pages += all;
        self.records(&pages, header.nr_tables(), |walk, record: TableSer| {
            file.records += 1;
            if !record.is_intact() {
                return Err(Error::Checksum.into());
            }
            walk.claim_pfn(record.pfn, Some(0))?;
            file.pages += 1;
            Ok(())
        })?;
        let Some(areas) = header.areas() else {
            return Ok(());
        };
        let (pages, all) = self.array(areas)?;
        file.list_pages += all;
        let mut before = None;
        self.records(&pages, header.nr_areas().into(), |walk, record: AreaSer| {
            before = Some(record.parse(before, header.last(), walk.page)?);
            Ok(())
        })
    }

    /// Takes the pages of state that files share.
    pub(super) fn state(&mut self, raw: &FlbSer, flb: &mut Flb) -> Result {
        let name = luo::name(&raw.name);
        let known = [PciSer::COMPATIBLE, TranslatingSer::COMPATIBLE];
        if known.iter().all(|known| known.to_bytes() != name) {
            return Ok(());
        }
        if !self.page.is_aligned(raw.data) {
            return Err(Error::Pfn.into());
        }
        if name == PciSer::COMPATIBLE.to_bytes() {
            flb.pages = self.claim_bytes(raw.data, PciSer::SIZE)?;
            let pci: PciSer = self.read_value(raw.data)?;
            pci.check()?;
        } else {
            flb.pages = self.claim_bytes(raw.data, TranslatingSer::SIZE)?;
            let bytes = self.read_bytes(raw.data, TranslatingSer::SIZE)?;
            let (head, _) = TranslatingSer::read_from_prefix(&bytes).map_err(|_| Error::Size)?;
            let pages = bytes.get(TranslatingSer::PAGES_AT..).unwrap_or_default();
            let (pages, _) = pages.as_chunks();
            for phys in pages.iter().take(head.check()?) {
                self.claim(u64::from_le_bytes(*phys), Some(0))?;
                flb.pages += 1;
            }
        }
        Ok(())
    }
}

/// The address of a device, as everywhere.
fn address(domain: u32, bdf: u16) -> String {
    let [slot, bus] = bdf.to_le_bytes();
    format!("{domain:04x}:{bus:02x}:{:02x}.{}", slot >> 3, slot & 7)
}

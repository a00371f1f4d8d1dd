// SPDX-License-Identifier: GPL-2.0-only OR BSD-3-Clause

//! The files, in each format that is known: those of memory are here.

use super::{
    luo::place,
    text,
    File,
    Result,
    Walk, //
};
use crate::abi::{
    extents::{
        ExtentChecker,
        ExtentList,
        ExtentSer, //
    },
    guest_memfd::{
        self,
        policy::{
            PolicyChecker,
            PolicySer, //
        },
        GuestMemfdSer, //
    },
    hugetlb::{
        self,
        HugetlbSer, //
    },
    iommu,
    luo::{
        self,
        FileSer, //
    },
    memfd::{
        self,
        FolioChecker,
        FolioSer,
        MemfdSer, //
    },
    memfd_extents::{
        self,
        MemfdExtentsSer, //
    },
    vfio_pci,
    Error, //
};

/// The largest folio that any kernel could have in a file.
const MAX_ORDER: u32 = 31;

/// How the memory of a list of extents is preserved.
#[derive(Clone, Copy)]
enum Pieces {
    /// Each folio is a piece.
    Folios,
    /// A run is in pieces as large as its alignment allows.
    Runs,
}

impl Walk<'_> {
    /// Walks a file.
    pub(super) fn file(&mut self, session: &str, raw: &FileSer) -> File {
        let mut file = File {
            compatible: text(luo::name(&raw.compatible)),
            token: raw.token,
            header: None,
            bytes: None,
            records: 0,
            pages: 0,
            list_pages: 0,
            says: None,
            checksums: true,
        };
        if let Err(fault) = self.format(raw, &mut file) {
            self.complain(&place(session, raw.token), fault);
        }
        file
    }

    fn format(&mut self, raw: &FileSer, file: &mut File) -> Result {
        let name = luo::name(&raw.compatible);
        let read = [
            (
                memfd::COMPATIBLE,
                Self::memfd as fn(&mut Self, u64, &mut File) -> Result,
            ),
            (memfd_extents::COMPATIBLE, Self::memfd_extents),
            (hugetlb::COMPATIBLE, Self::hugetlb),
            (guest_memfd::COMPATIBLE, Self::guest_memfd),
            (vfio_pci::COMPATIBLE, Self::vfio_pci),
            (iommu::COMPATIBLE, Self::iommu),
        ];
        let Some((_, read)) = read.iter().find(|(known, _)| known.to_bytes() == name) else {
            // What the data means is the handler's secret.
            file.checksums = false;
            return Err(Error::Version.into());
        };
        file.header = Some(raw.data);
        self.claim(raw.data, Some(0))?;
        file.list_pages += 1;
        read(self, raw.data, file)
    }

    fn memfd(&mut self, phys: u64, file: &mut File) -> Result {
        file.checksums = false;
        let raw: MemfdSer = self.read_value(phys)?;
        file.bytes = Some(raw.size);
        let header = memfd::Header::parse(&raw, self.page)?;
        let Some(array) = header.folios() else {
            return Ok(());
        };
        let (pages, all) = self.array(array)?;
        file.list_pages += all;
        let mut checker = FolioChecker::new(&header, self.page, MAX_ORDER);
        self.records(&pages, header.nr_folios(), |walk, record: FolioSer| {
            file.records += 1;
            let folio = checker.check(&record, |pfn| walk.preserved.order_at(pfn))?;
            if let Some(folio) = folio {
                walk.claim_pfn(folio.pfn(), Some(folio.order()))?;
                file.pages += 1 << folio.order();
            }
            Ok(())
        })
    }

    fn memfd_extents(&mut self, phys: u64, file: &mut File) -> Result {
        let raw: MemfdExtentsSer = self.read_value(phys)?;
        file.bytes = Some(raw.size);
        let header = memfd_extents::Header::parse(&raw, self.page)?;
        self.extents(header.list(), Pieces::Runs, file)
    }

    fn hugetlb(&mut self, phys: u64, file: &mut File) -> Result {
        let raw: HugetlbSer = self.read_value(phys)?;
        file.bytes = Some(raw.size);
        let header = hugetlb::Header::parse(&raw, self.page)?;
        self.extents(header.list(), Pieces::Folios, file)
    }

    fn guest_memfd(&mut self, phys: u64, file: &mut File) -> Result {
        let raw: GuestMemfdSer = self.read_value(phys)?;
        file.bytes = Some(raw.size);
        let header = guest_memfd::Header::parse(&raw, self.page)?;
        self.extents(header.list(), Pieces::Folios, file)?;
        let list = header.policies()?;
        let Some(array) = list.list() else {
            return Ok(());
        };
        let (pages, all) = self.array(array)?;
        file.list_pages += all;
        let mut checker = PolicyChecker::new(list);
        self.records(&pages, list.nr().into(), |_, record: PolicySer| {
            checker.check(&record)?;
            Ok(())
        })?;
        Ok(checker.end()?)
    }

    fn extents(&mut self, list: &ExtentList, pieces: Pieces, file: &mut File) -> Result {
        let Some(array) = list.extents() else {
            return Ok(());
        };
        let (pages, all) = self.array(array)?;
        file.list_pages += all;
        let mut checker = ExtentChecker::new(list, self.page);
        let nr = list.nr_extents().into();
        self.records(&pages, nr, |walk, record: ExtentSer| {
            file.records += 1;
            let extent = checker.check(&record)?;
            match pieces {
                Pieces::Runs => {
                    walk.claim_run(extent.pfn(), extent.nr().into())?;
                    file.pages += u64::from(extent.nr());
                }
                Pieces::Folios => {
                    for (pfn, _) in extent.pages() {
                        walk.claim_pfn(pfn, Some(list.order()))?;
                        file.pages += 1 << list.order();
                    }
                }
            }
            Ok(())
        })?;
        Ok(checker.end()?)
    }
}

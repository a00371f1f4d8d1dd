// SPDX-License-Identifier: GPL-2.0-only OR BSD-3-Clause

//! A hand-over for tests: memory, and what is preserved of it.

use super::Memory;
use crate::abi::{
    extents::{
        Checksum,
        Class,
        ExtentSer, //
    },
    fdt::tests::tree,
    guest_memfd::{
        self,
        GuestMemfdSer, //
    },
    hugetlb::{
        self,
        HugetlbSer, //
    },
    iommu::{
        self,
        AreaSer,
        DeviceSer,
        IommuSer,
        TableSer, //
    },
    luo::{
        BlockSer,
        FileSer,
        FlbHeaderSer,
        FlbSer,
        LuoSer,
        SessionSer, //
    },
    memfd::{
        self,
        FolioSer,
        MemfdSer, //
    },
    memfd_extents::{
        self,
        MemfdExtentsSer, //
    },
    radix::Shape,
    running::{
        PciSer,
        TranslatingSer, //
    },
    vfio_pci::{
        self,
        ConfigSer,
        IdentitySer,
        VfioPciSer, //
    },
    vmalloc::KhoVmalloc,
    PageSize, //
};
use std::{
    collections::{
        BTreeMap,
        BTreeSet, //
    },
    ffi::CStr,
    io,
    vec,
    vec::Vec, //
};
use zerocopy::IntoBytes;

pub(super) const PAGE: PageSize = match PageSize::new(12) {
    Some(page) => page,
    None => panic!(),
};

/// The memory of a machine.
#[derive(Clone, Default)]
pub(super) struct Image {
    pub(super) pages: BTreeMap<u64, Vec<u8>>,
    pub(super) preserved: BTreeSet<(u64, u32)>,
    next: u64,
    shared: Vec<FlbSer>,
    pub(super) fdt: Vec<u8>,
}

impl Memory for Image {
    fn read(&mut self, phys: u64, bytes: &mut [u8]) -> io::Result<()> {
        let page = self
            .pages
            .get(&(phys >> 12))
            .ok_or(io::ErrorKind::NotFound)?;
        let at = (phys & 4095) as usize;
        let from = page
            .get(at..at + bytes.len())
            .ok_or(io::ErrorKind::InvalidInput)?;
        bytes.copy_from_slice(from);
        Ok(())
    }
}

impl Image {
    /// A page with these bytes, which is not preserved. Returns its page number.
    pub(super) fn page(&mut self, bytes: &[u8]) -> u64 {
        self.next += 1;
        let mut page = bytes.to_vec();
        page.resize(4096, 0);
        self.pages.insert(0x1000 + self.next, page);
        0x1000 + self.next
    }

    /// A preserved page. Returns its address.
    pub(super) fn keep(&mut self, bytes: &[u8]) -> u64 {
        let pfn = self.page(bytes);
        self.preserved.insert((pfn, 0));
        pfn << 12
    }

    fn array(&mut self, records: &[u8]) -> KhoVmalloc {
        if records.is_empty() {
            return KhoVmalloc::default();
        }
        let pages: Vec<u64> = records.chunks(4096).map(|part| self.keep(part)).collect();
        let mut chunk = vec![0];
        chunk.extend(&pages);
        KhoVmalloc {
            first: self.keep(chunk.as_bytes()),
            total_pages: pages.len() as u32,
            flags: KhoVmalloc::ALLOC,
            order: 0,
        }
    }

    /// A file of mainline's format with a page of its own at each of these page numbers.
    pub(super) fn memfd(&mut self, pfns: &[u64]) -> (&'static CStr, u64) {
        let records: Vec<FolioSer> = pfns
            .iter()
            .zip(0..)
            .map(|(pfn, index)| FolioSer::new(*pfn, FolioSer::FLAGS, index).unwrap())
            .collect();
        self.preserved.extend(pfns.iter().map(|pfn| (*pfn, 0)));
        let raw = MemfdSer {
            size: pfns.len() as u64 * 4096,
            nr_folios: pfns.len() as u64,
            folios: self.array(records.as_bytes()),
            ..Default::default()
        };
        (memfd::COMPATIBLE, self.keep(raw.as_bytes()))
    }

    fn list(&mut self, records: &[ExtentSer]) -> (KhoVmalloc, u64) {
        let mut sum = Checksum::new();
        records.iter().for_each(|record| sum.add_extent(record));
        (self.array(records.as_bytes()), sum.get())
    }

    /// A file of one run of eight pages, in pieces of 1, 2, 4 and 1 pages.
    pub(super) fn run(&mut self) -> (&'static CStr, u64) {
        let record = ExtentSer::run(Class::Shared, 0x8_0001, 0, 8);
        let pieces = [(0x8_0001, 0), (0x8_0002, 1), (0x8_0004, 2), (0x8_0008, 0)];
        self.preserved.extend(pieces);
        let (extents, extents_checksum) = self.list(&[record]);
        let mut raw = MemfdExtentsSer {
            size: 8 * 4096,
            nr_pages: 8,
            extents_checksum,
            nr_extents: 1,
            page_shift: 12,
            extents,
            ..Default::default()
        };
        raw.checksum = raw.sum();
        (memfd_extents::COMPATIBLE, self.keep(raw.as_bytes()))
    }

    /// A file of three huge pages in two records.
    pub(super) fn huge(&mut self) -> (&'static CStr, u64) {
        let records = [
            ExtentSer::run(Class::Shared, 0x4_0000, 0, 2),
            ExtentSer::run(Class::Shared, 0x5_0000, 3, 1),
        ];
        self.preserved
            .extend([(0x4_0000, 9), (0x4_0200, 9), (0x5_0000, 9)]);
        let (extents, extents_checksum) = self.list(&records);
        let mut raw = HugetlbSer {
            size: 8 << 20,
            nr_pages: 3,
            extents_checksum,
            nr_extents: 2,
            order: 9,
            page_shift: 12,
            extents,
            ..Default::default()
        };
        raw.checksum = raw.sum();
        (hugetlb::COMPATIBLE, self.keep(raw.as_bytes()))
    }

    /// A file of guest memory in one run of three pages.
    pub(super) fn guest(&mut self) -> (&'static CStr, u64) {
        let record = ExtentSer::run(Class::Shared, 0x9_0001, 1, 3);
        self.preserved
            .extend((0x9_0001..0x9_0004).map(|pfn| (pfn, 0)));
        let (extents, extents_checksum) = self.list(&[record]);
        let mut raw = GuestMemfdSer {
            magic: GuestMemfdSer::MAGIC,
            version: GuestMemfdSer::VERSION,
            len: GuestMemfdSer::LEN,
            size: 16 * 4096,
            nr_pages: 3,
            extents_checksum,
            flags: GuestMemfdSer::INIT_SHARED,
            nr_extents: 1,
            page_shift: 12,
            extents,
            ..Default::default()
        };
        raw.checksum = raw.sum();
        (guest_memfd::COMPATIBLE, self.keep(raw.as_bytes()))
    }

    /// The file of a card.
    pub(super) fn card(&mut self) -> (&'static CStr, u64) {
        let piece = |offset| ConfigSer::new(offset, &[1; 64], &[2; 64]);
        let pieces: Vec<ConfigSer> = (0..256).step_by(64).map(piece).collect();
        let mut raw = VfioPciSer {
            magic: VfioPciSer::MAGIC,
            version: VfioPciSer::VERSION,
            len: VfioPciSer::LEN,
            identity: IdentitySer {
                vendor: 0x8086,
                device: 0x10c9,
                bdf: 0x0108,
                ..Default::default()
            },
            cfg_size: 256,
            config: self.array(pieces.as_bytes()),
            ..Default::default()
        };
        raw.checksum = raw.sum();
        (vfio_pci::COMPATIBLE, self.keep(raw.as_bytes()))
    }

    /// A page table of three pages with one area.
    pub(super) fn page_table(&mut self) -> (&'static CStr, u64) {
        let tables: Vec<TableSer> = (0..3)
            .map(|_| TableSer::new(self.keep(&[]) >> 12))
            .collect();
        let mut area = AreaSer {
            iova: 0x10_0000,
            length: 0x20_0000,
            flags: AreaSer::READ,
            ..Default::default()
        };
        area.set_token(Some(0));
        let mut raw = IommuSer {
            magic: IommuSer::MAGIC,
            version: IommuSer::VERSION,
            len: IommuSer::LEN,
            format: IommuSer::VTD_SECOND_STAGE,
            levels: 3,
            nr_areas: 1,
            nr_tables: 3,
            last: (1 << 39) - 1,
            tables: self.array(tables.as_bytes()),
            areas: self.array(area.as_bytes()),
            nr_devices: 1,
            ..Default::default()
        };
        raw.devices[0] = DeviceSer {
            bdf: 0x0108,
            ..Default::default()
        };
        raw.checksum = raw.sum();
        (iommu::COMPATIBLE, self.keep(raw.as_bytes()))
    }

    /// State that one file needs, in so many pages, with these bytes in the first one and these in the second.
    fn state(&mut self, name: &CStr, order: u32, first: &[u8], second: &[u8]) {
        let nr = 1 << order;
        let pfn = 0xa_0000 + 16 * self.shared.len() as u64;
        for page in 0..nr {
            let mut bytes = [first, second]
                .get(page as usize)
                .copied()
                .unwrap_or_default()
                .to_vec();
            bytes.resize(4096, 0);
            self.pages.insert(pfn + page, bytes);
        }
        self.preserved.insert((pfn, order));
        let mut state = FlbSer {
            name: [0; 48],
            data: pfn << 12,
            count: 1,
        };
        state.name[..name.count_bytes()].copy_from_slice(name.to_bytes());
        self.shared.push(state);
    }

    /// What the kernel shares among files of cards.
    pub(super) fn running(&mut self) {
        let pci = PciSer {
            entry_size: 48,
            nr: PciSer::NR,
        };
        self.state(PciSer::COMPATIBLE, 3, pci.as_bytes(), &[]);
        let iommu = TranslatingSer {
            size: 16384,
            nr_pages: 2,
        };
        let pages = [self.keep(&[]), self.keep(&[])];
        let mut second = vec![0; TranslatingSer::PAGES_AT - 4096];
        second.extend(pages.as_bytes());
        self.state(TranslatingSer::COMPATIBLE, 2, iommu.as_bytes(), &second);
    }

    /// Blocks of at most this many entries.
    fn blocks<T: IntoBytes + zerocopy::Immutable>(&mut self, entries: &[T], room: usize) -> u64 {
        let mut next = 0;
        for part in entries.chunks(room).rev() {
            let header = BlockSer {
                next,
                count: part.len() as u64,
            };
            next = self.keep(&[header.as_bytes(), part.as_bytes()].concat());
        }
        next
    }

    /// Hands over one session for each of these lists of files.
    pub(super) fn sessions(&mut self, sessions: &[&[(&CStr, u64)]]) {
        let sessions: Vec<SessionSer> = sessions
            .iter()
            .zip(b'a'..)
            .map(|(files, letter)| {
                let files: Vec<FileSer> = files
                    .iter()
                    .zip(0..)
                    .map(|((name, data), token)| {
                        let mut compatible = [0; 48];
                        compatible[..name.count_bytes()].copy_from_slice(name.to_bytes());
                        FileSer {
                            compatible,
                            data: *data,
                            token,
                        }
                    })
                    .collect();
                let mut name = [0; 64];
                name[..4].copy_from_slice(&[b'v', b'm', b'-', letter]);
                SessionSer {
                    name,
                    files: self.blocks(&files, 2),
                    count: files.len() as u64,
                }
            })
            .collect();
        let flbs = FlbHeaderSer {
            pages: 1,
            count: self.shared.len() as u64,
        };
        let flbs = [flbs.as_bytes(), self.shared.as_bytes()].concat();
        let luo = LuoSer {
            compatible: *b"luo-v5\0\0",
            liveupdate_num: 7,
            sessions: self.blocks(&sessions, 51),
            flbs: self.keep(&flbs),
        };
        let luo = self.keep(luo.as_bytes());
        self.root(luo);
    }

    /// Writes the tree and the root.
    pub(super) fn root(&mut self, luo: u64) {
        let fdt = |map: u64| {
            tree(&[
                ("", None),
                ("compatible", Some(b"kho-v4\0")),
                ("preserved-memory-map", Some(map.as_bytes())),
                ("LUO", None),
                ("preserved-data", Some(luo.as_bytes())),
                ("blob-size", Some(32u64.as_bytes())),
                ("end", None),
                ("end", None),
            ])
        };
        let root = self.keep(&[]) >> 12;
        let map = self.tree();
        self.fdt = fdt(map);
        let mut page = self.fdt.clone();
        page.resize(4096, 0);
        self.pages.insert(root, page);
    }

    fn tree(&mut self) -> u64 {
        let shape = Shape::new(PAGE);
        let set = |pages: &mut BTreeMap<u64, Vec<u8>>, page: u64, at: u64, word: u64| {
            let at = at as usize * 8;
            let bytes = &mut pages.get_mut(&page).unwrap()[at..at + 8];
            let old = u64::from_le_bytes(bytes.try_into().unwrap());
            bytes.copy_from_slice(&(old | word).to_le_bytes());
        };
        let get = |pages: &BTreeMap<u64, Vec<u8>>, page: u64, at: u64| {
            let at = at as usize * 8;
            u64::from_le_bytes(pages[&page][at..at + 8].try_into().unwrap())
        };
        let root = self.page(&[]);
        for (pfn, order) in self.preserved.clone() {
            let key = shape.key(pfn, order).unwrap();
            let mut node = root;
            for level in (0..shape.levels()).rev() {
                let index = key >> (15 + level * 9) & 511;
                let mut below = get(&self.pages, node, index);
                if below == 0 {
                    below = self.page(&[]) << 12;
                    set(&mut self.pages, node, index, below);
                }
                node = below >> 12;
            }
            set(&mut self.pages, node, key % 0x8000 / 64, 1 << (key % 64));
        }
        root << 12
    }

    /// One of everything.
    pub(super) fn full() -> Self {
        let mut image = Self::default();
        let memfd = image.memfd(&[0x7_0005, 0x7_0001, 0x7_0009]);
        let (run, huge, guest) = (image.run(), image.huge(), image.guest());
        let empty = image.memfd(&[]);
        let (card, table) = (image.card(), image.page_table());
        image.running();
        image.sessions(&[&[memfd, run, huge], &[guest], &[empty], &[card, table], &[]]);
        image
    }
}

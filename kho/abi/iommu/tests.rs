// SPDX-License-Identifier: GPL-2.0-only OR BSD-3-Clause

use super::*;
use zerocopy::IntoBytes as _;

const PAGE: PageSize = match PageSize::new(12) {
    Some(page) => page,
    None => panic!(),
};

fn array(pages: u32) -> KhoVmalloc {
    KhoVmalloc {
        first: 0x1234_5000,
        total_pages: pages,
        flags: KhoVmalloc::ALLOC,
        order: 0,
    }
}

fn good() -> IommuSer {
    let mut raw = IommuSer {
        magic: IommuSer::MAGIC,
        version: IommuSer::VERSION,
        len: IommuSer::LEN,
        format: IommuSer::VTD_SECOND_STAGE,
        levels: 4,
        nr_areas: 2,
        nr_tables: 300,
        last: (1 << 48) - 1,
        tables: array(2),
        areas: array(1),
        nr_devices: 1,
        ..Default::default()
    };
    raw.devices[0].bdf = 0x0100;
    sealed(raw)
}

fn sealed(mut raw: IommuSer) -> IommuSer {
    raw.checksum = raw.sum();
    raw
}

/// Parses the good header with one thing changed, and a checksum that fits.
fn parse(change: impl FnOnce(&mut IommuSer)) -> Result<Header> {
    let mut raw = good();
    change(&mut raw);
    Header::parse(&sealed(raw), PAGE)
}

#[test]
fn a_good_header_is_read() {
    let header = parse(|_| ()).unwrap();
    assert_eq!((header.levels(), header.nr_areas()), (4, 2));
    assert_eq!(header.nr_tables(), 300);
    assert_eq!(header.devices().len(), 1);
    assert_eq!(header.devices()[0].bdf, 0x0100);
    assert!(parse(|raw| {
        raw.nr_areas = 0;
        raw.areas = KhoVmalloc::default();
    })
    .is_ok());
}

#[test]
fn the_layout_is_fixed() {
    let raw = good();
    let bytes = raw.as_bytes();
    assert_eq!(bytes[8..24], *b"LUIO\x01\0\x50\x01\x01\0\x04\0\x02\0\0\0");
    assert_eq!(bytes[72..88], *b"\x01\0\0\0\0\0\0\0\0\0\0\0\0\x01\0\0");
}

#[test]
fn a_header_that_is_not_understood_is_refused() {
    let mut raw = good();
    raw.last ^= 1;
    assert_eq!(Header::parse(&raw, PAGE), Err(Error::Checksum));
    assert_eq!(parse(|raw| raw.magic ^= 1), Err(Error::Version));
    assert_eq!(parse(|raw| raw.version = 2), Err(Error::Version));
    assert_eq!(parse(|raw| raw.len += 8), Err(Error::Version));
    assert_eq!(parse(|raw| raw.format = 2), Err(Error::UnknownFlags));
    assert_eq!(parse(|raw| raw.reserved = 1), Err(Error::UnknownFlags));
    assert_eq!(parse(|raw| raw.levels = 2), Err(Error::PageSize));
    assert_eq!(parse(|raw| raw.levels = 6), Err(Error::PageSize));
    assert_eq!(parse(|raw| raw.last = 1 << 48), Err(Error::Size));
    assert_eq!(parse(|raw| raw.nr_devices = 33), Err(Error::Count));
    assert_eq!(parse(|raw| raw.nr_devices = 0), Err(Error::UnknownFlags));
    assert_eq!(
        parse(|raw| raw.devices[0].reserved = 1),
        Err(Error::UnknownFlags)
    );
    assert_eq!(parse(|raw| raw.nr_areas = u32::MAX), Err(Error::Count));
    assert_eq!(parse(|raw| raw.nr_tables = 0), Err(Error::Array));
    assert_eq!(parse(|raw| raw.nr_tables = u64::MAX), Err(Error::Count));
    assert_eq!(parse(|raw| raw.tables.total_pages = 1), Err(Error::Array));
    let page = PageSize::new(16).unwrap();
    assert_eq!(Header::parse(&good(), page), Err(Error::PageSize));
}

fn area(change: impl FnOnce(&mut AreaSer)) -> Result<u64> {
    let mut raw = AreaSer {
        iova: 0x10_0000,
        length: 0x2000,
        offset: 0x3000,
        token: 7,
        flags: AreaSer::FLAGS,
        ..Default::default()
    };
    change(&mut raw);
    raw.checksum = raw.sum();
    raw.parse(Some(0xf_ffff), 0x10_1fff, PAGE)
}

#[test]
fn areas_are_in_order_and_inside() {
    assert_eq!(area(|_| ()), Ok(0x10_1fff));
    assert_eq!(area(|raw| raw.iova = 0xf_f000), Err(Error::IndexOverlap));
    assert_eq!(area(|raw| raw.length = 0x3000), Err(Error::Size));
    assert_eq!(area(|raw| raw.length = 0), Err(Error::Size));
    assert_eq!(area(|raw| raw.iova = !0xfff), Err(Error::Size));
    assert_eq!(area(|raw| raw.iova += 1), Err(Error::Size));
    assert_eq!(area(|raw| raw.offset = !0xfff), Err(Error::Size));
    assert_eq!(area(|raw| raw.flags = 8), Err(Error::UnknownFlags));
    assert_eq!(area(|raw| raw.flags = 1), Err(Error::UnknownFlags));
    assert_eq!(area(|raw| raw.unused[1] = 1), Err(Error::UnknownFlags));
    assert_eq!(
        AreaSer::default().parse(None, 1, PAGE),
        Err(Error::Checksum)
    );
}

#[test]
fn addresses_are_looked_up() {
    assert_eq!(Lookup::last(4), (1 << 48) - 1);
    assert_eq!(Lookup::last(u16::MAX), u64::MAX);

    let iova = 5 << 39 | 6 << 30 | 7 << 21 | 8 << 12 | 9;
    let mut lookup = Lookup::new(iova, 4);
    for (index, next) in [(5, 0x1000), (6, 0x2000), (7, 0x3000)] {
        assert_eq!(lookup.index(), index);
        assert_eq!(lookup.step(next | 3), Entry::Table(next));
    }
    assert_eq!(lookup.index(), 8);
    assert_eq!(lookup.step(0x4000), Entry::Empty);
    let leaf = |phys, left, write| Entry::Leaf {
        phys,
        left,
        read: true,
        write,
    };
    assert_eq!(lookup.step(0x4003), leaf(0x4009, 0xff7, true));
    assert_eq!(lookup.step(1 << 63 | 0x4001), leaf(0x4009, 0xff7, false));

    // A large page.
    let mut lookup = Lookup::new(iova, 3);
    assert_eq!(lookup.step(0x1003), Entry::Table(0x1000));
    let left = (1 << 21) - (8 << 12 | 9);
    assert_eq!(
        lookup.step(0x40_0083),
        leaf(0x40_0000 | 8 << 12 | 9, left, true)
    );
}

#[test]
fn a_changed_page_is_noticed() {
    let mut table = TableSer::new(0x1234);
    assert!(table.is_intact());
    table.pfn ^= 1;
    assert!(!table.is_intact());
}

// SPDX-License-Identifier: GPL-2.0-only OR BSD-3-Clause

use super::{
    super::extents::{
        ExtentChecker,
        ExtentSer, //
    },
    *,
};
use std::vec::Vec;
use zerocopy::{
    FromBytes as _,
    IntoBytes as _, //
};

const PAGE: PageSize = match PageSize::new(12) {
    Some(page) => page,
    None => panic!(),
};

/// A long run, a hole, and a page that the file ends within.
const EXTENTS: [ExtentSer; 2] = [
    ExtentSer::run(Class::Shared, 0x4_0001, 0, 1000),
    ExtentSer::run(Class::Shared, 0x2345, 1003, 1),
];

const PAGES: u64 = 1004;

fn good() -> MemfdExtentsSer {
    sealed(MemfdExtentsSer {
        pos: 5,
        size: (PAGES << 12) - 1,
        nr_pages: 1001,
        extents_checksum: Checksum::of_extents(&EXTENTS),
        seals: 0x22,
        flags: MemfdExtentsSer::NOEXEC,
        nr_extents: 2,
        page_shift: 12,
        extents: KhoVmalloc {
            first: 0x1234_5000,
            total_pages: 1,
            flags: KhoVmalloc::ALLOC,
            order: 0,
        },
        ..Default::default()
    })
}

fn sealed(mut raw: MemfdExtentsSer) -> MemfdExtentsSer {
    raw.checksum = raw.sum();
    raw
}

/// Parses the good header with one thing changed, and a checksum that fits.
fn parse(change: impl FnOnce(&mut MemfdExtentsSer)) -> Result<Header> {
    let mut raw = good();
    change(&mut raw);
    Header::parse(&sealed(raw), PAGE)
}

fn check(extents: &[ExtentSer]) -> Result<Vec<(u64, u32, u32)>> {
    let header = parse(|raw| raw.extents_checksum = Checksum::of_extents(extents)).unwrap();
    let mut checker = ExtentChecker::new(header.list(), PAGE);
    let mut runs = Vec::new();
    for extent in extents {
        let extent = checker.check(extent)?;
        runs.push((extent.pfn(), extent.index(), extent.nr()));
    }
    checker.end().map(|()| runs)
}

#[test]
fn header_bytes_do_not_change() {
    let raw = MemfdExtentsSer {
        checksum: 0x0807_0605_0403_0201,
        pos: 9,
        size: 0x0a0b,
        nr_pages: 0x0c,
        extents_checksum: 0x0d0e,
        seals: 0x22,
        flags: 1,
        nr_extents: 0x0f10,
        reserved: [0; 3],
        page_shift: 12,
        extents: KhoVmalloc {
            first: 0x1234_5000,
            total_pages: 1,
            flags: KhoVmalloc::ALLOC,
            order: 0,
        },
    };
    let mut bytes = [0u8; 72];
    bytes[..8].copy_from_slice(&[1, 2, 3, 4, 5, 6, 7, 8]);
    bytes[8] = 9;
    bytes[16..18].copy_from_slice(&[0x0b, 0x0a]);
    bytes[24] = 0x0c;
    bytes[32..34].copy_from_slice(&[0x0e, 0x0d]);
    bytes[40] = 0x22;
    bytes[44] = 1;
    bytes[48..50].copy_from_slice(&[0x10, 0x0f]);
    bytes[55] = 12;
    bytes[56..60].copy_from_slice(&[0x00, 0x50, 0x34, 0x12]);
    bytes[64] = 1;
    bytes[68] = 1;
    assert_eq!(raw.as_bytes(), bytes);
    assert_eq!(MemfdExtentsSer::read_from_bytes(&bytes).unwrap(), raw);
}

#[test]
fn a_good_header_passes() {
    let header = parse(|_| ()).unwrap();
    assert_eq!((header.pos(), header.size()), (5, (PAGES << 12) - 1));
    assert_eq!(header.list().nr_pages(), 1001);
    assert_eq!((header.list().nr_extents(), header.list().order()), (2, 0));
    assert_eq!(header.seals().bits(), 0x22);
    assert!(!header.is_executable());
    assert!(parse(|raw| raw.flags = 0).unwrap().is_executable());
}

#[test]
fn any_flipped_bit_is_noticed() {
    for bit in 0..72 * 8 {
        let mut raw = good();
        raw.as_mut_bytes()[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(Header::parse(&raw, PAGE), Err(Error::Checksum), "bit {bit}");
    }
}

#[test]
fn a_header_that_contradicts_itself_is_refused() {
    let refuse = |change: fn(&mut MemfdExtentsSer)| parse(change).unwrap_err();
    assert_eq!(refuse(|raw| raw.flags = 2), Error::UnknownFlags);
    assert_eq!(refuse(|raw| raw.reserved = [0, 1, 0]), Error::UnknownFlags);
    assert_eq!(refuse(|raw| raw.seals = 0x40), Error::UnknownSeals);
    assert_eq!(refuse(|raw| raw.page_shift = 14), Error::PageSize);
    assert_eq!(refuse(|raw| raw.pos = 1 << 63), Error::Position);
    assert_eq!(refuse(|raw| raw.size = 1 << 63), Error::Size);
    assert_eq!(refuse(|raw| raw.size = 1 << 44), Error::Size);
    assert_eq!(refuse(|raw| raw.size = 1000 << 12), Error::Count);
    assert_eq!(refuse(|raw| raw.nr_pages = PAGES + 1), Error::Count);
    assert_eq!(refuse(|raw| raw.nr_pages = u64::MAX), Error::Count);
    assert_eq!(refuse(|raw| raw.nr_pages = 1), Error::Count);
    assert_eq!(refuse(|raw| raw.nr_pages = 0), Error::Count);
    assert_eq!(refuse(|raw| raw.nr_extents = 0), Error::Count);
    assert_eq!(refuse(|raw| raw.nr_extents = 1002), Error::Count);
    assert_eq!(refuse(|raw| raw.nr_extents = 1001), Error::Array);
    assert_eq!(refuse(|raw| raw.extents.first = 0), Error::Array);
    assert_eq!(refuse(|raw| raw.extents.total_pages = 0), Error::Array);
    assert_eq!(refuse(|raw| raw.extents.total_pages = 99), Error::Array);
    assert_eq!(refuse(|raw| raw.extents.flags = 8), Error::UnknownFlags);
}

#[test]
fn an_empty_file_has_no_array() {
    let empty = |raw: &mut MemfdExtentsSer| {
        *raw = MemfdExtentsSer {
            page_shift: 12,
            ..Default::default()
        };
    };
    assert!(parse(empty).unwrap().list().extents().is_none());
}

#[test]
fn good_records_pass() {
    let runs = check(&EXTENTS).unwrap();
    assert_eq!(runs, [(0x4_0001, 0, 1000), (0x2345, 1003, 1)]);
}

#[test]
fn records_that_contradict_something_are_refused() {
    let refuse = |nr: usize, change: fn(&mut ExtentSer)| {
        let mut extents = EXTENTS;
        change(&mut extents[nr]);
        check(&extents).unwrap_err()
    };
    assert_eq!(refuse(0, |r| r.nr = 0), Error::Count);
    assert_eq!(refuse(0, |r| r.nr = 999), Error::Count);
    assert_eq!(refuse(0, |r| r.nr = 1001), Error::Count);
    assert_eq!(refuse(1, |r| r.nr = u32::MAX), Error::IndexOutside);
    assert_eq!(refuse(1, |r| r.index = 999), Error::IndexOverlap);
    assert_eq!(refuse(1, |r| r.index = 1004), Error::IndexOutside);
    assert_eq!(refuse(0, |r| r.pfn = 0), Error::Pfn);
    assert_eq!(refuse(0, |r| r.pfn |= 1 << 58), Error::Class);
    assert_eq!(refuse(0, |r| r.pfn = 1 << 52), Error::Pfn);
}

#[test]
fn runs_are_joined() {
    let run = |pfn, index, nr| ExtentSer::run(Class::Shared, pfn, index, nr);
    let mut extent = run(7, 3, 2);
    assert!(!extent.extend(&run(9, 6, 4), 0));
    assert!(!extent.extend(&run(10, 5, 4), 0));
    assert!(!extent.extend(&run(9, 5, u32::MAX), 0));
    assert!(extent.extend(&run(9, 5, 4), 0));
    assert_eq!(extent, run(7, 3, 6));
}

// SPDX-License-Identifier: GPL-2.0-only OR BSD-3-Clause

use super::{
    super::extents::{
        ExtentChecker,
        ExtentSer,
        Spans,
        SpansChecker, //
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

/// Two pieces, and a last huge page that the file ends within.
const EXTENTS: [ExtentSer; 2] = [
    ExtentSer {
        pfn: 0x4_0000,
        index: 0,
        nr: 5,
    },
    ExtentSer {
        pfn: 0x200,
        index: 5,
        nr: 2,
    },
];

fn good() -> HugetlbSer {
    sealed(HugetlbSer {
        pos: 5,
        size: (7 << 21) - 4096,
        nr_pages: 7,
        extents_checksum: Checksum::of_extents(&EXTENTS),
        seals: 0x22,
        flags: HugetlbSer::NOEXEC,
        nr_extents: 2,
        order: 9,
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

fn sealed(mut raw: HugetlbSer) -> HugetlbSer {
    raw.checksum = raw.sum();
    raw
}

/// Parses the good header with one thing changed, and a checksum that fits.
fn parse(change: impl FnOnce(&mut HugetlbSer)) -> Result<Header> {
    let mut raw = good();
    change(&mut raw);
    Header::parse(&sealed(raw), PAGE)
}

fn check(extents: &[ExtentSer]) -> Result<Vec<(u64, u32)>> {
    let header = parse(|raw| raw.extents_checksum = Checksum::of_extents(extents)).unwrap();
    let mut checker = ExtentChecker::new(header.list(), PAGE);
    let mut pages = Vec::new();
    for extent in extents {
        pages.extend(checker.check(extent)?.pages());
    }
    checker.end().map(|()| pages)
}

#[test]
fn header_bytes_do_not_change() {
    let raw = HugetlbSer {
        checksum: 0x0807_0605_0403_0201,
        pos: 9,
        size: 0x0a0b,
        nr_pages: 0x0c,
        extents_checksum: 0x0d0e,
        seals: 0x22,
        flags: 3,
        nr_extents: 0x0f10,
        order: 18,
        page_shift: 12,
        reserved: 0,
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
    bytes[44] = 3;
    bytes[48..50].copy_from_slice(&[0x10, 0x0f]);
    bytes[52..54].copy_from_slice(&[18, 12]);
    bytes[56..60].copy_from_slice(&[0x00, 0x50, 0x34, 0x12]);
    bytes[64] = 1;
    bytes[68] = 1;
    assert_eq!(raw.as_bytes(), bytes);
    assert_eq!(HugetlbSer::read_from_bytes(&bytes).unwrap(), raw);
}

#[test]
fn checksums_do_not_change() {
    assert_eq!(Checksum::new().get(), 0x6c75_6f5f_6874_6c62);
    assert_eq!(
        Checksum::of_extents(&EXTENTS),
        GOLDEN_EXTENTS,
        "{:#x}",
        Checksum::of_extents(&EXTENTS)
    );
    assert_eq!(good().checksum, GOLDEN_HEADER, "{:#x}", good().checksum);
}

const GOLDEN_EXTENTS: u64 = 0x2a95_20a8_b1f7_5b29;
const GOLDEN_HEADER: u64 = 0x8f7b_39c4_b445_5142;

#[test]
fn record_bytes_do_not_change() {
    let record = ExtentSer {
        pfn: 0x0102_0304_0506_0708,
        index: 0x0a0b_0c0d,
        nr: 0x1112_1314,
    };
    assert_eq!(
        record.as_bytes(),
        [8, 7, 6, 5, 4, 3, 2, 1, 0x0d, 0x0c, 0x0b, 0x0a, 0x14, 0x13, 0x12, 0x11]
    );
}

#[test]
fn a_good_header_passes() {
    let header = parse(|_| ()).unwrap();
    assert_eq!((header.pos(), header.size()), (5, (7 << 21) - 4096));
    assert_eq!(
        (header.list().nr_pages(), header.list().nr_extents()),
        (7, 2)
    );
    assert_eq!((header.order(), header.seals().bits()), (9, 0x22));
    assert!(!header.is_executable() && !header.is_surplus());
    assert!(parse(|raw| raw.flags = HugetlbSer::SURPLUS)
        .unwrap()
        .is_surplus());
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
    let refuse = |change: fn(&mut HugetlbSer)| parse(change).unwrap_err();
    assert_eq!(refuse(|raw| raw.flags = 4), Error::UnknownFlags);
    assert_eq!(refuse(|raw| raw.reserved = 1), Error::UnknownFlags);
    assert_eq!(refuse(|raw| raw.seals = 0x40), Error::UnknownSeals);
    assert_eq!(refuse(|raw| raw.page_shift = 14), Error::PageSize);
    assert_eq!(refuse(|raw| raw.order = 0), Error::Order);
    assert_eq!(refuse(|raw| raw.order = 51), Error::Order);
    assert_eq!(refuse(|raw| raw.order = 255), Error::Order);
    assert_eq!(refuse(|raw| raw.pos = 1 << 63), Error::Position);
    assert_eq!(refuse(|raw| raw.size = 1 << 63), Error::Size);
    assert_eq!(refuse(|raw| raw.size = 1 << 53), Error::Size);
    assert_eq!(refuse(|raw| raw.size = 6 << 21), Error::Count);
    assert_eq!(refuse(|raw| raw.nr_pages = 8), Error::Count);
    assert_eq!(refuse(|raw| raw.nr_pages = u64::MAX), Error::Count);
    assert_eq!(refuse(|raw| raw.nr_pages = 1), Error::Count);
    assert_eq!(refuse(|raw| raw.nr_pages = 0), Error::Count);
    assert_eq!(refuse(|raw| raw.nr_extents = 0), Error::Count);
    assert_eq!(refuse(|raw| raw.nr_extents = 8), Error::Count);
    assert_eq!(refuse(|raw| raw.extents.first = 0), Error::Array);
    assert_eq!(refuse(|raw| raw.extents.total_pages = 0), Error::Array);
    assert_eq!(refuse(|raw| raw.extents.total_pages = 99), Error::Array);
    assert_eq!(refuse(|raw| raw.extents.flags = 8), Error::UnknownFlags);
}

#[test]
fn an_empty_file_has_no_array() {
    let empty = |raw: &mut HugetlbSer| {
        *raw = HugetlbSer {
            order: 18,
            page_shift: 12,
            ..Default::default()
        };
    };
    assert!(parse(empty).unwrap().list().extents().is_none());
    let stray = |raw: &mut HugetlbSer| {
        empty(raw);
        raw.extents.first = 0x1000;
    };
    assert_eq!(parse(stray), Err(Error::Array));
}

#[test]
fn good_records_pass() {
    let pages = check(&EXTENTS).unwrap();
    assert_eq!(pages.len(), 7);
    assert_eq!(pages[0], (0x4_0000, 0));
    assert_eq!(pages[4], (0x4_0800, 4));
    assert_eq!(pages[5..], [(0x200, 5), (0x400, 6)]);
}

#[test]
fn records_that_contradict_something_are_refused() {
    let refuse = |nr: usize, change: fn(&mut ExtentSer)| {
        let mut extents = EXTENTS;
        change(&mut extents[nr]);
        check(&extents).unwrap_err()
    };
    assert_eq!(refuse(0, |r| r.nr = 0), Error::Count);
    assert_eq!(refuse(0, |r| r.nr = 4), Error::Count);
    assert_eq!(refuse(1, |r| r.nr = 3), Error::IndexOutside);
    assert_eq!(refuse(1, |r| r.nr = u32::MAX), Error::IndexOutside);
    assert_eq!(refuse(1, |r| r.index = 4), Error::IndexOverlap);
    assert_eq!(refuse(1, |r| r.index = 6), Error::IndexOutside);
    assert_eq!(refuse(0, |r| r.pfn = 0), Error::Pfn);
    assert_eq!(refuse(0, |r| r.pfn = 0x4_0001), Error::Pfn);
    assert_eq!(refuse(0, |r| r.pfn = !0x1ff), Error::Class);
    assert_eq!(refuse(0, |r| r.pfn = !0x1ff >> 6), Error::Pfn);
    assert_eq!(refuse(0, |r| r.pfn |= 1 << 58), Error::Class);
    assert_eq!(refuse(0, |r| r.pfn = 1 << 52), Error::Pfn);
}

#[test]
fn too_few_and_too_many_records_are_refused() {
    assert_eq!(check(&EXTENTS[..1]), Err(Error::Count));
    let [one, two] = EXTENTS;
    assert_eq!(check(&[one, two, two]), Err(Error::Count));
}

#[test]
fn a_possible_record_that_was_changed_is_noticed() {
    let header = parse(|_| ()).unwrap();
    let mut checker = ExtentChecker::new(header.list(), PAGE);
    let moved = ExtentSer {
        pfn: 0x600,
        ..EXTENTS[1]
    };
    checker.check(&EXTENTS[0]).unwrap();
    checker.check(&moved).unwrap();
    assert_eq!(checker.end(), Err(Error::Checksum));
}

#[test]
fn only_what_follows_directly_extends_an_extent() {
    let at = |pfn, index| ExtentSer::new(Class::Shared, pfn, index);
    let mut extent = EXTENTS[1];
    assert!(!extent.extend(&at(0x400, 7), 9));
    assert!(!extent.extend(&at(0x600, 8), 9));
    assert!(!extent.extend(&at(0x600, 7), 18));
    assert!(!extent.extend(&at(0x600, 7), 64));
    assert!(extent.extend(&at(0x600, 7), 9));
    assert_eq!(extent.nr, 3);
    assert!(!ExtentSer::default().extend(&at(0, 0), 9));
}

/// The lengths that [`Spans`] finds, if the checksum says that they are the right ones.
fn spans(changed: &[ExtentSer]) -> Option<Vec<ExtentSer>> {
    let header = parse(|_| ()).unwrap();
    assert!(header.list().is_full());
    let mut checker = SpansChecker::new(header.list());
    let mut spans = Spans::new(header.list());
    let mut found = Vec::new();
    for record in changed {
        checker.push(record);
        found.extend(spans.push(record));
    }
    found.extend(spans.end());
    checker.end().then_some(found)
}

#[test]
fn a_damaged_length_is_found_out() {
    for nr in [0, 1, 6, u32::MAX] {
        let [mut one, mut two] = EXTENTS;
        one.nr = nr;
        assert_eq!(spans(&[one, EXTENTS[1]]).unwrap(), EXTENTS);
        two.nr = nr;
        assert_eq!(spans(&[one, two]).unwrap(), EXTENTS);
    }
}

#[test]
fn other_damage_is_not_mistaken_for_it() {
    let [one, mut two] = EXTENTS;
    assert!(spans(&[one]).is_none());
    assert!(spans(&[]).is_none());
    two.index = 4;
    assert!(spans(&[one, two]).is_none());
    two = EXTENTS[1];
    two.pfn = 0x400;
    assert!(spans(&[one, two]).is_none());
    assert!(spans(&[EXTENTS[1], one]).is_none());
}

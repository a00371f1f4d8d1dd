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

/// Two pieces with a hole between them.
fn extents(class: Class) -> [ExtentSer; 2] {
    let mut first = ExtentSer::new(class, 0x4_0000, 0);
    first.nr = 5;
    let mut second = ExtentSer::new(class, 0x201, 9);
    second.nr = 2;
    [first, second]
}

fn good() -> GuestMemfdSer {
    sealed(GuestMemfdSer {
        magic: GuestMemfdSer::MAGIC,
        version: GuestMemfdSer::VERSION,
        len: GuestMemfdSer::LEN,
        size: 16 << 12,
        nr_pages: 7,
        extents_checksum: Checksum::of_extents(&extents(Class::Shared)),
        flags: GuestMemfdSer::MMAP | GuestMemfdSer::INIT_SHARED,
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

fn sealed(mut raw: GuestMemfdSer) -> GuestMemfdSer {
    raw.checksum = raw.sum();
    raw
}

/// Parses the good header with one thing changed, and a checksum that fits.
fn parse(change: impl FnOnce(&mut GuestMemfdSer)) -> Result<Header> {
    let mut raw = good();
    change(&mut raw);
    Header::parse(&sealed(raw), PAGE)
}

fn private(raw: &mut GuestMemfdSer) {
    raw.flags = 0;
    raw.vm_type = GuestMemfdSer::SW_PROTECTED_VM;
}

fn check(header: &Header, extents: &[ExtentSer]) -> Result<Vec<(u64, u32)>> {
    let mut checker = ExtentChecker::new(header.list(), PAGE);
    let mut pages = Vec::new();
    for extent in extents {
        pages.extend(checker.check(extent)?.pages());
    }
    checker.end().map(|()| pages)
}

#[test]
fn header_bytes_do_not_change() {
    let kho = |first| KhoVmalloc {
        first,
        total_pages: 1,
        flags: KhoVmalloc::ALLOC,
        order: 0,
    };
    let raw = GuestMemfdSer {
        checksum: 0x0807_0605_0403_0201,
        magic: GuestMemfdSer::MAGIC,
        version: GuestMemfdSer::VERSION,
        len: GuestMemfdSer::LEN,
        size: 0x0a0b,
        nr_pages: 0x0c,
        extents_checksum: 0x0d0e,
        flags: 3,
        vm_type: 1,
        vm_token: 0x77,
        nr_extents: 0x0f10,
        order: 9,
        page_shift: 12,
        reserved: 0,
        extents: kho(0x1234_5000),
        policies: kho(0x5000),
        attributes: kho(0x6000),
        nr_policies: 4,
        nr_attributes: 5,
    };
    let mut bytes = [0u8; 128];
    bytes[..8].copy_from_slice(&[1, 2, 3, 4, 5, 6, 7, 8]);
    bytes[8..12].copy_from_slice(b"LUGM");
    bytes[12] = 1;
    bytes[14] = 128;
    bytes[16..18].copy_from_slice(&[0x0b, 0x0a]);
    bytes[24] = 0x0c;
    bytes[32..34].copy_from_slice(&[0x0e, 0x0d]);
    bytes[40] = 3;
    bytes[48] = 1;
    bytes[56] = 0x77;
    bytes[64..66].copy_from_slice(&[0x10, 0x0f]);
    bytes[68..70].copy_from_slice(&[9, 12]);
    bytes[72..76].copy_from_slice(&[0x00, 0x50, 0x34, 0x12]);
    bytes[89] = 0x50;
    bytes[105] = 0x60;
    for array in [72, 88, 104] {
        bytes[array + 8] = 1;
        bytes[array + 12] = 1;
    }
    bytes[120] = 4;
    bytes[124] = 5;
    assert_eq!(raw.as_bytes(), bytes);
    assert_eq!(GuestMemfdSer::read_from_bytes(&bytes).unwrap(), raw);
}

#[test]
fn checksums_do_not_change() {
    assert_eq!(good().checksum, GOLDEN_HEADER, "{:#x}", good().checksum);
    let private = Checksum::of_extents(&extents(Class::PrivatePlain));
    assert_eq!(private, GOLDEN_PRIVATE, "{private:#x}");
}

const GOLDEN_HEADER: u64 = 0xd604_9322_ba87_f067;
const GOLDEN_PRIVATE: u64 = 0x7aaf_e0dd_2757_4a6f;

#[test]
fn record_bytes_do_not_change() {
    let record = ExtentSer::new(Class::PrivatePlain, 0x000f_0304_0506_0708, 0x0a0b_0c0d);
    assert_eq!(
        record.as_bytes(),
        [8, 7, 6, 5, 4, 3, 0x0f, 4, 0x0d, 0x0c, 0x0b, 0x0a, 1, 0, 0, 0]
    );
}

#[test]
fn a_good_header_passes() {
    let header = parse(|_| ()).unwrap();
    assert_eq!((header.size(), header.flags()), (16 << 12, 3));
    assert_eq!(header.vm_type(), GuestMemfdSer::DEFAULT_VM);
    let list = header.list();
    assert_eq!((list.nr_pages(), list.nr_extents()), (7, 2));
    assert_eq!(list.order(), 0);
    assert_eq!(parse(private).unwrap().vm_type(), 1);
}

#[test]
fn any_flipped_bit_is_noticed() {
    for bit in 0..128 * 8 {
        let mut raw = good();
        raw.as_mut_bytes()[bit / 8] ^= 1 << (bit % 8);
        let error = if (64..128).contains(&bit) {
            Error::Version
        } else {
            Error::Checksum
        };
        assert_eq!(Header::parse(&raw, PAGE), Err(error), "bit {bit}");
    }
}

#[test]
fn a_header_that_contradicts_itself_is_refused() {
    let refuse = |change: fn(&mut GuestMemfdSer)| parse(change).unwrap_err();
    assert_eq!(refuse(|raw| raw.version = 2), Error::Version);
    assert_eq!(refuse(|raw| raw.flags = 4), Error::UnknownFlags);
    assert_eq!(refuse(|raw| raw.reserved = 1), Error::UnknownFlags);
    assert_eq!(refuse(|raw| raw.vm_token = 1), Error::UnknownFlags);
    assert_eq!(refuse(|raw| raw.nr_attributes = 1), Error::UnknownFlags);
    assert_eq!(refuse(|raw| raw.attributes.order = 1), Error::UnknownFlags);
    assert_eq!(refuse(|raw| raw.vm_type = 1), Error::VmType);
    assert_eq!(refuse(|raw| raw.vm_type = 4), Error::VmType);
    assert_eq!(refuse(|raw| raw.page_shift = 14), Error::PageSize);
    assert_eq!(refuse(|raw| raw.order = 9), Error::Order);
    assert_eq!(refuse(|raw| raw.size = 0), Error::Size);
    assert_eq!(refuse(|raw| raw.size += 1), Error::Size);
    assert_eq!(refuse(|raw| raw.size = 1 << 63), Error::Size);
    assert_eq!(refuse(|raw| raw.size = 1 << 44), Error::Size);
    assert_eq!(refuse(|raw| raw.size = 6 << 12), Error::Count);
    assert_eq!(refuse(|raw| raw.nr_pages = u64::MAX), Error::Count);
    assert_eq!(refuse(|raw| raw.nr_extents = 8), Error::Count);
    assert_eq!(refuse(|raw| raw.extents.first = 0), Error::Array);
}

#[test]
fn private_memory_never_becomes_shared() {
    let shared = extents(Class::Shared);
    let private_extents = extents(Class::PrivatePlain);
    let header = parse(|raw| {
        private(raw);
        raw.extents_checksum = Checksum::of_extents(&private_extents);
    });
    let header = header.unwrap();
    assert_eq!(check(&header, &shared), Err(Error::Class));
    assert!(check(&header, &private_extents).is_ok());
    let header = parse(|_| ()).unwrap();
    assert_eq!(check(&header, &private_extents), Err(Error::Class));
    let refuse = |class| check(&header, &extents(class)).unwrap_err();
    assert_eq!(refuse(Class::PrivateEncrypted), Error::Class);
    assert_eq!(refuse(Class::NotInDirectMap), Error::Class);
}

#[test]
fn good_records_pass() {
    let header = parse(|_| ()).unwrap();
    let pages = check(&header, &extents(Class::Shared)).unwrap();
    assert_eq!(pages.len(), 7);
    assert_eq!(pages[4], (0x4_0004, 4));
    assert_eq!(pages[5..], [(0x201, 9), (0x202, 10)]);
}

#[test]
fn an_empty_file_has_no_array() {
    let header = parse(|raw| {
        raw.nr_pages = 0;
        raw.nr_extents = 0;
        raw.extents = KhoVmalloc::default();
    });
    assert!(header.unwrap().list().extents().is_none());
}

#[test]
fn memory_of_another_class_does_not_extend_an_extent() {
    let [mut extent, _] = extents(Class::Shared);
    let next = |class| ExtentSer::new(class, 0x4_0005, 5);
    assert!(!extent.extend(&next(Class::PrivatePlain), 0));
    assert!(extent.extend(&next(Class::Shared), 0));
    assert_eq!((extent.first(), extent.nr), (0x4_0000, 6));
}

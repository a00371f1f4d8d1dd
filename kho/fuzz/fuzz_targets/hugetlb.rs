// SPDX-License-Identifier: GPL-2.0-only OR BSD-3-Clause

//! Fuzzes the header and the extents of a file with huge pages: what is accepted must be consistent,
//! written down here a second time without regard to overflow.
//!
//! The checksums are made to fit, so that they hide nothing.
//!
//! Input: page size (1 byte), header (72 bytes), records (16 bytes each).

#![no_main]

use kho_fuzz::{
    abi::{
        extents::{
            Checksum,
            ExtentChecker,
            ExtentSer,
            Spans,
            SpansChecker, //
        },
        hugetlb::{
            Header,
            HugetlbSer, //
        }, //
    },
    Input, //
};
use libfuzzer_sys::fuzz_target;
use zerocopy::FromBytes as _;

/// Whether the header is good; the array it describes is left to `vmalloc`'s own target.
fn is_header_good(raw: &HugetlbSer, page_shift: u32) -> bool {
    let max = u128::from(i64::MAX.unsigned_abs());
    let shift = u32::from(raw.order) + page_shift;
    if u32::from(raw.page_shift) != page_shift || raw.order == 0 || shift > 62 {
        return false;
    }
    let pages = u128::from(raw.size).div_ceil(1 << shift);
    raw.flags <= 3
        && raw.reserved == 0
        && raw.seals <= 0x3f
        && u128::from(raw.pos) <= max
        && u128::from(raw.size) <= max
        && pages <= u128::from(u32::MAX)
        && u128::from(raw.nr_pages) <= pages
        && u64::from(raw.nr_extents) <= raw.nr_pages
        && (raw.nr_extents == 0) == (raw.nr_pages == 0)
}

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let page = input.page();
    let mut raw = HugetlbSer::read_from_bytes(&input.bytes::<72>()).expect("72 bytes");
    let mut records = Vec::new();
    while !input.is_empty() {
        records.push(ExtentSer::read_from_bytes(&input.bytes::<16>()).expect("16 bytes"));
    }
    let mut sum = Checksum::new();
    records.iter().for_each(|record| sum.add_extent(record));
    raw.extents_checksum = sum.get();
    raw.checksum = raw.sum();

    let good = is_header_good(&raw, page.shift());
    let Ok(header) = Header::parse(&raw, page) else {
        // With no records, nothing but the description of the array can be wrong.
        assert!(!good || raw.nr_extents != 0 || !raw.extents.is_null());
        return;
    };
    assert!(good, "accepted {raw:?}");

    // Whatever the records say, their lengths can be computed; if all were right, they do not change.
    let mut spans = Spans::new(header.list());
    let mut spans_checker = SpansChecker::new(header.list());
    let mut found = Vec::new();
    for record in &records {
        spans_checker.push(record);
        found.extend(spans.push(record));
    }
    found.extend(spans.end());
    assert_eq!(spans_checker.end(), found == records);

    let huge = 1u128 << raw.order;
    let pages = u128::from(raw.size).div_ceil(huge << page.shift());
    let (mut end, mut total) = (0u128, 0u128);
    let mut checker = ExtentChecker::new(header.list(), page);
    for (nr, record) in records.iter().enumerate() {
        let (pfn, index) = (u128::from(record.pfn), u128::from(record.index));
        let len = u128::from(record.nr);
        let good = nr < raw.nr_extents as usize
            && len != 0
            && index >= end
            && index + len <= pages
            && total + len <= u128::from(raw.nr_pages)
            && pfn != 0
            && pfn % huge == 0
            && (pfn + len * huge - 1) << page.shift() <= u128::from(u64::MAX);
        match checker.check(record) {
            Ok(extent) => {
                assert!(good, "accepted {record:?}");
                assert_eq!(extent.nr(), record.nr);
                assert_eq!(extent.pages().next(), Some((record.pfn, record.index)));
                end = index + len;
                total += len;
            }
            Err(error) => {
                assert!(!good, "refused {record:?}: {error}");
                return;
            }
        }
    }
    let complete = records.len() == raw.nr_extents as usize && total == u128::from(raw.nr_pages);
    assert_eq!(checker.end().is_ok(), complete);
    assert!(!complete || !header.list().is_full() || found == records);
});

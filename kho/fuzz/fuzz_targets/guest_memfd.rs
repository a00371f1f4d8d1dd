// SPDX-License-Identifier: GPL-2.0-only OR BSD-3-Clause

//! Fuzzes the header and the extents of a guest_memfd file: what is accepted must be consistent, written
//! down here a second time without regard to overflow.
//!
//! The checksums are made to fit, so that they hide nothing, and so is the start of the header.
//!
//! Input: page size (1 byte), header (128 bytes), records (16 bytes each).

#![no_main]

use kho_fuzz::{
    abi::{
        extents::{
            Checksum,
            ExtentChecker,
            ExtentSer, //
        },
        guest_memfd::{
            GuestMemfdSer,
            Header, //
        }, //
    },
    Input, //
};
use libfuzzer_sys::fuzz_target;
use zerocopy::FromBytes as _;

/// Whether the header is good; the array it describes is left to `vmalloc`'s own target.
fn is_header_good(raw: &GuestMemfdSer, page_shift: u32) -> bool {
    let pages = raw.size >> page_shift;
    let shared = raw.flags & 2 != 0;
    u32::from(raw.page_shift) == page_shift
        && raw.order == 0
        && raw.flags <= 3
        && (raw.vm_type == 0 || raw.vm_type == 1 && !shared)
        && raw.vm_token == 0
        && raw.reserved == 0
        && raw.nr_attributes == 0
        && raw.attributes.is_null()
        && pages > 0
        && pages << page_shift == raw.size
        && raw.size < 1 << 63
        && pages <= u64::from(u32::MAX)
        && raw.nr_pages <= pages
        && u64::from(raw.nr_extents) <= raw.nr_pages
        && (raw.nr_extents == 0) == (raw.nr_pages == 0)
}

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let page = input.page();
    let mut raw = GuestMemfdSer::read_from_bytes(&input.bytes::<128>()).expect("128 bytes");
    let mut records = Vec::new();
    while !input.is_empty() {
        records.push(ExtentSer::read_from_bytes(&input.bytes::<16>()).expect("16 bytes"));
    }
    let mut sum = Checksum::new();
    records.iter().for_each(|record| sum.add_extent(record));
    raw.extents_checksum = sum.get();
    raw.magic = GuestMemfdSer::MAGIC;
    raw.version = GuestMemfdSer::VERSION;
    raw.len = GuestMemfdSer::LEN;
    raw.checksum = raw.sum();

    let good = is_header_good(&raw, page.shift());
    let Ok(header) = Header::parse(&raw, page) else {
        // With no records, nothing but the description of the array can be wrong.
        assert!(!good || raw.nr_extents != 0 || !raw.extents.is_null());
        return;
    };
    assert!(good, "accepted {raw:?}");

    let pages = u128::from(raw.size >> page.shift());
    let class = u64::from(raw.flags & 2 == 0);
    let (mut end, mut total) = (0u128, 0u128);
    let mut checker = ExtentChecker::new(header.list(), page);
    for (nr, record) in records.iter().enumerate() {
        let pfn = u128::from(record.pfn & ((1 << 58) - 1));
        let (index, len) = (u128::from(record.index), u128::from(record.nr));
        let good = nr < raw.nr_extents as usize
            && record.pfn >> 58 == class
            && len != 0
            && index >= end
            && index + len <= pages
            && total + len <= u128::from(raw.nr_pages)
            && pfn != 0
            && (pfn + len - 1) << page.shift() <= u128::from(u64::MAX);
        match checker.check(record) {
            Ok(extent) => {
                assert!(good, "accepted {record:?}");
                assert_eq!(extent.nr(), record.nr);
                assert_eq!(extent.pages().next(), Some((pfn as u64, record.index)));
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
});

// SPDX-License-Identifier: GPL-2.0-only OR BSD-3-Clause

//! Fuzzes `FolioChecker`: the folios it accepts must lie in the file, aligned, apart from each other,
//! each at pages that were preserved and not used before.
//!
//! Input: page size (1 byte), file size (8 bytes), largest order (1 byte), number of preserved blocks
//! (1 byte), that many blocks (page number of 8 bytes, order of 1 byte), records (16 bytes each).

#![no_main]

use kho_fuzz::{
    abi::memfd::{
        FolioChecker,
        FolioSer,
        Header,
        MemfdSer, //
    },
    Input, //
};
use libfuzzer_sys::fuzz_target;
use std::collections::BTreeMap;
use zerocopy::FromBytes as _;

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let page = input.page();
    let raw = MemfdSer {
        size: input.u64() >> 1,
        ..Default::default()
    };
    let header = Header::parse(&raw, page).expect("a file of holes");
    let max_order = u32::from(input.u8() % 20);
    let mut waiting: BTreeMap<u64, u32> = (0..input.u8())
        .map(|_| (input.u64(), u32::from(input.u8())))
        .collect();
    let mut checker = FolioChecker::new(&header, page, max_order);

    let mut end: u128 = 0;
    while !input.is_empty() {
        let record = FolioSer::read_from_bytes(&input.bytes::<16>()).expect("16 bytes");
        let order = waiting.get(&record.pfn()).copied();
        let size = 1u128.checked_shl(order.unwrap_or_default()).unwrap_or(0);
        let index = u128::from(record.index());
        let pfn = u128::from(record.pfn());
        let good = record.flags() <= 3
            && order.is_some_and(|order| order <= max_order)
            && index >= end
            && index << page.shift() < u128::from(raw.size)
            && index % size == 0
            && pfn % size == 0
            && pfn << page.shift() <= u128::from(u64::MAX);

        match checker.check(&record, |pfn| waiting.get(&pfn).copied()) {
            Ok(None) => assert_eq!(pfn, 0),
            Ok(Some(folio)) => {
                assert!(good, "accepted {record:?}");
                assert_eq!((folio.pfn(), folio.index()), (record.pfn(), record.index()));
                assert_eq!(Some(folio.order()), waiting.remove(&folio.pfn()));
                end = index + size;
            }
            Err(error) => assert!(!good || pfn == 0, "refused {record:?}: {error}"),
        }
    }
});

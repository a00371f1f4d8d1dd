// SPDX-License-Identifier: GPL-2.0-only OR BSD-3-Clause

//! Fuzzes `Header::parse`: it must accept exactly what the format allows, written down here a second
//! time without regard to overflow.
//!
//! Input: page size (1 byte), header (48 bytes).

#![no_main]

use kho_fuzz::{
    abi::memfd::{
        Header,
        MemfdSer, //
    },
    Input, //
};
use libfuzzer_sys::fuzz_target;
use zerocopy::FromBytes as _;

/// Whether the array of records is described well, for a file of `pages` pages.
fn is_array_good(raw: &MemfdSer, pages: u128, shift: u32) -> bool {
    let page = 1u128 << shift;
    let array = raw.folios;
    if raw.nr_folios == 0 {
        return array == Default::default();
    }
    let order = u32::from(array.order);
    if order + shift > 30 {
        return false;
    }
    let total = u128::from(array.total_pages);
    let need = (u128::from(raw.nr_folios) * 16).div_ceil(page);
    let limit = (pages * 16).div_ceil(page) * 2 + (1 << order);
    array.first != 0
        && u128::from(array.first) % page == 0
        && array.flags <= 3
        && total != 0
        && total * 8 <= 0x7fff_ffff
        && total % (1 << order) == 0
        && (need..=limit).contains(&total)
}

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let page = input.page();
    let raw = MemfdSer::read_from_bytes(&input.bytes::<48>()).expect("48 bytes");

    let max = u128::from(i64::MAX.unsigned_abs());
    let pages = u128::from(raw.size).div_ceil(u128::from(page.bytes()));
    let good = raw.flags == 0
        && raw.seals <= 0x3f
        && u128::from(raw.pos) <= max
        && u128::from(raw.size) <= max
        && u128::from(raw.nr_folios) <= pages
        && is_array_good(&raw, pages, page.shift());

    match Header::parse(&raw, page) {
        Ok(header) => {
            assert!(good, "accepted {raw:?}");
            assert_eq!(header.nr_folios(), raw.nr_folios);
            assert_eq!(header.folios().is_some(), raw.nr_folios != 0);
            if let Some(array) = header.folios() {
                assert!(u128::from(array.bytes(page)) >= u128::from(raw.nr_folios) * 16);
            }
        }
        Err(error) => assert!(!good, "refused {raw:?}: {error}"),
    }
});

// SPDX-License-Identifier: GPL-2.0-only OR BSD-3-Clause

//! Fuzzes what is handed over of the file of a PCI device: what is accepted must be as the format says,
//! written down here a second time without regard to overflow.
//!
//! The checksums are made to fit, so that they hide nothing, but for one that may be damaged.
//!
//! Input: page size (1 byte), header (96 bytes), which record has a wrong checksum (1 byte), and records
//! without their checksum: offset (4 bytes), reserved (1), first and last word of both arrays (32), last
//! word (1).

#![no_main]

use kho_fuzz::{
    abi::vfio_pci::{
        ConfigSer,
        Header,
        VfioPciSer, //
    },
    Input, //
};
use libfuzzer_sys::fuzz_target;
use zerocopy::FromBytes as _;

/// Whether a header is good.
fn is_good(raw: &VfioPciSer, shift: u32) -> bool {
    let array = &raw.config;
    let (page, pages) = (1u128 << shift, u128::from(array.total_pages));
    let (unit, need) = (1u128 << array.order.min(64), u128::from(raw.cfg_size) * 4);
    raw.flags < 16
        && raw.reserved == 0
        && (raw.cfg_size == 256 || raw.cfg_size == 4096)
        && array.flags < 4
        && array.first != 0
        && u128::from(array.first) % page == 0
        && unit * page <= 1 << 30
        && pages != 0
        && pages % unit == 0
        && pages * page >= need
        && pages <= 2 * need.div_ceil(page) + unit
        && pages <= (1 << 31) / 8
}

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let page = input.page();
    let mut raw = VfioPciSer::read_from_bytes(&input.bytes::<96>()).expect("96 bytes");
    raw.magic = VfioPciSer::MAGIC;
    raw.version = VfioPciSer::VERSION;
    raw.len = VfioPciSer::LEN;
    raw.checksum = raw.sum();
    let good = is_good(&raw, page.shift());
    let header = match Header::parse(&raw, page) {
        Ok(header) => header,
        Err(error) => {
            assert!(!good, "refused {raw:?}: {error}");
            return;
        }
    };
    assert!(good, "accepted {raw:?}");
    assert_eq!(header.flags(), raw.flags);
    assert_eq!(header.identity(), &raw.identity);
    assert_eq!(header.identity().difference(&raw.identity), None);
    let records = Header::records(header.cfg_size());
    assert_eq!(records, u32::from(raw.cfg_size) / 64);
    assert!(header.config().bytes(page) >= u64::from(records) * 256);

    let damaged = u32::from(input.u8());
    for nr in 0..records {
        let mut bytes = [0; 256];
        bytes[8..12].copy_from_slice(&input.bytes::<4>());
        bytes[12] = input.u8();
        bytes[16..24].copy_from_slice(&input.bytes::<8>());
        bytes[72..80].copy_from_slice(&input.bytes::<8>());
        bytes[80..88].copy_from_slice(&input.bytes::<8>());
        bytes[136..144].copy_from_slice(&input.bytes::<8>());
        bytes[255] = input.u8();
        let mut record = ConfigSer::read_from_bytes(&bytes).expect("256 bytes");
        record.checksum = record.sum() ^ u64::from(nr + 1 == damaged);
        let good =
            record.offset == nr * 64 && bytes[12] == 0 && bytes[255] == 0 && nr + 1 != damaged;
        match record.parse(nr * 64) {
            Ok((map, seen)) => {
                assert!(good, "accepted {record:?}");
                assert_eq!(map, &bytes[16..80]);
                assert_eq!(seen, &bytes[80..144]);
                assert_eq!(ConfigSer::new(nr * 64, map, seen), record);
            }
            Err(error) => {
                assert!(!good, "refused {record:?}: {error}");
                return;
            }
        }
    }
});

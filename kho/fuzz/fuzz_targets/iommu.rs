// SPDX-License-Identifier: GPL-2.0-only OR BSD-3-Clause

//! Fuzzes what is handed over of an iommufd file: what is accepted must be as the format says, written down here
//! a second time without regard to overflow.
//!
//! The checksums are made to fit, so that they hide nothing, but for one that may be damaged.
//!
//! Input: header (336 bytes), which area has a wrong checksum (1 byte), and up to 64 areas without their
//! checksum (56 bytes each).

#![no_main]

use kho_fuzz::{
    abi::{
        iommu::{
            AreaSer,
            Entry,
            Header,
            IommuSer,
            Lookup, //
        },
        PageSize, //
    },
    Input, //
};
use libfuzzer_sys::fuzz_target;
use zerocopy::FromBytes as _;

/// Whether an array of `nr` records of `size` bytes is well described, or there is none.
fn is_good_array(array: (u64, u32, u16, u16), nr: u128, size: u128) -> bool {
    let (first, pages, flags, order) = array;
    if nr == 0 {
        return array == (0, 0, 0, 0);
    }
    let (unit, pages) = (1u128 << order.min(64), u128::from(pages));
    let need = (nr * size).div_ceil(4096);
    flags < 4
        && first != 0
        && first % 4096 == 0
        && unit * 4096 <= 1 << 30
        && pages != 0
        && pages % unit == 0
        && pages >= need
        && pages <= 2 * need + unit
        && pages <= (1 << 31) / 8
}

fn is_good(raw: &IommuSer) -> bool {
    let array = |raw: &kho_fuzz::abi::vmalloc::KhoVmalloc| {
        (raw.first, raw.total_pages, raw.flags, raw.order)
    };
    let nr = raw.nr_devices as usize;
    raw.format == 1
        && raw.reserved == 0
        && (3..=5).contains(&raw.levels)
        && u128::from(raw.last) < 1 << (12 + 9 * u32::from(raw.levels))
        && raw.nr_areas <= 1 << 24
        && nr <= 32
        && raw.devices.iter().all(|device| device.reserved == 0)
        && raw.devices[nr..]
            .iter()
            .all(|device| device.domain == 0 && device.bdf == 0)
        && raw.nr_tables != 0
        && raw.nr_tables <= u64::MAX / 16
        && is_good_array(array(&raw.tables), raw.nr_tables.into(), 16)
        && is_good_array(array(&raw.areas), raw.nr_areas.into(), 64)
}

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let page = PageSize::new(12).expect("4 KiB");
    let mut raw = IommuSer::read_from_bytes(&input.bytes::<336>()).expect("336 bytes");
    raw.magic = IommuSer::MAGIC;
    raw.version = IommuSer::VERSION;
    raw.len = IommuSer::LEN;
    raw.checksum = raw.sum();
    let good = is_good(&raw);
    let header = match Header::parse(&raw, page) {
        Ok(header) => header,
        Err(error) => {
            assert!(!good, "refused {raw:?}: {error}");
            return;
        }
    };
    assert!(good, "accepted {raw:?}");
    assert_eq!(header.devices().len(), raw.nr_devices as usize);

    let damaged = u32::from(input.u8());
    let mut before = None;
    for nr in 0..header.nr_areas().min(64) {
        let mut bytes = [0; 64];
        bytes[8..].copy_from_slice(&input.bytes::<56>());
        let mut area = AreaSer::read_from_bytes(&bytes).expect("64 bytes");
        area.checksum = area.sum() ^ u64::from(nr + 1 == damaged);
        let whole = |value: u64| value % 4096 == 0;
        let end = u128::from(area.iova) + u128::from(area.length);
        let good = nr + 1 != damaged
            && area.flags < 8
            && (area.flags & 4 != 0 || area.token == 0)
            && area.reserved == 0
            && area.unused == [0, 0]
            && area.length != 0
            && end <= u128::from(header.last()) + 1
            && u128::from(area.offset) + u128::from(area.length) <= u128::from(u64::MAX)
            && whole(area.iova)
            && whole(area.length)
            && whole(area.offset)
            && before.is_none_or(|before| area.iova > before);
        match area.parse(before, header.last(), page) {
            Ok(last) => {
                assert!(good, "accepted {area:?}");
                assert_eq!(u128::from(last) + 1, end);
                before = Some(last);
            }
            Err(error) => {
                assert!(!good, "refused {area:?}: {error}");
                return;
            }
        }

        // A lookup ends, whatever entries say.
        let mut lookup = Lookup::new(area.iova, header.levels());
        let ended = (0..header.levels()).any(|_| {
            assert!(lookup.index() < 512);
            !matches!(lookup.step(area.offset | area.token), Entry::Table(_))
        });
        assert!(ended, "there are more levels than there can be");
    }
});

// SPDX-License-Identifier: GPL-2.0-only OR BSD-3-Clause

use super::*;

const PAGE: PageSize = match PageSize::new(12) {
    Some(page) => page,
    None => panic!(),
};

fn identity() -> IdentitySer {
    IdentitySer {
        serial: 0x1122_3344_5566_7788,
        domain: 0,
        class: 0x0200_0001,
        bars: [0xfea0_0000, 0, 0xc001, 0xfea8_0000, 0, 0],
        rom: 0,
        vendor: 0x8086,
        device: 0x10c9,
        subsystem_vendor: 0x8086,
        subsystem_device: 0xa03c,
        bdf: 0x0100,
        command: 6,
    }
}

fn good() -> VfioPciSer {
    sealed(VfioPciSer {
        magic: VfioPciSer::MAGIC,
        version: VfioPciSer::VERSION,
        len: VfioPciSer::LEN,
        identity: identity(),
        flags: VfioPciSer::RESET_WORKS | VfioPciSer::PCI_2_3,
        cfg_size: 4096,
        config: KhoVmalloc {
            first: 0x1234_5000,
            total_pages: 4,
            flags: KhoVmalloc::ALLOC,
            order: 0,
        },
        ..Default::default()
    })
}

fn sealed(mut raw: VfioPciSer) -> VfioPciSer {
    raw.checksum = raw.sum();
    raw
}

/// Parses the good header with one thing changed, and a checksum that fits.
fn parse(change: impl FnOnce(&mut VfioPciSer)) -> Result<Header> {
    let mut raw = good();
    change(&mut raw);
    Header::parse(&sealed(raw), PAGE)
}

#[test]
fn a_good_header_is_read() {
    let header = parse(|_| ()).unwrap();
    assert_eq!(*header.identity(), identity());
    assert_eq!(header.cfg_size(), 4096);
    assert_eq!(Header::records(4096), 64);
    assert_eq!(Header::records(256), 4);
    assert!(parse(|raw| {
        raw.cfg_size = 256;
        raw.config.total_pages = 1;
    })
    .is_ok());
}

#[test]
fn the_layout_is_fixed() {
    let raw = good();
    let bytes = raw.as_bytes();
    assert_eq!(bytes[8..16], *b"LUVP\x01\0\x60\0");
    assert_eq!(bytes[16..24], 0x1122_3344_5566_7788u64.to_le_bytes());
    assert_eq!(
        bytes[60..72],
        *b"\x86\x80\xc9\x10\x86\x80\x3c\xa0\x00\x01\x06\0"
    );
    assert_eq!(bytes[72..76], *b"\x03\0\0\x10");
}

#[test]
fn a_header_that_is_not_understood_is_refused() {
    let mut raw = good();
    raw.identity.bdf ^= 1;
    assert_eq!(Header::parse(&raw, PAGE), Err(Error::Checksum));
    assert_eq!(parse(|raw| raw.magic ^= 1), Err(Error::Version));
    assert_eq!(parse(|raw| raw.version = 2), Err(Error::Version));
    assert_eq!(parse(|raw| raw.len += 8), Err(Error::Version));
    assert_eq!(parse(|raw| raw.flags |= 1 << 4), Err(Error::UnknownFlags));
    assert_eq!(parse(|raw| raw.reserved = 1), Err(Error::UnknownFlags));
    assert_eq!(parse(|raw| raw.cfg_size = 1024), Err(Error::Size));
    assert_eq!(parse(|raw| raw.config.total_pages = 3), Err(Error::Array));
    assert_eq!(
        parse(|raw| raw.config = KhoVmalloc::default()),
        Err(Error::Array)
    );
}

#[test]
fn pieces_come_in_order_and_whole() {
    let piece = ConfigSer::new(64, &[7; 64], &[1, 2, 3]);
    let (map, seen) = piece.parse(64).unwrap();
    assert_eq!(map, [7; 64]);
    assert_eq!(seen[..4], [1, 2, 3, 0]);
    assert_eq!(piece.parse(0), Err(Error::IndexOverlap));
    let mut bad = piece;
    bad.seen[7] ^= 1 << 63;
    assert_eq!(bad.parse(64), Err(Error::Checksum));
    let mut bad = piece;
    bad.unused[13] = 1;
    bad.checksum = bad.sum();
    assert_eq!(bad.parse(64), Err(Error::UnknownFlags));
}

#[test]
fn another_device_is_noticed() {
    let change = |f: fn(&mut IdentitySer)| {
        let mut other = identity();
        f(&mut other);
        identity().difference(&other)
    };
    assert_eq!(change(|_| ()), None);
    assert_eq!(change(|other| other.bdf = 0x0200), Some("address"));
    assert_eq!(
        change(|other| other.device = 0x10d3),
        Some("vendor or device")
    );
    assert_eq!(
        change(|other| other.subsystem_device = 1),
        Some("subsystem")
    );
    assert_eq!(change(|other| other.class += 1), Some("class or revision"));
    assert_eq!(change(|other| other.serial = 0), Some("serial number"));
    assert_eq!(change(|other| other.bars[3] = 0), Some("base addresses"));
    assert_eq!(change(|other| other.command = 2), Some("command register"));
}

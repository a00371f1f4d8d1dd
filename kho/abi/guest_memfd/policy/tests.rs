// SPDX-License-Identifier: GPL-2.0-only OR BSD-3-Clause

use super::{
    super::super::{
        vmalloc::KhoVmalloc,
        Error,
        PageSize,
        Result, //
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

const PREFERRED: u16 = 1;
const BIND: u16 = 2;
const INTERLEAVE: u16 = 3;
const LOCAL: u16 = 4;
const PREFERRED_MANY: u16 = 5;
const WEIGHTED: u16 = 6;
const STATIC: u16 = 1 << 15;
const RELATIVE: u16 = 1 << 14;
const BALANCING: u16 = 1 << 13;

fn nodes(first: u64) -> Nodes {
    let mut words = [0; Nodes::WORDS];
    words[0] = first;
    Nodes::new(words)
}

fn policy(mode: u16, home_node: Option<u16>, first: u64) -> Result<Policy> {
    Policy::new(4..8, mode, home_node, nodes(first))
}

fn good() -> PolicySer {
    PolicySer::from(&policy(BIND, Some(1), 3).unwrap())
}

fn list(nr: u32, pages: u64) -> Result<PolicyList> {
    let array = KhoVmalloc {
        first: 0x5000,
        total_pages: u32::div_ceil(nr, 16),
        flags: KhoVmalloc::ALLOC,
        order: 0,
    };
    let array = if nr == 0 {
        KhoVmalloc::default()
    } else {
        array
    };
    PolicyList::parse(nr, &array, pages, PAGE)
}

/// Checks the good record with one thing changed, and a checksum that fits.
fn check(change: impl FnOnce(&mut PolicySer)) -> Result<Policy> {
    let mut raw = good();
    change(&mut raw);
    raw.checksum = raw.sum();
    PolicyChecker::new(&list(1, 64).unwrap()).check(&raw)
}

#[test]
fn bytes_do_not_change() {
    let mut words = [0; Nodes::WORDS];
    (words[0], words[15]) = (3, 1 << 63);
    let policy = Policy::new(
        0x0102..0x0304,
        BIND | STATIC,
        Some(0x0201),
        Nodes::new(words),
    );
    let raw = PolicySer::from(&policy.unwrap());
    let mut bytes = [0u8; 256];
    bytes[..8].copy_from_slice(&GOLDEN.to_le_bytes());
    bytes[8..16].copy_from_slice(&[2, 1, 0, 0, 2, 2, 0, 0]);
    bytes[16..20].copy_from_slice(&[2, 0x80, 1, 2]);
    bytes[24] = 3;
    bytes[151] = 0x80;
    assert_eq!(raw.checksum, GOLDEN, "{:#x}", raw.checksum);
    assert_eq!(raw.as_bytes(), bytes);
    assert_eq!(PolicySer::read_from_bytes(&bytes).unwrap(), raw);
}

const GOLDEN: u64 = 0x1cf3_4bd9_1e2a_15ec;

#[test]
fn what_linux_has_passes() {
    for mode in [PREFERRED, BIND, INTERLEAVE, PREFERRED_MANY, WEIGHTED] {
        for flags in [0, STATIC, RELATIVE] {
            assert!(policy(mode | flags, None, 2).is_ok(), "{mode} {flags:#x}");
        }
    }
    for mode in [BIND, PREFERRED_MANY] {
        assert!(policy(mode | BALANCING, Some(1023), 1).is_ok());
    }
    assert!(policy(LOCAL, None, 0).is_ok());
    assert_eq!(check(|_| ()).unwrap(), policy(BIND, Some(1), 3).unwrap());
}

#[test]
fn what_linux_does_not_have_is_refused() {
    let bad: [(u16, Option<u16>, u64); 13] = [
        (0, None, 0),
        (0, None, 1),
        (7, None, 1),
        (BIND | 1 << 12, None, 1),
        (BIND, None, 0),
        (BIND | STATIC | RELATIVE, None, 1),
        (INTERLEAVE | BALANCING, None, 1),
        (INTERLEAVE, Some(0), 1),
        (LOCAL, None, 1),
        (LOCAL | STATIC, None, 0),
        (LOCAL, Some(0), 0),
        (PREFERRED, None, 0),
        (BIND, Some(1024), 1),
    ];
    for (mode, home_node, nodes) in bad {
        let error = policy(mode, home_node, nodes).unwrap_err();
        assert_eq!(error, Error::Policy, "{mode:#x} {home_node:?} {nodes}");
    }
}

#[test]
fn damaged_records_are_refused() {
    let refuse = |change: fn(&mut PolicySer)| check(change).unwrap_err();
    assert_eq!(refuse(|raw| raw.nr = 0), Error::Count);
    assert_eq!(refuse(|raw| raw.nr = 61), Error::IndexOutside);
    assert_eq!(refuse(|raw| raw.index = 61), Error::IndexOutside);
    assert_eq!(refuse(|raw| raw.index = u32::MAX), Error::IndexOutside);
    assert_eq!(refuse(|raw| raw.reserved = 1), Error::UnknownFlags);
    assert_eq!(refuse(|raw| raw.unused[12] = 1), Error::UnknownFlags);
    assert_eq!(refuse(|raw| raw.mode = 99), Error::Policy);
    assert_eq!(refuse(|raw| raw.nodes = Nodes::default()), Error::Policy);
    for bit in 0..256 * 8 {
        let mut raw = good();
        raw.as_mut_bytes()[bit / 8] ^= 1 << (bit % 8);
        let result = PolicyChecker::new(&list(1, 64).unwrap()).check(&raw);
        assert_eq!(result, Err(Error::Checksum), "bit {bit}");
    }
}

#[test]
fn records_are_in_order_and_as_many_as_there_should_be() {
    let at = |pages| PolicySer::from(&Policy::new(pages, LOCAL, None, Nodes::default()).unwrap());
    let check = |records: &[PolicySer]| {
        let mut checker = PolicyChecker::new(&list(2, 64).unwrap());
        let pages: Result<Vec<_>> = records
            .iter()
            .map(|record| Ok(checker.check(record)?.pages()))
            .collect();
        let pages = pages?;
        checker.end().map(|()| pages)
    };
    let good = check(&[at(0..4), at(4..64)]);
    assert_eq!(good.unwrap(), [0..4, 4..64]);
    assert_eq!(check(&[at(0..5), at(4..64)]), Err(Error::IndexOverlap));
    assert_eq!(check(&[at(8..9), at(0..4)]), Err(Error::IndexOverlap));
    assert_eq!(check(&[at(0..4)]), Err(Error::Count));
    assert_eq!(check(&[at(0..1), at(1..2), at(2..3)]), Err(Error::Count));
}

#[test]
fn a_description_that_contradicts_itself_is_refused() {
    let none = list(0, 64).unwrap();
    assert_eq!((none.nr(), none.list()), (0, None));
    assert_eq!(list(16, 64).unwrap().nr(), 16);
    assert!(list(PolicyList::MAX, 1 << 20).is_ok());
    assert_eq!(list(65, 64), Err(Error::Count));
    assert_eq!(list(PolicyList::MAX + 1, 1 << 20), Err(Error::Count));
    assert_eq!(list(1, 1 << 32), Err(Error::Size));
    let parse = |nr, array| PolicyList::parse(nr, &array, 64, PAGE).unwrap_err();
    assert_eq!(parse(1, KhoVmalloc::default()), Error::Array);
    let array = KhoVmalloc {
        first: 0x5000,
        total_pages: 1,
        flags: KhoVmalloc::ALLOC,
        order: 0,
    };
    assert_eq!(parse(0, array), Error::Array);
    assert_eq!(parse(17, array), Error::Array);
}

#[test]
fn equal_neighbours_are_one() {
    let mut first = policy(BIND, None, 1).unwrap();
    let at = |pages, mode, first| Policy::new(pages, mode, None, nodes(first)).unwrap();
    assert!(!first.extend(&at(9..10, BIND, 1)));
    assert!(!first.extend(&at(8..10, BIND, 2)));
    assert!(!first.extend(&at(8..10, INTERLEAVE, 1)));
    assert!(first.extend(&at(8..10, BIND, 1)));
    assert_eq!(first.pages(), 4..10);
}

#[test]
fn nodes_that_are_not_there_are_left_out() {
    let on = |mode, home_node, first| policy(mode, home_node, first).unwrap().on(&nodes(1));
    let left = |mode, home_node, first| Some(policy(mode, home_node, first).unwrap());
    assert_eq!(on(BIND, Some(0), 1), (left(BIND, Some(0), 1), true));
    assert_eq!(on(BIND, Some(1), 1), (left(BIND, None, 1), false));
    assert_eq!(on(INTERLEAVE, None, 3), (left(INTERLEAVE, None, 1), false));
    assert_eq!(on(PREFERRED, None, 2), (None, false));
    assert_eq!(on(LOCAL, None, 0), (left(LOCAL, None, 0), true));
    // What was asked for is not forgotten.
    let fixed = BIND | STATIC;
    assert_eq!(on(fixed, None, 3), (left(fixed, None, 3), false));
    assert_eq!(on(fixed, None, 2), (None, false));
    let relative = BIND | RELATIVE;
    assert_eq!(on(relative, None, 2), (left(relative, None, 2), true));
    assert_eq!(on(relative, Some(5), 2), (left(relative, None, 2), false));
}

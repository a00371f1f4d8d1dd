// SPDX-License-Identifier: GPL-2.0-only OR BSD-3-Clause

//! Fuzzes the memory policies of a guest_memfd file: what is accepted must be a policy that Linux can have,
//! written down here a second time without regard to overflow.
//!
//! The checksums are made to fit, so that they hide nothing.
//!
//! Input: page size (1 byte), header (128 bytes), nodes that there are (8 bytes), and records without their
//! checksum: place (8 bytes), mode and home node (4), reserved (1), two words of nodes (16), last word (1).

#![no_main]

use kho_fuzz::{
    abi::guest_memfd::{
        policy::{
            Nodes,
            PolicyChecker,
            PolicySer, //
        },
        GuestMemfdSer,
        Header, //
    },
    Input, //
};
use libfuzzer_sys::fuzz_target;
use zerocopy::FromBytes as _;

/// Whether a record is good that starts behind `next`, in a file with `pages` pages.
fn is_good(raw: &PolicySer, next: u64, pages: u64) -> bool {
    let (index, nr) = (u64::from(raw.index), u64::from(raw.nr));
    let (mode, flags) = (raw.mode & 0x1fff, raw.mode >> 13);
    let has_nodes = raw.nodes.words().iter().any(|word| *word != 0);
    let has_home = raw.home_node != 0xffff;
    let many = mode == 2 || mode == 5;
    raw.reserved == 0
        && raw.unused == [0; 13]
        && nr != 0
        && index >= next
        && index + nr <= pages
        && (1..=6).contains(&mode)
        && flags >> 1 != 3
        && (flags & 1 == 0 || many)
        && (!has_home || many && raw.home_node < 1024)
        && has_nodes == (mode != 4)
        && (mode != 4 || flags == 0)
}

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let page = input.page();
    let mut raw = GuestMemfdSer::read_from_bytes(&input.bytes::<128>()).expect("128 bytes");
    let mut present = [0; Nodes::WORDS];
    present[0] = input.u64();
    let present = Nodes::new(present);
    let mut records = Vec::new();
    while !input.is_empty() {
        let mut bytes = [0; 256];
        bytes[8..16].copy_from_slice(&input.bytes::<8>());
        bytes[16..20].copy_from_slice(&input.bytes::<4>());
        bytes[20] = input.u8();
        bytes[24..32].copy_from_slice(&input.bytes::<8>());
        bytes[144..152].copy_from_slice(&input.bytes::<8>());
        bytes[255] = input.u8();
        let mut record = PolicySer::read_from_bytes(&bytes).expect("256 bytes");
        record.checksum = record.sum();
        records.push(record);
    }
    raw.magic = GuestMemfdSer::MAGIC;
    raw.version = GuestMemfdSer::VERSION;
    raw.len = GuestMemfdSer::LEN;
    raw.checksum = raw.sum();

    // What else is wrong with the header is left to its own target.
    let Ok(header) = Header::parse(&raw, page) else {
        return;
    };
    let pages = raw.size >> page.shift();
    let Ok(list) = header.policies() else {
        return;
    };
    assert!(u64::from(list.nr()) <= pages && list.nr() <= 4096);
    assert_eq!(list.nr(), raw.nr_policies);
    assert_eq!(list.nr() == 0, list.list().is_none());

    let mut checker = PolicyChecker::new(list);
    let mut next = 0;
    for (nr, record) in records.iter().enumerate() {
        let good = nr < raw.nr_policies as usize && is_good(record, next, pages);
        match checker.check(record) {
            Ok(policy) => {
                assert!(good, "accepted {record:?}");
                assert_eq!(PolicySer::from(&policy), *record);
                next = u64::from(policy.pages().end);
                let (left, _) = policy.on(&present);
                if let Some(left) = left {
                    // It is still a policy, and of the same pages.
                    let again = PolicySer::from(&left);
                    assert!(is_good(&again, 0, pages));
                    assert_eq!(left.pages(), policy.pages());
                }
            }
            Err(error) => {
                assert!(!good, "refused {record:?}: {error}");
                return;
            }
        }
    }
    assert_eq!(
        checker.end().is_ok(),
        records.len() == raw.nr_policies as usize
    );
});

// SPDX-License-Identifier: GPL-2.0-only OR BSD-3-Clause

//! Fuzzes `ChunkWalk`: it must end, and what it accepts must list exactly the pages it says, all
//! preserved.
//!
//! Input: description (16 bytes), then what each chunk that is asked for contains: address of the
//! next (8 bytes), number of entries (2 bytes), first entry and step (8 bytes each), and one word that
//! is changed (position of 2 bytes, value of 8 bytes). Pages are preserved if bit 62 of the
//! address is not set.

#![no_main]

use kho_fuzz::{
    abi::{
        vmalloc::KhoVmalloc,
        PageSize, //
    },
    Input, //
};
use libfuzzer_sys::fuzz_target;
use zerocopy::FromBytes as _;

const WORDS: usize = 512;

fn chunk(input: &mut Input<'_>) -> [u64; WORDS] {
    let mut words = [0; WORDS];
    words[0] = input.u64();
    let count = usize::from(input.u16()) % WORDS;
    let (mut phys, step) = (input.u64(), input.u64());
    for word in &mut words[1..=count] {
        *word = phys;
        phys = phys.wrapping_add(step);
    }
    let at = usize::from(input.u16());
    let value = input.u64();
    if let Some(word) = words.get_mut(at) {
        *word = value;
    }
    words
}

fuzz_target!(|data: &[u8]| {
    let page = PageSize::new(12).expect("a page size that exists");
    let mut input = Input(data);
    let raw = KhoVmalloc::read_from_bytes(&input.bytes::<16>()).expect("16 bytes");
    let Ok(array) = raw.parse(1, 1 << 24, page) else {
        return;
    };
    let is_preserved = |pfn: u64| pfn & 1 << 50 == 0;
    let order = u32::from(raw.order);

    let mut walk = array.walk(page);
    let mut listed = 0;
    let mut chunks = 0;
    let mut good = true;
    let accepted = loop {
        let next = walk.chunk(|pfn| is_preserved(pfn).then_some(0));
        let Ok(Some(_)) = next else {
            break next.is_ok();
        };
        chunks += 1;
        assert!(
            (chunks - 2) * (WORDS as i64 - 1) < i64::from(raw.total_pages),
            "the walk goes on for ever"
        );
        let words = chunk(&mut input);
        let entries = words[1..].iter().take_while(|phys| **phys != 0).count();
        good &= words[entries + 1..].iter().all(|phys| *phys == 0);
        good &= words[0] == 0 || entries == WORDS - 1;
        good &= words[1..=entries]
            .iter()
            .all(|phys| phys % (page.bytes() << order) == 0 && is_preserved(phys >> 12));
        listed += (entries as u64) << order;
        if walk
            .check(&words, |pfn| is_preserved(pfn).then_some(order))
            .is_err()
        {
            good &= listed <= u64::from(raw.total_pages);
            assert!(!good, "refused a good chunk");
            return;
        }
        assert!(good, "accepted a bad chunk");
    };
    if accepted {
        assert_eq!(listed, u64::from(raw.total_pages));
    }
});

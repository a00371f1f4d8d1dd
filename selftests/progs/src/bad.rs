// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Handed-over state that is damaged on its way.
//!
//! The kernel's test hook changes the state of the one file that is frozen next, so each of these
//! cases takes an update of its own.

use crate::{
    cases::Case,
    expect::refused,
    memory::{
        memfd,
        page,
        pfns,
        HUGE, //
    },
    pattern::Layout,
    run::{
        New,
        Old, //
    },
    sys::{
        given_back,
        hook,
        mem_free,
        Setting, //
    }, //
};
use anyhow::{
    ensure,
    Result, //
};
use liveupdate::Token;
use rustix::io::Errno;
use std::path::Path;

/// Offsets in the header.
mod head {
    pub(super) const POS: u64 = 0;
    pub(super) const SIZE: u64 = 8;
    pub(super) const SEALS_AND_FLAGS: u64 = 16;
    pub(super) const COUNT: u64 = 24;
    pub(super) const ARRAY: u64 = 32;
    pub(super) const ARRAY_PAGES_AND_FLAGS: u64 = 40;
}

/// Offsets in a record.
mod record {
    pub(super) const PFN_AND_FLAGS: u64 = 0;
    pub(super) const INDEX: u64 = 8;
}

/// The flags of a record as they are, in their place.
const FLAGS: u64 = 3 << 52;

/// What is changed.
enum Damage {
    /// A word of the header.
    Head(u64, u64),
    /// A word of a record.
    Record(u64, u64, u64),
    /// The page number and flags of a record, from those of the file's pages.
    Pfn(u64, fn(&[u64]) -> u64),
    /// The page number of a record, to that of a page of the list that it is in.
    Own(u64, &'static str),
}

use Damage::{
    Head,
    Own,
    Pfn,
    Record, //
};

/// How much of the file's memory must be free in the end.
#[derive(Clone, Copy, PartialEq)]
enum Freed {
    /// All but a few pages.
    Most,
    /// Nothing: what says where it is was damaged.
    Unknown,
}

use Freed::{
    Most,
    Unknown, //
};

struct Bad {
    damage: Damage,
    freed: Freed,
    /// Finish without an attempt to retrieve.
    finish: bool,
}

const INVALID: [Errno; 3] = [Errno::INVAL, Errno::IO, Errno::OPNOTSUPP];

/// Length of the file: as many single pages as a huge page has, and one huge page.
const SIZE: u64 = 2 * HUGE;

/// How much of it may be missing: less than the huge page, and less than all single pages.
const SLACK: u64 = HUGE * 3 / 4;

/// Where the huge page is, in pages; also the number of its record.
const HUGE_AT: u64 = 512;

fn layout() -> Layout {
    Layout::full(0xbad, SIZE)
}

fn old<const NR: usize>(old: &mut Old<'_>) -> Result<()> {
    let bad = &BAD[NR];
    if !hook("reset")? {
        return old
            .common
            .skip_all("the kernel has no test hook to damage state");
    }
    ensure!(page() == 4096, "the numbers here are for pages of 4 KiB");
    let fd = memfd("bad")?;
    rustix::fs::ftruncate(&fd, SIZE)?;
    let half = Layout::part(layout().seed, SIZE, 0..HUGE);
    half.write_data(&fd)?;
    let enabled = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";
    let setting = Path::new(enabled)
        .exists()
        .then(|| Setting::change(enabled, "always"));
    Layout::part(layout().seed, SIZE, HUGE..SIZE).write_data(&fd)?;
    drop(setting);
    old.preserve(&fd, 1)?;
    let pages = pfns(&fd, SIZE)?;
    let single = pages[..HUGE_AT as usize]
        .windows(2)
        .filter(|w| w[0] + 1 != w[1])
        .count();
    println!(
        "# {single} jumps in the first half, the huge page is at {:#x}",
        pages[512]
    );
    let good = memfd("good")?;
    layout().write(&good)?;
    old.preserve(&good, 2)?;
    let command = match &bad.damage {
        Head(at, value) => format!("poke head {at} {value}"),
        Record(nr, at, value) => format!("poke array {nr} {at} {value}"),
        Own(nr, page) => format!("poke own {nr} {page}"),
        Pfn(nr, word) => format!("poke array {nr} {} {}", record::PFN_AND_FLAGS, word(&pages)),
    };
    println!("# {command}");
    hook(&command)?;
    Ok(())
}

fn new<const NR: usize>(new: &mut New<'_>) -> Result<()> {
    let bad = &BAD[NR];
    let session = new.take_session("")?;
    let before = mem_free()?;
    if !bad.finish {
        let result = session.retrieve(Token(1));
        if let Err(error) = &result {
            println!("# {:?}", error.errno());
        }
        new.common.check("refused", refused(result, &INVALID));
        let again = refused(session.retrieve(Token(1)), &INVALID);
        new.common.check("stays-refused", again);
        let good = session.retrieve(Token(2)).map_err(|e| e.to_string());
        new.common
            .check("other-file", good.and_then(|fd| layout().verify(fd)));
    }
    let finished = session.finish().map_err(|e| e.to_string());
    new.common.check("finish", finished);
    let files = if bad.freed == Most { 2 } else { 1 };
    let memory = given_back(before, files * SIZE, SLACK)?;
    new.common.check("memory", memory);
    Ok(())
}

macro_rules! bad {
    ($($number:literal $name:literal $damage:expr, $freed:ident, $finish:literal;)*) => {
        const BAD: &[Bad] = &[$(Bad { damage: $damage, freed: $freed, finish: $finish }),*];

        /// The cases.
        pub const CASES: &[Case] = &[$(Case {
            name: concat!("bad.", $name),
            about: "Damaged state is refused without a warning, alone, and what can be freed is freed",
            old: Some(old::<$number>),
            new: Some(new::<$number>),
            default: false,
                host: false,
        }),*];
    };
}

bad! {
    0 "position" Head(head::POS, 1 << 63), Most, false;
    1 "size" Head(head::SIZE, 1 << 63), Most, false;
    2 "size-zero" Head(head::SIZE, 0), Most, false;
    3 "size-small" Head(head::SIZE, 100 << 12), Most, false;
    4 "seals" Head(head::SEALS_AND_FLAGS, 0x40), Most, false;
    5 "flags" Head(head::SEALS_AND_FLAGS, 1 << 32), Most, false;
    6 "count" Head(head::COUNT, u64::MAX), Most, false;
    7 "count-zero" Head(head::COUNT, 0), Most, false;
    8 "truncated" Head(head::COUNT, 1000), Most, false;
    9 "array-null" Head(head::ARRAY, 0), Unknown, false;
    10 "array-unpreserved" Head(head::ARRAY, 0x1000), Unknown, false;
    11 "array-unaligned" Head(head::ARRAY, 0x1234_5001), Unknown, false;
    12 "array-nowhere" Head(head::ARRAY, !0xfff), Unknown, false;
    13 "array-pages" Head(head::ARRAY_PAGES_AND_FLAGS, 1 << 32), Unknown, false;
    14 "array-flags" Head(head::ARRAY_PAGES_AND_FLAGS, 0x8000_0000_0003), Unknown, false;
    15 "pfn-unpreserved" Record(5, record::PFN_AND_FLAGS, 1 | FLAGS), Most, false;
    16 "pfn-nowhere" Record(5, record::PFN_AND_FLAGS, ((1 << 52) - 1) | FLAGS), Most, false;
    17 "pfn-twice" Pfn(6, |pfns| pfns[5] | FLAGS), Most, false;
    18 "pfn-inside" Pfn(6, |pfns| (pfns[512] + 1) | FLAGS), Most, false;
    19 "pfn-unaligned" Pfn(5, |pfns| pfns[512] | FLAGS), Most, false;
    20 "record-flags" Pfn(5, |pfns| pfns[5] | 7 << 52), Most, false;
    21 "index-outside" Record(5, record::INDEX, 1 << 40), Most, false;
    22 "index-twice" Record(6, record::INDEX, 5), Most, false;
    23 "index-unaligned" Record(HUGE_AT, record::INDEX, HUGE_AT + 1), Most, false;
    24 "finish-pfn-twice" Pfn(6, |pfns| pfns[5] | FLAGS), Most, true;
    25 "finish-pfn-unpreserved" Record(5, record::PFN_AND_FLAGS, 1 | FLAGS), Most, true;
    26 "finish-count" Head(head::COUNT, u64::MAX), Most, true;
    27 "finish-array-null" Head(head::ARRAY, 0), Unknown, true;
    28 "pfn-records" Own(6, "records"), Most, false;
    29 "pfn-chunk" Own(6, "chunk"), Most, false;
    30 "finish-pfn-records" Own(6, "records"), Most, true;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_case_has_its_own_damage() {
        assert_eq!(BAD.len(), CASES.len());
        let finish = CASES
            .iter()
            .zip(BAD)
            .all(|(c, b)| c.name.contains("finish") == b.finish);
        assert!(finish);
    }
}

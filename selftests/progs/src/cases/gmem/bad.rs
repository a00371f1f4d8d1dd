// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Handed-over state of guest memory that is damaged on its way, many files in one update: each field of the
//! header and of a record.

use crate::{
    expect::refused,
    gmem::{
        allocate,
        fill,
        verify,
        Vm,
        DEFAULT,
        SHARED, //
    },
    memory::{
        page,
        Map, //
    },
    run::{
        New,
        Old, //
    },
    sys::{
        self,
        given_back,
        hook,
        mem_free, //
    },
};
use anyhow::{
    ensure,
    Result, //
};
use liveupdate::Token;
use rustix::io::Errno;
use std::os::fd::OwnedFd;

/// Offsets of words in the header.
mod head {
    pub(super) const CHECKSUM: u64 = 0;
    pub(super) const MAGIC_VERSION_LEN: u64 = 8;
    pub(super) const SIZE: u64 = 16;
    pub(super) const NR_PAGES: u64 = 24;
    pub(super) const FLAGS: u64 = 40;
    pub(super) const VM_TYPE: u64 = 48;
    pub(super) const VM_TOKEN: u64 = 56;
    pub(super) const NR_ORDER_SHIFT: u64 = 64;
    pub(super) const ARRAY: u64 = 72;
    pub(super) const ARRAY_PAGES: u64 = 80;
    pub(super) const ATTRIBUTES: u64 = 104;
    pub(super) const ATTRIBUTES_PAGES: u64 = 112;
    pub(super) const NR_POLICIES_ATTRIBUTES: u64 = 120;
}

/// Where the first part ends, and the second begins: so there are two extents at least.
const HOLE: [u64; 2] = [3000, 3100];
/// The length of a file, in pages.
const END: u64 = 5300;
/// Pages of a file: so many that it shows if they are not freed.
const PAGES: u64 = END - (HOLE[1] - HOLE[0]);
/// How much memory of all files may be missing: less than a file.
const SLACK: u64 = 4 << 20;

/// A run of pages, as it is handed over.
#[derive(Clone, Copy)]
struct Run {
    pfn: u64,
    index: u64,
    nr: u64,
}

fn runs(memory: &OwnedFd) -> Result<Vec<Run>> {
    let mut runs: Vec<Run> = Vec::new();
    let map = Map::new(memory, END * page(), false)?;
    for (pfns, start) in [(0..HOLE[0], 0), (HOLE[1]..END, HOLE[1])] {
        // A mapping as a whole would fill the hole.
        for (index, pfn) in (start..).zip(map.pfns_of(pfns)?) {
            match runs.last_mut() {
                Some(last) if last.pfn + last.nr == pfn && last.index + last.nr == index => {
                    last.nr += 1;
                }
                _ => runs.push(Run { pfn, index, nr: 1 }),
            }
        }
    }
    Ok(runs)
}

/// Where the longest run is.
fn longest(runs: &[Run]) -> usize {
    let runs = runs.iter().enumerate();
    runs.max_by_key(|(_, run)| run.nr).map_or(0, |(nr, _)| nr)
}

/// Pages that cannot be found any more.
#[derive(Clone, Copy, PartialEq)]
enum Lost {
    None,
    /// Those of the first record.
    First,
    /// Those of the second record.
    Second,
    /// All but the first page of the longest record.
    Rest,
    All,
}

use Lost::{
    All,
    First,
    None as Nothing,
    Rest,
    Second, //
};

impl Lost {
    fn pages(self, runs: &[Run]) -> u64 {
        match self {
            Nothing => 0,
            First => runs[0].nr,
            Second => runs[1].nr,
            Rest => runs[longest(runs)].nr - 1,
            All => PAGES,
        }
    }
}

/// One damage.
struct Bad {
    name: &'static str,
    /// What retrieving fails with; none if that is not tried.
    errno: Option<Errno>,
    lost: Lost,
    /// The commands for the test hook.
    orders: fn(&[Run]) -> Vec<String>,
}

/// A field of the header, with a checksum that fits.
fn poke_head(at: u64, value: u64) -> Vec<String> {
    vec![format!("poke head {at} {value}"), "sum".into()]
}

/// A word of a record, without a checksum that fits.
fn poke(nr: usize, at: u64, value: u64) -> Vec<String> {
    vec![format!("poke array {nr} {at} {value}")]
}

/// A word of a record, with one.
fn forge(nr: usize, at: u64, value: u64) -> Vec<String> {
    let mut orders = poke(nr, at, value);
    orders.push("sum".into());
    orders
}

/// The second word of a record.
fn place(index: u64, nr: u64) -> u64 {
    nr << 32 | index
}

/// The longest record, with a single page.
fn shorten(runs: &[Run]) -> Vec<String> {
    let nr = longest(runs);
    forge(nr, 8, place(runs[nr].index, 1))
}

/// The word of the header with the number of records, order, page size and reserved bits.
fn numbers(runs: u64, order: u64, page_shift: u64, reserved: u64) -> Vec<String> {
    let word = runs | order << 32 | page_shift << 40 | reserved << 48;
    poke_head(head::NR_ORDER_SHIFT, word)
}

/// The word of the header with the magic number, the version and the length.
fn version(magic: &[u8; 4], version: u64, len: u64) -> Vec<String> {
    let magic = u64::from(u32::from_le_bytes(*magic));
    poke_head(head::MAGIC_VERSION_LEN, magic | version << 32 | len << 48)
}

const INVALID: Option<Errno> = Some(Errno::INVAL);
const UNKNOWN: Option<Errno> = Some(Errno::OPNOTSUPP);
const NOT_THERE: Option<Errno> = Some(Errno::IO);

macro_rules! bad {
    ($($name:literal $errno:expr, $lost:expr, $orders:expr;)*) => {
        &[$(Bad { name: $name, errno: $errno, lost: $lost, orders: $orders }),*]
    };
}

const BAD: &[Bad] = bad! {
    "checksum" INVALID, Nothing, |_| vec![format!("poke head {} 1", head::CHECKSUM)];
    "checksum-finish" None, Nothing, |_| vec![format!("poke head {} 1", head::CHECKSUM)];
    "magic" UNKNOWN, Nothing, |_| version(b"LUGN", 1, 128);
    "version" UNKNOWN, Nothing, |_| version(b"LUGM", 2, 128);
    "version-finish" None, Nothing, |_| version(b"LUGM", 2, 128);
    "length" UNKNOWN, Nothing, |_| version(b"LUGM", 1, 136);
    "size-zero" INVALID, Nothing, |_| poke_head(head::SIZE, 0);
    "size-unaligned" INVALID, Nothing, |_| poke_head(head::SIZE, END * page() - 1);
    "size-small" INVALID, Nothing, |_| poke_head(head::SIZE, (END - 1) * page());
    "size-large" INVALID, Nothing, |_| poke_head(head::SIZE, 1 << 63);
    "pages-more" INVALID, Nothing, |_| poke_head(head::NR_PAGES, PAGES + 1);
    "pages-less" INVALID, Nothing, |_| poke_head(head::NR_PAGES, PAGES - 1);
    "pages-huge" INVALID, Nothing, |_| poke_head(head::NR_PAGES, u64::MAX);
    "flags" UNKNOWN, Nothing, |_| poke_head(head::FLAGS, 7);
    // Then it would be private memory, and the records say that it is not.
    "flags-private" INVALID, Nothing, |_| poke_head(head::FLAGS, 1);
    "vm-type" UNKNOWN, Nothing, |_| poke_head(head::VM_TYPE, 5);
    "vm-type-shared" UNKNOWN, Nothing, |_| poke_head(head::VM_TYPE, 1);
    "vm-token" UNKNOWN, Nothing, |_| poke_head(head::VM_TOKEN, 1);
    "records-less" INVALID, Nothing, |runs| numbers(runs.len() as u64 - 1, 0, 12, 0);
    "records-more" INVALID, Nothing, |runs| numbers(runs.len() as u64 + 1, 0, 12, 0);
    "records-none" INVALID, Nothing, |_| numbers(0, 0, 12, 0);
    "order" INVALID, Nothing, |runs| numbers(runs.len() as u64, 9, 12, 0);
    "page-size" INVALID, Nothing, |runs| numbers(runs.len() as u64, 0, 16, 0);
    "reserved" UNKNOWN, Nothing, |runs| numbers(runs.len() as u64, 0, 12, 1);
    "array-null" INVALID, All, |_| poke_head(head::ARRAY, 0);
    "array-null-finish" None, All, |_| poke_head(head::ARRAY, 0);
    "array-unaligned" INVALID, All, |_| poke_head(head::ARRAY, 0x1234_5001);
    "array-unpreserved" NOT_THERE, All, |_| poke_head(head::ARRAY, 0x1000);
    "array-nowhere" NOT_THERE, All, |_| poke_head(head::ARRAY, !0xfff);
    "array-pages" INVALID, Nothing, |_| poke_head(head::ARRAY_PAGES, 1 << 31);
    "attributes" UNKNOWN, Nothing, |_| poke_head(head::ATTRIBUTES, 0x1000);
    "attributes-pages" UNKNOWN, Nothing, |_| poke_head(head::ATTRIBUTES_PAGES, 1);
    "attributes-number" UNKNOWN, Nothing, |_| poke_head(head::NR_POLICIES_ATTRIBUTES, 1 << 32);
    "class" INVALID, Nothing, |runs| forge(0, 0, runs[0].pfn | 1 << 58);
    "class-encrypted" INVALID, Nothing, |runs| forge(0, 0, runs[0].pfn | 2 << 58);
    "class-unknown" INVALID, Nothing, |runs| forge(0, 0, runs[0].pfn | 63 << 58);
    "class-finish" None, Nothing, |runs| forge(0, 0, runs[0].pfn | 3 << 58);
    "pfn-zero" INVALID, First, |_| forge(0, 0, 0);
    "pfn-unpreserved" NOT_THERE, First, |_| forge(0, 0, 1);
    "pfn-nowhere" NOT_THERE, First, |_| forge(0, 0, 1 << 40);
    "pfn-beyond" INVALID, First, |_| forge(0, 0, 1 << 57);
    "pfn-finish" None, First, |_| forge(0, 0, 1);
    // Two at the same place: the second one is not found any more.
    "pfn-twice" NOT_THERE, Second, |runs| forge(1, 0, runs[0].pfn);
    "pfn-changed" NOT_THERE, First, |runs| poke(0, 0, runs[0].pfn ^ 1 << 51);
    "pfn-records" NOT_THERE, First, |_| vec!["poke own 0 records".into(), "sum".into()];
    "pfn-chunk" NOT_THERE, First, |_| vec!["poke own 0 chunk".into(), "sum".into()];
    "index-overlap" INVALID, Nothing, |runs| forge(1, 8, place(0, runs[1].nr));
    "index-outside" INVALID, Nothing, |runs| forge(0, 8, place(END, runs[0].nr));
    "index-changed" INVALID, Nothing, |runs| poke(0, 8, place(1 << 31, runs[0].nr));
    "nr-zero" INVALID, First, |runs| forge(0, 8, place(runs[0].index, 0));
    "nr-less" INVALID, Rest, shorten;
    "nr-less-finish" None, Rest, shorten;
};

/// A file among those that are damaged, with the last token.
const GOOD: u64 = BAD.len() as u64 + 1;
const GOOD_PAGES: u64 = 64;

pub(super) fn old(old: &mut Old<'_>) -> Result<()> {
    if !hook("reset")? {
        return old.common.skip_all("the kernel has no test hook");
    }
    ensure!(page() == 4096, "the numbers here are for pages of 4 KiB");
    let vm = Vm::new(DEFAULT)?;
    let mut lost = 0;
    for (token, bad) in (1..).zip(BAD) {
        let memory = vm.memory(END * page(), SHARED)?;
        allocate(&memory, 0..HOLE[0])?;
        allocate(&memory, HOLE[1]..END)?;
        let runs = runs(&memory)?;
        old.preserve(&memory, token)?;
        let orders = (bad.orders)(&runs);
        println!("# {}: {} runs, {orders:?}", bad.name, runs.len());
        for order in orders {
            hook(&order)?;
        }
        hook("next")?;
        lost += bad.lost.pages(&runs);
    }
    let good = vm.memory(GOOD_PAGES * page(), SHARED)?;
    fill(&Map::new(&good, GOOD_PAGES * page(), true)?, 0..GOOD_PAGES);
    old.preserve(&good, GOOD)?;
    old.common.note("lost", &lost.to_string())
}

pub(super) fn new(new: &mut New<'_>) -> Result<()> {
    let lost: u64 = new.common.noted("lost")?.unwrap_or_default().parse()?;
    let session = new.take_session("")?;
    let before = mem_free()?;
    for (token, bad) in (1..).zip(BAD) {
        let Some(errno) = bad.errno else { continue };
        for name in ["refused", "stays-refused"] {
            let result = refused(session.retrieve(Token(token)), &[errno]);
            new.common.check(&format!("{}.{name}", bad.name), result);
        }
    }
    let good = session.retrieve(Token(GOOD))?;
    let map = Map::new(&good, GOOD_PAGES * page(), false)?;
    new.common
        .check("other-file", verify(&map, 0..GOOD_PAGES, false));
    session.finish().map_err(liveupdate::Error::from)?;
    let gain = (BAD.len() as u64 * PAGES - lost) * page();
    let memory = given_back(before, gain, sys::slack(SLACK))?;
    new.common.check("memory", memory);
    Ok(())
}

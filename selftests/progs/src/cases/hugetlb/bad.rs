// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Handed-over state of huge pages that is damaged on its way, many files in one update.

use super::{
    pool,
    M2,
    POOL, //
};
use crate::{
    expect::{
        is,
        refused,
        same, //
    },
    hugetlb::{
        huge_memfd,
        write,
        HugeMap, //
    },
    pattern::Layout,
    run::{
        New,
        Old, //
    },
    sys, //
};
use anyhow::{
    Context,
    Result, //
};
use liveupdate::Token;
use rustix::{
    fs::{
        fallocate,
        ftruncate,
        FallocateFlags,
        MemfdFlags, //
    },
    io::Errno, //
};
use std::os::fd::OwnedFd;

/// Offsets of words in the header.
mod head {
    pub(super) const POS: u64 = 8;
    pub(super) const SIZE: u64 = 16;
    pub(super) const NR_PAGES: u64 = 24;
    pub(super) const SEALS_AND_FLAGS: u64 = 40;
    pub(super) const EXTENTS_AND_ORDER: u64 = 48;
    pub(super) const ARRAY: u64 = 56;
    pub(super) const ARRAY_PAGES: u64 = 64;
}

/// Huge pages of each file.
const PAGES: u64 = 8;
const SIZE: u64 = PAGES * M2;

/// How much of the memory of a file may be missing: less than what the damage is about.
const SLACK: u64 = 3 << 20;

/// A run of huge pages, as it is handed over.
#[derive(Clone, Copy)]
struct Run {
    pfn: u64,
    index: u64,
    nr: u64,
}

impl Run {
    fn second_word(index: u64, nr: u64) -> u64 {
        nr << 32 | index
    }
}

fn runs(fd: &OwnedFd) -> Result<Vec<Run>> {
    let mut runs: Vec<Run> = Vec::new();
    for (index, pfn) in (0..).zip(HugeMap::read_only(fd, SIZE, M2)?.pfns(M2)?) {
        match runs.last_mut() {
            Some(last) if last.pfn + last.nr * (M2 / crate::memory::page()) == pfn => last.nr += 1,
            _ => runs.push(Run { pfn, index, nr: 1 }),
        }
    }
    Ok(runs)
}

/// Where the longest run is.
fn longest(runs: &[Run]) -> usize {
    let runs = runs.iter().enumerate();
    runs.max_by_key(|(_, run)| run.nr).map_or(0, |(nr, _)| nr)
}

/// What a file must be like to be damaged in a certain way.
#[derive(Clone, Copy)]
enum Shape {
    Any,
    /// There is a run of at least four.
    Long,
    /// There are at least two runs.
    Several,
}

impl Shape {
    fn fits(self, runs: &[Run]) -> bool {
        match self {
            Self::Any => true,
            Self::Long => runs[longest(runs)].nr >= 4,
            Self::Several => runs.len() > 1,
        }
    }
}

/// One damage.
struct Bad {
    name: &'static str,
    shape: Shape,
    /// The commands for the test hook.
    orders: fn(&[Run]) -> Vec<String>,
    /// What retrieving fails with; none if that is not tried.
    errno: Option<Errno>,
    /// Huge pages that cannot be found any more.
    lost: u64,
}

fn poke_head(at: u64, value: u64) -> Vec<String> {
    vec![format!("poke head {at} {value}"), "sum".into()]
}

/// A record without a checksum that fits.
fn poke(nr: usize, at: u64, value: u64) -> Vec<String> {
    vec![format!("poke array {nr} {at} {value}")]
}

/// A record with one.
fn forge(nr: usize, at: u64, value: u64) -> Vec<String> {
    let mut orders = poke(nr, at, value);
    orders.push("sum".into());
    orders
}

/// The word of the header that has the number of records, order, page size and reserved bits.
fn extents_word(runs: u64, order: u64, page_shift: u64, reserved: u64) -> u64 {
    runs | order << 32 | page_shift << 40 | reserved << 48
}

const INVALID: Option<Errno> = Some(Errno::INVAL);
const UNKNOWN: Option<Errno> = Some(Errno::OPNOTSUPP);
const NOT_THERE: Option<Errno> = Some(Errno::IO);

macro_rules! bad {
    ($($name:literal $shape:ident $errno:expr, $lost:expr, $orders:expr;)*) => {
        &[$(Bad { name: $name, shape: Shape::$shape, orders: $orders, errno: $errno, lost: $lost }),*]
    };
}

const BAD: &[Bad] = bad! {
    // Lengths of runs first: not every file has a long one.
    "nr-less" Long INVALID, 0, |runs| {
        let nr = longest(runs);
        poke(nr, 8, Run::second_word(runs[nr].index, 1))
    };
    "nr-less-finish" Long None, 0, |runs| {
        let nr = longest(runs);
        poke(nr, 8, Run::second_word(runs[nr].index, 1))
    };
    "nr-zero" Any INVALID, 0, |runs| poke(0, 8, Run::second_word(runs[0].index, 0));
    "nr-more" Any INVALID, 0, |runs| poke(0, 8, Run::second_word(runs[0].index, PAGES + 9));
    "nr-huge" Any INVALID, 0, |_| poke(0, 8, Run::second_word(0, 0xffff_ffff));
    "index-overlap" Several INVALID, 0, |runs| forge(1, 8, Run::second_word(0, runs[1].nr));
    "index-outside" Any INVALID, 0, |runs| forge(0, 8, Run::second_word(PAGES, runs[0].nr));
    "index-changed" Several INVALID, 0, |runs| poke(1, 8, Run::second_word(0, runs[1].nr));
    // Two that say that they are at the same place: the second one is not found any more.
    "pfn-twice" Several NOT_THERE, 7, |runs| forge(1, 0, runs[0].pfn);
    "pfn-inside" Any INVALID, 8, |runs| forge(0, 0, runs[0].pfn + 1);
    "pfn-unpreserved" Any NOT_THERE, 8, |_| forge(0, 0, 0x200);
    "pfn-nowhere" Any NOT_THERE, 8, |_| forge(0, 0, 1 << 40);
    "pfn-beyond" Any INVALID, 8, |_| forge(0, 0, !0x1ff);
    // Pages of the list are there, but not where a huge page can be.
    "pfn-records" Any INVALID, 8, |_| vec!["poke own 0 records".into(), "sum".into()];
    "pfn-chunk" Any INVALID, 8, |_| vec!["poke own 0 chunk".into(), "sum".into()];
    "pfn-finish" Any None, 8, |_| forge(0, 0, 0x200);
    "checksum" Any INVALID, 0, |_| vec![format!("poke head {} 8192", head::SIZE)];
    "checksum-finish" Any None, 0, |_| vec![format!("poke head {} 8192", head::SIZE)];
    "position" Any INVALID, 0, |_| poke_head(head::POS, 1 << 63);
    "size" Any INVALID, 0, |_| poke_head(head::SIZE, 1 << 63);
    "size-small" Any INVALID, 0, |_| poke_head(head::SIZE, SIZE - M2);
    "count-more" Any INVALID, 0, |_| poke_head(head::NR_PAGES, u64::MAX);
    "count-less" Any INVALID, 0, |_| poke_head(head::NR_PAGES, PAGES - 1);
    "seals" Any UNKNOWN, 0, |_| poke_head(head::SEALS_AND_FLAGS, 0x40);
    "flags" Any UNKNOWN, 0, |_| poke_head(head::SEALS_AND_FLAGS, 4 << 32);
    "reserved" Any UNKNOWN, 0, |runs| {
        poke_head(head::EXTENTS_AND_ORDER, extents_word(runs.len() as u64, 9, 12, 1))
    };
    "page-size" Any INVALID, 0, |runs| {
        poke_head(head::EXTENTS_AND_ORDER, extents_word(runs.len() as u64, 9, 16, 0))
    };
    "order-zero" Any INVALID, 0, |runs| {
        poke_head(head::EXTENTS_AND_ORDER, extents_word(runs.len() as u64, 0, 12, 0))
    };
    // No kernel has huge pages of this size.
    "order-unknown" Any Some(Errno::NODEV), 0, |runs| {
        poke_head(head::EXTENTS_AND_ORDER, extents_word(runs.len() as u64, 8, 12, 0))
    };
    "truncated" Several INVALID, 0, |runs| {
        poke_head(head::EXTENTS_AND_ORDER, extents_word(runs.len() as u64 - 1, 9, 12, 0))
    };
    "array-pages" Any INVALID, 0, |_| poke_head(head::ARRAY_PAGES, 1 << 32);
    "array-null" Any INVALID, 8, |_| poke_head(head::ARRAY, 0);
    "array-unaligned" Any INVALID, 8, |_| poke_head(head::ARRAY, 0x1234_5001);
    "array-unpreserved" Any NOT_THERE, 8, |_| poke_head(head::ARRAY, 0x1000);
    "array-nowhere" Any NOT_THERE, 8, |_| poke_head(head::ARRAY, !0xfff);
};

/// A file between those that are damaged, with the last token.
const GOOD: u64 = BAD.len() as u64 + 1;

fn layout(token: u64) -> Layout {
    Layout::every(token, SIZE, 0x100, M2 / 2, 0x1001)
}

/// As many files as there are tokens, of which each other one is in one piece.
///
/// A huge page that was freed last is allocated first. So all are freed in an order that makes the next file
/// what it is to be, after all were in a file that was preserved, so that none has to be moved any more.
fn files(old: &Old<'_>) -> Result<Vec<OwnedFd>> {
    let all = huge_memfd(M2, MemfdFlags::ALLOW_SEALING)?;
    fallocate(&all, FallocateFlags::empty(), 0, GOOD * SIZE)?;
    let session = old.new_session(".all")?;
    session.preserve(&all, Token(1))?;
    drop(session);
    let pfns = HugeMap::read_only(&all, GOOD * SIZE, M2)?.pfns(M2)?;
    let mut pages: Vec<(u64, u64)> = pfns.into_iter().zip(0..).collect();
    pages.sort_unstable();
    let mut files = Vec::new();
    for (token, pages) in (1..).zip(pages.chunks_mut(PAGES as usize)) {
        if token % 2 == 0 {
            pages.reverse();
        }
        for (_, index) in pages {
            let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            fallocate(&all, punch, *index * M2, M2)?;
        }
        let fd = huge_memfd(M2, MemfdFlags::ALLOW_SEALING)?;
        write(&layout(token), &fd, M2)?;
        files.push(fd);
    }
    Ok(files)
}

pub(super) fn old(old: &mut Old<'_>) -> Result<()> {
    if !sys::hook("reset")? {
        return old.common.skip_all("the kernel has no test hook");
    }
    // Some of them cannot be pinned where they are.
    let nr = GOOD * PAGES * 3 / 2;
    let enough = same(POOL.set(nr)?, nr);
    old.common.check("pool", enough);
    let files = files(old)?;
    let mut shapes = Vec::new();
    for (token, fd) in (1..).zip(&files) {
        old.preserve(fd, token)?;
        // Pinning may have moved huge pages.
        shapes.push(runs(fd)?);
    }
    let mut orders = vec![Vec::new(); files.len()];
    let mut tokens = Vec::new();
    for bad in BAD {
        let mut free = (0..BAD.len()).filter(|file| !tokens.contains(file));
        let found = free.find(|file| bad.shape.fits(&shapes[*file]));
        let file = found.with_context(|| format!("no file is left for {}", bad.name))?;
        orders[file] = (bad.orders)(&shapes[file]);
        tokens.push(file);
        println!(
            "# token {} of {} runs: {} by {:?}",
            file + 1,
            shapes[file].len(),
            bad.name,
            orders[file]
        );
    }
    for orders in orders {
        for order in orders {
            sys::hook(&order)?;
        }
        sys::hook("next")?;
    }
    let tokens: Vec<String> = tokens.iter().map(|file| (file + 1).to_string()).collect();
    old.common.note("tokens", &tokens.join(" "))
}

pub(super) fn new(new: &mut New<'_>) -> Result<()> {
    let tokens = new.common.noted("tokens")?.unwrap_or_default();
    let tokens: Vec<u64> = tokens
        .split_whitespace()
        .map(str::parse)
        .collect::<std::result::Result<_, _>>()?;
    let before = POOL.state()?;
    let session = new.take_session("")?;
    let mut left = 0;
    for (bad, token) in BAD.iter().zip(tokens) {
        let Some(errno) = bad.errno else {
            left += SIZE - bad.lost * M2;
            continue;
        };
        let free = sys::mem_free()?;
        let result = refused(session.retrieve(Token(token)), &[errno]);
        new.common.check(&format!("{}.refused", bad.name), result);
        let again = refused(session.retrieve(Token(token)), &[errno]);
        new.common
            .check(&format!("{}.stays-refused", bad.name), again);
        let gain = SIZE - bad.lost * M2;
        let memory = sys::given_back(free, gain, SLACK)?;
        new.common.check(&format!("{}.memory", bad.name), memory);
    }
    // What was put into a file before the second of two records was found to be wrong stays in the pool. It
    // is nothing if the second is the longer one, since that is found before.
    let state = POOL.state()?;
    let kept = state.nr - before.nr;
    new.common
        .check("kept", is(kept < PAGES, &state.to_string()));
    let want = [before.nr + kept, before.free + kept, 0, 0];
    pool(&mut new.common, "pool", POOL, want)?;
    let good = session.retrieve(Token(GOOD)).map_err(|e| e.to_string());
    let content = good.and_then(|fd| layout(GOOD).verify(fd));
    new.common.check("other-file", content);
    let free = sys::mem_free()?;
    session.finish().map_err(liveupdate::Error::from)?;
    let memory = sys::given_back(free, left, SLACK)?;
    new.common.check("finish.memory", memory);
    Ok(())
}

/// Preserves one file, and orders the table that the next kernel reads at boot to be damaged.
pub(super) fn pools_old(old: &mut Old<'_>, order: &str) -> Result<()> {
    if !sys::hook("reset")? {
        return old.common.skip_all("the kernel has no test hook");
    }
    let state = POOL.state()?;
    old.common
        .check("pool", is(state.free >= PAGES, "start with hugepages="));
    old.common.note("nr", &state.nr.to_string())?;
    let fd = huge_memfd(M2, MemfdFlags::ALLOW_SEALING)?;
    ftruncate(&fd, SIZE)?;
    write(&layout(1), &fd, M2)?;
    old.preserve(&fd, 1)?;
    sys::hook(order)?;
    Ok(())
}

/// `booted` of the huge pages that there were are in the pool that this kernel began with.
pub(super) fn pools_new(new: &mut New<'_>, booted: fn(u64) -> u64) -> Result<()> {
    let nr = new.common.noted("nr")?.unwrap_or_default();
    let nr = booted(nr.parse()?);
    pool(&mut new.common, "booted", POOL, [nr, nr, 0, 0])?;
    let fd = new.retrieve(1)?;
    new.common.check("content", layout(1).verify(&fd));
    pool(&mut new.common, "retrieved", POOL, [nr + PAGES, nr, 0, 0])?;
    Ok(())
}

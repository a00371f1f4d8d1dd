// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Memory policies that are damaged on their way: the file is retrieved all the same, with its content, and
//! without policies.

use crate::{
    gmem::{
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
    numa::{
        mbind,
        mpol::{
            BIND,
            DEFAULT as NONE,
            PREFERRED_MANY, //
        },
        policies,
        set_home,
        Policy, //
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
    }, //
};
use anyhow::{
    ensure,
    Result, //
};

/// Offsets of words in the header.
mod head {
    pub(super) const POLICIES: u64 = 88;
    pub(super) const POLICIES_PAGES: u64 = 96;
    pub(super) const NR_POLICIES_ATTRIBUTES: u64 = 120;
}

/// Offsets of words in a record.
mod record {
    pub(super) const CHECKSUM: u64 = 0;
    pub(super) const PLACE: u64 = 8;
    pub(super) const MODE_HOME_RESERVED: u64 = 16;
    pub(super) const NODES: u64 = 24;
    pub(super) const UNUSED: u64 = 152;
}

/// Pages of a file, of which the first half is there: so many that it shows if they are not freed.
const PAGES: u64 = 4096;
/// The policies of a file.
const FIRST: Policy = Policy(BIND, 1);
const SECOND: Policy = Policy(PREFERRED_MANY, 1);
/// Where the second one starts.
const MIDDLE: u64 = PAGES / 2;
/// How much memory of all files may be missing: less than a file.
const SLACK: u64 = 4 << 20;

/// What becomes of the policies.
#[derive(Clone, Copy, PartialEq)]
enum Left {
    All,
    None,
    First,
}

use Left::{
    All,
    First,
    None as Nothing, //
};

/// One damage.
struct Bad {
    name: &'static str,
    left: Left,
    orders: &'static [(&'static str, u64, u64)],
}

/// A word of the header, a word of the first record, and one of the second.
const HEAD: &str = "head";
const ZERO: &str = "policy 0";
const ONE: &str = "policy 1";

/// The word with mode and home node.
const fn mode(mode: u64, home: u64) -> u64 {
    mode | home << 16
}

/// The word with the first page and their number.
const fn place(index: u64, nr: u64) -> u64 {
    index | nr << 32
}

const NO_HOME: u64 = 0xffff;

macro_rules! bad {
    ($($name:literal $left:ident, $($where:ident $at:expr, $value:expr);+;)*) => {
        &[$(Bad {
            name: $name,
            left: $left,
            orders: &[$(($where, $at, $value)),+],
        }),*]
    };
}

const BAD: &[Bad] = bad! {
    "same" All, ONE record::MODE_HOME_RESERVED, mode(5, 0);
    "checksum" Nothing, ONE record::CHECKSUM, 1;
    "mode-zero" Nothing, ONE record::MODE_HOME_RESERVED, mode(0, NO_HOME);
    "mode-unknown" Nothing, ONE record::MODE_HOME_RESERVED, mode(7, NO_HOME);
    "mode-huge" Nothing, ZERO record::MODE_HOME_RESERVED, mode(0xfff, NO_HOME);
    "flags-unknown" Nothing, ONE record::MODE_HOME_RESERVED, mode(2 | 1 << 12, NO_HOME);
    "flags-both" Nothing, ONE record::MODE_HOME_RESERVED, mode(2 | 3 << 14, NO_HOME);
    "local-of-nodes" Nothing, ONE record::MODE_HOME_RESERVED, mode(4, NO_HOME);
    "home-of-interleave" Nothing, ONE record::MODE_HOME_RESERVED, mode(3, 0);
    "home-beyond" Nothing, ONE record::MODE_HOME_RESERVED, mode(2, 1024);
    // There is no such node, which is no damage.
    "home-not-there" All, ONE record::MODE_HOME_RESERVED, mode(5, 1023);
    "nodes-not-there" First, ONE record::NODES, 1 << 63;
    "nodes-none" Nothing, ONE record::NODES, 0;
    "reserved" Nothing, ONE record::MODE_HOME_RESERVED, mode(5, 0) | 1 << 32;
    "unused" Nothing, ONE record::UNUSED + 96, 1;
    "overlap" Nothing, ONE record::PLACE, place(MIDDLE - 1, 8);
    "order" Nothing, ZERO record::PLACE, place(PAGES - 1, 1);
    "outside" Nothing, ONE record::PLACE, place(MIDDLE, PAGES);
    "far-outside" Nothing, ONE record::PLACE, place(0xffff_ffff, 0xffff_ffff);
    "no-pages" Nothing, ZERO record::PLACE, place(0, 0);
    "number-zero" Nothing, HEAD head::NR_POLICIES_ATTRIBUTES, 0;
    "number-less" First, HEAD head::NR_POLICIES_ATTRIBUTES, 1;
    "number-more" Nothing, HEAD head::NR_POLICIES_ATTRIBUTES, 3;
    "number-pages" Nothing, HEAD head::NR_POLICIES_ATTRIBUTES, 17;
    "number-huge" Nothing, HEAD head::NR_POLICIES_ATTRIBUTES, 0xffff_ffff;
    "array-null" Nothing, HEAD head::POLICIES, 0;
    "array-unaligned" Nothing, HEAD head::POLICIES, 0x1234_5001;
    "array-unpreserved" Nothing, HEAD head::POLICIES, 0x1000;
    "array-nowhere" Nothing, HEAD head::POLICIES, !0xfff;
    "array-pages" Nothing, HEAD head::POLICIES_PAGES, 1 << 31;
    "array-none" Nothing, HEAD head::NR_POLICIES_ATTRIBUTES, 0; HEAD head::POLICIES, 0; HEAD head::POLICIES_PAGES, 0;
};

pub(super) fn old(old: &mut Old<'_>) -> Result<()> {
    if !hook("reset")? {
        return old.common.skip_all("the kernel has no test hook");
    }
    ensure!(page() == 4096, "the numbers here are for pages of 4 KiB");
    let vm = Vm::new(DEFAULT)?;
    for (token, bad) in (1..).zip(BAD) {
        let memory = vm.memory(PAGES * page(), SHARED)?;
        let map = Map::new(&memory, PAGES * page(), true)?;
        mbind(&map, 0..MIDDLE, FIRST)?;
        mbind(&map, MIDDLE..PAGES, SECOND)?;
        set_home(&map, MIDDLE..PAGES, 0)?;
        fill(&map, 0..MIDDLE);
        old.preserve(&memory, token)?;
        for (place, at, value) in bad.orders {
            let order = format!("poke {place} {at} {value}");
            println!("# {}: {order}", bad.name);
            hook(&order)?;
        }
        if bad.orders.iter().any(|(place, ..)| *place == HEAD) {
            hook("sum")?;
        }
        hook("next")?;
    }
    Ok(())
}

pub(super) fn new(new: &mut New<'_>) -> Result<()> {
    let before = mem_free()?;
    let none = Policy(NONE, 0);
    for (token, bad) in (1..).zip(BAD) {
        let memory = new.retrieve(token)?;
        let map = Map::new(&memory, PAGES * page(), true)?;
        let content = verify(&map, 0..MIDDLE, false);
        new.common.check(&format!("{}.content", bad.name), content);
        let (first, second) = match bad.left {
            All => (FIRST, SECOND),
            First => (FIRST, none),
            Nothing => (none, none),
        };
        let seen = policies(&map, PAGES)?;
        let want = |at| if at < MIDDLE { first } else { second };
        let wrong = (0..PAGES).zip(&seen).find(|(at, seen)| **seen != want(*at));
        let wrong = match wrong {
            None => Ok(()),
            Some((at, seen)) => Err(format!("page {at} has {seen:?}, not {:?}", want(at))),
        };
        new.common.check(&format!("{}.policies", bad.name), wrong);
    }
    new.finish()?;
    let memory = given_back(
        before,
        BAD.len() as u64 * MIDDLE * page(),
        sys::slack(SLACK),
    )?;
    new.common.check("memory", memory);
    Ok(())
}

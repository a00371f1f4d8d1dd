// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Memory policies.

use super::PAGES;
use crate::{
    expect::{
        is,
        refused,
        same,
        works,
        Check, //
    },
    gmem::{
        fill,
        resident,
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
        has_two,
        here,
        mbind,
        mpol::{
            BIND,
            DEFAULT as NONE,
            INTERLEAVE,
            LOCAL,
            NUMA_BALANCING,
            PREFERRED,
            PREFERRED_MANY,
            RELATIVE_NODES,
            STATIC_NODES,
            WEIGHTED_INTERLEAVE, //
        },
        node_of,
        policies,
        set_home,
        Policy, //
    },
    run::{
        Common,
        New,
        Old, //
    },
    sys, //
};
use anyhow::Result;
use liveupdate::{
    guest_memfd::link,
    Token, //
};
use rustix::io::Errno;
use std::{
    collections::BTreeSet,
    ops::Range,
    os::fd::OwnedFd,
    sync::atomic::{
        AtomicU64,
        Ordering, //
    },
    thread, //
};

/// Where the pages of a range have to come from.
#[derive(Clone, Copy)]
enum Comes {
    /// The kernel decides.
    Anywhere,
    /// A certain node.
    From(u64),
    /// The node of the processor.
    Local,
    /// Not all from the same one.
    Both,
}

use Comes::{
    Anywhere,
    Both,
    From,
    Local, //
};

/// A range of the file and its policy.
struct Part {
    pages: Range<u64>,
    policy: Policy,
    home: Option<u64>,
    comes: Comes,
    /// The policy once a kernel had only the first node.
    alone: Policy,
}

const fn part(pages: Range<u64>, mode: u32, nodes: u64, comes: Comes) -> Part {
    let policy = Policy(mode, nodes);
    let alone = match nodes & 1 {
        // With no node left there is no policy.
        0 if nodes != 0 => Policy(NONE, 0),
        nodes => Policy(mode, nodes),
    };
    Part {
        pages,
        policy,
        home: None,
        comes,
        alone,
    }
}

/// The user's nodes are not forgotten.
const fn user(mut part: Part) -> Part {
    part.alone = part.policy;
    part
}

const fn home(mut part: Part, node: u64) -> Part {
    part.home = Some(node);
    part
}

const PARTS: &[Part] = &[
    // The first pages have none.
    part(8..12, BIND, 1, From(0)),
    part(12..16, BIND, 2, From(1)),
    part(16..28, INTERLEAVE, 3, Both),
    home(part(28..32, PREFERRED_MANY, 3, From(1)), 1),
    home(part(32..36, BIND, 3, From(0)), 0),
    home(part(36..40, BIND, 3, From(1)), 1),
    part(40..44, PREFERRED, 2, From(1)),
    part(44..48, LOCAL, 0, Local),
    user(part(48..51, BIND | STATIC_NODES, 3, Anywhere)),
    user(part(51..54, PREFERRED_MANY | RELATIVE_NODES, 2, From(1))),
    part(54..57, BIND | NUMA_BALANCING, 2, From(1)),
    part(57..60, WEIGHTED_INTERLEAVE, 3, Anywhere),
    // To the end of the file and beyond.
    part(61..PAGES + 8, BIND, 2, From(1)),
];

/// Pages that have content.
const FILLED: Range<u64> = 0..8;

/// What `get_mempolicy()` is to say of each page.
fn expected(choose: impl Fn(&Part) -> Policy) -> Vec<Policy> {
    (0..PAGES)
        .map(|at| {
            let part = PARTS.iter().find(|part| part.pages.contains(&at));
            part.map_or(Policy(NONE, 0), &choose)
        })
        .collect()
}

/// Each page has its policy.
fn in_force(map: &Map, want: &[Policy]) -> Check {
    let seen = policies(map, PAGES).map_err(|error| format!("{error:#}"))?;
    let wrong = (0..).zip(seen.iter().zip(want)).find(|(_, (a, b))| a != b);
    let wrong: Option<(u64, _)> = wrong;
    match wrong {
        None => Ok(()),
        Some((at, (seen, want))) => Err(format!("page {at} has {seen:?} instead of {want:?}")),
    }
}

/// Fills one more hole of each range, and looks where the pages come from.
fn fill_holes(common: &mut Common<'_>, map: &Map) -> Result<()> {
    sys::stay()?;
    let local = here()?;
    for part in PARTS {
        let pages = part.pages.start..part.pages.end.min(PAGES);
        let there = resident(map, PAGES)?;
        let mut holes = pages.clone().filter(|at| !there[*at as usize]);
        // Four of the range in which they have to be from both nodes.
        let nr = if matches!(part.comes, Both) { 4 } else { 1 };
        let nodes: Result<Vec<u64>> = holes
            .by_ref()
            .take(nr)
            .map(|at| {
                fill(map, at..at + 1);
                node_of(map, at)
            })
            .collect();
        let nodes = nodes?;
        let name = format!("hole-{}", pages.start);
        let set: BTreeSet<_> = nodes.iter().copied().collect();
        let good = match part.comes {
            Anywhere => nodes.len() == nr,
            From(node) => nodes == [node],
            Local => nodes == [local],
            Both => set.len() == 2,
        };
        println!("# {name}: {:?}, on {nodes:?}", part.policy);
        let text = format!("{:?}: new pages are on {nodes:?}", part.policy);
        common.check(&name, is(good, &text));
    }
    Ok(())
}

fn make(vm: &Vm) -> Result<OwnedFd> {
    let memory = vm.memory(PAGES * page(), SHARED)?;
    let map = Map::new(&memory, (PAGES + 8) * page(), true)?;
    for part in PARTS {
        // In two pieces, which need not be two.
        for at in [part.pages.start..part.pages.start + 1, part.pages.clone()] {
            mbind(&map, at, part.policy)?;
        }
        if let Some(node) = part.home {
            set_home(&map, part.pages.clone(), node)?;
        }
    }
    fill(&map, FILLED);
    Ok(memory)
}

pub(super) fn old(old: &mut Old<'_>) -> Result<()> {
    if !has_two() {
        return old.common.skip_all("the machine has one memory node");
    }
    let vm = Vm::new(DEFAULT)?;
    let memory = make(&vm)?;
    let map = Map::new(&memory, PAGES * page(), true)?;
    let made = in_force(&map, &expected(|part| part.policy));
    old.common.check("made", made);
    fill_holes(&mut old.common, &map)?;
    old.preserve(&memory, 1)
}

/// The content, the policies, and what they are good for.
pub(super) fn new(new: &mut New<'_>) -> Result<()> {
    let memory = new.retrieve(1)?;
    let want = expected(|part| part.policy);
    {
        let map = Map::new(&memory, PAGES * page(), true)?;
        new.common.check("content", verify(&map, FILLED, false));
        new.common.check("policies", in_force(&map, &want));
        fill_holes(&mut new.common, &map)?;
    }
    {
        let vm = Vm::new(DEFAULT)?;
        let view = link(&memory, &vm)?;
        let map = Map::new(&view, PAGES * page(), true)?;
        new.common.check("of-vm", in_force(&map, &want));
        // It is an ordinary policy, that can be changed and changed back.
        mbind(&map, 8..9, Policy(INTERLEAVE, 3))?;
        let mut changed = want.clone();
        changed[8] = Policy(INTERLEAVE, 3);
        new.common.check("changed", in_force(&map, &changed));
        mbind(&map, 8..9, want[8])?;
    }
    new.finish()?;
    new.hand_on(&memory, 1)
}

/// With one node, and then with two again.
pub(super) fn alone(new: &mut New<'_>) -> Result<()> {
    if has_two() {
        return again(new);
    }
    let memory = new.retrieve(1)?;
    let map = Map::new(&memory, PAGES * page(), true)?;
    new.common.check("content", verify(&map, FILLED, false));
    let policies = in_force(&map, &expected(|part| part.alone));
    new.common.check("policies", policies);
    fill(&map, 0..PAGES);
    new.common.check("holes", verify(&map, 0..PAGES, false));
    drop(map);
    new.finish()?;
    new.hand_on(&memory, 1)
}

fn again(new: &mut New<'_>) -> Result<()> {
    let memory = new.retrieve(1)?;
    let map = Map::new(&memory, PAGES * page(), true)?;
    new.common
        .check("content-again", verify(&map, 0..PAGES, false));
    let policies = in_force(&map, &expected(|part| part.alone));
    new.common.check("policies-again", policies);
    Ok(())
}

/// Policies cannot be changed as long as the file is preserved.
pub(super) fn frozen(old: &mut Old<'_>) -> Result<()> {
    let vm = Vm::new(DEFAULT)?;
    let memory = vm.memory(PAGES * page(), SHARED)?;
    let map = Map::new(&memory, PAGES * page(), true)?;
    fill(&map, FILLED);
    let (one, other) = (Policy(BIND, 1), Policy(PREFERRED_MANY, 1));
    mbind(&map, 8..16, one)?;
    let mut want = vec![Policy(NONE, 0); PAGES as usize];
    want[8..16].fill(one);
    old.preserve(&memory, 1)?;
    for (name, pages, policy) in [
        ("set", 20..21, other),
        ("change", 8..9, other),
        ("reset", 8..16, Policy(NONE, 0)),
    ] {
        let result = mbind(&map, pages, policy);
        old.common.check(name, refused(result, &[Errno::PERM]));
    }
    let home = set_home(&map, 8..16, 0);
    old.common.check("home", refused(home, &[Errno::PERM]));
    old.common.check("unharmed", in_force(&map, &want));
    old.close_session();
    old.common.check("thawed", in_force(&map, &want));
    want[8..9].fill(other);
    let result = mbind(&map, 8..9, other);
    old.common.check("change-thawed", works(result));
    old.common.check("changed", in_force(&map, &want));
    Ok(())
}

/// How many files there are whose policy is being changed when they are preserved.
const RACES: u64 = 32;

/// The policy of the first page.
fn policy_of(memory: &OwnedFd) -> Result<Policy> {
    let map = Map::new(memory, page(), false)?;
    Ok(policies(&map, 1)?[0])
}

/// Somebody changes the policy all the time, until it cannot be changed any more.
pub(super) fn race_old(old: &mut Old<'_>) -> Result<()> {
    let vm = Vm::new(DEFAULT)?;
    let mut seen = Vec::new();
    let (mut refusals, mut changes) = (0, 0);
    for token in 1..=RACES {
        let memory = vm.memory(page(), SHARED)?;
        let count = AtomicU64::new(0);
        let result = thread::scope(|scope| -> Result<_> {
            let (memory, count) = (&memory, &count);
            let changer = scope.spawn(move || {
                let map = Map::new(memory, page(), false)?;
                for mode in [BIND, PREFERRED_MANY].into_iter().cycle() {
                    mbind(&map, 0..1, Policy(mode, 1))?;
                    count.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            });
            while count.load(Ordering::Relaxed) < 20 + token % 2 && !changer.is_finished() {
                thread::yield_now();
            }
            old.preserve(memory, token)?;
            let result: rustix::io::Result<()> = changer.join().unwrap_or(Err(Errno::IO));
            Ok(result)
        })?;
        refusals += u64::from(result == Err(Errno::PERM));
        changes += count.load(Ordering::Relaxed);
        let Policy(mode, _) = policy_of(&memory)?;
        seen.push(mode.to_string());
    }
    println!("# {changes} changes, {}", seen.join(" "));
    old.common.check("refused", same(refusals, RACES));
    old.common.note("modes", &seen.join(" "))
}

pub(super) fn race_new(new: &mut New<'_>) -> Result<()> {
    let seen = new.common.noted("modes")?.unwrap_or_default();
    let mut modes = Vec::new();
    for token in 1..=RACES {
        let Policy(mode, _) = policy_of(&new.retrieve(token)?)?;
        modes.push(mode.to_string());
    }
    new.common.check("same", same(modes.join(" "), seen));
    Ok(())
}

/// More policies than a file may have.
pub(super) fn many(old: &mut Old<'_>) -> Result<()> {
    const MAX: u64 = 4096;

    let vm = Vm::new(DEFAULT)?;
    let memory = vm.memory((MAX + 1) * page(), SHARED)?;
    let map = Map::new(&memory, (MAX + 1) * page(), true)?;
    for at in 0..=MAX {
        let mode = [BIND, PREFERRED][at as usize % 2];
        mbind(&map, at..at + 1, Policy(mode, 1))?;
    }
    let result = old.new_session(".many")?.preserve(&memory, Token(1));
    old.common
        .check("too-many", refused(result, &[Errno::FBIG]));
    mbind(&map, 0..1, Policy(NONE, 0))?;
    let result = old.new_session(".less")?.preserve(&memory, Token(1));
    old.common.check("not-too-many", works(result));
    // Equal neighbours count once, whatever was asked for.
    for at in 0..=MAX {
        mbind(&map, at..at + 1, Policy(BIND, 1))?;
    }
    let before = super::local::preserved()?;
    let session = old.new_session(".equal")?;
    session.preserve(&memory, Token(1))?;
    let list = super::local::preserved()? - before;
    old.common.check("equal", same(list, page()));
    Ok(())
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Handed-over state of the second format of memfds that is damaged on its way, many files in one update.

use super::Case;
use crate::{
    expect::refused,
    memory::{
        memfd,
        page,
        pfns,
        Map, //
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
use anyhow::Result;
use liveupdate::Token;
use rustix::{
    fs::ftruncate,
    io::Errno, //
};
use std::os::fd::OwnedFd;

pub(super) const CASES: &[Case] = &[
    Case::update(
        "extents-bad.retrieve",
        "Damaged state is refused without a warning, alone, and what can be freed is freed",
        old,
        retrieve_new,
    )
    .on_request(),
    Case::update(
        "extents-bad.finish",
        "Damaged state that nobody retrieves is freed at finish as far as it is known",
        old,
        finish_new,
    )
    .on_request(),
];

const PAGES: u64 = 512;
const FORMAT: &str = "/sys/module/luo_memfd/parameters/format";
const GOOD: Token = Token(1000);

const INVALID: [Errno; 3] = [Errno::INVAL, Errno::IO, Errno::OPNOTSUPP];

/// What is written, from the numbers of the pages of the file.
type Damage = fn(&[u64]) -> String;

/// One damage, whether the checksum is made to fit, and whether all memory can be found all the same.
const BAD: &[(Damage, bool, bool)] = &[
    (|_| "poke head 0 0".into(), false, true),
    (|_| format!("poke head 8 {}", 1u64 << 63), true, true),
    (|_| format!("poke head 16 {}", 1u64 << 63), true, true),
    (|_| "poke head 16 4096".into(), true, true),
    (|_| "poke head 24 0".into(), true, true),
    (|_| format!("poke head 24 {}", u64::MAX), true, true),
    (|_| "poke head 32 0".into(), false, true),
    (|_| "poke head 40 64".into(), true, true),
    (|_| format!("poke head 40 {}", 2u64 << 32), true, true),
    (|_| format!("poke head 48 {}", 12u64 << 56), true, true),
    (
        |_| format!("poke head 48 {}", 13u64 << 56 | PAGES),
        true,
        true,
    ),
    (|_| "poke head 56 0".into(), true, false),
    (|_| "poke head 56 4096".into(), true, false),
    (|_| "poke array 5 0 1".into(), true, true),
    (|pages| format!("poke array 5 0 {}", pages[6]), false, true),
    (|pages| format!("poke array 6 0 {}", pages[5]), true, true),
    (
        |pages| format!("poke array 5 0 {}", pages[5] | 1 << 58),
        true,
        true,
    ),
    (
        |_| format!("poke array 5 0 {}", (1u64 << 52) - 1),
        true,
        true,
    ),
    (|_| "poke array 5 8 5".into(), true, true),
    (|_| format!("poke array 5 8 {}", 2u64 << 32 | 5), true, true),
    (
        |_| format!("poke array 5 8 {}", 1u64 << 32 | PAGES),
        true,
        true,
    ),
    (|_| format!("poke array 6 8 {}", 1u64 << 32 | 5), true, true),
    (|_| "poke own 6 records".into(), true, true),
    (|_| "poke own 6 chunk".into(), true, true),
];

/// A file that several CPUs retrieve, and a record that is not of the first one's part.
const LARGE: Token = Token(1001);
const LARGE_PAGES: u64 = 10240;
const LARGE_DAMAGE: &str = "poke array 9000 8 5";

fn layout() -> Layout {
    Layout::full(0xbad2, PAGES * page())
}

/// A file whose pages do not follow one another: each has a record.
fn scattered(pages: u64) -> Result<OwnedFd> {
    let fd = memfd("bad")?;
    let size = pages * page();
    ftruncate(&fd, size)?;
    let map = Map::new(&fd, size, true)?;
    for index in (0..pages).rev() {
        map.word(index * page())
            .store(1, std::sync::atomic::Ordering::Relaxed);
    }
    Ok(fd)
}

fn file() -> Result<OwnedFd> {
    let fd = scattered(PAGES)?;
    layout().write_data(&fd)?;
    Ok(fd)
}

fn old(old: &mut Old<'_>) -> Result<()> {
    if !hook("reset")? {
        return old
            .common
            .skip_all("the kernel has no test hook to damage state");
    }
    let _format = Setting::change(FORMAT, "rs-memfd-v1")?;
    for (token, (damage, sum, _)) in (1..).zip(BAD) {
        let fd = file()?;
        old.preserve(&fd, token)?;
        hook(&damage(&pfns(&fd, layout().size)?))?;
        if *sum {
            hook("sum")?;
        }
        hook("next")?;
    }
    old.preserve(scattered(LARGE_PAGES)?, LARGE.0)?;
    hook(LARGE_DAMAGE)?;
    hook("sum")?;
    hook("next")?;
    old.preserve(file()?, GOOD.0)
}

/// Memory that cannot be found any more.
fn lost() -> u64 {
    BAD.iter().filter(|bad| !bad.2).count() as u64 * layout().size
}

fn check_memory(new: &mut New<'_>, before: u64) -> Result<()> {
    let all = (BAD.len() as u64 + 1) * layout().size + LARGE_PAGES * page();
    let memory = given_back(before, all - lost(), layout().size)?;
    new.common.check("memory", memory);
    Ok(())
}

fn retrieve_new(new: &mut New<'_>) -> Result<()> {
    let session = new.take_session("")?;
    let before = mem_free()?;
    for (token, _) in (1..).zip(BAD) {
        let result = refused(session.retrieve(Token(token)), &INVALID);
        new.common.check(&format!("{token}.refused"), result);
    }
    let large = refused(session.retrieve(LARGE), &INVALID);
    new.common.check("large.refused", large);
    let good = session.retrieve(GOOD).map_err(|e| e.to_string());
    new.common
        .check("other-file", good.and_then(|fd| layout().verify(fd)));
    let finished = session.finish().map_err(|e| e.to_string());
    new.common.check("finish", finished);
    check_memory(new, before)
}

fn finish_new(new: &mut New<'_>) -> Result<()> {
    let session = new.take_session("")?;
    let before = mem_free()?;
    let finished = session.finish().map_err(|e| e.to_string());
    new.common.check("finish", finished);
    check_memory(new, before)
}

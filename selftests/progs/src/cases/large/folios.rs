// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Which pages of a file are in large folios, and which could be.

use crate::memory::{
    page,
    pfns,
    HUGE, //
};
use anyhow::Result;
use rustix::io::pread;
use std::{
    fs::File,
    os::fd::OwnedFd, //
};

/// How many pages have a flag in `/proc/kpageflags`.
fn flagged(pages: &[u64], bit: u32) -> Result<u64> {
    let flags = File::open("/proc/kpageflags")?;
    let mut nr = 0;
    for pfn in pages {
        let mut word = [0; 8];
        pread(&flags, &mut word, pfn * 8)?;
        nr += u64::from_le_bytes(word) >> bit & 1;
    }
    Ok(nr)
}

const HEAD: u32 = 15;
const TAIL: u32 = 16;

/// How many pages of a file are in large folios, and how many of these there are.
pub(super) fn large(fd: &OwnedFd, size: u64) -> Result<(u64, u64)> {
    let pages = pfns(fd, size)?;
    let heads = flagged(&pages, HEAD)?;
    Ok((heads + flagged(&pages, TAIL)?, heads))
}

/// How many huge pages could be made of these pages.
pub(super) fn count_aligned(pages: &[u64]) -> u64 {
    let per = HUGE / page();
    let whole = pages.chunks_exact(per as usize).filter(|piece| {
        let run = piece
            .iter()
            .zip(piece[0]..)
            .all(|(pfn, expected)| *pfn == expected);
        run && piece[0].is_multiple_of(per)
    });
    whole.count() as u64
}

/// How many of these pages could be in large folios, if two pages are not worth one.
pub(super) fn possible(pages: &[u64]) -> u64 {
    let mut at = 0;
    let mut nr = 0;
    while at < pages.len() {
        let fits = |order: &u32| {
            let (len, first) = (1 << order, pages[at]);
            at % len == 0
                && first % len as u64 == 0
                && pages.get(at..at + len).is_some_and(|block| {
                    block
                        .iter()
                        .zip(first..)
                        .all(|(pfn, expected)| *pfn == expected)
                })
        };
        let len = (2..=9).rev().find(fits).map_or(1, |order| 1 << order);
        if len > 1 {
            nr += len as u64;
        }
        at += len;
    }
    nr
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Files whose pages lie in memory as is asked for.

use std::fs;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;

use anyhow::{
    bail,
    Result, //
};
use progs::{
    gmem::{
        self,
        Vm, //
    },
    hugetlb::{
        huge_memfd,
        Pool, //
    },
    memory::{
        self,
        Map,
        HUGE, //
    },
    sys, //
};
use rustix::fs::MemfdFlags;

use crate::mark;
use crate::shape::{
    Kind,
    Layout,
    Shape, //
};

/// Files with memory.
#[derive(Debug)]
pub(crate) struct Filled {
    pub(crate) files: Vec<OwnedFd>,
    /// What guest memory belongs to.
    _vm: Option<Vm>,
}

/// Whether memfds get huge pages.
fn huge_pages(on: bool) -> Result<()> {
    let value = if on { "force" } else { "never" };
    fs::write("/sys/kernel/mm/transparent_hugepage/shmem_enabled", value)?;
    Ok(())
}

/// Has a pool get as many pages as are needed.
fn grow(pool: Pool, size: u64) -> Result<()> {
    let nr = size / pool.0;
    let now = pool.set(nr)?;
    if now != nr {
        bail!("the pool has {now} huge pages of {nr}");
    }
    Ok(())
}

/// Small pages that nobody needs.
fn waste(size: u64) -> Result<Map> {
    let file = memory::memfd("waste")?;
    rustix::fs::ftruncate(&file, size)?;
    huge_pages(false)?;
    let map = Map::new(&file, size, true)?;
    map.touch();
    Ok(map)
}

/// Has the CPUs give back what they keep of free pages: these join their neighbours only then.
fn gather() -> Result<()> {
    const FRACTION: &str = "/proc/sys/vm/percpu_pagelist_high_fraction";

    sys::set(FRACTION, "1000000")?;
    // Each page that is freed takes some of those with it.
    drop(waste(4 << 20)?);
    sys::set(FRACTION, "0")
}

/// Uses up what small blocks of free memory there are, so that the pages of a file come out of large ones,
/// one after the other. It is to be dropped when the files are full.
fn leftovers(shape: &Shape) -> Result<Map> {
    const MOST: u64 = 64 << 20;

    gather()?;
    waste(MOST.min(shape.mib << 20))
}

/// In how many pieces some pages lie in memory.
fn runs(pfns: &mut [u64]) -> usize {
    pfns.sort_unstable();
    let next = |pair: &[u64]| matches!(pair, [a, b] if a + 1 == *b);
    let joints = pfns.windows(2).filter(|pair| next(pair)).count();
    pfns.len() - joints
}

/// In how many pieces the files lie in memory.
pub(crate) fn fragments(shape: &Shape, files: &[OwnedFd]) -> Result<usize> {
    let size = shape.file_size()?;
    let mut pfns = Vec::new();
    for file in files {
        pfns.extend(Map::aligned(file, size, false, shape.kind.align())?.pfns()?);
    }
    Ok(runs(&mut pfns))
}

/// Makes the files and fills them.
pub(crate) fn populate(shape: &Shape) -> Result<Filled> {
    let size = shape.file_size()?;
    let kind = shape.kind;
    let between: u64 = (0..shape.files)
        .flat_map(|file| shape.pieces(file, size))
        .map(|piece| piece.gap * piece.len)
        .sum();
    if let Some(pool) = kind.pool() {
        grow(pool, shape.files * size + between)?;
    }
    let vm = match kind {
        Kind::GuestMemfd => Some(Vm::new(gmem::DEFAULT)?),
        _ => None,
    };
    let memfd = || match kind.pool() {
        Some(pool) => huge_memfd(pool.0, MemfdFlags::ALLOW_SEALING),
        None => Ok(memory::memfd("bench")?),
    };
    let gaps = match between {
        0 => None,
        between => {
            let file = memfd()?;
            rustix::fs::ftruncate(&file, between)?;
            Some(Map::aligned(&file, between, true, kind.align())?)
        }
    };
    let store = |map: &Map, start: u64, len: u64| -> Result<()> {
        for offset in (start..start + len).step_by(usize::try_from(memory::page())?) {
            map.word(offset).store(mark(offset), Ordering::Relaxed);
        }
        Ok(())
    };

    let leftovers = leftovers(shape)?;
    let mut files = Vec::new();
    let mut used = 0;
    let mut huge = None;
    for number in 0..shape.files {
        let file = match &vm {
            Some(vm) => vm.memory(size, gmem::SHARED)?,
            None => {
                let file = memfd()?;
                rustix::fs::ftruncate(&file, size)?;
                file
            }
        };
        let map = Map::aligned(&file, size, true, kind.align())?;
        let mut at = 0;
        for piece in shape.pieces(number, size) {
            let want = piece.len == HUGE;
            if matches!(kind, Kind::Memfd | Kind::MemfdThp) && huge != Some(want) {
                huge_pages(want)?;
                huge = Some(want);
            }
            store(&map, at, piece.len)?;
            at += piece.len;
            let gap = piece.gap * piece.len;
            if let Some(gaps) = &gaps {
                store(gaps, used, gap)?;
            }
            used += gap;
        }
        if (kind, shape.layout) == (Kind::Memfd, Layout::Aligned) {
            map.split_huge()?;
        }
        files.push(file);
    }
    drop((gaps, leftovers));
    if let Some(pool) = kind.pool() {
        grow(pool, shape.files * size)?;
    }
    Ok(Filled { files, _vm: vm })
}

/// Has the kernel make huge pages of what is in a file.
///
/// It does so whether memfds are to have any. If they were, khugepaged would go through the file as well, and each
/// of the two gives up where the other is.
pub(crate) fn collapse(shape: &Shape, file: &OwnedFd) -> Result<()> {
    Ok(Map::aligned(file, shape.file_size()?, true, HUGE)?.collapse()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_one_piece() {
        assert_eq!(runs(&mut []), 0);
        assert_eq!(runs(&mut [7]), 1);
        assert_eq!(runs(&mut [3, 1, 2, 9, 8]), 2);
        assert_eq!(runs(&mut [2, 4, 6]), 3);
    }
}

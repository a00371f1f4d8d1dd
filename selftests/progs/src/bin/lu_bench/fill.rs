// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Files whose pages lie in memory as is asked for.

use std::fs;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;

use anyhow::{
    bail,
    Result, //
};
use clap::{
    Args,
    ValueEnum, //
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

/// What memory is in the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// Base pages of a memfd.
    #[value(name = "memfd-4k")]
    Memfd,
    /// Huge pages of a memfd.
    MemfdThp,
    /// Huge pages of 2 MiB from a pool of HugeTLB.
    #[value(name = "hugetlb-2m")]
    Hugetlb2m,
    /// Huge pages of 1 GiB from a pool of HugeTLB.
    #[value(name = "hugetlb-1g")]
    Hugetlb1g,
    /// Guest memory of KVM, in base pages.
    GuestMemfd,
}

impl Kind {
    /// The pool that the pages come from.
    pub(crate) fn pool(self) -> Option<Pool> {
        match self {
            Self::Hugetlb2m => Some(Pool(2 << 20)),
            Self::Hugetlb1g => Some(Pool(1 << 30)),
            Self::Memfd | Self::MemfdThp | Self::GuestMemfd => None,
        }
    }

    /// What is allocated at once.
    fn unit(self) -> u64 {
        match self {
            Self::Memfd | Self::GuestMemfd => memory::page(),
            Self::MemfdThp => HUGE,
            Self::Hugetlb2m | Self::Hugetlb1g => self.pool().map_or(HUGE, |pool| pool.0),
        }
    }

    /// What addresses of a mapping have to be multiples of.
    pub(crate) fn align(self) -> u64 {
        self.unit().max(HUGE)
    }
}

/// Where the pages of the files lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Layout {
    /// One after the other, as the page allocator gives them.
    Contiguous,
    /// No two of them neighbours.
    EveryOther,
    /// With gaps of up to three pages behind one half of them. Of a memfd with huge pages, one half is in
    /// small ones instead.
    Random,
}

/// The files.
#[derive(Args, Clone, Debug)]
pub(crate) struct Shape {
    /// What memory is in them.
    #[arg(long, value_enum, default_value_t = Kind::Memfd)]
    pub(crate) kind: Kind,
    /// Where their pages lie.
    #[arg(long, value_enum, default_value_t = Layout::Contiguous)]
    layout: Layout,
    /// How much memory it is in all.
    #[arg(long)]
    mib: u64,
    /// How many files have it, each as much as the others.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) files: u64,
    /// Decides what is random.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// A part of a file that is allocated at once, and how many such parts of no use come behind it in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Piece {
    len: u64,
    gap: u64,
}

/// Numbers that look random (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn coin(&mut self) -> bool {
        self.next() & 1 == 1
    }

    fn gap(&mut self) -> u64 {
        match self.coin() {
            true => 1 + self.next() % 3,
            false => 0,
        }
    }
}

impl Shape {
    /// The length of each file.
    pub(crate) fn file_size(&self) -> Result<u64> {
        let size = (self.mib << 20) / self.files;
        if size == 0 || !size.is_multiple_of(self.kind.unit()) {
            bail!(
                "{} MiB in {} files are no whole number of pages of {} bytes in each",
                self.mib,
                self.files,
                self.kind.unit()
            );
        }
        Ok(size)
    }

    /// What a file of this length is made of, from its begin to its end.
    fn pieces(&self, file: u64, size: u64) -> impl Iterator<Item = Piece> + use<> {
        let (kind, layout, unit) = (self.kind, self.layout, self.kind.unit());
        let mut random = Random(self.seed ^ file << 32);
        let mut small = 0;
        let mut left = size;
        std::iter::from_fn(move || {
            if left == 0 {
                return None;
            }
            let mixed = (kind, layout) == (Kind::MemfdThp, Layout::Random);
            if mixed && small == 0 && random.coin() {
                small = unit;
            }
            let len = if small > 0 { memory::page() } else { unit };
            let gap = match layout {
                Layout::Contiguous => 0,
                Layout::EveryOther => 1,
                // Huge pages amid small ones have no gaps.
                Layout::Random if mixed && small == 0 => 0,
                Layout::Random => random.gap(),
            };
            small = small.saturating_sub(len);
            left -= len;
            Some(Piece { len, gap })
        })
    }
}

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
            let want = piece.len == HUGE && kind == Kind::MemfdThp;
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
        files.push(file);
    }
    drop((gaps, leftovers));
    if let Some(pool) = kind.pool() {
        grow(pool, shape.files * size)?;
    }
    Ok(Filled { files, _vm: vm })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(kind: Kind, layout: Layout, seed: u64) -> Vec<Piece> {
        let shape = Shape {
            kind,
            layout,
            mib: 32,
            files: 1,
            seed,
        };
        shape.pieces(0, shape.file_size().unwrap()).collect()
    }

    #[test]
    fn pieces_make_up_the_file() {
        for kind in [Kind::Memfd, Kind::MemfdThp, Kind::Hugetlb2m] {
            for layout in Layout::value_variants() {
                let sum: u64 = pieces(kind, *layout, 7).iter().map(|p| p.len).sum();
                assert_eq!(sum, 32 << 20, "{kind:?} {layout:?}");
            }
        }
        let gaps = |layout| {
            let pieces = pieces(Kind::Memfd, layout, 7);
            pieces.iter().map(|p| p.gap).sum::<u64>() * 100 / pieces.len() as u64
        };
        assert_eq!(gaps(Layout::Contiguous), 0);
        assert_eq!(gaps(Layout::EveryOther), 100);
        assert!((90..110).contains(&gaps(Layout::Random)));
    }

    #[test]
    fn the_seed_decides_what_is_random() {
        let random = |seed| pieces(Kind::MemfdThp, Layout::Random, seed);
        assert_eq!(random(1), random(1));
        assert_ne!(random(1), random(2));
        // Huge pages stay aligned, and some of both are there.
        let mut at = 0;
        for piece in random(1) {
            assert_eq!(at % piece.len, 0);
            at += piece.len;
        }
        let huge = random(1).iter().filter(|p| p.len == HUGE).count();
        assert!((1..16).contains(&huge));
    }

    #[test]
    fn neighbours_are_one_piece() {
        assert_eq!(runs(&mut []), 0);
        assert_eq!(runs(&mut [7]), 1);
        assert_eq!(runs(&mut [3, 1, 2, 9, 8]), 2);
        assert_eq!(runs(&mut [2, 4, 6]), 3);
    }

    #[test]
    fn files_have_whole_pages() {
        let shape = |kind, mib, files| Shape {
            kind,
            layout: Layout::Contiguous,
            mib,
            files,
            seed: 1,
        };
        assert_eq!(shape(Kind::Memfd, 64, 16).file_size().unwrap(), 4 << 20);
        assert!(shape(Kind::Hugetlb2m, 3, 1).file_size().is_err());
        assert!(shape(Kind::Memfd, 1, 3).file_size().is_err());
    }
}

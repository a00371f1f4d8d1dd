// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What files are asked for.

use anyhow::{
    bail,
    Result, //
};
use clap::{
    Args,
    ValueEnum, //
};
use progs::{
    hugetlb::Pool,
    memory::{
        self,
        HUGE, //
    }, //
};

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
    pub(crate) fn unit(self) -> u64 {
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
    /// As small pages, but in whole huge pages' places, in memory and in the file.
    Aligned,
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
    pub(crate) layout: Layout,
    /// How much memory it is in all.
    #[arg(long)]
    pub(crate) mib: u64,
    /// How many files have it, each as much as the others.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) files: u64,
    /// Decides what is random.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Have the kernel collapse the pages of each file into huge ones before it is preserved.
    #[arg(long)]
    pub(crate) collapse: bool,
}

/// A part of a file that is allocated at once, and how many such parts of no use come behind it in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) len: u64,
    pub(crate) gap: u64,
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
        let unit = match self.layout {
            Layout::Aligned => self.kind.align(),
            _ => self.kind.unit(),
        };
        if size == 0 || !size.is_multiple_of(unit) {
            bail!(
                "{} MiB in {} files are no whole number of pages of {unit} bytes in each",
                self.mib,
                self.files,
            );
        }
        Ok(size)
    }

    /// What a file of this length is made of, from its begin to its end.
    pub(crate) fn pieces(&self, file: u64, size: u64) -> impl Iterator<Item = Piece> + use<> {
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
            let len = match layout {
                Layout::Aligned => unit.max(HUGE),
                _ if small > 0 => memory::page(),
                _ => unit,
            };
            let gap = match layout {
                Layout::Contiguous | Layout::Aligned => 0,
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
            collapse: false,
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
    fn files_have_whole_pages() {
        let shape = |kind, mib, files| Shape {
            kind,
            layout: Layout::Contiguous,
            mib,
            files,
            seed: 1,
            collapse: false,
        };
        assert_eq!(shape(Kind::Memfd, 64, 16).file_size().unwrap(), 4 << 20);
        assert!(shape(Kind::Hugetlb2m, 3, 1).file_size().is_err());
        assert!(shape(Kind::Memfd, 1, 3).file_size().is_err());
    }
}

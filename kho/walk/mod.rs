// SPDX-License-Identifier: GPL-2.0-only OR BSD-3-Clause

//! Walks all that one kernel hands over to the next, from KHO's root to the last record of a file.
//!
//! This is for tools on the host; the kernel has its own way through the same formats. It reads memory
//! through [`Memory`], follows only what is preserved, and takes no piece of it twice. So the memory that
//! is preserved bounds what it does, whatever is written there, and what is left over in the end is what
//! nothing refers to.

mod device;
mod file;
mod lists;
mod luo;
mod report;
mod subtrees;
mod tree;

pub use self::{
    report::{
        File,
        Flb,
        Luo,
        Order,
        Piece,
        Problem,
        Report,
        Session,
        Subtree,
        Unreferenced, //
    },
    tree::Preserved, //
};

use crate::abi::{
    root::Root,
    Error,
    PageSize, //
};
use std::{
    fmt,
    io,
    string::{
        String,
        ToString as _, //
    },
    vec,
    vec::Vec, //
};
use zerocopy::{
    FromBytes,
    Immutable,
    IntoBytes, //
};

/// Physical memory.
pub trait Memory {
    /// Reads bytes that are in one page.
    ///
    /// # Errors
    ///
    /// If there is no memory, or it cannot be read.
    fn read(&mut self, phys: u64, bytes: &mut [u8]) -> io::Result<()>;

    /// Reads bytes that need not mean anything. Who keeps what is read does not keep these.
    ///
    /// # Errors
    ///
    /// As above.
    fn peek(&mut self, phys: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.read(phys, bytes)
    }
}

/// What can be wrong.
#[derive(Debug)]
pub enum Fault {
    /// What is there makes no sense.
    Format(Error),
    /// Nothing of this size is preserved at this address.
    NotPreserved(u64),
    /// Something else refers to this address, too.
    Twice(u64),
    /// Memory cannot be read.
    Read(u64, io::Error),
}

/// A result of this module.
pub type Result<T = ()> = core::result::Result<T, Fault>;

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Format(error)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Format(error) => error.fmt(f),
            Self::NotPreserved(phys) => {
                write!(f, "what it refers to at {phys:#x} is not preserved")
            }
            Self::Twice(phys) => write!(f, "memory at {phys:#x} is referred to twice"),
            Self::Read(phys, error) => write!(f, "memory at {phys:#x} cannot be read: {error}"),
        }
    }
}

/// The most problems that are told one by one.
const MAX_PROBLEMS: usize = 100;
/// The most pages among which the root is looked for.
const MAX_SEARCH: usize = 1 << 22;

/// Walks what the root `fdt` leads to.
///
/// # Errors
///
/// If the root or the tree of preserved memory cannot be read. Anything else is told in the report.
pub fn walk(fdt: &[u8], memory: &mut dyn Memory, page: PageSize) -> Result<Report> {
    let root = Root::parse(fdt)?;
    let preserved = Preserved::read(memory, root.memory_map, page)?;
    let mut walk = Walk {
        memory,
        page,
        preserved,
        problems: Vec::new(),
        more_problems: 0,
    };

    let mut subtrees = Vec::new();
    let mut luo = None;
    for subtree in root.subtrees() {
        let subtree = subtree?;
        let (known, found) = walk.subtree(&subtree);
        subtrees.push(known);
        luo = luo.or(found);
    }
    let fdt = fdt.get(..root.total()).unwrap_or_default();
    let fdt = walk.find_root(fdt);
    if fdt.is_none() {
        let text =
            "the page of the root is not preserved: the tree is damaged, or is not there any more";
        walk.complain("root", text);
    }
    Ok(Report::new(walk, fdt, subtrees, luo))
}

struct Walk<'m> {
    memory: &'m mut dyn Memory,
    page: PageSize,
    preserved: Preserved,
    problems: Vec<Problem>,
    more_problems: u64,
}

/// The text of a name.
fn text(name: &[u8]) -> String {
    String::from_utf8_lossy(name).into_owned()
}

impl Walk<'_> {
    fn complain(&mut self, place: &str, what: impl fmt::Display) {
        if self.problems.len() < MAX_PROBLEMS {
            self.problems.push(Problem {
                place: place.to_string(),
                what: what.to_string(),
            });
        } else {
            self.more_problems = self.more_problems.saturating_add(1);
        }
    }

    /// Takes what is preserved at an address, and returns its order.
    fn claim(&mut self, phys: u64, order: Option<u32>) -> Result<u32> {
        if !self.page.is_aligned(phys) {
            return Err(Fault::NotPreserved(phys));
        }
        self.claim_pfn(phys >> self.page.shift(), order)
    }

    fn claim_pfn(&mut self, pfn: u64, order: Option<u32>) -> Result<u32> {
        let phys = self.page.phys(pfn).unwrap_or(u64::MAX);
        let order = order.or_else(|| self.preserved.order_at(pfn));
        let order = order.ok_or(Fault::NotPreserved(phys))?;
        match self.preserved.claim(pfn, order) {
            Some(true) => Ok(order),
            Some(false) => Err(Fault::Twice(phys)),
            None => Err(Fault::NotPreserved(phys)),
        }
    }

    /// Takes a run of pages, in whatever pieces they are preserved.
    fn claim_run(&mut self, pfn: u64, pages: u64) -> Result {
        let (mut pfn, mut left) = (pfn, pages);
        while left > 0 {
            let phys = self.page.phys(pfn).ok_or(Error::Pfn)?;
            let order = self.preserved.order_at(pfn);
            let piece = order.and_then(|order| 1u64.checked_shl(order));
            // A piece that is larger than what is left belongs to something else.
            let piece = piece.filter(|piece| *piece <= left);
            let piece = piece.ok_or(Fault::NotPreserved(phys))?;
            self.claim_pfn(pfn, order)?;
            pfn = pfn.checked_add(piece).ok_or(Error::Pfn)?;
            left -= piece;
        }
        Ok(())
    }

    /// Takes all pieces that bytes are in, and returns how many pages that is.
    fn claim_bytes(&mut self, phys: u64, size: u64) -> Result<u64> {
        let first = phys >> self.page.shift();
        let last = phys.checked_add(size.saturating_sub(1));
        let last = last.ok_or(Error::Size)? >> self.page.shift();
        let mut pfn = first;
        while pfn <= last {
            let order = self.claim_pfn(pfn, None)?;
            let pages = 1u64.checked_shl(order).ok_or(Error::Order)?;
            pfn = pfn.checked_add(pages).ok_or(Error::Pfn)?;
        }
        Ok(pfn - first)
    }

    fn read(&mut self, phys: u64, bytes: &mut [u8]) -> Result {
        let result = self.memory.read(phys, bytes);
        result.map_err(|error| Fault::Read(phys, error))
    }

    /// Reads a structure that is at the beginning of a page.
    fn read_value<T: FromBytes + IntoBytes + Immutable>(&mut self, phys: u64) -> Result<T> {
        let mut bytes = vec![0; size_of::<T>()];
        self.read(phys, &mut bytes)?;
        T::read_from_bytes(&bytes).map_err(|_| Error::Size.into())
    }

    /// Reads bytes that begin in one page and may end in another one that follows it.
    fn read_bytes(&mut self, phys: u64, size: u64) -> Result<Vec<u8>> {
        if !self.page.is_aligned(phys) {
            return Err(Error::Pfn.into());
        }
        let mut bytes = vec![0; usize::try_from(size).map_err(|_| Error::Size)?];
        let page = usize::try_from(self.page.bytes()).map_err(|_| Error::PageSize)?;
        let mut phys = phys;
        for part in bytes.chunks_mut(page) {
            self.read(phys, part)?;
            phys = phys.checked_add(self.page.bytes()).ok_or(Error::Pfn)?;
        }
        Ok(bytes)
    }

    fn read_page(&mut self, phys: u64) -> Result<Vec<u8>> {
        let size = usize::try_from(self.page.bytes()).map_err(|_| Error::PageSize)?;
        let mut bytes = vec![0; size];
        self.read(phys, &mut bytes)?;
        Ok(bytes)
    }

    /// Looks for the page of the root among those that nothing refers to: who hands it over tells its
    /// address to the next kernel alone.
    fn find_root(&mut self, fdt: &[u8]) -> Option<u64> {
        let Self {
            memory,
            page,
            preserved,
            ..
        } = self;
        let mut bytes = vec![0; fdt.len()];
        let mut fits = |phys, len| {
            let (Some(fdt), Some(bytes)) = (fdt.get(..len), bytes.get_mut(..len)) else {
                return false;
            };
            memory.peek(phys, bytes).is_ok() && bytes == fdt
        };
        let found = preserved
            .unclaimed(0)
            .take(MAX_SEARCH)
            .filter_map(|pfn| Some((pfn, page.phys(pfn)?)))
            // Most pages differ early.
            .find(|(_, phys)| fits(*phys, 8) && fits(*phys, fdt.len()));
        let (pfn, phys) = found?;
        let mut bytes = vec![0; fdt.len()];
        self.read(phys, &mut bytes).ok()?;
        self.claim_pfn(pfn, Some(0)).ok()?;
        Some(phys)
    }
}

#[cfg(test)]
mod image;
#[cfg(test)]
mod tests;

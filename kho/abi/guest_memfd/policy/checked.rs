// SPDX-License-Identifier: GPL-2.0-only OR BSD-3-Clause

//! Policies that have passed every check.

use super::{
    super::super::{
        vmalloc::{
            CheckedVmalloc,
            KhoVmalloc, //
        },
        Error,
        PageSize,
        Result, //
    },
    Nodes,
    PolicySer, //
};
use core::ops::Range;

/// Modes and flags, as user space gives them to `mbind()`.
mod mpol {
    pub(super) const PREFERRED: u16 = 1;
    pub(super) const BIND: u16 = 2;
    pub(super) const LOCAL: u16 = 4;
    pub(super) const PREFERRED_MANY: u16 = 5;
    pub(super) const WEIGHTED_INTERLEAVE: u16 = 6;

    /// The nodes do not depend on which ones there are, or who may use them.
    pub(super) const STATIC_NODES: u16 = 1 << 15;
    /// The nodes are numbers among those that there are.
    pub(super) const RELATIVE_NODES: u16 = 1 << 14;
    pub(super) const NUMA_BALANCING: u16 = 1 << 13;
    pub(super) const FLAGS: u16 = STATIC_NODES | RELATIVE_NODES | NUMA_BALANCING;
}

/// A policy that Linux can have, for a run of pages.
///
/// # Invariants
///
/// `start` is less than `end`. The mode and its flags are known, and go together with each other, with the
/// home node and with the nodes: there are nodes if and only if the mode needs some.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    start: u32,
    end: u32,
    mode: u16,
    home_node: Option<u16>,
    nodes: Nodes,
}

impl Policy {
    /// Checks a policy.
    ///
    /// # Errors
    ///
    /// [`Error::Policy`], or [`Error::Count`] if there are no pages.
    pub fn new(pages: Range<u32>, mode: u16, home_node: Option<u16>, nodes: Nodes) -> Result<Self> {
        let has = |flags| mode & flags != 0;
        let has_both = has(mpol::STATIC_NODES) && has(mpol::RELATIVE_NODES);
        let is_good = match mode & !mpol::FLAGS {
            mpol::BIND | mpol::PREFERRED_MANY => !nodes.is_empty(),
            _ if home_node.is_some() || has(mpol::NUMA_BALANCING) => false,
            mpol::LOCAL => nodes.is_empty() && !has(mpol::FLAGS),
            mpol::PREFERRED..=mpol::WEIGHTED_INTERLEAVE => !nodes.is_empty(),
            _ => false,
        };
        let is_node = home_node.is_none_or(|node| usize::from(node) < Nodes::WORDS * 64);
        if !is_good || has_both || !is_node {
            return Err(Error::Policy);
        }
        if pages.is_empty() {
            return Err(Error::Count);
        }
        // INVARIANT: checked above.
        Ok(Self {
            start: pages.start,
            end: pages.end,
            mode,
            home_node,
            nodes,
        })
    }

    /// Which pages it is for.
    #[must_use]
    pub fn pages(&self) -> Range<u32> {
        self.start..self.end
    }

    /// The mode with its flags, as `mbind()` takes it.
    #[must_use]
    pub fn mode(&self) -> u16 {
        self.mode
    }

    /// The home node, if there is one.
    #[must_use]
    pub fn home_node(&self) -> Option<u16> {
        self.home_node
    }

    /// The nodes, as `get_mempolicy()` returns them.
    #[must_use]
    pub fn nodes(&self) -> &Nodes {
        &self.nodes
    }

    /// Adds the pages of another one that is the same and follows directly.
    #[must_use]
    pub fn extend(&mut self, next: &Self) -> bool {
        let follows = Self {
            start: self.end,
            end: next.end,
            ..*self
        };
        if *next != follows {
            return false;
        }
        // INVARIANT: The other one is not empty.
        self.end = next.end;
        true
    }

    /// What is left of it on a machine that has memory on the nodes `present`, if anything is, and whether
    /// that is all.
    ///
    /// Flags may say that the nodes are a wish, which outlives that they are not there.
    #[must_use]
    pub fn on(&self, present: &Nodes) -> (Option<Self>, bool) {
        let there = self.nodes.and(present);
        let home_node = self.home_node.filter(|node| present.contains(*node));
        let has = |flag| self.mode & flag != 0;
        let wishes = has(mpol::STATIC_NODES | mpol::RELATIVE_NODES);
        let all = home_node == self.home_node && (there == self.nodes || has(mpol::RELATIVE_NODES));
        let nodes = if wishes { self.nodes } else { there };
        if there.is_empty() && !self.nodes.is_empty() && !has(mpol::RELATIVE_NODES) {
            return (None, false);
        }
        // INVARIANT: There are still nodes if there were some.
        let left = Self {
            home_node,
            nodes,
            ..*self
        };
        (Some(left), all)
    }
}

impl From<&Policy> for PolicySer {
    fn from(policy: &Policy) -> Self {
        let mut raw = Self {
            index: policy.start,
            // No overflow, by the type invariants.
            nr: policy.end - policy.start,
            mode: policy.mode,
            home_node: policy.home_node.unwrap_or(Self::NO_HOME),
            nodes: policy.nodes,
            ..Self::default()
        };
        raw.checksum = raw.sum();
        raw
    }
}

/// A list of policies whose description is consistent in itself.
///
/// # Invariants
///
/// `nr` is at most `end`, the number of pages in the file, and at most [`PolicyList::MAX`]. It is zero if
/// and only if `list` is [`None`]; otherwise that many records fit in what `list` describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PolicyList {
    nr: u32,
    end: u32,
    list: Option<CheckedVmalloc>,
}

impl PolicyList {
    /// No file has more policies.
    pub const MAX: u32 = 4096;

    /// Checks all that can be checked without the array. The file has so many `pages`.
    pub(crate) fn parse(nr: u32, array: &KhoVmalloc, pages: u64, page: PageSize) -> Result<Self> {
        let end = u32::try_from(pages).map_err(|_| Error::Size)?;
        if nr > end || nr > Self::MAX {
            return Err(Error::Count);
        }
        let list = array.parse_records::<PolicySer>(nr.into(), nr.into(), page)?;
        // INVARIANT: checked above.
        Ok(Self { nr, end, list })
    }

    /// Number of records.
    #[must_use]
    pub fn nr(&self) -> u32 {
        self.nr
    }

    /// Where the array is; [`None`] if there are no policies.
    #[must_use]
    pub fn list(&self) -> Option<&CheckedVmalloc> {
        self.list.as_ref()
    }
}

/// Checks records in the order in which they are stored.
#[derive(Clone, Debug)]
pub struct PolicyChecker {
    /// The first page that has no policy yet.
    next: u32,
    /// Number of pages in the file.
    end: u32,
    /// Records that are still to come.
    left: u32,
}

impl PolicyChecker {
    /// Starts with the first record of the list.
    #[must_use]
    pub fn new(list: &PolicyList) -> Self {
        Self {
            next: 0,
            end: list.end,
            left: list.nr,
        }
    }

    /// Checks one record.
    ///
    /// # Errors
    ///
    /// Why it is none.
    pub fn check(&mut self, raw: &PolicySer) -> Result<Policy> {
        self.left = self.left.checked_sub(1).ok_or(Error::Count)?;
        if !raw.is_intact() {
            return Err(Error::Checksum);
        }
        if raw.reserved != 0 || raw.unused.iter().any(|word| *word != 0) {
            return Err(Error::UnknownFlags);
        }
        if raw.index < self.next {
            return Err(Error::IndexOverlap);
        }
        let end = raw.index.checked_add(raw.nr);
        let end = end
            .filter(|end| *end <= self.end)
            .ok_or(Error::IndexOutside)?;
        let home_node = match raw.home_node {
            PolicySer::NO_HOME => None,
            node => Some(node),
        };
        let policy = Policy::new(raw.index..end, raw.mode, home_node, raw.nodes)?;
        self.next = end;
        Ok(policy)
    }

    /// Checks that there were as many records as the header says.
    ///
    /// # Errors
    ///
    /// [`Error::Count`].
    pub fn end(&self) -> Result {
        match self.left {
            0 => Ok(()),
            _ => Err(Error::Count),
        }
    }
}

// SPDX-License-Identifier: GPL-2.0-only OR BSD-3-Clause

//! What was found.

use super::{
    text,
    Walk, //
};
use crate::abi::{
    luo,
    root, //
};
use std::{
    string::String,
    vec::Vec, //
};

/// All that was handed over.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Report {
    /// The version of KHO.
    pub kho: String,
    /// Size of a page in bytes.
    pub page_size: u64,
    /// Physical address of the root.
    pub root: Option<u64>,
    /// Number of pages of the tree of preserved memory, which are not in it.
    pub tree_pages: u64,
    /// Number of pages that are preserved.
    pub pages: u64,
    /// The same by size.
    pub orders: Vec<Order>,
    /// What has a name of its own.
    pub subtrees: Vec<Subtree>,
    /// Sessions and files, if there is LUO.
    pub luo: Option<Luo>,
    /// What is preserved and nothing refers to.
    pub unreferenced: Unreferenced,
    /// What is wrong.
    pub problems: Vec<Problem>,
    /// How many problems there are beside those.
    pub more_problems: u64,
}

/// Preserved memory in pieces of one size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Order {
    /// Base two logarithm of the size in pages.
    pub order: u32,
    /// Size in bytes.
    pub size: u64,
    /// Number of pieces.
    pub count: u64,
    /// Number of those that something refers to.
    pub referenced: u64,
}

/// Memory that is handed over under a name.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Subtree {
    /// The name.
    pub name: String,
    /// Physical address.
    pub address: u64,
    /// Size in bytes.
    pub bytes: u64,
    /// Number of preserved pages, with those that it refers to unless it is LUO.
    pub pages: u64,
    /// What it says, if that is known.
    pub says: Option<String>,
}

/// The Live Update Orchestrator.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Luo {
    /// The version.
    pub version: String,
    /// How many live updates there have been, this one included.
    pub liveupdates: u64,
    /// Number of pages of its own lists.
    pub pages: u64,
    /// The sessions.
    pub sessions: Vec<Session>,
    /// State that files share.
    pub shared: Vec<Flb>,
}

/// A session.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Session {
    /// The name.
    pub name: String,
    /// Number of pages of the list of files.
    pub pages: u64,
    /// The files.
    pub files: Vec<File>,
}

/// A file.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct File {
    /// The name of the format.
    pub compatible: String,
    /// The number by which user space knows it.
    pub token: u64,
    /// Physical address of the header, if the format is known.
    pub header: Option<u64>,
    /// Size in bytes.
    pub bytes: Option<u64>,
    /// Number of records.
    pub records: u64,
    /// Number of pages that are the contents of the file.
    pub pages: u64,
    /// Number of pages of the header and of lists.
    pub list_pages: u64,
    /// What it stands for, if that is not memory.
    pub says: Option<String>,
    /// Whether header and lists have checksums, which were right if there is no problem.
    pub checksums: bool,
}

/// State that files share.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Flb {
    /// The name of the format.
    pub compatible: String,
    /// Number of files that need it.
    pub files: u64,
    /// Number of pages that it is in, if the format is known.
    pub pages: u64,
}

/// A piece of preserved memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Piece {
    /// Physical address.
    pub address: u64,
    /// Number of pages.
    pub pages: u64,
}

/// Memory that nothing refers to.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Unreferenced {
    /// Number of pages.
    pub pages: u64,
    /// Some of it.
    pub examples: Vec<Piece>,
}

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Problem {
    /// Where.
    pub place: String,
    /// What.
    pub what: String,
}

/// How many pieces of unreferenced memory are told.
const EXAMPLES: usize = 8;

impl Report {
    pub(super) fn new(
        mut walk: Walk<'_>,
        root: Option<u64>,
        subtrees: Vec<Subtree>,
        luo: Option<Luo>,
    ) -> Self {
        if let Some(pfn) = walk.preserved.overlap() {
            let phys = walk.page.phys(pfn).unwrap_or(u64::MAX);
            let text = std::format!("memory at {phys:#x} is preserved more than once");
            walk.complain("preserved memory", text);
        }
        let orders = walk.preserved.counts();
        let pages = |count: fn(&Order) -> u64| {
            orders.iter().fold(0u64, |sum, order| {
                let pages = count(order).checked_shl(order.order).unwrap_or(u64::MAX);
                sum.saturating_add(pages)
            })
        };
        let examples = orders.iter().flat_map(|order| {
            let unclaimed = walk.preserved.unclaimed(order.order);
            unclaimed.map(|pfn| Piece {
                address: walk.page.phys(pfn).unwrap_or(u64::MAX),
                pages: 1u64.checked_shl(order.order).unwrap_or(u64::MAX),
            })
        });
        Self {
            kho: text(root::COMPATIBLE),
            page_size: walk.page.bytes(),
            root,
            tree_pages: walk.preserved.nodes(),
            pages: pages(|order| order.count),
            unreferenced: Unreferenced {
                pages: pages(|order| order.count.saturating_sub(order.referenced)),
                examples: examples.take(EXAMPLES).collect(),
            },
            orders,
            subtrees,
            luo,
            problems: walk.problems,
            more_problems: walk.more_problems,
        }
    }

    /// Whether nothing is wrong, and something refers to all that is preserved.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.problems.is_empty() && self.unreferenced.pages == 0
    }

    /// Whether LUO has no sessions, although it is there.
    #[must_use]
    pub fn is_without_sessions(&self) -> bool {
        let luo = self.luo.as_ref();
        luo.is_some_and(|luo| luo.sessions.is_empty())
    }
}

impl Luo {
    pub(super) fn new(raw: &luo::LuoSer) -> Self {
        Self {
            version: text(luo::name(&raw.compatible)),
            liveupdates: raw.liveupdate_num,
            pages: 0,
            sessions: Vec::new(),
            shared: Vec::new(),
        }
    }
}

// SPDX-License-Identifier: GPL-2.0-only OR BSD-3-Clause

//! What is handed over under a name of its own.

use super::{
    text,
    Luo,
    Result,
    Subtree,
    Walk, //
};
use crate::abi::{
    fdt::{
        Fdt,
        Token, //
    },
    luo::{
        self,
        MetadataSer, //
    },
    root::{
        self,
        number, //
    },
    Error, //
};
use std::{
    format,
    string::String,
    vec::Vec, //
};
use zerocopy::FromBytes as _;

/// The most bytes that are read of one.
const MAX: u64 = 64 << 10;
/// The kernel's memory with names (`reserve_mem=`).
const RESERVED: &[u8] = b"memblock";

impl Walk<'_> {
    /// Walks one of them.
    pub(super) fn subtree(&mut self, raw: &root::Subtree<'_>) -> (Subtree, Option<Luo>) {
        let mut subtree = Subtree {
            name: text(raw.name),
            address: raw.phys,
            bytes: raw.size,
            pages: 0,
            says: None,
        };
        let mut luo = None;
        if let Err(fault) = self.look(raw, &mut subtree, &mut luo) {
            self.complain(&format!("subtree {}", subtree.name), fault);
        }
        (subtree, luo)
    }

    fn look(
        &mut self,
        raw: &root::Subtree<'_>,
        subtree: &mut Subtree,
        luo: &mut Option<Luo>,
    ) -> Result {
        subtree.pages = self.claim_bytes(raw.phys, raw.size)?;
        subtree.says = match raw.name {
            luo::SUBTREE => {
                *luo = Some(self.luo(raw.phys)?);
                None
            }
            luo::METADATA => Some(self.metadata(raw)?),
            RESERVED => Some(self.reserved(raw, &mut subtree.pages)?),
            // Others are free to use their memory again once they have read it.
            _ => None,
        };
        Ok(())
    }

    /// Reads all of it, page by page.
    fn bytes(&mut self, raw: &root::Subtree<'_>) -> Result<Vec<u8>> {
        if raw.size > MAX {
            return Err(Error::Size.into());
        }
        self.read_bytes(raw.phys, raw.size)
    }

    fn metadata(&mut self, raw: &root::Subtree<'_>) -> Result<String> {
        let bytes = self.bytes(raw)?;
        let (metadata, _) = MetadataSer::read_from_prefix(&bytes).map_err(|_| Error::Size)?;
        let release = text(metadata.release()?);
        let count = metadata.kexec_count();
        Ok(format!("from {release}, kexec {count}"))
    }

    /// Takes the memory that has names.
    fn reserved(&mut self, raw: &root::Subtree<'_>, pages: &mut u64) -> Result<String> {
        let bytes = self.bytes(raw)?;
        let (mut names, mut start, mut size) = (Vec::new(), None, None);
        for token in Fdt::parse(&bytes)?.tokens() {
            match token? {
                Token::Node(name) => {
                    names.push(text(name));
                    (start, size) = (None, None);
                }
                Token::Property(b"start", value) => start = Some(number(value)?),
                Token::Property(b"size", value) => size = Some(number(value)?),
                Token::Property(..) => {}
                Token::End => {
                    if let (Some(start), Some(size)) = (start.take(), size.take()) {
                        let nr = size >> self.page.shift();
                        self.claim_run(start >> self.page.shift(), nr)?;
                        *pages = pages.saturating_add(nr);
                    }
                }
            }
        }
        // The first name is that of the root, which has none.
        let names = names.get(1..).unwrap_or_default();
        Ok(match names {
            [] => "no memory with a name".into(),
            names => format!("memory {}", names.join(", ")),
        })
    }
}

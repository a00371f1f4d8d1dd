// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Finds what the Live Update Orchestrator hands over, in the memory of a machine that is stopped.

use anyhow::{
    anyhow,
    ensure,
    Context,
    Result, //
};
use kho::abi::{
    luo::{
        self,
        BlockSer,
        FileSer,
        FlbHeaderSer,
        FlbSer,
        LuoSer,
        SessionSer, //
    },
    root::Root,
    Error,
    PageSize, //
};
use zerocopy::FromBytes;

use super::between::Memory;

/// Machines that are damaged have pages of 4 KiB.
const PAGE_SHIFT: u32 = 12;

/// What LUO hands over.
pub(super) struct Handed<'m> {
    memory: &'m mut Memory,
    page: PageSize,
    luo: LuoSer,
}

impl<'m> Handed<'m> {
    /// What KHO's root `fdt` leads to.
    pub(super) fn find(memory: &'m mut Memory, fdt: &[u8]) -> Result<Self> {
        let page = PageSize::new(PAGE_SHIFT).context("pages have another size")?;
        let root = Root::parse(fdt).map_err(wrong)?;
        let mut luo = None;
        for subtree in root.subtrees() {
            let subtree = subtree.map_err(wrong)?;
            if subtree.name == luo::SUBTREE {
                luo = Some(subtree.phys);
            }
        }
        let luo: LuoSer = memory.read(luo.context("there is no LUO")?)?;
        luo.check().map_err(wrong)?;
        Ok(Self { memory, page, luo })
    }

    /// What is handed over of all files of a format, and where, in the order of the sessions.
    pub(super) fn files(&mut self, compatible: &[u8]) -> Result<Vec<(u64, FileSer)>> {
        let mut all = Vec::new();
        for (_, session) in self.blocks::<SessionSer>(self.luo.sessions)? {
            all.extend(self.blocks::<FileSer>(session.files)?);
        }
        all.retain(|(_, file)| luo::name(&file.compatible) == compatible);
        Ok(all)
    }

    /// What the handler of a format has of the first of them.
    pub(super) fn file(&mut self, compatible: &[u8]) -> Result<u64> {
        let files = self.files(compatible)?;
        let first = files.first().ok_or_else(|| missing(compatible))?;
        Ok(first.1.data)
    }

    /// What files share in a format.
    pub(super) fn shared(&mut self, compatible: &[u8]) -> Result<u64> {
        let header: FlbHeaderSer = self.memory.read(self.luo.flbs)?;
        let count = header.check(self.page).map_err(wrong)?;
        let first = self.luo.flbs + size_of::<FlbHeaderSer>() as u64;
        let all: Vec<(u64, FlbSer)> = self.entries(first, count)?;
        let found = all
            .iter()
            .find(|(_, flb)| luo::name(&flb.name) == compatible);
        found
            .map(|(_, flb)| flb.data)
            .ok_or_else(|| missing(compatible))
    }

    /// All entries of a list in blocks, and where they are.
    fn blocks<T: FromBytes>(&mut self, first: u64) -> Result<Vec<(u64, T)>> {
        let (mut all, mut next, mut blocks) = (Vec::new(), first, 0);
        while next != 0 {
            blocks += 1;
            ensure!(blocks <= luo::MAX_BLOCKS, "a list has no end");
            let block: BlockSer = self.memory.read(next)?;
            let count = block.check::<T>(self.page).map_err(wrong)?;
            all.extend(self.entries::<T>(next + size_of::<BlockSer>() as u64, count)?);
            next = block.next;
        }
        Ok(all)
    }

    fn entries<T: FromBytes>(&mut self, first: u64, count: usize) -> Result<Vec<(u64, T)>> {
        let at = |nr: usize| first + (nr * size_of::<T>()) as u64;
        (0..count)
            .map(|nr| Ok((at(nr), self.memory.read(at(nr))?)))
            .collect()
    }
}

fn wrong(error: Error) -> anyhow::Error {
    anyhow!("what is handed over cannot be read: {error}")
}

fn missing(compatible: &[u8]) -> anyhow::Error {
    let name = String::from_utf8_lossy(compatible);
    anyhow!("nothing of {name} is handed over")
}

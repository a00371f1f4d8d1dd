// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What is in guest memory, as far as the host can see it. Looking at it allocates nothing.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use anyhow::{
    ensure,
    Context,
    Result, //
};
use vm_memory::{
    Bytes,
    GuestAddress, //
};

use super::{
    Memory,
    PAGE, //
};
use crate::arch::RAM_BASE;
use crate::state::checksum;

/// So many pages are read at once.
const CHUNK: u64 = 256;

impl Memory {
    /// The runs of pages that there are, by number.
    fn runs(&self) -> Result<Vec<Range<u64>>> {
        let count = self.size / PAGE;
        if !self.backend.tells_pages() {
            return Ok(std::iter::once(0..count).collect());
        }
        let mut there = vec![0u8; usize::try_from(count)?];
        let (at, len) = (self.host_address()?, usize::try_from(self.size)?);
        // SAFETY: the range is the whole of a mapping that `self` owns, and `there` has a byte for each page
        // of it; nothing else is written.
        let result = unsafe { libc::mincore(at as *mut libc::c_void, len, there.as_mut_ptr()) };
        ensure!(
            result == 0,
            "the kernel does not tell which pages there are: {}",
            std::io::Error::last_os_error()
        );
        let mut runs: Vec<Range<u64>> = Vec::new();
        for page in (0..)
            .zip(there)
            .filter_map(|(page, is)| (is & 1 != 0).then_some(page))
        {
            match runs.last_mut() {
                Some(run) if run.end == page => run.end = page + 1,
                _ => runs.push(page..page + 1),
            }
        }
        Ok(runs)
    }

    /// How many bytes of memory there are, of those that the host can see.
    pub(crate) fn allocated(&self) -> Result<u64> {
        Ok(self
            .runs()?
            .iter()
            .map(|run| run.end - run.start)
            .sum::<u64>()
            * PAGE)
    }

    /// The checksum of every byte, and of where there are holes.
    pub(crate) fn checksum(&self) -> Result<u64> {
        let mut buffer = vec![0; usize::try_from(CHUNK * PAGE)?];
        let mut sum: u64 = 0;
        for run in self.runs()? {
            for first in run.clone().step_by(CHUNK as usize) {
                let len = usize::try_from((run.end - first).min(CHUNK) * PAGE)?;
                let part = buffer.get_mut(..len).context("no more than a chunk")?;
                self.map
                    .read_slice(part, GuestAddress(RAM_BASE + first * PAGE))?;
                sum = checksum(sum.rotate_left(7) ^ first, part);
            }
        }
        Ok(sum)
    }

    /// A digest of the numbers of all physical pages that the memory is in.
    pub(crate) fn pages(&self) -> Result<u64> {
        let pagemap = File::open("/proc/self/pagemap").context("/proc is needed")?;
        let at = self.host_address()? / PAGE;
        let mut sum = 0;
        let mut byte = [0];
        for run in self.runs()? {
            // An entry tells of a page only if this process has touched it.
            for page in run.clone() {
                let address = GuestAddress(RAM_BASE + page * PAGE);
                self.map.read_slice(&mut byte, address)?;
            }
            let mut entries = vec![0; usize::try_from((run.end - run.start) * 8)?];
            pagemap.read_exact_at(&mut entries, (at + run.start) * 8)?;
            for entry in entries.chunks_exact(8) {
                // Bits 0 to 54 are the page's number, which only root gets to see.
                let entry = entry.try_into().map_or(0, u64::from_le_bytes) & ((1 << 55) - 1);
                ensure!(entry != 0, "the kernel does not tell the numbers of pages");
                sum = checksum(sum, &entry.to_le_bytes());
            }
        }
        Ok(sum)
    }

    /// Whether the host finds nothing but zeros in pages `range`.
    pub(crate) fn is_empty(&self, range: Range<u64>) -> Result<bool> {
        let mut page = vec![0u8; usize::try_from(PAGE)?];
        for run in self.runs()? {
            for number in run.start.max(range.start)..run.end.min(range.end) {
                self.map
                    .read_slice(&mut page, GuestAddress(RAM_BASE + number * PAGE))?;
                if page.iter().any(|byte| *byte != 0) {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Content that is a function of a seed and an offset, so that it can be verified in a kernel that
//! knows nothing but the seed, and a page in the wrong place is noticed like a changed one.

use rustix::io::{
    pread,
    pwrite, //
};
use std::{
    ops::Range,
    os::fd::AsFd, //
};

/// How much is read or written at a time.
const STEP: usize = 1 << 20;

/// The eight bytes at `index * 8`.
fn word(seed: u64, index: u64) -> u64 {
    let mixed = (seed ^ index.rotate_left(20)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    // Never zero, so that a page that was lost never looks right.
    (mixed ^ (mixed >> 29)) | 1
}

/// Puts into `buf` what belongs at `offset`.
pub fn fill(seed: u64, offset: u64, buf: &mut [u8]) {
    let head = ((8 - offset % 8) % 8).min(buf.len() as u64) as usize;
    let (start, rest) = buf.split_at_mut(head);
    if head > 0 {
        let bytes = word(seed, offset / 8).to_le_bytes();
        let at = (offset % 8) as usize;
        start.copy_from_slice(&bytes[at..at + head]);
    }
    let first = (offset + head as u64) / 8;
    for (index, chunk) in (first..).zip(rest.chunks_mut(8)) {
        chunk.copy_from_slice(&word(seed, index).to_le_bytes()[..chunk.len()]);
    }
}

/// A number that stands for some bytes.
pub fn digest(digest: u64, bytes: &[u8]) -> u64 {
    bytes.chunks(8).fold(digest, |sum, chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        (sum.rotate_left(5) ^ u64::from_le_bytes(word)).wrapping_mul(0x517c_c1b7_2722_0a95)
    })
}

/// What a file has where: the pattern in `data`, zeroes elsewhere.
#[derive(Clone, Debug)]
pub struct Layout {
    /// Tells files apart.
    pub seed: u64,
    /// Length of the file.
    pub size: u64,
    /// Where there is data; ascending, not overlapping.
    pub data: Vec<Range<u64>>,
    /// What was written over it later.
    pub over: Option<Box<Layout>>,
}

impl Layout {
    /// Data from start to end.
    pub fn full(seed: u64, size: u64) -> Self {
        Self::part(seed, size, 0..size)
    }

    /// Data in one place.
    pub fn part(seed: u64, size: u64, data: Range<u64>) -> Self {
        Self::ranges(seed, size, std::iter::once(data))
    }

    /// Data in some places.
    pub fn ranges(seed: u64, size: u64, data: impl IntoIterator<Item = Range<u64>>) -> Self {
        let cut = |range: Range<u64>| range.start..range.end.min(size);
        let data = data
            .into_iter()
            .map(cut)
            .filter(|r| !r.is_empty())
            .collect();
        let over = None;
        Self {
            seed,
            size,
            data,
            over,
        }
    }

    /// The same with the data of another one written over it.
    pub fn then(self, over: Self) -> Self {
        let over = Some(Box::new(over));
        Self { over, ..self }
    }

    /// `len` bytes of data at every multiple of `step`, from `first` on.
    pub fn every(seed: u64, size: u64, first: u64, step: u64, len: u64) -> Self {
        let starts = (first..size).step_by(step as usize);
        Self::ranges(seed, size, starts.map(|start| start..start + len))
    }

    /// Sets the length of the file and writes the data.
    pub fn write(&self, fd: impl AsFd) -> rustix::io::Result<()> {
        rustix::fs::ftruncate(&fd, self.size)?;
        self.write_data(fd)
    }

    /// Writes the data and leaves the length alone.
    pub fn write_data(&self, fd: impl AsFd) -> rustix::io::Result<()> {
        let mut buf = vec![0; STEP];
        for (at, len) in self.data.iter().flat_map(steps) {
            fill(self.seed, at, &mut buf[..len]);
            let mut done = 0;
            while done < len {
                done += pwrite(&fd, &buf[done..len], at + done as u64)?;
            }
        }
        Ok(())
    }

    /// What the file must have at `offset`.
    fn expected(&self, offset: u64, buf: &mut [u8]) {
        buf.fill(0);
        self.paint(offset, buf);
    }

    fn paint(&self, offset: u64, buf: &mut [u8]) {
        let end = offset + buf.len() as u64;
        let first = self.data.partition_point(|range| range.end <= offset);
        for range in self.data[first..].iter().take_while(|r| r.start < end) {
            let (from, to) = (range.start.max(offset), range.end.min(end));
            let part = &mut buf[(from - offset) as usize..(to - offset) as usize];
            fill(self.seed, from, part);
        }
        if let Some(over) = &self.over {
            over.paint(offset, buf);
        }
    }

    /// Compares a file with what it must be, its length included.
    ///
    /// # Errors
    ///
    /// A sentence that says where and how much differs.
    pub fn verify(&self, fd: impl AsFd) -> Result<(), String> {
        let size = rustix::fs::fstat(&fd).map_err(|e| e.to_string())?.st_size as u64;
        if size != self.size {
            return Err(format!(
                "the file has {size} bytes instead of {}",
                self.size
            ));
        }
        let (mut want, mut have) = (vec![0; STEP], vec![0; STEP]);
        let (mut bad, mut first) = (0u64, None);
        for (at, len) in steps(&(0..self.size)) {
            let (want, have) = (&mut want[..len], &mut have[..len]);
            self.expected(at, want);
            let mut done = 0;
            while done < len {
                match pread(&fd, &mut have[done..], at + done as u64) {
                    Ok(0) => return Err(format!("the file ends at {}", at + done as u64)),
                    Ok(n) => done += n,
                    Err(e) => return Err(format!("reading at {}: {e}", at + done as u64)),
                }
            }
            if want != have {
                let differ = want.iter().zip(&*have).map(|(w, h)| w != h);
                bad += differ.clone().filter(|d| *d).count() as u64;
                first = first.or_else(|| differ.clone().position(|d| d).map(|i| at + i as u64));
            }
        }
        match first {
            None => Ok(()),
            Some(at) => Err(format!(
                "{bad} of {size} bytes differ, the first at {at:#x}"
            )),
        }
    }
}

/// Cuts a range into pieces that fit a buffer.
fn steps(range: &Range<u64>) -> impl Iterator<Item = (u64, usize)> {
    let end = range.end;
    (range.start..end)
        .step_by(STEP)
        .map(move |at| (at, (end - at).min(STEP as u64) as usize))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{
        memfd_create,
        MemfdFlags, //
    };

    #[test]
    fn the_pattern_does_not_depend_on_how_it_is_cut() {
        let mut whole = [0; 100];
        fill(7, 1000, &mut whole);
        for start in 0..20 {
            for len in 0..80 {
                let mut part = vec![0; len];
                fill(7, 1000 + start as u64, &mut part);
                assert_eq!(part, whole[start..start + len], "{start} {len}");
            }
        }
    }

    #[test]
    fn every_page_differs_from_every_other() {
        let page = |seed, at| {
            let mut page = [0; 4096];
            fill(seed, at, &mut page);
            digest(0, &page)
        };
        let mut all: Vec<u64> = (0..512).map(|i| page(1, i << 12)).collect();
        all.extend((0..512).map(|i| page(2, i << 12)));
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 1024);
    }

    #[test]
    fn a_flipped_byte_a_lost_page_and_a_wrong_size_are_noticed() {
        let fd = memfd_create("t", MemfdFlags::CLOEXEC).unwrap();
        let layout = Layout::every(3, (3 << 20) + 5, 4096, 16384, 5000);
        layout.write(&fd).unwrap();
        layout.verify(&fd).unwrap();

        let mut byte = [0];
        for at in [4096, 4097, (3 << 20) + 4, 100] {
            pread(&fd, &mut byte, at).unwrap();
            pwrite(&fd, &[byte[0] ^ 4], at).unwrap();
            let why = layout.verify(&fd).unwrap_err();
            assert!(
                why.starts_with("1 of") && why.ends_with(&format!("{at:#x}")),
                "{why}"
            );
            pwrite(&fd, &byte, at).unwrap();
            layout.verify(&fd).unwrap();
        }

        pwrite(&fd, &[0; 4096], 4096).unwrap();
        assert!(layout.verify(&fd).is_err());
        layout.write(&fd).unwrap();
        rustix::fs::ftruncate(&fd, layout.size + 1).unwrap();
        assert!(layout.verify(&fd).unwrap_err().contains("instead of"));
    }
}

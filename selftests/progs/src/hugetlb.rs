// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Memfds with huge pages of HugeTLB, and the pools that these come from.

use crate::{
    memory::{
        memfd_with,
        page, //
    },
    pattern::{
        self,
        Layout, //
    },
    sys, //
};
use anyhow::{
    Context,
    Result, //
};
use rustix::{
    fs::MemfdFlags,
    io::pread,
    mm::{
        self,
        MapFlags,
        ProtFlags, //
    }, //
};
use std::{
    fmt,
    fs,
    os::fd::{
        AsFd,
        OwnedFd, //
    },
    path::{
        Path,
        PathBuf, //
    },
    ptr, //
};

/// A memfd whose huge pages have `size` bytes.
pub fn huge_memfd(size: u64, flags: MemfdFlags) -> Result<OwnedFd> {
    let size = MemfdFlags::from_bits_retain(size.trailing_zeros() << 26);
    memfd_with("huge", flags | MemfdFlags::HUGETLB | size).context("cannot make a huge memfd")
}

/// Sets the length of a file with huge pages and writes the data of `layout`, with whatever else is in
/// the huge pages that it touches left as it is.
pub fn write(layout: &Layout, fd: impl AsFd, huge: u64) -> Result<()> {
    rustix::fs::ftruncate(&fd, layout.size.next_multiple_of(huge))?;
    write_data(layout, fd, huge)
}

/// Writes the data of `layout` to a file that is long enough.
pub fn write_data(layout: &Layout, fd: impl AsFd, huge: u64) -> Result<()> {
    let map = HugeMap::shared(&fd, layout.size.next_multiple_of(huge), huge)?;
    for range in &layout.data {
        map.write(range.start, range.end, |at, buf| {
            pattern::fill(layout.seed, at, buf);
        });
    }
    Ok(())
}

/// A mapping of a file with huge pages.
#[derive(Debug)]
pub struct HugeMap {
    base: *mut u8,
    len: usize,
}

impl HugeMap {
    /// A writable shared mapping of the first `len` bytes.
    pub fn shared(fd: impl AsFd, len: u64, huge: u64) -> rustix::io::Result<Self> {
        Self::map(fd, len, huge, MapFlags::SHARED, true)
    }

    /// A shared mapping that nothing is reserved for.
    pub fn shared_noreserve(fd: impl AsFd, len: u64, huge: u64) -> rustix::io::Result<Self> {
        Self::map(fd, len, huge, MapFlags::SHARED | MapFlags::NORESERVE, true)
    }

    /// A shared mapping for reading.
    pub fn read_only(fd: impl AsFd, len: u64, huge: u64) -> rustix::io::Result<Self> {
        Self::map(fd, len, huge, MapFlags::SHARED, false)
    }

    /// A writable private mapping.
    pub fn private(fd: impl AsFd, len: u64, huge: u64) -> rustix::io::Result<Self> {
        Self::map(fd, len, huge, MapFlags::PRIVATE, true)
    }

    fn map(
        fd: impl AsFd,
        len: u64,
        huge: u64,
        flags: MapFlags,
        write: bool,
    ) -> rustix::io::Result<Self> {
        let len = len.next_multiple_of(huge) as usize;
        let mut prot = ProtFlags::READ;
        prot.set(ProtFlags::WRITE, write);
        // SAFETY: The kernel chooses an address that is not in use.
        let base = unsafe { mm::mmap(ptr::null_mut(), len, prot, flags, &fd, 0)? };
        Ok(Self {
            base: base.cast(),
            len,
        })
    }

    /// Lets `fill` write what belongs from `start` to `end`, in pieces.
    pub fn write(&self, start: u64, end: u64, mut fill: impl FnMut(u64, &mut [u8])) {
        let mut buf = vec![0; 1 << 20];
        let mut at = start;
        while at < end {
            let len = (end - at).min(1 << 20) as usize;
            assert!(at as usize + len <= self.len);
            fill(at, &mut buf[..len]);
            // SAFETY: It is inside the mapping, and nothing else uses this memory now.
            unsafe { ptr::copy_nonoverlapping(buf.as_ptr(), self.base.add(at as usize), len) };
            at += len as u64;
        }
    }

    /// The byte at `at`.
    pub fn byte(&self, at: u64) -> u8 {
        assert!((at as usize) < self.len);
        // SAFETY: It is inside the mapping.
        unsafe { self.base.add(at as usize).read_volatile() }
    }

    /// Marks what is mapped at `at` as broken.
    pub fn poison(&self, at: u64, len: u64) -> rustix::io::Result<()> {
        self.advise(at, len, libc::MADV_HWPOISON)
    }

    /// Takes the memory that is mapped at `at` out of use, with its content moved elsewhere.
    pub fn offline(&self, at: u64, len: u64) -> rustix::io::Result<()> {
        self.advise(at, len, libc::MADV_SOFT_OFFLINE)
    }

    fn advise(&self, at: u64, len: u64, advice: i32) -> rustix::io::Result<()> {
        assert!((at + len) as usize <= self.len);
        // SAFETY: It is inside the mapping, and nobody reads it any more or its content stays.
        let status = unsafe {
            let address = self.base.add(at as usize).cast();
            libc::madvise(address, len as usize, advice)
        };
        sys::answer(status.into())
    }

    /// The physical page number at each multiple of `huge`.
    pub fn pfns(&self, huge: u64) -> Result<Vec<u64>> {
        let pagemap = fs::File::open("/proc/self/pagemap")?;
        let mut pfns = Vec::new();
        for at in (0..self.len as u64).step_by(huge as usize) {
            self.byte(at);
            let mut entry = [0; 8];
            let place = (self.base as u64 + at) / page() * 8;
            pread(&pagemap, &mut entry, place)?;
            pfns.push(u64::from_le_bytes(entry) & ((1 << 55) - 1));
        }
        Ok(pfns)
    }
}

impl Drop for HugeMap {
    fn drop(&mut self) {
        // SAFETY: Nothing refers to the mapping.
        let _ = unsafe { mm::munmap(self.base.cast(), self.len) };
    }
}

/// A line that stands for the physical huge pages of a file.
pub fn digest(fd: impl AsFd, len: u64, huge: u64) -> Result<String> {
    let pfns = HugeMap::read_only(fd, len, huge)?.pfns(huge)?;
    let sum = pfns
        .iter()
        .fold(0, |d, pfn| pattern::digest(d, &pfn.to_le_bytes()));
    let missing = pfns.iter().filter(|pfn| **pfn == 0).count();
    Ok(format!(
        "{} pages, {missing} missing, {sum:016x}",
        pfns.len()
    ))
}

/// The pool of huge pages of one size.
#[derive(Clone, Copy, Debug)]
pub struct Pool(pub u64);

impl Pool {
    fn dir(self) -> PathBuf {
        Path::new("/sys/kernel/mm/hugepages").join(format!("hugepages-{}kB", self.0 >> 10))
    }

    /// Whether the kernel has huge pages of this size.
    pub fn exists(self) -> bool {
        self.dir().exists()
    }

    /// Sets the number of huge pages that stay in the pool: how many it became.
    pub fn set(self, nr: u64) -> Result<u64> {
        let path = self.dir().join("nr_hugepages");
        sys::set(&path.to_string_lossy(), &nr.to_string())?;
        Ok(self.state()?.nr)
    }

    /// Sets how many more there may be for a time.
    pub fn overcommit(self, nr: u64) -> Result<()> {
        let path = self.dir().join("nr_overcommit_hugepages");
        sys::set(&path.to_string_lossy(), &nr.to_string())
    }

    /// All counters.
    pub fn state(self) -> Result<State> {
        let dir = self.dir();
        let read = |dir: &Path, name: &str| -> Result<u64> {
            let path = dir.join(name);
            let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
            Ok(text.trim().parse()?)
        };
        let name = dir.file_name().unwrap_or_default();
        let mut nodes = Vec::new();
        for node in 0..64 {
            let dir = PathBuf::from(format!("/sys/devices/system/node/node{node}/hugepages"));
            if !dir.exists() {
                continue;
            }
            let dir = dir.join(name);
            nodes.push([
                read(&dir, "nr_hugepages")?,
                read(&dir, "free_hugepages")?,
                read(&dir, "surplus_hugepages")?,
            ]);
        }
        Ok(State {
            nr: read(&dir, "nr_hugepages")?,
            free: read(&dir, "free_hugepages")?,
            resv: read(&dir, "resv_hugepages")?,
            surplus: read(&dir, "surplus_hugepages")?,
            nodes,
        })
    }
}

/// The counters of a pool; of each node the number, the free and the surplus huge pages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// All huge pages.
    pub nr: u64,
    /// Those that are in no file and no process.
    pub free: u64,
    /// Those that are promised.
    pub resv: u64,
    /// Those that are freed when nobody uses them.
    pub surplus: u64,
    /// For each node.
    pub nodes: Vec<[u64; 3]>,
}

impl State {
    /// The sums that must agree with one another.
    pub fn consistent(&self) -> Result<(), String> {
        let sum = |i: usize| self.nodes.iter().map(|node| node[i]).sum::<u64>();
        if self.nodes.is_empty()
            || (sum(0), sum(1), sum(2)) == (self.nr, self.free, self.surplus)
                && self.free >= self.resv
        {
            return Ok(());
        }
        Err(format!("the counters contradict one another: {self}"))
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            nr,
            free,
            resv,
            surplus,
            nodes,
        } = self;
        write!(
            f,
            "nr {nr} free {free} resv {resv} surplus {surplus} nodes {nodes:?}"
        )
    }
}

/// `Hugetlb` of /proc/meminfo in bytes: memory in all pools.
pub fn meminfo(key: &str) -> Result<u64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let line = text
        .lines()
        .find_map(|l| l.strip_prefix(key)?.strip_prefix(':'));
    let number = line.and_then(|l| l.split_whitespace().next());
    Ok(number
        .with_context(|| format!("no {key}"))?
        .parse::<u64>()?
        << 10)
}

/// A counter of /proc/vmstat.
pub fn vmstat(key: &str) -> Result<u64> {
    let text = fs::read_to_string("/proc/vmstat")?;
    let line = text
        .lines()
        .find_map(|l| l.strip_prefix(key)?.strip_prefix(' '));
    Ok(line.with_context(|| format!("no {key}"))?.parse()?)
}

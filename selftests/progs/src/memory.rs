// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Memfds, and mappings of them.

use rustix::{
    fs::{
        memfd_create,
        MemfdFlags, //
    },
    io::pread,
    mm::{
        self,
        Advice,
        MapFlags,
        ProtFlags, //
    }, //
};
use std::{
    fs::File,
    io,
    ops::Range,
    os::fd::{
        AsFd,
        OwnedFd, //
    },
    ptr,
    sync::atomic::{
        AtomicU64,
        Ordering, //
    }, //
};

/// Length of a page.
pub fn page() -> u64 {
    rustix::param::page_size() as u64
}

/// Length of a huge page.
pub const HUGE: u64 = 2 << 20;

/// A memfd as VMMs make it: executable, and seals can be added.
pub fn memfd(name: &str) -> io::Result<OwnedFd> {
    memfd_with(name, MemfdFlags::ALLOW_SEALING)
}

/// A memfd.
pub fn memfd_with(name: &str, flags: MemfdFlags) -> io::Result<OwnedFd> {
    Ok(memfd_create(name, flags | MemfdFlags::CLOEXEC)?)
}

/// The same file, opened once more.
pub fn reopen(fd: impl AsFd, flags: rustix::fs::OFlags) -> io::Result<OwnedFd> {
    use std::os::fd::AsRawFd;
    let path = format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd());
    let flags = flags | rustix::fs::OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, rustix::fs::Mode::empty())?)
}

/// A shared mapping of a file. It starts at a multiple of [`HUGE`], or of what was asked for.
#[derive(Debug)]
pub struct Map {
    base: *mut u8,
    len: usize,
    whole: (*mut u8, usize),
}

impl Map {
    /// Maps the first `len` bytes.
    pub fn new(fd: impl AsFd, len: u64, write: bool) -> rustix::io::Result<Self> {
        Self::aligned(fd, len, write, HUGE)
    }

    /// Maps the first `len` bytes at a multiple of `align`, as files with huge pages need it.
    pub fn aligned(fd: impl AsFd, len: u64, write: bool, align: u64) -> rustix::io::Result<Self> {
        let (len, align) = (len as usize, align as usize);
        let prot = if write {
            ProtFlags::READ | ProtFlags::WRITE
        } else {
            ProtFlags::READ
        };
        let room = len + align;
        // SAFETY: The kernel chooses an address that is not in use.
        let start = unsafe {
            mm::mmap_anonymous(
                ptr::null_mut(),
                room,
                ProtFlags::empty(),
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )?
        }
        .cast::<u8>();
        let base = start.wrapping_add(start.align_offset(align));
        // From here on, dropping `map` gives the room back.
        let map = Self {
            base,
            len,
            whole: (start, room),
        };
        // SAFETY: It replaces a part of the mapping just made, which nobody else knows of.
        unsafe {
            let flags = MapFlags::SHARED | MapFlags::FIXED;
            mm::mmap(base.cast(), len, prot, flags, &fd, 0)?
        };
        Ok(map)
    }

    /// Gives the kernel advice about all of it.
    pub fn advise(&self, advice: Advice) -> rustix::io::Result<()> {
        // SAFETY: Only advice that does not change the content of a shared mapping is given here.
        unsafe { mm::madvise(self.base.cast(), self.len, advice) }
    }

    /// The memory at `offset`, which must be a multiple of eight.
    pub fn word(&self, offset: u64) -> &AtomicU64 {
        let offset = offset as usize;
        assert!(offset.is_multiple_of(8) && offset + 8 <= self.len);
        // SAFETY: It is inside the mapping, aligned, and shared memory is only used atomically.
        unsafe { &*self.base.add(offset).cast::<AtomicU64>() }
    }

    /// Reads one word of each page, so that all are mapped.
    pub fn touch(&self) {
        for at in (0..self.len as u64 & !7).step_by(page() as usize) {
            self.word(at).load(Ordering::Relaxed);
        }
    }

    /// The physical page numbers; the pages are mapped first.
    pub fn pfns(&self) -> io::Result<Vec<u64>> {
        self.pfns_of(0..(self.len as u64).div_ceil(page()))
    }

    /// The physical page numbers of some pages, which are mapped first.
    pub fn pfns_of(&self, pages: Range<u64>) -> io::Result<Vec<u64>> {
        let end = (pages.end * page()).min(self.len as u64 & !7);
        for at in (pages.start * page()..end).step_by(page() as usize) {
            self.word(at).load(Ordering::Relaxed);
        }
        let pagemap = File::open("/proc/self/pagemap")?;
        let mut entries = vec![0; (pages.end - pages.start) as usize * 8];
        let mut done = 0;
        while done < entries.len() {
            let at = (self.base as u64 / page() + pages.start) * 8 + done as u64;
            match pread(&pagemap, &mut entries[done..], at)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => done += n,
            }
        }
        let entry = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap_or_default());
        let pfns = entries.chunks(8).map(entry).map(|entry| match entry >> 63 {
            1 => entry & ((1 << 55) - 1),
            _ => 0,
        });
        Ok(pfns.collect())
    }

    /// Splits the huge pages that are mapped here into single pages, which stay where they are.
    pub fn split_huge(&self) -> io::Result<()> {
        let (start, end) = (self.base as usize, self.base as usize + self.len);
        let order = format!("{},{start:#x},{end:#x}", std::process::id());
        std::fs::write("/sys/kernel/debug/split_huge_pages", order)
    }

    /// Makes huge pages of what is mapped here. It has to be so large, and aligned.
    pub fn collapse(&self) -> io::Result<()> {
        const MADV_COLLAPSE: i32 = 25;
        // SAFETY: The memory is mapped, and what is in it does not change.
        match unsafe { libc::madvise(self.base.cast(), self.len, MADV_COLLAPSE) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Where it is mapped.
    pub fn address(&self) -> usize {
        self.base as usize
    }

    /// Keeps it mapped for as long as the process lives.
    pub fn leak(self) {
        std::mem::forget(self);
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: References into the mapping borrow it, so there are none left.
        let _ = unsafe { mm::munmap(self.whole.0.cast(), self.whole.1) };
    }
}

/// How many of the first `len` bytes of a file are mapped by huge pages.
pub fn huge_mapped(fd: impl AsFd, len: u64) -> io::Result<u64> {
    let map = Map::new(fd, len, false)?;
    map.touch();
    let text = std::fs::read_to_string("/proc/self/smaps")?;
    let start = format!("{:x}-", map.address());
    let area = text.split_once(&start).map_or("", |(_, rest)| rest);
    let line = area.lines().find_map(|l| l.strip_prefix("ShmemPmdMapped:"));
    let kib = line.and_then(|l| l.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
    kib.map(|kib| kib << 10)
        .ok_or_else(|| io::Error::other("/proc/self/smaps has no ShmemPmdMapped"))
}

/// The physical page numbers of a file's pages. Holes are filled by asking.
pub fn pfns(fd: impl AsFd, size: u64) -> io::Result<Vec<u64>> {
    Map::new(fd, size.next_multiple_of(page()), false)?.pfns()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pattern::Layout;

    #[test]
    fn a_mapping_sees_the_file_and_its_pages() {
        let fd = memfd("t").unwrap();
        Layout::full(1, 3 * page()).write(&fd).unwrap();
        let map = Map::new(&fd, 3 * page(), true).unwrap();
        map.word(page()).store(0x1122, Ordering::Relaxed);
        let mut bytes = [0; 8];
        pread(&fd, &mut bytes, page()).unwrap();
        assert_eq!(u64::from_ne_bytes(bytes), 0x1122);
        assert_eq!(map.address() as u64 % HUGE, 0);
        // Page numbers are hidden from users other than root.
        assert_eq!(map.pfns().unwrap().len(), 3);
    }
}

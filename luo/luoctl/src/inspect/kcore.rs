// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Physical memory of the running kernel, from `/proc/kcore`.
//!
//! `/dev/mem` refuses ordinary memory on nearly every kernel (`CONFIG_STRICT_DEVMEM`). `/proc/kcore` does not,
//! writes nothing, and is there in every distribution, for whoever has `CAP_SYS_RAWIO` and if the kernel is
//! not locked down for confidentiality.

use anyhow::{
    Context as _,
    Result, //
};
use kho::walk::Memory;
use object::{
    elf::{
        FileHeader64,
        PT_LOAD, //
    },
    read::elf::{
        FileHeader as _,
        ProgramHeader as _, //
    },
    LittleEndian, //
};
use std::{
    fs::File,
    io::{
        self,
        ErrorKind,
        Read as _, //
    },
    os::unix::fs::FileExt as _,
    path::Path, //
};

/// The headers are at the beginning, and no machine has so many.
const HEADERS: u64 = 4 << 20;

/// A range of physical memory in the file.
struct Range {
    phys: u64,
    size: u64,
    offset: u64,
}

/// The memory of the running kernel.
pub(super) struct Kcore {
    file: File,
    ranges: Vec<Range>,
}

impl Kcore {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(explain)?;
        let ranges = ranges(&file).with_context(|| format!("cannot use {}", path.display()))?;
        Ok(Self { file, ranges })
    }
}

/// Says what to do if memory cannot be read.
fn explain(error: io::Error) -> anyhow::Error {
    let advice = match error.kind() {
        ErrorKind::NotFound => "there is no /proc/kcore: the kernel needs CONFIG_PROC_KCORE=y",
        ErrorKind::PermissionDenied => {
            "/proc/kcore cannot be opened: run this as root (CAP_SYS_RAWIO); a kernel that is locked down for \
             confidentiality shows its memory to nobody"
        }
        _ => "/proc/kcore cannot be opened",
    };
    anyhow::Error::new(error).context(advice)
}

/// Reads on to a place near the beginning: behind the headers comes memory.
fn fill(file: &File, start: &mut Vec<u8>, end: u64) -> io::Result<()> {
    let missing = end.min(HEADERS).saturating_sub(start.len() as u64);
    file.take(missing).read_to_end(start).map(drop)
}

fn ranges(file: &File) -> Result<Vec<Range>> {
    let mut start = Vec::new();
    fill(file, &mut start, 64)?;
    let header = *FileHeader64::<LittleEndian>::parse(start.as_slice())?;
    let endian = LittleEndian;
    let table = u64::from(header.e_phnum.get(endian)) * u64::from(header.e_phentsize.get(endian));
    let end = header.e_phoff.get(endian).saturating_add(table);
    fill(file, &mut start, end)?;
    let ranges = header.program_headers(endian, start.as_slice())?;
    let ranges = ranges.iter().filter_map(|range| {
        let (phys, size) = (range.p_paddr(endian), range.p_filesz(endian));
        // Memory that has no physical address has this one.
        let is_ram = range.p_type(endian) == PT_LOAD && phys.checked_add(size).is_some();
        is_ram.then(|| Range {
            phys,
            size,
            offset: range.p_offset(endian),
        })
    });
    Ok(ranges.collect())
}

impl Memory for Kcore {
    fn read(&mut self, phys: u64, bytes: &mut [u8]) -> io::Result<()> {
        let size = bytes.len() as u64;
        let found = self.ranges.iter().find_map(|range| {
            let at = phys.checked_sub(range.phys)?;
            let fits = at.checked_add(size)? <= range.size;
            fits.then_some(range.offset.checked_add(at)?)
        });
        let offset = found.ok_or_else(|| io::Error::other("there is no memory"))?;
        self.file.read_exact_at(bytes, offset)
    }
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A copy of what describes a hand-over: the root, and each page that was read to walk it. Contents of files
//! are not in it.
//!
//! The file begins with [`MAGIC`], the base two logarithm of the page size (4 bytes), the direction (4 bytes:
//! 0 handed over to the kernel that was asked, 1 by it), and the size of the root (8 bytes), which
//! follows. Then there is for each page its physical address (8 bytes), and the page. All numbers are
//! little endian.

use anyhow::{
    bail,
    ensure,
    Context as _,
    Result, //
};
use kho::{
    abi::PageSize,
    walk::Memory, //
};
use std::{
    collections::{
        HashMap,
        HashSet, //
    },
    fs::{
        File,
        OpenOptions, //
    },
    io::{
        self,
        BufReader,
        BufWriter,
        Read,
        Write as _, //
    },
    os::unix::fs::{
        FileExt as _,
        OpenOptionsExt as _, //
    },
    path::Path, //
};

use super::Direction;

const MAGIC: &[u8; 8] = b"LUOCOPY1";
/// KHO's root is in one page.
const MAX_ROOT: u64 = 1 << 16;

/// Memory from a copy.
pub(super) struct Copy {
    file: File,
    page: PageSize,
    /// Where the page with this address is.
    pages: HashMap<u64, u64>,
}

/// What a copy says beside the memory.
pub(super) struct Header {
    pub(super) direction: Direction,
    pub(super) page: PageSize,
    pub(super) root: Vec<u8>,
}

fn take<const LEN: usize>(reader: &mut impl Read) -> io::Result<[u8; LEN]> {
    let mut bytes = [0; LEN];
    reader.read_exact(&mut bytes)?;
    Ok(bytes)
}

impl Copy {
    pub(super) fn open(path: &Path) -> Result<(Header, Self)> {
        let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        Self::read(file).with_context(|| format!("cannot use {}", path.display()))
    }

    fn read(file: File) -> Result<(Header, Self)> {
        let mut reader = BufReader::new(&file);
        let magic = take(&mut reader).context("it is no copy of a hand-over")?;
        ensure!(
            magic == *MAGIC,
            "it is no copy of a hand-over, as `luoctl inspect --save` writes them"
        );
        let shift = u32::from_le_bytes(take(&mut reader)?);
        let page = PageSize::new(shift).context("it has pages of a size that no machine has")?;
        let direction = match u32::from_le_bytes(take(&mut reader)?) {
            0 => Direction::In,
            1 => Direction::Out,
            _ => bail!("it was written by a newer luoctl"),
        };
        let size = u64::from_le_bytes(take(&mut reader)?);
        ensure!(size <= MAX_ROOT, "its root is too large");
        let mut root = Vec::new();
        reader.take(size).read_to_end(&mut root)?;

        let mut pages = HashMap::new();
        let end = file.metadata()?.len();
        let mut at = 24 + size;
        while at.saturating_add(8 + page.bytes()) <= end {
            let mut phys = [0; 8];
            file.read_exact_at(&mut phys, at)?;
            pages.insert(u64::from_le_bytes(phys), at + 8);
            at += 8 + page.bytes();
        }
        ensure!(at == end, "it is not complete");
        let header = Header {
            direction,
            page,
            root,
        };
        Ok((header, Self { file, page, pages }))
    }
}

impl Memory for Copy {
    fn read(&mut self, phys: u64, bytes: &mut [u8]) -> io::Result<()> {
        let offset = phys & (self.page.bytes() - 1);
        let at = self.pages.get(&(phys - offset));
        let at = at.ok_or_else(|| io::Error::other("it is not in the copy"))?;
        if bytes.len() as u64 > self.page.bytes() - offset {
            return Err(io::Error::other("it is not in one page"));
        }
        self.file.read_exact_at(bytes, at + offset)
    }
}

/// Writes a copy of what is read.
pub(super) struct Recorder<'m> {
    memory: &'m mut dyn Memory,
    page: PageSize,
    writer: BufWriter<File>,
    pages: HashSet<u64>,
}

impl<'m> Recorder<'m> {
    pub(super) fn create(path: &Path, header: &Header, memory: &'m mut dyn Memory) -> Result<Self> {
        // It has addresses of the kernel's memory.
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .with_context(|| format!("cannot create {}", path.display()))?;
        let mut writer = BufWriter::new(file);
        let direction = match header.direction {
            Direction::In => 0u32,
            Direction::Out => 1,
        };
        writer.write_all(MAGIC)?;
        writer.write_all(&header.page.shift().to_le_bytes())?;
        writer.write_all(&direction.to_le_bytes())?;
        writer.write_all(&(header.root.len() as u64).to_le_bytes())?;
        writer.write_all(&header.root)?;
        Ok(Self {
            memory,
            page: header.page,
            writer,
            pages: HashSet::new(),
        })
    }

    pub(super) fn finish(self) -> io::Result<()> {
        self.writer.into_inner()?.sync_all()
    }
}

impl Memory for Recorder<'_> {
    fn read(&mut self, phys: u64, bytes: &mut [u8]) -> io::Result<()> {
        let start = phys & !(self.page.bytes() - 1);
        if self.pages.insert(start) {
            let mut page = vec![0; usize::try_from(self.page.bytes()).unwrap_or(0)];
            self.memory.read(start, &mut page)?;
            self.writer.write_all(&start.to_le_bytes())?;
            self.writer.write_all(&page)?;
        }
        self.memory.read(phys, bytes)
    }

    fn peek(&mut self, phys: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.memory.peek(phys, bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fake;

    impl Memory for Fake {
        fn read(&mut self, phys: u64, bytes: &mut [u8]) -> io::Result<()> {
            bytes.fill(u8::try_from(phys >> 12).map_err(io::Error::other)?);
            Ok(())
        }
    }

    #[test]
    fn what_was_read_is_in_the_copy_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("copy");
        let header = Header {
            direction: Direction::Out,
            page: PageSize::new(12).unwrap(),
            root: b"root".to_vec(),
        };
        let mut fake = Fake;
        let mut recorder = Recorder::create(&path, &header, &mut fake).unwrap();
        let mut bytes = [0; 8];
        recorder.read(0x3010, &mut bytes).unwrap();
        recorder.read(0x3000, &mut bytes).unwrap();
        recorder.peek(0x5000, &mut bytes).unwrap();
        recorder.finish().unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 24 + 4 + 8 + 4096);

        let (header, mut copy) = Copy::open(&path).unwrap();
        assert_eq!(header.root, b"root");
        assert!(matches!(header.direction, Direction::Out));
        copy.read(0x3ff8, &mut bytes).unwrap();
        assert_eq!(bytes, [3; 8]);
        assert!(copy.read(0x3ff9, &mut bytes).is_err());
        assert!(copy.read(0x5000, &mut bytes).is_err());
        assert!(Recorder::create(&path, &header, &mut Fake).is_err());
    }

    #[test]
    fn other_files_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("copy");
        let mut good = MAGIC.to_vec();
        good.extend(12u32.to_le_bytes());
        good.extend([0; 12]);
        for (bytes, part) in [
            (&b"hello"[..], "no copy"),
            (b"LUOCOPY2................", "no copy"),
            (&good[..20], "cannot use"),
            (&[&good[..], &[0; 100]].concat(), "not complete"),
        ] {
            std::fs::write(&path, bytes).unwrap();
            let error = format!("{:#}", Copy::open(&path).err().unwrap());
            assert!(error.contains(part), "{error}");
        }
        std::fs::write(&path, good).unwrap();
        assert!(Copy::open(&path).is_ok());
    }
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What a kernel module says of itself, from the section `.modinfo` of its file.

use anyhow::{
    bail,
    Context as _,
    Result, //
};
use object::{
    elf::FileHeader64,
    read::elf::{
        FileHeader as _,
        SectionHeader as _, //
    },
    LittleEndian, //
};
use std::{
    fs::File,
    io::Read as _,
    path::Path, //
};

use crate::unpack::Packing;

/// No module is this large.
const MAX: u64 = 64 << 20;

/// The fields of a module, `key=value`.
#[derive(Debug)]
pub(crate) struct Modinfo(Vec<(String, String)>);

impl Modinfo {
    /// Reads the file of a module.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let mut bytes = Vec::new();
        File::open(path)
            .and_then(|file| file.take(MAX).read_to_end(&mut bytes))
            .with_context(|| format!("cannot read {}", path.display()))?;
        let unpacked = match Packing::of(&bytes) {
            Some(packing) => packing.unpack(&bytes),
            None => Ok(bytes),
        };
        unpacked
            .and_then(|bytes| Self::parse(&bytes))
            .with_context(|| format!("cannot use {}", path.display()))
    }

    /// Takes the fields from the contents of the file.
    fn parse(bytes: &[u8]) -> Result<Self> {
        let section = modinfo(bytes).context("it is no kernel module of a 64-bit machine")?;
        let fields = section
            .split(|byte| *byte == 0)
            .filter_map(|field| std::str::from_utf8(field).ok()?.split_once('='))
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        Ok(Self(fields))
    }

    /// All values of a key.
    pub(crate) fn all(&self, key: &'static str) -> impl Iterator<Item = &str> {
        let pairs = self.0.iter().filter(move |(k, _)| k == key);
        pairs.map(|(_, value)| value.as_str())
    }

    /// The only value of a key.
    pub(crate) fn one(&self, key: &'static str) -> Result<&str> {
        let mut values = self.all(key);
        match (values.next(), values.next()) {
            (Some(value), None) => Ok(value),
            _ => bail!("the module has no unambiguous \"{key}\""),
        }
    }
}

fn modinfo(bytes: &[u8]) -> Option<&[u8]> {
    let header = FileHeader64::<LittleEndian>::parse(bytes).ok()?;
    let endian = header.endian().ok()?;
    let sections = header.sections(endian, bytes).ok()?;
    let (_, section) = sections.section_by_name(endian, b".modinfo")?;
    section.data(endian, bytes).ok()
}

/// Tests need modules.
#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A file with nothing but this section `.modinfo`.
    pub(crate) fn module(modinfo: &[u8]) -> Vec<u8> {
        let names = b"\0.modinfo\0.shstrtab\0";
        let mut file = vec![0; 64];
        file[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
        let mut headers = vec![0; 64];
        for (name, kind, contents) in [(1u32, 1u32, modinfo), (10, 3, names.as_slice())] {
            let mut header = vec![0; 64];
            header[..4].copy_from_slice(&name.to_le_bytes());
            header[4..8].copy_from_slice(&kind.to_le_bytes());
            header[24..32].copy_from_slice(&(file.len() as u64).to_le_bytes());
            header[32..40].copy_from_slice(&(contents.len() as u64).to_le_bytes());
            headers.extend(header);
            file.extend(contents);
        }
        let at = file.len() as u64;
        file[40..48].copy_from_slice(&at.to_le_bytes());
        for (at, value) in [(58, 64u16), (60, 3), (62, 2)] {
            file[at..at + 2].copy_from_slice(&value.to_le_bytes());
        }
        file.extend(headers);
        file
    }

    #[test]
    fn fields_are_found() {
        let file = module(b"name=luo_memfd\0liveupdate=a\0liveupdate=b\0broken\0");
        let info = Modinfo::parse(&file).unwrap();
        assert_eq!(info.one("name").unwrap(), "luo_memfd");
        assert_eq!(info.all("liveupdate").collect::<Vec<_>>(), ["a", "b"]);
        assert!(info.one("liveupdate").is_err());
        assert!(info.one("broken").is_err());
    }

    #[test]
    fn other_files_are_refused_whatever_they_hold() {
        let file = module(b"name=luo_memfd\0");
        for len in 0..file.len() {
            let _ = Modinfo::parse(&file[..len]);
        }
        for at in 0..file.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut file = file.clone();
                file[at] = value;
                let _ = Modinfo::parse(&file);
            }
        }
        let text = |bytes: &[u8]| format!("{:#}", Modinfo::parse(bytes).unwrap_err());
        assert!(text(b"hello").contains("no kernel module"));
    }
}

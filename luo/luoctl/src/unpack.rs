// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Unpacks kernels and modules, in the formats that the kernel's build packs them in.

use anyhow::{
    bail,
    ensure,
    Context as _,
    Result, //
};
use std::io::{
    Cursor,
    Read, //
};

/// Nothing that is unpacked here is larger.
const MAX: u64 = 1 << 30;
/// The most that a block of an LZ4 archive of the kernel's holds.
const LZ4_BLOCK: usize = 8 << 20;

/// How something is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Packing {
    Gzip,
    Xz,
    Zstd,
    Lz4,
    /// In a format of the kernel's that is not read here.
    Other(&'static str),
}

impl Packing {
    /// How bytes are packed, if they are.
    pub(crate) fn of(bytes: &[u8]) -> Option<Self> {
        let known: [(&[u8], Self); 8] = [
            (b"\x1f\x8b", Self::Gzip),
            (b"\xfd7zXZ\0", Self::Xz),
            (b"\x28\xb5\x2f\xfd", Self::Zstd),
            (b"\x02\x21\x4c\x18", Self::Lz4),
            (b"BZh", Self::Other("bzip2")),
            (b"\x89LZO\0", Self::Other("lzo")),
            (b"\x5d\0\0\0", Self::Other("lzma")),
            (b"\x5d\0\0\x80", Self::Other("lzma")),
        ];
        let mut known = known.into_iter();
        let (_, packing) = known.find(|(magic, _)| bytes.starts_with(magic))?;
        Some(packing)
    }

    /// Unpacks; what follows the archive is ignored.
    pub(crate) fn unpack(self, bytes: &[u8]) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        match self {
            Self::Gzip => all(flate2::read::GzDecoder::new(bytes), &mut out),
            Self::Xz => all(lzma_rust2::XzReader::new(bytes, false), &mut out),
            Self::Zstd => ruzstd::decoding::StreamingDecoder::new(bytes)
                .map_err(anyhow::Error::new)
                .and_then(|reader| all(reader, &mut out)),
            Self::Lz4 => lz4(bytes, &mut out),
            Self::Other(name) => {
                bail!("it is packed with {name}, which this program does not know")
            }
        }
        .context("it cannot be unpacked")?;
        Ok(out)
    }
}

fn all(reader: impl Read, out: &mut Vec<u8>) -> Result<()> {
    let size = reader.take(MAX).read_to_end(out)?;
    ensure!((size as u64) < MAX, "it is too large");
    Ok(())
}

/// The format of `lz4 -l`: a magic number, and blocks with their size before them.
fn lz4(bytes: &[u8], out: &mut Vec<u8>) -> Result<()> {
    let mut rest = Cursor::new(bytes.get(4..).unwrap_or_default());
    loop {
        let mut size = [0; 4];
        if rest.read_exact(&mut size).is_err() {
            break;
        }
        let at = usize::try_from(rest.position())?;
        let size = usize::try_from(u32::from_le_bytes(size))?;
        let end = at.checked_add(size);
        // Behind the archive of a kernel comes its size.
        let Some(block) = end.and_then(|end| bytes.get(4..)?.get(at..end)) else {
            break;
        };
        out.extend(lz4_flex::block::decompress(block, LZ4_BLOCK)?);
        ensure!((out.len() as u64) < MAX, "it is too large");
        rest.set_position((at + size) as u64);
    }
    ensure!(!out.is_empty(), "there is nothing in it");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn unpack(bytes: &[u8]) -> Result<Vec<u8>> {
        Packing::of(bytes).unwrap().unpack(bytes)
    }

    #[test]
    fn archives_are_unpacked_whatever_follows() {
        let text = b"Linux version 7.3.4 ".repeat(1000);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), Default::default());
        gzip.write_all(&text).unwrap();
        let mut bytes = gzip.finish().unwrap();
        bytes.extend([1, 2, 3, 4]);
        assert_eq!(unpack(&bytes).unwrap(), text);

        let mut bytes = b"\x02\x21\x4c\x18".to_vec();
        for part in text.chunks(7000) {
            let block = lz4_flex::block::compress(part);
            bytes.extend((block.len() as u32).to_le_bytes());
            bytes.extend(block);
        }
        bytes.extend((text.len() as u32).to_le_bytes());
        assert_eq!(unpack(&bytes).unwrap(), text);
    }

    #[test]
    fn damaged_archives_are_refused() {
        for magic in [
            &b"\x1f\x8b"[..],
            b"\xfd7zXZ\0",
            b"\x28\xb5\x2f\xfd",
            b"\x02\x21\x4c\x18",
        ] {
            for tail in [&b""[..], &[0xff; 100], &[0; 100]] {
                let bytes = [magic, tail].concat();
                assert!(unpack(&bytes).is_err(), "{bytes:?}");
            }
        }
        assert!(unpack(b"BZh9").is_err());
        assert_eq!(Packing::of(b"\x7fELF"), None);
    }
}

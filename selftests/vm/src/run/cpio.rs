// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A writer of "newc" archives, as much of the format as an initrd needs.

use std::io::{
    self,
    Write, //
};

const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const CHARACTER: u32 = 0o020_000;

/// Writes an archive; everything in it belongs to root.
#[derive(Debug)]
pub(super) struct Cpio<W> {
    out: W,
    inode: u32,
}

impl<W: Write> Cpio<W> {
    pub(super) fn new(out: W) -> Self {
        Self { out, inode: 0 }
    }

    pub(super) fn directory(&mut self, name: &str) -> io::Result<()> {
        self.entry(name, DIRECTORY | 0o755, (0, 0), &[])
    }

    pub(super) fn file(&mut self, name: &str, data: &[u8]) -> io::Result<()> {
        self.entry(name, REGULAR | 0o755, (0, 0), data)
    }

    pub(super) fn device(&mut self, name: &str, number: (u32, u32)) -> io::Result<()> {
        self.entry(name, CHARACTER | 0o600, number, &[])
    }

    /// Writes the end mark and hands the output back.
    pub(super) fn finish(mut self) -> io::Result<W> {
        self.entry("TRAILER!!!", 0, (0, 0), &[])?;
        Ok(self.out)
    }

    /// Thirteen fields of eight hex digits behind the magic; name and data are padded to 4 bytes.
    fn entry(&mut self, name: &str, mode: u32, device: (u32, u32), data: &[u8]) -> io::Result<()> {
        let too_big = |_| io::Error::from(io::ErrorKind::FileTooLarge);
        let size = u32::try_from(data.len()).map_err(too_big)?;
        let name_size = u32::try_from(name.len() + 1).map_err(too_big)?;

        self.inode += 1;
        write!(self.out, "070701")?;
        for field in [
            self.inode, mode, 0, 0, 1, 0, size, 0, 0, device.0, device.1, name_size, 0,
        ] {
            write!(self.out, "{field:08X}")?;
        }
        self.out.write_all(name.as_bytes())?;
        // The header has 110 bytes, so it is two short of a multiple of four itself.
        self.out
            .write_all(&[0; 4][..1 + padding(110 + name.len() + 1)])?;
        self.out.write_all(data)?;
        self.out.write_all(&[0; 4][..padding(data.len())])
    }
}

fn padding(len: usize) -> usize {
    len.next_multiple_of(4) - len
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_padded_and_the_archive_ends() {
        let mut cpio = Cpio::new(Vec::new());
        cpio.directory("bin").unwrap();
        cpio.file("bin/a", b"12345").unwrap();
        cpio.device("dev/console", (5, 1)).unwrap();
        let out = cpio.finish().unwrap();

        assert_eq!(out.len() % 4, 0);
        // 110 bytes of header, then "bin", NUL and two bytes of padding.
        assert_eq!(&out[110..116], b"bin\0\0\0");
        assert_eq!(&out[116..122], b"070701");
        assert_eq!(&out[116 + 54..116 + 62], b"00000005");
        assert_eq!(&out[116 + 110..116 + 116], b"bin/a\0");
        assert_eq!(&out[116 + 116..116 + 124], b"12345\0\0\0");
        assert!(out.windows(10).any(|w| w == b"TRAILER!!!"));
    }
}

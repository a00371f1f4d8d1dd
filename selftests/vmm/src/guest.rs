// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What runs in the VM.

use std::path::{
    Path,
    PathBuf, //
};

use anyhow::{
    Context,
    Result, //
};

/// A guest to be booted.
#[derive(Debug)]
pub(crate) enum Guest {
    /// The one in [`crate::tiny`], which leaves holes in its memory or not.
    Tiny { sparse: bool },
    /// The one in [`crate::receiver`], which has a network card.
    Receiver,
    /// A kernel with an initrd.
    Linux {
        kernel: PathBuf,
        initrd: Vec<u8>,
        cmdline: String,
    },
}

/// An initrd (a "newc" archive) with one program as init.
pub(crate) fn initrd(init: &Path) -> Result<Vec<u8>> {
    const DIRECTORY: u32 = 0o040_755;
    const PROGRAM: u32 = 0o100_755;
    const CHARACTER: u32 = 0o020_600;
    let program = std::fs::read(init).with_context(|| init.display().to_string())?;
    let mut archive = Vec::new();
    let mut inode = 0;
    let mut entry = |name: &str, mode: u32, device: (u32, u32), data: &[u8]| -> Result<()> {
        inode += 1;
        archive.extend_from_slice(b"070701");
        for field in [
            inode,
            mode,
            0,
            0,
            1,
            0,
            u32::try_from(data.len())?,
            0,
            0,
            device.0,
            device.1,
            u32::try_from(name.len() + 1)?,
            0,
        ] {
            archive.extend_from_slice(format!("{field:08X}").as_bytes());
        }
        archive.extend_from_slice(name.as_bytes());
        archive.push(0);
        archive.resize(archive.len().next_multiple_of(4), 0);
        archive.extend_from_slice(data);
        archive.resize(archive.len().next_multiple_of(4), 0);
        Ok(())
    };
    for directory in ["dev", "proc", "sys"] {
        entry(directory, DIRECTORY, (0, 0), &[])?;
    }
    entry("dev/console", CHARACTER, (5, 1), &[])?;
    entry("init", PROGRAM, (0, 0), &program)?;
    entry("TRAILER!!!", 0, (0, 0), &[])?;
    Ok(archive)
}

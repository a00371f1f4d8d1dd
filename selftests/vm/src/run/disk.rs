// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Images for disks of the machine: they have to be there before QEMU is.

use std::fs::File;
use std::path::Path;

use super::share::at;
use super::Error;

/// An image.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Disk {
    /// Its name in the state directory.
    name: String,
    /// Its length in bytes.
    size: u64,
}

impl Disk {
    /// Reads `NAME:SIZE`, a size in MiB.
    pub(super) fn parse(value: &str) -> Result<Self, Error> {
        let parsed = value.split_once(':').and_then(|(name, size)| {
            let size: u64 = size.strip_suffix(['M', 'm'])?.parse().ok()?;
            let plain = !name.is_empty() && !name.contains('/') && size > 0;
            plain.then_some((name, size.checked_mul(1 << 20)?))
        });
        let (name, size) = parsed.ok_or_else(|| {
            Error::Usage(format!(
                "--disk needs a name in /state and a size such as disk:16M, not {value:?}"
            ))
        })?;
        Ok(Self {
            name: name.to_owned(),
            size,
        })
    }

    /// Makes it, with nothing in it.
    pub(super) fn create(&self, state: &Path) -> Result<(), Error> {
        let path = state.join(&self.name);
        File::create(&path)
            .and_then(|file| file.set_len(self.size))
            .map_err(at(&path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_has_a_plain_name_and_a_size() {
        let disk = Disk::parse("disk:4M").unwrap();
        assert_eq!((disk.name.as_str(), disk.size), ("disk", 4 << 20));
        for wrong in ["disk", "disk:4", "disk:0M", ":4M", "a/b:4M", "disk:M"] {
            assert!(Disk::parse(wrong).is_err(), "{wrong}");
        }
    }
}

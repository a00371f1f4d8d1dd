// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The handlers that the next kernel can load.

use anyhow::Result;
use std::path::{
    Path,
    PathBuf, //
};

use crate::{
    modinfo::Modinfo,
    search, //
};

/// A module that has to do with live update.
#[derive(Debug)]
pub(crate) struct Module {
    pub(crate) path: PathBuf,
    pub(crate) name: String,
    /// The release of the kernel that it is for.
    pub(crate) release: String,
    /// The formats of files that it reads.
    pub(crate) formats: Vec<String>,
    /// The modules that it needs.
    pub(crate) needs: Vec<String>,
}

/// The handlers' names have this in them, as those of other modules do not.
const NAME: &str = "luo";

impl Module {
    fn read(path: PathBuf) -> Result<Self> {
        let info = Modinfo::read(&path)?;
        // Of the kernel's own handler, only the alias tells.
        let alias = info
            .all("alias")
            .filter_map(|alias| alias.strip_prefix("luo-file-"));
        let mut formats: Vec<_> = info.all("liveupdate").map(str::to_owned).collect();
        if formats.is_empty() {
            formats = alias.map(str::to_owned).collect();
        }
        let release = info.one("vermagic")?.split_whitespace().next();
        let needs = info.all("depends").flat_map(|list| list.split(','));
        Ok(Self {
            name: info.one("name")?.to_owned(),
            release: release.unwrap_or_default().to_owned(),
            formats,
            needs: needs
                .filter(|name| !name.is_empty())
                .map(str::to_owned)
                .collect(),
            path,
        })
    }
}

/// All of them below a directory.
pub(crate) fn find(dir: &Path) -> Result<Vec<Module>> {
    let is_module = |name: &str| {
        let (name, rest) = name.rsplit_once(".ko").unwrap_or_default();
        name.contains(NAME) && ["", ".gz", ".xz", ".zst"].contains(&rest)
    };
    let files = search::files(dir, is_module)?;
    files.into_iter().map(Module::read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::modinfo::tests::module;

    #[test]
    fn handlers_say_what_they_read() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, info: &[u8]| std::fs::write(dir.path().join(name), module(info));
        write("ext4.ko", b"name=ext4\0vermagic=7.3.4 SMP\0").unwrap();
        write(
            "memfd_luo.ko",
            b"name=memfd_luo\0alias=luo-file-memfd-v2\0vermagic=7.3.4 SMP\0",
        )
        .unwrap();
        write(
            "03-luo_memfd.ko",
            b"name=luo_memfd\0alias=luo-file-a\0liveupdate=a\0liveupdate=b\0depends=luo_rs,x\0vermagic=7.3.5 SMP\0",
        )
        .unwrap();
        let found = find(dir.path()).unwrap();
        let [ours, theirs] = &found[..] else {
            panic!("{found:?}");
        };
        assert_eq!(
            (ours.name.as_str(), ours.release.as_str()),
            ("luo_memfd", "7.3.5")
        );
        assert_eq!(ours.formats, ["a", "b"]);
        assert_eq!(ours.needs, ["luo_rs", "x"]);
        assert_eq!(
            (theirs.name.as_str(), &theirs.formats[..]),
            ("memfd_luo", &["memfd-v2".to_owned()][..])
        );
    }

    #[test]
    fn what_is_no_module_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("luo_x.ko"), b"hello").unwrap();
        assert!(find(dir.path()).is_err());
        assert!(find(&dir.path().join("nowhere")).is_err());
    }
}

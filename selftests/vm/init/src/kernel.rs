// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Modules, the next kernel's image, and what there is to know about the running one.

use std::fs::{
    self,
    File, //
};
use std::io;
use std::path::{
    Path,
    PathBuf, //
};

use lu_init::kexec;

use crate::Failure;

/// The value of `key=` on the kernel command line.
pub(crate) fn option(key: &str) -> Option<String> {
    fs::read_to_string("/proc/cmdline")
        .ok()?
        .split_whitespace()
        .filter_map(|word| word.strip_prefix(key)?.strip_prefix('='))
        .next_back()
        .map(str::to_owned)
}

/// The modules of a stage in the order in which they are to be loaded.
pub(crate) fn modules(stage: &Path) -> Result<Vec<PathBuf>, Failure> {
    let dir = stage.join("modules");
    let mut modules = fs::read_dir(&dir)
        .and_then(|entries| {
            entries
                .map(|e| e.map(|e| e.path()))
                .collect::<io::Result<Vec<_>>>()
        })
        .map_err(|error| Failure::new(dir.display().to_string(), error))?;

    modules.sort();
    Ok(modules)
}

/// Loads one module.
pub(crate) fn load_module(path: &Path) -> Result<(), Failure> {
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    let fail = |error: io::Error| Failure::new(format!("loading module {name}"), error);
    let file = File::open(path).map_err(fail)?;

    rustix::system::finit_module(&file, c"", 0).map_err(|error| fail(error.into()))
}

/// Loads the kernel of the next stage, for `reboot(2)` to jump into.
pub(crate) fn load_next(stage: &Path, initrd: &Path) -> Result<(), Failure> {
    let fail =
        |error: io::Error| Failure::new("loading the next kernel with kexec_file_load", error);
    let line = fs::read_to_string(stage.join("cmdline")).map_err(fail)?;

    kexec::load(&stage.join("kernel"), Some(initrd), &line).map_err(fail)
}

/// The kernel's taint bits.
pub(crate) fn taint() -> u64 {
    fs::read_to_string("/proc/sys/kernel/tainted")
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(0)
}

/// A file of `/proc` or `/sys` in one line, empty if it is not there.
pub(crate) fn read_line(path: &str) -> String {
    fs::read_to_string(path)
        .unwrap_or_default()
        .trim()
        .to_owned()
}

/// The build id of the running kernel in hex, empty if it has none.
pub(crate) fn build_id() -> String {
    build_id_of(&fs::read("/sys/kernel/notes").unwrap_or_default()).unwrap_or_default()
}

/// Walks ELF notes: three little-endian words (name size, data size, type), then name and data,
/// each padded to four bytes.
fn build_id_of(mut notes: &[u8]) -> Option<String> {
    const NT_GNU_BUILD_ID: usize = 3;

    loop {
        let (head, rest) = notes.split_at_checked(12)?;
        let word = |at: usize| -> Option<usize> {
            let bytes = head.get(at..at + 4)?.try_into().ok()?;
            usize::try_from(u32::from_le_bytes(bytes)).ok()
        };
        let (name_len, data_len, kind) = (word(0)?, word(4)?, word(8)?);
        let (name, rest) = rest.split_at_checked(name_len.checked_next_multiple_of(4)?)?;
        let data = rest.get(..data_len)?;
        if kind == NT_GNU_BUILD_ID && name.starts_with(b"GNU\0") {
            return Some(data.iter().map(|byte| format!("{byte:02x}")).collect());
        }
        notes = rest.get(data_len.checked_next_multiple_of(4)?..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_build_id_behind_other_notes() {
        let mut notes = vec![6, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0];
        notes.extend(b"Linux\0\0\0\x07\0\0\0");
        notes.extend([4, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0]);
        notes.extend(b"GNU\0\xab\x01\0\0");

        assert_eq!(build_id_of(&notes).as_deref(), Some("ab01"));
        assert_eq!(build_id_of(&notes[..30]), None);
        assert_eq!(build_id_of(&[0xff; 40]), None);
    }
}

// SPDX-License-Identifier: GPL-2.0-only OR BSD-3-Clause

//! Takes a copy of the formats, and puts a bug into it if asked to (`SEEDED_BUG=target`), so that
//! the fuzz targets can be shown to find one. The formats themselves stay free of test code.

use std::{
    env,
    fs,
    path::{
        Path,
        PathBuf, //
    }, //
};

/// One bug for each target: a file, a check in it, and what the check becomes.
const BUGS: [(&str, &str, &str, &str); 6] = [
    (
        "guest_memfd",
        "extents/check.rs",
        "record.class() != Some(self.class)",
        "record.class().is_none()",
    ),
    (
        "hugetlb",
        "extents/check.rs",
        "index < self.next",
        "index.saturating_add(1) < self.next",
    ),
    (
        "memfd_header",
        "memfd.rs",
        "raw.nr_folios > pages",
        "raw.nr_folios as u32 as u64 > pages",
    ),
    (
        "memfd_folios",
        "memfd/check.rs",
        "index < self.next",
        "index.saturating_add(1) < self.next",
    ),
    (
        "policies",
        "guest_memfd/policy/checked.rs",
        "raw.index < self.next",
        "raw.index.saturating_add(1) < self.next",
    ),
    (
        "vmalloc_list",
        "vmalloc.rs",
        "*next != 0 && !unused.is_empty()",
        "*next != 0 && used.is_empty()",
    ),
];

fn main() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../abi");
    let copy = PathBuf::from(env::var_os("OUT_DIR").expect("Cargo sets OUT_DIR")).join("abi");
    println!("cargo::rerun-if-env-changed=SEEDED_BUG");
    println!("cargo::rerun-if-changed={}", source.display());

    take(&source, &copy);
    if let Ok(target) = env::var("SEEDED_BUG") {
        let (_, file, check, bug) = BUGS
            .into_iter()
            .find(|(name, ..)| *name == target)
            .expect("SEEDED_BUG names a fuzz target");
        let file = copy.join(file);
        let text = fs::read_to_string(&file).expect("the copy is readable");
        assert_eq!(
            text.matches(check).count(),
            1,
            "{check} is not there exactly once"
        );
        fs::write(&file, text.replace(check, bug)).expect("the copy is writable");
    }
    let root = format!("#[path = {:?}]\npub mod abi;\n", copy.join("mod.rs"));
    fs::write(copy.with_extension("rs"), root).expect("OUT_DIR is writable");
}

fn take(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("OUT_DIR is writable");
    for entry in fs::read_dir(from).expect("kho/abi is readable") {
        let entry = entry.expect("kho/abi is readable");
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            take(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).expect("OUT_DIR is writable");
        }
    }
}

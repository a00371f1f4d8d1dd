// SPDX-License-Identifier: GPL-2.0-only OR BSD-3-Clause

//! Takes a copy of the formats and of the walk through them, and puts a bug into it if asked to
//! (`SEEDED_BUG=target`), so that the fuzz targets can be shown to find one. They themselves stay free of
//! test code.

use std::{
    env,
    fs,
    ops::RangeBounds,
    path::{
        Path,
        PathBuf, //
    }, //
};

/// One bug for each target: a file, a check in it, and what the check becomes.
const BUGS: [(&str, &str, &str, &str); 9] = [
    (
        "guest_memfd",
        "abi/extents/check.rs",
        "record.pfn ^ self.class",
        "(record.pfn ^ self.class) & ((1 << ExtentSer::CLASS_SHIFT) - 1)",
    ),
    (
        "hugetlb",
        "abi/extents/check.rs",
        "index < self.next",
        "index.saturating_add(1) < self.next",
    ),
    (
        "memfd_header",
        "abi/memfd.rs",
        "raw.nr_folios > pages",
        "raw.nr_folios / 2 > pages",
    ),
    (
        "memfd_folios",
        "abi/memfd/check.rs",
        "index < self.next",
        "index.saturating_add(1) < self.next",
    ),
    (
        "iommu",
        "abi/iommu.rs",
        "raw.last > Lookup::last(raw.levels)",
        "raw.last > Lookup::last(5)",
    ),
    (
        "policies",
        "abi/guest_memfd/policy/checked.rs",
        "raw.index < self.next",
        "raw.index.saturating_add(1) < self.next",
    ),
    (
        "vfio_pci",
        "abi/vfio_pci.rs",
        "self.offset != offset",
        "self.offset < offset",
    ),
    (
        "vmalloc_list",
        "abi/vmalloc.rs",
        "*next != 0 && !unused.is_empty()",
        "*next != 0 && used.is_empty()",
    ),
    ("walk", "walk/tree.rs", "Some(first)", "Some(first || true)"),
];

/// What is for tests only, and becomes an example for the walk to start from.
const EXAMPLE: [(&str, &str, &str); 3] = [
    (
        "abi/fdt.rs",
        "#[cfg(test)]\npub(crate) mod tests",
        "#[allow(dead_code)]\npub(crate) mod tests",
    ),
    (
        "walk/mod.rs",
        "#[cfg(test)]\nmod image",
        "#[allow(missing_docs)]\npub mod image",
    ),
    ("walk/image.rs", "pub(super)", "pub"),
];

fn main() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let copy = PathBuf::from(env::var_os("OUT_DIR").expect("Cargo sets OUT_DIR")).join("kho");
    println!("cargo::rerun-if-env-changed=SEEDED_BUG");

    let mut root = String::new();
    for part in ["abi", "walk"] {
        println!("cargo::rerun-if-changed={}", source.join(part).display());
        take(&source.join(part), &copy.join(part));
        root += &format!(
            "#[path = {:?}]\npub mod {part};\n",
            copy.join(part).join("mod.rs")
        );
    }
    for (file, text, becomes) in EXAMPLE {
        replace(&copy.join(file), text, becomes, 1..);
    }
    if let Ok(target) = env::var("SEEDED_BUG") {
        let (_, file, check, bug) = BUGS
            .into_iter()
            .find(|(name, ..)| *name == target)
            .expect("SEEDED_BUG names a fuzz target");
        replace(&copy.join(file), check, bug, 1..2);
    }
    fs::write(copy.with_extension("rs"), root).expect("OUT_DIR is writable");
}

/// Replaces a text that is there so many times.
fn replace(file: &Path, text: &str, becomes: &str, times: impl RangeBounds<usize>) {
    let whole = fs::read_to_string(file).expect("the copy is readable");
    assert!(
        times.contains(&whole.matches(text).count()),
        "{text} is not in {} as often as expected",
        file.display()
    );
    fs::write(file, whole.replace(text, becomes)).expect("the copy is writable");
}

fn take(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("OUT_DIR is writable");
    for entry in fs::read_dir(from).expect("kho is readable") {
        let entry = entry.expect("kho is readable");
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            take(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).expect("OUT_DIR is writable");
        }
    }
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What kernels handed over, as `luoctl inspect --save` kept it: it must be read for as long as its formats are
//! declared. `golden/README` says how they were made.

use std::{
    fs,
    path::Path,
    process::Command, //
};

fn inspect(copy: &Path) -> (bool, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_luoctl"))
        .args(["inspect", "--verify"])
        .arg(copy)
        .output()
        .unwrap();
    (
        output.status.success(),
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8(output.stderr).unwrap(),
    )
}

#[test]
fn what_was_handed_over_is_still_understood() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut copies = 0;
    for entry in fs::read_dir(dir).unwrap() {
        let copy = entry.unwrap().path();
        if copy.extension().is_none_or(|end| end != "handover") {
            continue;
        }
        copies += 1;
        let expected = fs::read_to_string(copy.with_extension("txt")).unwrap();
        let (good, found, errors) = inspect(&copy);
        assert!(good, "{}: {errors}", copy.display());
        assert_eq!(found, expected, "{}", copy.display());
        formats_are_recognised(&copy, &fs::read(&copy).unwrap(), &found);
    }
    assert!(copies >= 2, "only {copies} are there");
}

/// What has the name of no format, or of guest memory's header, any more is not taken for accounted for.
fn formats_are_recognised(copy: &Path, bytes: &[u8], tree: &str) {
    let dir = tempfile::tempdir().unwrap();
    let damaged = dir.path().join("damaged");
    for magic in ["LUGM", "rs-hugetlb-v1", "rs-memfd-v1", "memfd-v2"] {
        let name = if magic == "LUGM" {
            "rs-guest-memfd-v1"
        } else {
            magic
        };
        assert!(tree.contains(name), "{} has no {name}", copy.display());
        let found = bytes
            .windows(magic.len())
            .position(|text| text == magic.as_bytes());
        let at = found.unwrap_or_else(|| panic!("{} has no {magic}", copy.display()));
        let mut changed = bytes.to_vec();
        changed[at] ^= 1;
        fs::write(&damaged, changed).unwrap();
        assert!(
            !inspect(&damaged).0,
            "{}: {magic} is changed",
            copy.display()
        );
    }
}

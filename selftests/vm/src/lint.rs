// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! `make lint`: formatting, clippy, licences and checkpatch.

use std::fs;
use std::path::{
    Path,
    PathBuf, //
};
use std::process::{
    Command,
    ExitCode, //
};

use anyhow::{
    bail,
    Context,
    Result, //
};

use crate::arch::{
    top,
    Arch,
    Build,
    Variant, //
};
use crate::build;

/// checkpatch types that do not apply here: a submitter adds their own sign-off.
const IGNORED: &str = "MISSING_SIGN_OFF,FILE_PATH_CHANGES,NO_AUTHOR_SIGN_OFF,EMAIL_SUBJECT";

/// Files that carry no SPDX line of their own: data, and what a tool writes.
const NO_SPDX: [&str; 7] = [
    "Cargo.lock",
    "LICENSES/",
    "kho/fuzz/corpus/",
    "kho/fuzz/Cargo.lock",
    ".gitignore",
    "selftests/.gitignore",
    "luo/luoctl/tests/golden/",
];

/// Runs a command; its output is shown only if it fails.
fn quiet(what: &str, command: &mut Command) -> Result<bool> {
    let out = command
        .current_dir(top())
        .output()
        .with_context(|| format!("{what} could not be started"))?;
    println!(
        "{} {what}",
        if out.status.success() { "ok  " } else { "FAIL" }
    );
    if !out.status.success() {
        print!(
            "{}{}",
            String::from_utf8_lossy(&out.stdout),
            String::from_utf8_lossy(&out.stderr)
        );
    }
    Ok(out.status.success())
}

/// The files of the checkout, tracked or new.
fn files() -> Result<Vec<PathBuf>> {
    let out = Command::new("git")
        .args([
            "-c",
            "safe.directory=*",
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
        ])
        .current_dir(top())
        .output()
        .context("git could not be started")?;
    let text = String::from_utf8(out.stdout)?;
    Ok(text
        .split('\0')
        .filter(|p| !p.is_empty())
        .map(PathBuf::from)
        .filter(|p| top().join(p).is_file())
        .collect())
}

/// The licence a file has to carry, by where it is; architecture: kernel GPL, host crates permissive.
fn licence(path: &Path) -> &'static str {
    let text = path.to_string_lossy();
    if text.starts_with("kho/") {
        return "GPL-2.0-only OR BSD-3-Clause";
    }
    if text.starts_with("selftests/vm/kernel/")
        || text.starts_with("rust/")
        || text.starts_with("patches/")
    {
        return "GPL-2.0-only";
    }
    if [
        "luo/liveupdate/",
        "luo/luoctl/",
        "selftests/vm/",
        "selftests/progs/",
        "selftests/vmm/",
    ]
    .iter()
    .any(|d| text.starts_with(d))
    {
        return "Apache-2.0 OR BSD-3-Clause";
    }
    ""
}

fn spdx(files: &[PathBuf]) -> bool {
    let mut good = true;
    for path in files {
        let text = path.to_string_lossy();
        if NO_SPDX.iter().any(|n| text.starts_with(n)) || text.ends_with(".patch") {
            continue;
        }
        let Ok(content) = fs::read_to_string(top().join(path)) else {
            continue;
        };
        let line = content
            .lines()
            .take(3)
            .find_map(|l| l.split_once("SPDX-License-Identifier:").map(|(_, r)| r));
        match line.map(|l| {
            l.trim()
                .trim_end_matches("-->")
                .trim_end_matches("*/")
                .trim()
        }) {
            None => {
                println!("     {text}: no SPDX-License-Identifier in its first three lines");
                good = false;
            }
            Some(is) if !licence(path).is_empty() && !is.contains(licence(path)) => {
                println!("     {text}: is {is}, expected {}", licence(path));
                good = false;
            }
            Some(_) => {}
        }
    }
    println!(
        "{} licences of {} files",
        if good { "ok  " } else { "FAIL" },
        files.len()
    );
    good
}

/// Formats, lints and checks the whole tree.
///
/// # Errors
///
/// If a tool is missing or the kernel tree cannot be made ready.
pub fn main() -> Result<ExitCode> {
    let files = files()?;
    let rust: Vec<&PathBuf> = files
        .iter()
        .filter(|p| p.extension().is_some_and(|e| e == "rs"))
        .collect();
    let mut good = spdx(&files);
    good &= quiet(
        "rustfmt",
        Command::new("rustfmt")
            .args([
                "--check",
                "--config-path",
                "rustfmt.toml",
                "--edition",
                "2021",
            ])
            .args(rust),
    )?;
    good &= quiet(
        "clippy of the host code",
        Command::new("cargo").args([
            "clippy",
            "--release",
            "--workspace",
            "--all-targets",
            "--locked",
            "--",
            "-D",
            "warnings",
        ]),
    )?;
    good &= quiet("licences of dependencies", &mut dependencies())?;

    let plain = Build::new(Arch::X86_64, Variant::Plain);
    let _kernel = build::kernel::build(plain)?;
    good &= build::modules::clippy(plain)?;
    let tree = fs::canonicalize(plain.dir().join("kernel/source"))?;
    for patch in files
        .iter()
        .filter(|p| p.extension().is_some_and(|e| e == "patch"))
    {
        // From standard input: checkpatch would take a tracked file for a source file.
        let mut command = Command::new("perl");
        command.arg(tree.join("scripts/checkpatch.pl")).args([
            "--no-tree",
            "--strict",
            "--quiet",
            "--ignore",
            IGNORED,
            "-",
        ]);
        command.stdin(fs::File::open(top().join(patch))?);
        good &= quiet(&format!("checkpatch {}", patch.display()), &mut command)?;
    }
    if !good {
        bail!("lint found problems, see the lines that begin with FAIL");
    }
    Ok(ExitCode::SUCCESS)
}

/// Every dependency has a licence that host code may use; cargo's own metadata says which.
fn dependencies() -> Command {
    let mut command = Command::new("python3");
    command.args(["selftests/vm/licences.py"]);
    command
}

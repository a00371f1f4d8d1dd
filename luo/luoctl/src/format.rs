// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! `luoctl format`: in which format memfds are handed over.
//!
//! A format that the next kernel does not know loses the memory of every guest. So this looks into the
//! module that the next kernel is going to load.

use anyhow::{
    bail,
    Context as _,
    Result, //
};
use std::{
    fs,
    path::{
        Path,
        PathBuf, //
    }, //
};

use crate::{
    modinfo::Modinfo,
    output::print,
    search, //
};

/// The module, as it is loaded, and as it calls itself in its file.
const MODULE: &str = "luo_memfd";
const FILE: &str = "luo_memfd.ko";
const PARAMETER: &str = "sys/module/luo_memfd/parameters/format";
/// Mainline's format, which every kernel with live update of memfds reads.
const EVERYBODYS: &str = "memfd-v2";

const DETAILS: &str = "\
What is preserved already keeps the format it has: switch before the VMs are
preserved. The setting lasts until the module is unloaded; to have it from the
start, load the module with `format=rs-memfd-v1`, which checks nothing.

Examples:
  luoctl format                               which format is written now
  luoctl format rs-memfd-v1 --next /lib/modules/7.3.9
  luoctl format memfd-v2                      back to what every kernel reads";

/// Show or switch the format in which memfds are handed over.
#[derive(Debug, clap::Args)]
#[command(after_help = DETAILS)]
pub(crate) struct Args {
    /// Write this format from now on.
    format: Option<String>,
    /// The luo_memfd.ko that the next kernel is going to load, or the directory of its modules.
    #[arg(long, value_name = "PATH")]
    next: Option<PathBuf>,
    /// Where the system is, for tests.
    #[arg(long, hide = true, default_value = "/")]
    root: PathBuf,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let parameter = args.root.join(PARAMETER);
    let now = fs::read_to_string(&parameter).with_context(|| {
        if args.root.join("sys/module").join(MODULE).exists() {
            format!("the module {MODULE} that is loaded knows only one format; load a newer one")
        } else {
            format!("the module {MODULE} is not loaded; load it (`modprobe {MODULE}`)")
        }
    })?;
    let now = now.trim();
    let Some(wanted) = args.format.as_deref() else {
        return print(&format!("{now}\n"));
    };
    if wanted != EVERYBODYS {
        let Some(next) = &args.next else {
            bail!(
                "whether the next kernel can read {wanted} is not known; name its module, or the \
                 directory that it is in: `luoctl format {wanted} --next /lib/modules/VERSION`"
            );
        };
        let text = check(wanted, &find(next)?)?;
        print(&text)?;
    }
    fs::write(&parameter, wanted).with_context(|| {
        format!(
            "the module {MODULE} that is loaded cannot write {wanted}; the format is still {now}"
        )
    })?;
    print(&format!("{wanted}\n"))
}

/// Makes sure that a module reads a format, and says which kernel it is for.
fn check(format: &str, path: &Path) -> Result<String> {
    let info = Modinfo::read(path)?;
    let name = info.one("name")?;
    if name != MODULE {
        bail!("{} is the module {name}, not {MODULE}", path.display());
    }
    let known: Vec<_> = info.all("liveupdate").collect();
    if !known.contains(&format) {
        bail!(
            "{} does not read {format}, only {}: the next kernel would lose every file; install a newer \
             {MODULE} for it, or stay with {EVERYBODYS}",
            path.display(),
            if known.is_empty() { EVERYBODYS.to_owned() } else { known.join(", ") }
        );
    }
    let kernel = info.one("vermagic")?;
    let kernel = kernel.split_whitespace().next().unwrap_or(kernel);
    Ok(format!(
        "{} is for {kernel} and reads {format}\n",
        path.display()
    ))
}

/// The file of the module: what was named, or the only one below it.
fn find(named: &Path) -> Result<PathBuf> {
    let meta =
        fs::metadata(named).with_context(|| format!("cannot look at {}", named.display()))?;
    if !meta.is_dir() {
        return Ok(named.to_owned());
    }
    match &search::files(named, |name| name.starts_with(FILE))?[..] {
        [path] => Ok(path.clone()),
        [] => bail!(
            "there is no {FILE} in {}: the next kernel would lose every file; install it there first",
            named.display()
        ),
        several => bail!(
            "there are several modules; name the one that the next kernel loads: {}",
            several.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", ")
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::modinfo::tests::module;

    const NEW: &[u8] =
        b"name=luo_memfd\0liveupdate=memfd-v2\0liveupdate=rs-memfd-v1\0vermagic=7.3.9 SMP mod_unload\0";
    const OLD: &[u8] = b"name=luo_memfd\0liveupdate=memfd-v2\0vermagic=7.3.4 SMP mod_unload\0";

    fn system() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let parameter = dir.path().join(PARAMETER);
        fs::create_dir_all(parameter.parent().unwrap()).unwrap();
        fs::write(parameter, "memfd-v2\n").unwrap();
        dir
    }

    fn install(dir: &tempfile::TempDir, kernel: &str, modinfo: &[u8]) -> PathBuf {
        let modules = dir.path().join("lib/modules").join(kernel);
        fs::create_dir_all(modules.join("updates")).unwrap();
        fs::write(modules.join("updates").join(FILE), module(modinfo)).unwrap();
        modules
    }

    /// What is said, and what the format is then.
    fn switch(dir: &tempfile::TempDir, format: &str, next: Option<PathBuf>) -> (String, String) {
        let result = run(&Args {
            format: Some(format.into()),
            next,
            root: dir.path().to_owned(),
        });
        let said = result.map_or_else(|error| format!("{error:#}"), |()| String::new());
        (
            said,
            fs::read_to_string(dir.path().join(PARAMETER)).unwrap(),
        )
    }

    #[test]
    fn a_module_that_knows_the_format_lets_it_be_switched_to() {
        let dir = system();
        let next = install(&dir, "7.3.9", NEW);
        let (said, now) = switch(&dir, "rs-memfd-v1", Some(next.join("updates").join(FILE)));
        assert_eq!((said.as_str(), now.as_str()), ("", "rs-memfd-v1"));
        assert_eq!(switch(&dir, "memfd-v2", None).1, "memfd-v2");
        assert_eq!(switch(&dir, "rs-memfd-v1", Some(next)).1, "rs-memfd-v1");
    }

    #[test]
    fn everything_else_is_refused_and_changes_nothing() {
        let dir = system();
        let old = install(&dir, "7.3.4", OLD);
        let other = install(&dir, "7.3.5", b"name=luo_hugetlb\0liveupdate=rs-memfd-v1\0");
        let empty = dir.path().join("lib/modules/7.3.6");
        fs::create_dir_all(&empty).unwrap();
        let packed = install(&dir, "7.3.7", NEW).join("updates");
        fs::write(packed.join(FILE), b"\x28\xb5\x2f\xfd").unwrap();
        for (next, part) in [
            (None, "--next /lib/modules/VERSION"),
            (Some(old), "install a newer luo_memfd"),
            (Some(other), "is the module luo_hugetlb"),
            (Some(empty), "install it there first"),
            (Some(packed), "cannot be unpacked"),
            (Some(dir.path().join("lib/modules")), "name the one"),
            (Some(dir.path().join("nowhere")), "cannot look at"),
        ] {
            let (said, now) = switch(&dir, "rs-memfd-v1", next);
            assert!(said.contains(part), "{said}");
            assert_eq!(now, "memfd-v2\n", "{said}");
        }
    }

    #[test]
    fn without_the_module_it_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let result = run(&Args {
            format: None,
            next: None,
            root: dir.path().to_owned(),
        });
        assert!(format!("{:#}", result.unwrap_err()).contains("modprobe luo_memfd"));
    }
}

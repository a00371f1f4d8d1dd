// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! From what was asked for to what is there: images, modules, command lines.

use std::fs;
use std::path::{
    Path,
    PathBuf, //
};

use super::cmdline;
use super::options::{
    Modules,
    Options,
    Stage, //
};
use super::Error;
use crate::arch::{
    named,
    Arch,
    Build,
    Variant, //
};

/// A stage of which every part has been found.
#[derive(Debug)]
pub(super) struct Planned {
    pub(super) number: usize,
    pub(super) cmd: String,
    pub(super) kernel: PathBuf,
    pub(super) modules: Vec<PathBuf>,
    pub(super) cmdline: String,
    /// The stage that this one updates into, if any.
    pub(super) next: Option<usize>,
}

/// Finds what every stage needs. The stages of one machine follow each other by live updates; a
/// machine ends with a stage that has no next one.
pub(super) fn resolve(options: &Options) -> Result<Vec<Planned>, Error> {
    let build = Build::new(options.arch, options.variant);
    let mut planned: Vec<Planned> = Vec::new();
    let mut first_kernel: Option<PathBuf> = None;

    for (index, stage) in options.stages.iter().enumerate() {
        let number = index + 1;
        let kernel = stage.kernel.clone().unwrap_or_else(|| build.image());
        let kernel = kernel
            .canonicalize()
            .map_err(|_| no_kernel(&kernel, stage, build))?;
        let first = first_kernel.get_or_insert_with(|| kernel.clone());
        let scratch = scratch(options, first)?;
        if is_debug(first) == Some(false) && is_debug(&kernel) == Some(true) {
            return Err(Error::Setup(format!(
                "stage {number} is a debug kernel and the machine starts with a plain one: KHO \
                 scratch is laid out by the first kernel and has no room for KASAN; start with \
                 the debug kernel too (--variant debug)"
            )));
        }
        let next = (number < options.stages.len() && !stage.no_update).then_some(number + 1);
        let debug = is_debug(&kernel).unwrap_or(options.variant == Variant::Debug);
        let cmdline = cmdline::compose(
            cmdline::base(options.arch, debug),
            &scratch,
            number,
            &options.append,
            stage.append.as_deref(),
        );
        if cmdline.len() >= cmdline::MAX {
            return Err(Error::Setup(format!(
                "the kernel command line of stage {number} has {} bytes, a kernel takes {}; \
                 shorten --append or --stage-append",
                cmdline.len(),
                cmdline::MAX - 1
            )));
        }
        planned.push(Planned {
            number,
            cmd: stage.cmd.clone(),
            modules: modules(options, stage, &kernel, build)?,
            kernel,
            cmdline,
            next,
        });
        if next.is_none() {
            first_kernel = None;
        }
    }
    Ok(planned)
}

fn scratch(options: &Options, first: &Path) -> Result<String, Error> {
    if options
        .append
        .iter()
        .any(|more| more.contains("kho_scratch="))
    {
        return Ok(String::new());
    }
    let debug = is_debug(first).unwrap_or(options.variant == Variant::Debug);
    // A machine for KASAN is mostly scratch: leave something to live in.
    if debug && options.mem < 1 << 30 {
        return Err(Error::Setup(
            "a debug kernel needs at least --mem 1G".into(),
        ));
    }
    Ok(cmdline::scratch(
        debug,
        options.mem,
        cmdline::nodes(&options.qemu),
    ))
}

fn no_kernel(path: &Path, stage: &Stage, build: Build) -> Error {
    if stage.kernel.is_some() {
        return Error::Setup(format!(
            "there is no kernel image {}; check --stage-kernel",
            path.display()
        ));
    }
    let variant = match build.variant {
        Variant::Plain => "",
        Variant::Debug => " VARIANT=debug",
        Variant::Other => " VARIANT=other",
        Variant::Deferred => " VARIANT=deferred",
        Variant::Locked => " VARIANT=locked",
        Variant::Disk => " VARIANT=disk",
        Variant::Iommufd => " VARIANT=iommufd",
        Variant::Vanilla => " VARIANT=vanilla",
        Variant::VanillaDeferred => " VARIANT=vanilla-deferred",
        Variant::VanillaIommufd => " VARIANT=vanilla-iommufd",
    };
    Error::Setup(format!(
        "there is no kernel yet ({}); make kernel ARCH={}{variant}",
        path.display(),
        build.arch
    ))
}

/// Whether an image is a debug kernel, if that can be known: from the configuration next to it, or
/// from the name of the lab's directory.
fn is_debug(image: &Path) -> Option<bool> {
    let dir = image.parent()?;
    let mut beside = image.as_os_str().to_owned();

    beside.push(".config");
    if let Ok(config) =
        fs::read_to_string(beside).or_else(|_| fs::read_to_string(dir.join("kernel/.config")))
    {
        return Some(config.lines().any(|line| line == "CONFIG_KASAN=y"));
    }
    let name = dir.file_name()?.to_str()?;
    [Arch::X86_64, Arch::Arm64]
        .iter()
        .find_map(|arch| match name.strip_prefix(arch.name())? {
            "-debug" => Some(true),
            "" | "-other" => Some(false),
            _ => None,
        })
}

fn modules(
    options: &Options,
    stage: &Stage,
    kernel: &Path,
    build: Build,
) -> Result<Vec<PathBuf>, Error> {
    if options.no_modules || stage.modules == Modules::None {
        return Ok(Vec::new());
    }
    // Modules belong to the kernel they were built with.
    let beside = kernel.with_file_name("modules");
    let dir = if beside.join("modules.order").exists() {
        beside
    } else {
        build.dir().join("modules")
    };

    match &stage.modules {
        Modules::List(names) => names.iter().map(|name| find(&dir, name)).collect(),
        Modules::Default | Modules::None => {
            let order = dir.join("modules.order");
            let text = fs::read_to_string(&order).map_err(|error| {
                Error::Setup(format!(
                    "{}: {error}; make kernel ARCH={} builds the modules, --no-modules does \
                     without",
                    order.display(),
                    options.arch
                ))
            })?;
            text.lines()
                .map(str::trim)
                .filter(|l| !l.is_empty())
                .map(|l| find(&dir, l))
                .collect()
        }
    }
}

/// Finds a module: a path, a line of `modules.order`, or a name in which `-` and `_` are one.
fn find(dir: &Path, name: &str) -> Result<PathBuf, Error> {
    let path = named(Path::new(name));
    if name.contains('/') && path.is_file() {
        return Ok(path);
    }
    let stem = |name: &Path| Some(name.file_stem()?.to_str()?.replace('-', "_"));
    let wanted = stem(Path::new(name));
    let mut have: Vec<PathBuf> = fs::read_dir(dir)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|e| e == "ko"))
        .collect();

    have.sort();
    if let Some(path) = have.iter().find(|path| stem(path) == wanted) {
        return Ok(path.clone());
    }
    let have: Vec<_> = have.iter().filter_map(|path| stem(path)).collect();
    Err(Error::Setup(format!(
        "there is no module {name} in {}, which has: {}; check --stage-modules, or make kernel",
        dir.display(),
        if have.is_empty() {
            "none".into()
        } else {
            have.join(", ")
        }
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(dir: &Path, stages: usize) -> Options {
        fs::write(dir.join("kernel.img"), "").unwrap();
        fs::create_dir_all(dir.join("modules")).unwrap();
        fs::write(dir.join("modules/modules.order"), "rust/b.ko\na.ko\n").unwrap();
        for name in ["a", "b", "c-d"] {
            fs::write(dir.join(format!("modules/{name}.ko")), "").unwrap();
        }
        let stage = Stage {
            cmd: "true".into(),
            kernel: Some(dir.join("kernel.img")),
            ..Stage::default()
        };
        Options {
            stages: vec![stage; stages],
            ..Options::default()
        }
    }

    fn names(planned: &Planned) -> Vec<&str> {
        planned
            .modules
            .iter()
            .map(|p| p.file_name().unwrap().to_str().unwrap())
            .collect()
    }

    #[test]
    fn modules_come_in_their_order_or_the_users() {
        let dir = tempfile::tempdir().unwrap();
        let mut options = options(dir.path(), 4);
        options.stages[1].modules = Modules::List(vec!["c_d".into(), "a".into()]);
        options.stages[2].modules = Modules::None;
        options.stages[3].no_update = true;
        let planned = resolve(&options).unwrap();

        assert_eq!(names(&planned[0]), ["b.ko", "a.ko"]);
        assert_eq!(names(&planned[1]), ["c-d.ko", "a.ko"]);
        assert!(planned[2].modules.is_empty());
        options.stages[0].modules = Modules::List(vec!["x".into()]);
        let error = resolve(&options).unwrap_err().to_string();
        assert!(
            error.contains("no module x") && error.contains("c_d"),
            "{error}"
        );
    }

    #[test]
    fn a_machine_ends_where_there_is_no_update() {
        let dir = tempfile::tempdir().unwrap();
        let mut options = options(dir.path(), 3);
        options.stages[1].no_update = true;
        let next: Vec<_> = resolve(&options).unwrap().iter().map(|p| p.next).collect();

        assert_eq!(next, [Some(2), None, None]);
    }

    #[test]
    fn no_update_from_plain_to_debug() {
        let dir = tempfile::tempdir().unwrap();
        let mut options = options(dir.path(), 2);
        for (name, config) in [("p.img", ""), ("d.img", "CONFIG_KASAN=y\n")] {
            fs::write(dir.path().join(name), "").unwrap();
            fs::write(dir.path().join(format!("{name}.config")), config).unwrap();
        }
        options.stages[0].kernel = Some(dir.path().join("p.img"));
        options.stages[1].kernel = Some(dir.path().join("d.img"));
        assert!(resolve(&options).unwrap_err().to_string().contains("KASAN"));
        options.stages[0].kernel = Some(dir.path().join("d.img"));
        let planned = resolve(&options).unwrap();
        let scratch = |p: &Planned| {
            p.cmdline
                .split(' ')
                .find(|w| w.starts_with("kho_s"))
                .map(str::to_owned)
        };
        assert_eq!(scratch(&planned[0]), scratch(&planned[1]));
        // Cold boots are machines of their own.
        options.stages.swap(0, 1);
        options.stages[0].no_update = true;
        assert!(resolve(&options).is_ok());
    }

    #[test]
    fn what_is_missing_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let mut options = options(dir.path(), 1);
        options.stages[0].kernel = Some("/nonexistent".into());
        assert!(resolve(&options)
            .unwrap_err()
            .to_string()
            .contains("--stage-kernel"));
        options.stages[0].kernel = Some(dir.path().join("kernel.img"));
        options.append = vec!["x".repeat(2048)];
        assert!(resolve(&options)
            .unwrap_err()
            .to_string()
            .contains("--append"));
    }
}

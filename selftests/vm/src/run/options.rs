// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What the runner is asked to do, and how it is said on the command line.
//!
//! The options of a stage stand before its `--stage`, so order matters and the arguments are read
//! in one pass from left to right.

use std::ffi::OsString;
use std::path::{
    Path,
    PathBuf, //
};
use std::time::Duration;

use super::disk::Disk;
use super::Error;
use crate::arch::{
    named,
    Arch,
    Variant, //
};

/// Which modules a stage loads.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum Modules {
    /// Those built with the stage's kernel.
    #[default]
    Default,
    /// None.
    None,
    /// These, by name (from among those built with the kernel) or by path, in this order.
    List(Vec<String>),
}

/// One stage: a kernel, its modules, and a command.
#[derive(Clone, Debug, Default)]
pub struct Stage {
    /// Run with `sh -c` as root.
    pub cmd: String,
    /// Another kernel image than the lab's.
    pub kernel: Option<PathBuf>,
    /// Which modules are loaded before the command runs.
    pub modules: Modules,
    /// Added to the kernel command line of this stage only.
    pub append: Option<String>,
    /// Switch the machine off after this stage; a stage that follows is a cold boot.
    pub no_update: bool,
}

/// A whole run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Architecture of the machine.
    pub arch: Arch,
    /// Which lab kernel stages use that name none.
    pub variant: Variant,
    /// Memory of the machine in bytes.
    pub mem: u64,
    /// CPUs of the machine.
    pub smp: u32,
    /// Added to the kernel command line of every stage.
    pub append: Vec<String>,
    /// More arguments for QEMU, split at blanks, with quotes.
    pub qemu: Vec<String>,
    /// Count instructions: time in the guest is their number.
    pub icount: bool,
    /// Host path and guest path of files present in every stage.
    pub files: Vec<(PathBuf, String)>,
    /// Disk images in the state directory.
    pub disks: Vec<Disk>,
    /// Time for each stage, boot included.
    pub timeout: Option<Duration>,
    /// Load no modules in any stage.
    pub no_modules: bool,
    /// Run on the host for the whole time.
    pub host: Option<String>,
    /// Keep the work directory.
    pub keep: bool,
    /// The stages.
    pub stages: Vec<Stage>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            arch: Arch::X86_64,
            variant: Variant::Plain,
            mem: 3 << 30,
            smp: 2,
            append: Vec::new(),
            qemu: Vec::new(),
            icount: false,
            files: Vec::new(),
            disks: Vec::new(),
            timeout: None,
            no_modules: false,
            host: None,
            keep: false,
            stages: Vec::new(),
        }
    }
}

impl Options {
    /// Time for each stage: what was asked for, or what the variant needs.
    pub fn timeout(&self) -> Duration {
        self.timeout
            .unwrap_or(Duration::from_secs(match self.variant {
                Variant::Debug => 600,
                _ => 120,
            }))
    }

    /// Reads a command line. `None` means that help is wanted.
    ///
    /// # Errors
    ///
    /// A sentence for every argument that cannot be understood.
    pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Option<Self>, Error> {
        let mut options = Self::default();
        let mut stage = Stage::default();
        let mut pending: Option<&'static str> = None;
        let mut args = args.into_iter();

        while let Some(arg) = args.next() {
            let arg = text(arg)?;
            let (name, mut inline) = match arg.split_once('=') {
                Some((name, value)) if name.starts_with("--") => (name, Some(value.to_owned())),
                _ => (arg.as_str(), None),
            };
            let mut value = || match inline.take() {
                Some(value) => Ok(value),
                None => args
                    .next()
                    .ok_or_else(|| usage(format!("{name} needs a value")))
                    .and_then(text),
            };

            match name {
                "-h" | "--help" => return Ok(None),
                "--arch" => options.arch = choice(name, &value()?)?,
                "--variant" => options.variant = choice(name, &value()?)?,
                "--mem" => options.mem = size(&value()?)?,
                "--smp" => options.smp = number(name, &value()?)?,
                "--append" => options.append.push(value()?),
                "--qemu" => options.qemu.extend(split(&value()?)?),
                "--icount" => options.icount = true,
                "--file" => options.files.push(file(&value()?)?),
                "--disk" => options.disks.push(Disk::parse(&value()?)?),
                "--timeout" => {
                    options.timeout = Some(Duration::from_secs(number(name, &value()?)?.into()));
                }
                "--no-modules" => options.no_modules = true,
                "--host" => options.host = Some(value()?),
                "--keep" => options.keep = true,
                "--stage-kernel" => {
                    pending = Some("--stage-kernel");
                    stage.kernel = Some(named(Path::new(&value()?)));
                }
                "--stage-modules" => {
                    pending = Some("--stage-modules");
                    stage.modules = modules(&value()?);
                }
                "--stage-append" => {
                    pending = Some("--stage-append");
                    stage.append = Some(value()?);
                }
                "--no-update" => {
                    pending = Some("--no-update");
                    stage.no_update = true;
                }
                "--stage" => {
                    pending = None;
                    stage.cmd = value()?;
                    options.stages.push(std::mem::take(&mut stage));
                }
                _ => return Err(usage(format!("there is no option {arg:?}"))),
            }
            if inline.is_some() {
                return Err(usage(format!("{name} takes no value")));
            }
        }
        if let Some(name) = pending {
            return Err(usage(format!(
                "{name} stands before the --stage it is for, and none follows"
            )));
        }
        if options.stages.is_empty() {
            return Err(usage("there is no --stage CMD"));
        }
        if options.icount {
            // All CPUs would share one counter, which then says nothing about any of them.
            options.smp = 1;
        }
        Ok(Some(options))
    }
}

fn usage(what: impl Into<String>) -> Error {
    Error::Usage(what.into())
}

fn text(arg: OsString) -> Result<String, Error> {
    arg.into_string()
        .map_err(|arg| usage(format!("{arg:?} is not UTF-8")))
}

fn choice<T: clap::ValueEnum>(name: &str, value: &str) -> Result<T, Error> {
    T::from_str(value, false).map_err(|_| {
        let known: Vec<_> = T::value_variants()
            .iter()
            .filter_map(|v| Some(v.to_possible_value()?.get_name().to_owned()))
            .collect();
        usage(format!(
            "{name} is one of {}, not {value:?}",
            known.join(", ")
        ))
    })
}

fn number(name: &str, value: &str) -> Result<u32, Error> {
    match value.parse() {
        Ok(number) if number > 0 => Ok(number),
        _ => Err(usage(format!(
            "{name} needs a positive number, not {value:?}"
        ))),
    }
}

/// A size as QEMU takes it; without a suffix it is in MiB.
fn size(value: &str) -> Result<u64, Error> {
    let wrong = || {
        usage(format!(
            "--mem needs a size such as 3G or 512M, not {value:?}"
        ))
    };
    let (digits, shift) = match value.char_indices().next_back() {
        Some((at, 'G' | 'g')) => (&value[..at], 30),
        Some((at, 'M' | 'm')) => (&value[..at], 20),
        _ => (value, 20),
    };
    let count: u64 = digits.parse().map_err(|_| wrong())?;

    count
        .checked_mul(1 << shift)
        .filter(|&bytes| bytes >= 256 << 20)
        .ok_or_else(|| {
            usage(format!(
                "--mem {value} is too little or too much; a stage needs at least 256M"
            ))
        })
}

fn file(value: &str) -> Result<(PathBuf, String), Error> {
    match value.rsplit_once(':') {
        Some((source, target))
            if !source.is_empty() && target.starts_with('/') && target.len() > 1 =>
        {
            Ok((named(Path::new(source)), target.to_owned()))
        }
        _ => Err(usage(format!(
            "--file needs SRC:DST with an absolute path DST in the machine, not {value:?}"
        ))),
    }
}

fn modules(value: &str) -> Modules {
    match value {
        "none" => Modules::None,
        list => Modules::List(
            list.split(',')
                .map(str::trim)
                .filter(|n| !n.is_empty())
                .map(str::to_owned)
                .collect(),
        ),
    }
}

/// Splits at blanks; quotes of either kind keep blanks, a backslash keeps the next character.
fn split(value: &str) -> Result<Vec<String>, Error> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut chars = value.chars();

    while let Some(c) = chars.next() {
        match (c, quote) {
            (c, Some(q)) if c == q => quote = None,
            ('\\', None | Some('"')) => word.get_or_insert_default().extend(chars.next()),
            (c, Some(_)) => word.get_or_insert_default().push(c),
            ('"' | '\'', None) => {
                word.get_or_insert_default();
                quote = Some(c);
            }
            (c, None) if c.is_whitespace() => words.extend(word.take()),
            (c, None) => word.get_or_insert_default().push(c),
        }
    }
    if quote.is_some() {
        return Err(usage(format!("--qemu has a quote without an end: {value}")));
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Option<Options>, Error> {
        Options::parse(args.iter().map(OsString::from))
    }

    #[test]
    fn stage_options_hold_for_one_stage() {
        let options = parse(&[
            "--arch=arm64",
            "--mem",
            "1G",
            "--stage-kernel",
            "k",
            "--stage-modules",
            "a,b",
            "--stage-append",
            "x=1",
            "--no-update",
            "--stage",
            "one",
            "--stage",
            "two",
        ])
        .unwrap()
        .unwrap();

        assert_eq!((options.arch, options.mem), (Arch::Arm64, 1 << 30));
        let [one, two] = &options.stages[..] else {
            panic!("two stages")
        };
        assert_eq!(one.cmd, "one");
        assert_eq!(one.kernel.as_deref(), Some(std::path::Path::new("k")));
        assert_eq!(one.modules, Modules::List(vec!["a".into(), "b".into()]));
        assert!(one.no_update);
        assert_eq!(
            (two.cmd.as_str(), &two.kernel, &two.append),
            ("two", &None, &None)
        );
        assert!(two.modules == Modules::Default && !two.no_update);
    }

    #[test]
    fn a_command_may_contain_anything() {
        let options = parse(&["--stage", "--help=1"]).unwrap().unwrap();
        assert_eq!(options.stages[0].cmd, "--help=1");
        let options = parse(&["--stage=a=b --c"]).unwrap().unwrap();
        assert_eq!(options.stages[0].cmd, "a=b --c");
    }

    #[test]
    fn mistakes_are_named() {
        for (args, part) in [
            (&["--stage"][..], "--stage needs a value"),
            (&[], "no --stage"),
            (&["--stage", "a", "--no-update"], "before the --stage"),
            (&["--arch", "riscv", "--stage", "a"], "x86_64, arm64"),
            (&["--mem", "12x", "--stage", "a"], "3G"),
            (&["--mem", "1M", "--stage", "a"], "256M"),
            (&["--file", "a:b", "--stage", "a"], "SRC:DST"),
            (&["--keep=1", "--stage", "a"], "takes no value"),
            (&["--qemu", "'a", "--stage", "a"], "quote"),
            (&["--frob"], "--frob"),
        ] {
            let error = parse(args).unwrap_err().to_string();
            assert!(error.contains(part), "{args:?}: {error}");
        }
        assert!(parse(&["--help"]).unwrap().is_none());
    }

    #[test]
    fn icount_is_for_one_cpu() {
        let options = parse(&["--icount", "--smp", "4", "--stage", "a"])
            .unwrap()
            .unwrap();
        assert_eq!(options.smp, 1);
    }

    #[test]
    fn words_are_split_like_a_shell_does() {
        assert_eq!(
            split(r#" -a "b c" d'e f'\ g "" "#).unwrap(),
            ["-a", "b c", "de f g", ""]
        );
    }
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The test lists: `selftests/tests/*.toml`.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{
    bail,
    Context,
    Result, //
};
use serde::Deserialize;

use crate::arch::{
    top,
    Arch,
    Variant, //
};

/// One stage of a test; see the runner's options of the same names.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Stage {
    pub(crate) cmd: String,
    pub(crate) kernel: Option<String>,
    pub(super) modules: Option<String>,
    pub(super) append: Option<String>,
    #[serde(default)]
    pub(super) no_update: bool,
}

/// One test.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Declared {
    pub(super) name: String,
    /// One sentence: what a pass shows.
    pub(super) about: String,
    #[serde(default)]
    arch: Vec<String>,
    #[serde(default)]
    variant: Vec<String>,
    /// CPUs of the machine. Emulated ones cost time also where they only wait for each other.
    cpus: Option<u32>,
    /// What the machine has, by the names of `devices.toml`: `--qemu` of each, before all other options.
    #[serde(default)]
    devices: Vec<String>,
    /// Options of the runner for the whole run.
    #[serde(default)]
    pub(crate) args: Vec<String>,
    /// Guest programs the test needs beyond those always there.
    #[serde(default)]
    pub(super) files: Vec<String>,
    /// Whether its guests boot Linux: `/boot/guest` is a plain kernel for them, whatever the host's is.
    #[serde(default)]
    pub(super) linux_guest: bool,
    #[serde(default)]
    pub(super) expect: i32,
    #[serde(default)]
    pub(super) console: Vec<String>,
    #[serde(default)]
    pub(super) forbid: Vec<String>,
    /// A negative control: shows that a check can fail.
    #[serde(default)]
    negative: bool,
    /// Results that are skipped on a variant, as globs; any other skip is a failure.
    #[serde(default)]
    skip: Skips,
    pub(crate) stages: Vec<Stage>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Skips {
    #[serde(default)]
    plain: Vec<String>,
    #[serde(default)]
    debug: Vec<String>,
}

impl Declared {
    fn add_devices(&mut self, known: &BTreeMap<String, String>) -> Result<()> {
        let mut args = Vec::new();
        for name in &self.devices {
            let device = known.get(name).with_context(|| {
                format!("{} has a device {name:?} that nothing declares", self.name)
            })?;
            args.extend(["--qemu".into(), device.clone()]);
        }
        args.append(&mut self.args);
        self.args = args;
        Ok(())
    }

    /// The results that are expected to be skipped on a variant.
    pub(super) fn skips(&self, variant: Variant) -> &[String] {
        match variant {
            Variant::Debug => &self.skip.debug,
            _ => &self.skip.plain,
        }
    }

    /// How many CPUs the machine gets, if the options do not say it: two where they are on nodes of their
    /// own, or where all checkers look on.
    pub(super) fn cpus(&self, variant: Variant) -> Option<u32> {
        let has = |text: &str| self.args.iter().any(|arg| arg.contains(text));
        if has("--smp") || has("--icount") {
            return None;
        }
        let default = match variant {
            Variant::Debug => 2,
            _ if has("-smp ") => 2,
            _ => 1,
        };
        Some(self.cpus.unwrap_or(default))
    }

    /// Whether the test is meant for this architecture and variant.
    pub(super) fn runs_on(&self, arch: Arch, variant: Variant) -> bool {
        let (variant, by_default) = match variant {
            Variant::Debug => ("debug", true),
            Variant::Deferred => ("deferred", false),
            Variant::Locked => ("locked", false),
            Variant::Disk => ("disk", false),
            Variant::Iommufd => ("iommufd", false),
            Variant::Vanilla => ("vanilla", false),
            Variant::VanillaDeferred => ("vanilla-deferred", false),
            Variant::VanillaIommufd => ("vanilla-iommufd", false),
            Variant::Plain | Variant::Other => ("plain", true),
        };
        (self.arch.is_empty() || self.arch.iter().any(|a| a == arch.name()))
            && (self.variant.is_empty() && by_default || self.variant.iter().any(|v| v == variant))
    }
}

/// Tests that are made again of others, on another machine.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Again {
    /// What is added to their names, behind a hyphen.
    name: String,
    /// What is added to what a pass shows, behind a comma.
    about: String,
    /// The tests.
    tests: Vec<String>,
    /// What stands in for what.
    #[serde(default)]
    devices: BTreeMap<String, String>,
    /// What stands in for what in the arguments.
    #[serde(default)]
    args: BTreeMap<String, String>,
    /// More for the kernel's command line.
    append: Option<String>,
}

impl Again {
    fn make(&self, test: &Declared) -> Declared {
        let mut test = test.clone();
        test.name = format!("{}-{}", test.name, self.name);
        test.about = format!("{}, {}", test.about, self.about);
        for device in &mut test.devices {
            if let Some(other) = self.devices.get(device) {
                device.clone_from(other);
            }
        }
        for (text, other) in &self.args {
            for arg in &mut test.args {
                *arg = arg.replace(text, other);
            }
        }
        if let Some(append) = &self.append {
            test.args.extend(["--append".into(), append.clone()]);
        }
        test
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    #[serde(default)]
    test: Vec<Declared>,
    #[serde(default)]
    again: Vec<Again>,
    /// Arguments for QEMU that have a name.
    #[serde(default)]
    devices: BTreeMap<String, String>,
}

/// Reads every list, in the order of their names.
pub(super) fn load() -> Result<Vec<Declared>> {
    let dir = top().join("selftests/tests");
    let mut paths: Vec<_> = fs::read_dir(&dir)
        .with_context(|| format!("{} cannot be read", dir.display()))?
        .filter_map(|e| Some(e.ok()?.path()))
        .filter(|p| p.extension().is_some_and(|e| e == "toml"))
        .collect();
    paths.sort();
    let mut tests: Vec<Declared> = Vec::new();
    let mut devices = BTreeMap::new();
    let mut again: Vec<Again> = Vec::new();
    for path in paths {
        let list: List = toml::from_str(&fs::read_to_string(&path)?)
            .with_context(|| format!("{} is not a test list", path.display()))?;
        for test in list.test {
            if tests.iter().any(|t| t.name == test.name) {
                bail!("{} declares {} a second time", path.display(), test.name);
            }
            if test.negative && test.expect == 0 && test.console.is_empty() {
                bail!(
                    "{}: the negative control {} expects nothing to go wrong",
                    path.display(),
                    test.name
                );
            }
            tests.push(test);
        }
        again.extend(list.again);
        for (name, device) in list.devices {
            if devices.insert(name.clone(), device).is_some() {
                bail!("{} declares {name} a second time", path.display());
            }
        }
    }
    for again in &again {
        for name in &again.tests {
            let made = tests.iter().find(|test| test.name == *name);
            let made = made.with_context(|| format!("there is no test {name} to make again"))?;
            tests.push(again.make(made));
        }
    }
    for test in &mut tests {
        test.add_devices(&devices)?;
    }
    Ok(tests)
}

/// The tests of an architecture, a line for each: name, tab, what a pass shows.
pub(crate) fn list(arch: Arch) -> Result<String> {
    let mut lines = String::new();
    for test in load()? {
        let variants = [Variant::Plain, Variant::Debug];
        if variants.iter().any(|&variant| test.runs_on(arch, variant)) {
            lines += &format!("{}\t{}\n", test.name, test.about);
        }
    }
    Ok(lines)
}

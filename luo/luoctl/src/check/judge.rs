// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What would become of the files that are preserved now.

use serde::Serialize;

use super::{
    config::{
        Cmdline,
        Config, //
    },
    image::Image,
    modules::Module,
    room,
    system::System, //
};
use crate::output::human;

/// Something to know, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    pub(crate) what: String,
    pub(crate) remedy: String,
}

/// What would become of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Fate {
    pub(crate) compatible: String,
    /// The number that `luoctl status` shows.
    pub(crate) id: u64,
    pub(crate) bytes: u64,
    pub(crate) survives: bool,
    /// The module that takes it over, or why there is none.
    pub(crate) because: String,
}

/// Huge pages after all files are retrieved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Pool {
    pub(crate) size: u64,
    pub(crate) preserved: u64,
    pub(crate) now: u64,
    pub(crate) then: u64,
}

/// The verdict.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Verdict {
    pub(crate) good: bool,
    pub(crate) release: String,
    /// Each of these alone loses all files, or the kernel is not even loaded.
    pub(crate) problems: Vec<Finding>,
    pub(crate) warnings: Vec<Finding>,
    pub(crate) files: Vec<Fate>,
    pub(crate) pools: Vec<Pool>,
}

/// What is going to be started.
#[derive(Debug)]
pub(crate) struct Next<'a> {
    pub(crate) image: &'a Image,
    /// [`None`] if nothing tells it.
    pub(crate) config: Option<&'a Config>,
    pub(crate) cmdline: Cmdline<'a>,
    /// Size of the initrd, 0 if there is none.
    pub(crate) initrd: u64,
    pub(crate) modules: &'a [Module],
}

/// Lists with what is found.
#[derive(Default)]
struct Found {
    problems: Vec<Finding>,
    warnings: Vec<Finding>,
}

impl Found {
    fn problem(&mut self, what: impl Into<String>, remedy: impl Into<String>) {
        let (what, remedy) = (what.into(), remedy.into());
        self.problems.push(Finding { what, remedy });
    }

    fn warning(&mut self, what: impl Into<String>, remedy: impl Into<String>) {
        let (what, remedy) = (what.into(), remedy.into());
        self.warnings.push(Finding { what, remedy });
    }
}

pub(crate) fn judge(system: &System, next: &Next<'_>) -> Verdict {
    let mut found = Found::default();
    machine(system, next, &mut found);
    version(
        "KHO",
        "kho-v",
        "KEXEC_HANDOVER",
        &system.kho,
        next,
        &mut found,
    );
    version("LUO", "luo-v", "LIVEUPDATE", &system.luo, next, &mut found);
    command_line(next, &mut found);
    scratch(system, next, &mut found);
    devices(system, next, &mut found);
    let pools = pools(system, next, &mut found);
    let files: Vec<_> = system
        .files
        .iter()
        .map(|file| {
            let taken = takes(&file.compatible, next);
            Fate {
                compatible: file.compatible.clone(),
                id: file.id,
                bytes: file.bytes,
                survives: taken.is_ok() && found.problems.is_empty(),
                because: match taken {
                    Ok(_) if !found.problems.is_empty() => "nothing survives".into(),
                    Ok(by) | Err(by) => by,
                },
            }
        })
        .collect();
    if files.is_empty() {
        found.warning(
            "nothing is preserved",
            "the VMMs preserve their files before this is asked; `luoctl status` shows them",
        );
    }
    Verdict {
        good: found.problems.is_empty() && files.iter().all(|file| file.survives),
        release: next.image.release.clone(),
        problems: found.problems,
        warnings: found.warnings,
        files,
        pools,
    }
}

fn machine(system: &System, next: &Next<'_>, found: &mut Found) {
    if next.image.machine != system.machine {
        let (is, here) = (next.image.machine, &system.machine);
        found.problem(
            format!("the kernel is for {is}, this machine is {here}: it cannot be loaded"),
            "name a kernel for this machine",
        );
    }
    let shift = next.config.and_then(Config::page_shift);
    if let Some(shift) = shift.filter(|shift| *shift != system.page_shift) {
        let sizes = [1u64 << shift, 1u64 << system.page_shift].map(human);
        let [is, here] = sizes;
        found.problem(
            format!("the kernel has pages of {is}, this one of {here}: it would not read what is handed over"),
            "build it with pages of the same size",
        );
    }
    if next.config.is_none() {
        found.warning(
            "the configuration of the kernel is not known",
            "name it with --config (most distributions have it in /boot/config-RELEASE)",
        );
    }
}

/// Checks that a part of the kernel is there, in the version that this kernel has.
fn version(
    name: &str,
    prefix: &str,
    option: &str,
    here: &Option<String>,
    next: &Next<'_>,
    found: &mut Found,
) {
    let there: Vec<_> = next.image.versions(prefix).collect();
    let configured = next.config.is_none_or(|config| config.has(option));
    if !configured || there.is_empty() {
        found.problem(
            format!("the kernel has no {name}: nothing would be handed over"),
            format!("build it with CONFIG_{option}=y"),
        );
        return;
    }
    match here.as_deref() {
        None => found.warning(
            format!("which version of {name} this kernel has cannot be read"),
            "mount debugfs (`mount -t debugfs none /sys/kernel/debug`) and run this as root",
        ),
        Some(here) if !there.contains(&here) => found.problem(
            format!(
                "the kernel reads {}, this one writes {here}",
                there.join(", ")
            ),
            format!("choose a kernel with the same version of {name}"),
        ),
        Some(_) => {}
    }
}

fn command_line(next: &Next<'_>, found: &mut Found) {
    let by_default = |option| next.config.is_some_and(|config| config.has(option));
    for (name, default) in [
        ("kho", by_default("KEXEC_HANDOVER_ENABLE_DEFAULT")),
        ("liveupdate", false),
    ] {
        if !next.cmdline.is_on(name, default) {
            found.problem(
                format!("{name} is off on the command line of the kernel: nothing would come back"),
                format!("add `{name}=on` to it"),
            );
        }
    }
}

fn scratch(system: &System, next: &Next<'_>, found: &mut Found) {
    let Some(areas) = &system.scratch else {
        found.warning(
            "how much room there is for the kernel cannot be read",
            "mount debugfs (`mount -t debugfs none /sys/kernel/debug`) and run this as root",
        );
        return;
    };
    if !room::fits(areas, next.image, next.initrd) {
        let (kernel, initrd) = (human(next.image.memory), human(next.initrd));
        let sizes: Vec<_> = areas.iter().map(|area| human(area.len)).collect();
        found.problem(
            format!(
                "the kernel ({kernel}) and its initrd ({initrd}) do not fit into the scratch areas ({}): they \
                 cannot be loaded",
                sizes.join(", ")
            ),
            "make the initrd smaller; or boot this host from scratch with a larger `kho_scratch=`, which all \
             kernels after it inherit",
        );
    }
}

/// Whether there is a device that would write to memory which the kernel gives to others.
fn devices(system: &System, next: &Next<'_>, found: &mut Found) {
    let any = |format| {
        let mut files = system.files.iter();
        files.any(|file| file.compatible.starts_with(format))
    };
    if any("rs-iommufd-") && !next.image.knows_iommus {
        found.problem(
            "the kernel would switch off IOMMUs that translate for devices which go on running",
            "build it with CONFIG_IOMMU_LIVEUPDATE=y (patch 0050), or close the sessions that have devices",
        );
    }
    if any("rs-vfio-pci-") && !next.image.knows_devices {
        found.problem(
            "the kernel does not know which devices go on running, and would give away the memory that they write to",
            "build it with CONFIG_PCI_LIVEUPDATE=y (patch 0036), or close the sessions that have devices",
        );
    }
}

fn pools(system: &System, next: &Next<'_>, found: &mut Found) -> Vec<Pool> {
    let mut pools = Vec::new();
    for pages in &system.huge_pages {
        let asked = next.cmdline.huge_pages(pages.size);
        // The kernel allocates those that were preserved no second time.
        let then = match next.image.counts_huge_pages {
            true => asked.max(pages.preserved),
            false => asked.saturating_add(pages.preserved),
        };
        let size = human(pages.size);
        if then != pages.pool {
            found.warning(
                format!(
                    "{} huge pages of {size} are preserved and `hugepages=` asks for {asked}: there will be {then}, \
                     now there are {}",
                    pages.preserved, pages.pool
                ),
                match next.image.counts_huge_pages {
                    true => format!("`hugepages={}` keeps the pool as it is", pages.pool),
                    false => format!(
                        "the kernel lacks patch 0012, so ask for {} less",
                        pages.preserved
                    ),
                },
            );
        }
        pools.push(Pool {
            size: pages.size,
            preserved: pages.preserved,
            now: pages.pool,
            then,
        });
    }
    pools
}

/// What takes a file over, or why nothing does.
fn takes(compatible: &str, next: &Next<'_>) -> Result<String, String> {
    let release = &next.image.release;
    if compatible == "memfd-v2"
        && next
            .config
            .is_some_and(|config| config.has("LIVEUPDATE_MEMFD"))
    {
        return Ok("the kernel itself".into());
    }
    let mut why = format!(
        "no module for {release} reads {compatible}: install one there, or preserve the \
         file in a format that is read there (`luoctl format`)"
    );
    let readers = next.modules.iter();
    for module in readers.filter(|module| module.formats.iter().any(|format| format == compatible))
    {
        let path = module.path.display();
        if module.release != *release {
            why = format!(
                "{path} is for {}, not for {release}: it is not loaded there",
                module.release
            );
            continue;
        }
        let has = |name: &&String| {
            next.modules
                .iter()
                .any(|other| other.name == **name && other.release == *release)
        };
        // What is not of this project comes with the kernel.
        let ours = module.needs.iter().filter(|name| name.starts_with("luo_"));
        match ours.clone().find(|name| !has(name)) {
            Some(missing) => why = format!("{path} needs the module {missing}, which is not there"),
            None => return Ok(module.name.clone()),
        }
    }
    Err(why)
}

#[cfg(test)]
mod tests;

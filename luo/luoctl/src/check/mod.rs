// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! `luoctl check`: what would become of everything that is preserved, if another kernel were started now.

mod config;
mod image;
mod judge;
mod modules;
mod room;
mod system;

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

use self::{
    config::{
        Cmdline,
        Config, //
    },
    image::Image,
    judge::{
        judge,
        Finding,
        Next,
        Verdict, //
    },
    system::System, //
};
use crate::output::{
    human,
    print, //
};

const DETAILS: &str = "\
It compares what is preserved now, as `luoctl status` shows it, with what the
next kernel can take over: its versions of KHO and LUO, its command line, the
room to load it, and the formats that the modules in its directory declare
(`modinfo -F liveupdate`). It starts and changes nothing.

The exit status is 0 if every preserved file would survive, and 1 if one would
be lost or the kernel could not be loaded. Warnings do not change it.

The configuration is taken from --config, from the image (CONFIG_IKCONFIG), or
from config-RELEASE beside the image.

Examples:
  luoctl check --kernel /boot/vmlinuz-7.3.9 --initrd /boot/initrd.img-7.3.9 \\
      --modules /lib/modules/7.3.9
  luoctl check --kernel bzImage --modules /lib/modules/7.3.9 --json | jq .files";

/// A kernel to start, and what goes with it.
#[derive(Debug, clap::Args)]
pub(crate) struct Target {
    /// The image: a bzImage (x86) or an Image (arm64).
    #[arg(long, value_name = "IMAGE")]
    pub(crate) kernel: PathBuf,
    /// The directory of its modules.
    #[arg(long, value_name = "DIR")]
    modules: PathBuf,
    /// Its configuration, if it is not in the image or beside it.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Its command line; that of this kernel if none is given.
    #[arg(long, value_name = "LINE")]
    cmdline: Option<String>,
    /// Its initrd.
    #[arg(long, value_name = "FILE")]
    pub(crate) initrd: Option<PathBuf>,
    /// Where the system is, for tests.
    #[arg(long, hide = true, default_value = "/")]
    root: PathBuf,
}

/// Tell what would survive the start of another kernel, before it is started.
#[derive(Debug, clap::Args)]
#[command(after_help = DETAILS)]
pub(crate) struct Args {
    #[command(flatten)]
    target: Target,
    /// Print JSON instead of a text.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let verdict = args.target.judge()?;
    print(&if args.json {
        serde_json::to_string_pretty(&verdict)? + "\n"
    } else {
        verdict.text()
    })?;
    verdict.require()
}

impl Target {
    /// The command line of the kernel.
    pub(crate) fn cmdline(&self) -> Result<String> {
        match &self.cmdline {
            Some(line) => Ok(line.trim().to_owned()),
            None => {
                let line = fs::read_to_string(self.root.join("proc/cmdline"));
                let line = line.context("cannot read the command line of this kernel")?;
                // The boot loader's word for the file that it has loaded.
                let words = line.split_whitespace();
                let words = words.filter(|word| !word.starts_with("BOOT_IMAGE="));
                Ok(words.collect::<Vec<_>>().join(" "))
            }
        }
    }

    pub(crate) fn judge(&self) -> Result<Verdict> {
        let system = System::read(&self.root)?;
        let image = Image::read(&self.kernel)?;
        let config = self.config(&image)?;
        let modules = modules::find(&self.modules)?;
        let initrd = match &self.initrd {
            None => 0,
            Some(path) => {
                let meta = fs::metadata(path);
                meta.with_context(|| format!("cannot look at {}", path.display()))?
                    .len()
            }
        };
        let cmdline = self.cmdline()?;
        let next = Next {
            image: &image,
            config: config.as_ref(),
            cmdline: Cmdline(&cmdline),
            initrd,
            modules: &modules,
        };
        Ok(judge(&system, &next))
    }

    fn config(&self, image: &Image) -> Result<Option<Config>> {
        let text = match (&self.config, &image.config) {
            (Some(path), _) => {
                let text = fs::read_to_string(path);
                Some(text.with_context(|| format!("cannot read {}", path.display()))?)
            }
            (None, Some(text)) => Some(text.clone()),
            (None, None) => {
                let dir = self.kernel.parent().unwrap_or(Path::new("."));
                fs::read_to_string(dir.join(format!("config-{}", image.release))).ok()
            }
        };
        Ok(text.as_deref().map(Config::parse))
    }
}

impl Verdict {
    /// Fails unless everything survives.
    pub(crate) fn require(&self) -> Result<()> {
        let lost = self.files.iter().filter(|file| !file.survives).count();
        match (self.good, lost) {
            (true, _) => Ok(()),
            (false, 0) => bail!("{} cannot take over; see above", self.release),
            (false, lost) => bail!("{lost} of {} files would be lost", self.files.len()),
        }
    }

    pub(crate) fn text(&self) -> String {
        let mut out = format!("Into {}:\n", self.release);
        for file in &self.files {
            let (name, size) = (file.compatible.escape_debug(), human(file.bytes));
            let fate = match file.survives {
                true => "survives",
                false => "LOST",
            };
            let id = file.id;
            out += &format!("  {fate}  {name} {id}, {size}: {}\n", file.because);
        }
        for pool in &self.pools {
            out += &format!(
                "  huge pages of {}: {} preserved, {} now, {} then\n",
                human(pool.size),
                pool.preserved,
                pool.now,
                pool.then
            );
        }
        let mut tell = |kind: &str, findings: &[Finding]| {
            for Finding { what, remedy } in findings {
                out += &format!("{kind}: {what}\n  {remedy}\n");
            }
        };
        tell("problem", &self.problems);
        tell("warning", &self.warnings);
        out
    }
}

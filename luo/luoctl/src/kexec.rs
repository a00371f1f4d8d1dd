// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! `luoctl kexec`: starts another kernel, if everything that is preserved survives it.

use anyhow::{
    Context as _,
    Result, //
};
use rustix::{
    io::Errno,
    system::{
        reboot,
        RebootCommand, //
    }, //
};
use std::{
    ffi::CString,
    fs::File,
    io,
    os::fd::AsRawFd as _,
    path::Path, //
};

use crate::{
    check::Target,
    output::{
        print,
        say, //
    }, //
};

/// `kexec_file_load(2)`'s flag for a call without an initrd.
const NO_INITRAMFS: libc::c_ulong = 4;

const DETAILS: &str = "\
It asks what `luoctl check` asks and refuses if a file would be lost. Then the
kernel is loaded, file systems are written back, and the machine jumps: no
process is asked to end, no file system is unmounted, so stop whatever does not
live through an update before. The VMMs hold their sessions until the jump, or
`luoctl hold` holds them.

If the running kernel refuses the jump, as it does when a file cannot be frozen,
everything goes on, all files are still preserved, and the other kernel stays
loaded.

Examples:
  luoctl kexec --kernel /boot/vmlinuz-7.3.9 --initrd /boot/initrd.img-7.3.9 \\
      --modules /lib/modules/7.3.9
  luoctl kexec --load-only --kernel bzImage --modules /lib/modules/7.3.9
                                     only loads it; `kexec -e` jumps";

/// Start another kernel, if everything that is preserved survives it.
#[derive(Debug, clap::Args)]
#[command(after_help = DETAILS)]
pub(crate) struct Args {
    #[command(flatten)]
    target: Target,
    /// Start it whatever would be lost.
    #[arg(long)]
    force: bool,
    /// Load it and do not jump.
    #[arg(long)]
    load_only: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    match args.target.judge() {
        Ok(verdict) => {
            print(&verdict.text())?;
            match verdict.require() {
                Err(error) if args.force => say(format_args!("going on all the same: {error:#}")),
                other => other.context("not started (--force starts it whatever is lost)")?,
            }
        }
        Err(error) if args.force => say(format_args!("going on unchecked: {error:#}")),
        Err(error) => {
            return Err(
                error.context("not started, because it cannot be checked (--force does not ask)")
            )
        }
    }
    let line = args.target.cmdline()?;
    load(&args.target.kernel, args.target.initrd.as_deref(), &line)?;
    if args.load_only {
        return Ok(());
    }
    rustix::fs::sync();
    // It returns only if it fails.
    reboot(RebootCommand::Kexec).map_err(refused)
}

/// Says what it means that the kernel does not jump.
fn refused(error: Errno) -> anyhow::Error {
    anyhow::Error::new(error).context(
        "this kernel refused to jump: a file could not be frozen, or something else objected (`dmesg` says \
         what); all files are still preserved, and this can be tried again",
    )
}

/// Loads a kernel, in the place of one that is loaded.
fn load(kernel: &Path, initrd: Option<&Path>, line: &str) -> Result<()> {
    let open =
        |path: &Path| File::open(path).with_context(|| format!("cannot open {}", path.display()));
    let image = open(kernel)?;
    let initrd = initrd.map(open).transpose()?;
    let line = CString::new(line).context("the command line has a NUL in it")?;
    let flags = if initrd.is_some() { 0 } else { NO_INITRAMFS };

    // SAFETY: The descriptors are open for the time of the call, and the string is as long as is said, its NUL
    // included. The kernel only reads them.
    let done = unsafe {
        libc::syscall(
            libc::SYS_kexec_file_load,
            image.as_raw_fd(),
            initrd.as_ref().map_or(-1, |initrd| initrd.as_raw_fd()),
            line.as_bytes_with_nul().len(),
            line.as_ptr(),
            flags,
        )
    };
    if done == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    let advice = match error.raw_os_error() {
        Some(libc::EPERM) => "only root may load a kernel, and not if kexec_load_disabled is set",
        Some(libc::EADDRNOTAVAIL) => {
            "it does not fit into the scratch areas of KHO; `luoctl check` tells sizes"
        }
        Some(libc::ENOEXEC) => "it is no kernel for this machine",
        Some(libc::ENOKEY | libc::EKEYREJECTED) => {
            "its signature is missing, or this kernel does not trust it"
        }
        Some(libc::ENOSYS) => "this kernel cannot load others: it needs CONFIG_KEXEC_FILE=y",
        _ => "this kernel refused it; `dmesg` may say why",
    };
    Err(error)
        .context(advice)
        .with_context(|| format!("cannot load {}", kernel.display()))
}

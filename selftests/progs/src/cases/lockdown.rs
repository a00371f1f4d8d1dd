// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What lockdown forbids, and what it does not: the table in `Documentation/security.md`.

use super::Case;
use crate::{
    expect::{
        is,
        refused,
        same, //
    },
    run::Old,
    sys, //
};
use anyhow::{
    Context,
    Result, //
};
use rustix::{
    fs::{
        open,
        Mode,
        OFlags, //
    },
    io::Errno, //
};
use std::{
    fs,
    path::PathBuf, //
};

pub(super) const CASES: &[Case] = &[Case::local(
    "security.lockdown",
    "In a kernel that is locked down, modules need a signature, and what live update needs can be used",
    lockdown,
)
.on_request()];

/// How far the kernel is locked down, if it can be.
fn level() -> Option<String> {
    let text = fs::read_to_string("/sys/kernel/security/lockdown").ok()?;
    let (_, rest) = text.split_once('[')?;
    Some(rest.split_once(']')?.0.to_owned())
}

/// The module for memfds as this kernel got it.
fn module() -> Result<Vec<u8>> {
    let stage = std::env::var("LU_STAGE").context("nobody says which stage this is")?;
    let dir = PathBuf::from(format!("/lu/stage/{stage}/modules"));
    for entry in fs::read_dir(&dir).with_context(|| dir.display().to_string())? {
        let path = entry?.path();
        if path.to_string_lossy().ends_with("luo_memfd.ko") {
            return Ok(fs::read(path)?);
        }
    }
    anyhow::bail!("there is no luo_memfd.ko")
}

fn load(module: &[u8]) -> rustix::io::Result<()> {
    let parameters = c"";
    // SAFETY: All of it is there while the kernel looks at it. A module that is good is loaded already.
    let status = unsafe {
        libc::syscall(
            libc::SYS_init_module,
            module.as_ptr(),
            module.len(),
            parameters.as_ptr(),
        )
    };
    sys::answer(status)
}

fn kexec_load() -> rustix::io::Result<()> {
    // SAFETY: No segments are a request to forget what was loaded, and nothing was.
    let status = unsafe { libc::syscall(libc::SYS_kexec_load, 0, 0, 0, 0) };
    sys::answer(status)
}

fn try_open(path: &str) -> rustix::io::Result<()> {
    open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map(|_| ())
}

fn lockdown(old: &mut Old<'_>) -> Result<()> {
    let Some(level) = level() else {
        return old.common.skip_all("this kernel cannot be locked down");
    };
    let common = &mut old.common;
    println!("# lockdown: {level}");
    common.check("is-locked", is(level != "none", &level));

    let signed = module()?;
    common.check("signed", refused(load(&signed), &[Errno::EXIST]));
    // What is behind the signature hides it.
    let unsigned = [signed.as_slice(), b"x"].concat();
    common.check("unsigned", refused(load(&unsigned), &[Errno::PERM]));
    let mut changed = signed;
    let middle = changed.len() / 2;
    if let Some(byte) = changed.get_mut(middle) {
        *byte ^= 1;
    }
    let wrong = [Errno::KEYREJECTED, Errno::BADMSG];
    common.check("changed", refused(load(&changed), &wrong));

    match kexec_load() {
        Err(Errno::NOSYS) => common.skip("kexec_load", "this kernel does not have it"),
        answer => drop(common.check("kexec_load", refused(answer, &[Errno::PERM]))),
    }
    let kcore = match level.as_str() {
        "confidentiality" => Err(Errno::PERM),
        _ => Ok(()),
    };
    for (name, path, expected) in [
        ("kcore", "/proc/kcore", kcore),
        ("debugfs", "/sys/kernel/debug/kho/out/fdt", Ok(())),
        ("status", "/dev/luo_status", Ok(())),
        // This process has it open, which only those who may open it are told.
        ("liveupdate", "/dev/liveupdate", Err(Errno::BUSY)),
    ] {
        common.check(name, same(try_open(path), expected));
    }
    Ok(())
}

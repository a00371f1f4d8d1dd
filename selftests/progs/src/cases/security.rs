// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Who may do what: another user, another process, and the process after the one that had the memory.

use super::Case;
use crate::{
    expect::{
        is,
        refused,
        same,
        works,
        Check, //
    },
    memory::{
        memfd,
        page, //
    },
    pattern::Layout,
    run::{
        New,
        Old, //
    },
    sys::{
        in_child,
        mem_free,
        refused_reboot, //
    }, //
};
use anyhow::{
    Context,
    Result, //
};
use liveupdate::{
    LiveUpdate,
    Token, //
};
use rustix::{
    fs::{
        open,
        Mode,
        OFlags, //
    },
    io::Errno,
    process::{
        Gid,
        Uid, //
    },
    thread::{
        set_thread_groups,
        set_thread_res_gid,
        set_thread_res_uid, //
    }, //
};
use std::{
    fs,
    os::{
        fd::AsRawFd,
        unix::fs::PermissionsExt, //
    },
    path::Path,
};

pub(super) const CASES: &[Case] = &[
    Case::local(
        "security.files",
        "Only root opens the devices, and what tells or changes where preserved memory is",
        files,
    )
    .on_request()
    .on_host(),
    Case::local(
        "security.reboot",
        "An unprivileged user can neither load a kernel nor start one",
        reboot,
    )
    .on_request(),
    Case::update(
        "security.names",
        "A name belongs to the session that took it first, and a session to who retrieved it first",
        names_old,
        names_new,
    )
    .on_request(),
    Case::update(
        "security.passed",
        "A session is who has its descriptor: an unprivileged process with one uses it, and it cannot be opened again",
        passed_old,
        passed_new,
    )
    .on_request(),
    Case::update(
        "security.unretrieved",
        "No process finds in its memory what was in files that nobody retrieved",
        unretrieved_old,
        unretrieved_new,
    )
    .on_request(),
];

/// Somebody without any right.
const NOBODY: u32 = 65534;
/// The status of a child that could not give its rights up.
const STILL_ROOT: u8 = 255;

fn give_up_rights() -> rustix::io::Result<()> {
    let (user, group) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
    set_thread_groups(&[])?;
    set_thread_res_gid(group, group, group)?;
    set_thread_res_uid(user, user, user)
}

/// What an unprivileged process is answered: the number of the error, 0 if it works.
fn as_nobody(work: impl FnOnce() -> rustix::io::Result<()>) -> Result<u8> {
    in_child(|| match give_up_rights().is_ok() {
        true => work().map_or_else(|error| error.raw_os_error() as u8, |()| 0),
        false => STILL_ROOT,
    })
}

/// An unprivileged process is answered one of these errors.
fn denied(work: impl FnOnce() -> rustix::io::Result<()>, errnos: &[Errno]) -> Result<Check> {
    let answer = as_nobody(work)?;
    let expected = errnos.iter().any(|e| e.raw_os_error() as u8 == answer);
    Ok(is(expected, &format!("the answer is {answer}")))
}

fn try_open(path: &str, flags: OFlags) -> rustix::io::Result<()> {
    open(path, flags | OFlags::CLOEXEC, Mode::empty()).map(|_| ())
}

fn files(old: &mut Old<'_>) -> Result<()> {
    let mut files = vec![
        // This process has it open, which only those who may open it are told.
        (
            String::from("/dev/liveupdate"),
            OFlags::RDWR,
            Err(Errno::BUSY),
        ),
        (String::from("/dev/luo_status"), OFlags::RDONLY, Ok(())),
        (String::from("/proc/kcore"), OFlags::RDONLY, Ok(())),
    ];
    for name in ["fdt", "scratch_phys", "scratch_len"] {
        let path = format!("/sys/kernel/debug/kho/out/{name}");
        files.push((path, OFlags::RDONLY, Ok(())));
    }
    let parameters = "/sys/module/luo_memfd/parameters";
    for entry in fs::read_dir(parameters).context(parameters)? {
        let path = entry?.path().display().to_string();
        files.push((path, OFlags::WRONLY, Ok(())));
    }
    for (path, flags, of_root) in files {
        let name = path.rsplit('/').next().unwrap_or(&path);
        if !Path::new(&path).exists() {
            old.common.skip(name, "this kernel does not have it");
            continue;
        }
        old.common.check(
            &format!("{name}.root"),
            same(try_open(&path, flags), of_root),
        );
        let nobody = denied(|| try_open(&path, flags), &[Errno::ACCESS])?;
        old.common.check(&format!("{name}.nobody"), nobody);
        if flags == OFlags::WRONLY {
            continue;
        }
        // Also without the directory above, which may be opened to others.
        let mode = fs::metadata(&path)?.permissions().mode() & 0o077;
        old.common.check(&format!("{name}.mode"), same(mode, 0));
    }
    Ok(())
}

fn reboot(old: &mut Old<'_>) -> Result<()> {
    let load = || {
        // SAFETY: There is nothing behind these numbers, and the kernel looks at the caller first.
        let status = unsafe { libc::syscall(libc::SYS_kexec_file_load, -1, -1, 0, 0, 0) };
        crate::sys::answer(status)
    };
    old.common
        .check("load.root", refused(load(), &[Errno::BADF]));
    old.common
        .check("load.nobody", denied(load, &[Errno::PERM])?);
    let jump = || Err(refused_reboot().unwrap_or(Errno::NOSYS));
    old.common
        .check("jump.nobody", denied(jump, &[Errno::PERM])?);
    Ok(())
}

/// What the kernel answered.
fn kernels_word<T>(result: Result<T>) -> Result<T, Errno> {
    result.map_err(|error| {
        let error = error.downcast_ref::<liveupdate::Error>();
        error
            .and_then(liveupdate::Error::errno)
            .unwrap_or(Errno::NOSYS)
    })
}

fn names_old(old: &mut Old<'_>) -> Result<()> {
    let taken = old.new_session(".taken")?;
    let again = kernels_word(old.new_session(".taken"));
    old.common.check("taken", refused(again, &[Errno::EXIST]));
    drop(taken);
    old.common
        .check("free-again", works(old.new_session(".taken")));
    old.common
        .check("one-at-a-time", refused(LiveUpdate::open(), &[Errno::BUSY]));
    let fd = memfd("names")?;
    Layout::full(21, page()).write(&fd)?;
    old.preserve(&fd, 1)
}

fn names_new(new: &mut New<'_>) -> Result<()> {
    let first = new.take_session("")?;
    let second = kernels_word(new.take_session(""));
    new.common.check("first", works(first.retrieve(Token(1))));
    new.common.check("second", refused(second, &[Errno::INVAL]));
    Ok(first.finish().map_err(liveupdate::Error::from)?)
}

/// What the unprivileged process preserves.
fn of_nobody() -> Layout {
    Layout::full(22, 3 * page())
}

fn passed_old(old: &mut Old<'_>) -> Result<()> {
    let session = old.session()?;
    let path = format!(
        "/proc/self/fd/{}",
        std::os::fd::AsFd::as_fd(session).as_raw_fd()
    );
    let again = refused(try_open(&path, OFlags::RDWR), &[Errno::NXIO]);
    let path = format!("/proc/{}/fd", std::process::id());
    let stolen = denied(
        || try_open(&path, OFlags::RDONLY | OFlags::DIRECTORY),
        &[Errno::ACCESS, Errno::PERM],
    )?;
    let used = as_nobody(|| {
        let fd = memfd("nobody").map_err(|_| Errno::NOMEM)?;
        of_nobody().write(&fd)?;
        session.preserve(&fd, Token(1)).map_err(|_| Errno::INVAL)
    })?;
    old.common.check("not-opened-again", again);
    old.common.check("not-stolen", stolen);
    old.common.check("used-by-nobody", same(used, 0));
    Ok(())
}

fn passed_new(new: &mut New<'_>) -> Result<()> {
    let session = new.session()?;
    let read = as_nobody(|| {
        let fd = session.retrieve(Token(1)).map_err(|_| Errno::INVAL)?;
        of_nobody().verify(&fd).map_err(|_| Errno::IO)
    })?;
    new.common.check("retrieved-by-nobody", same(read, 0));
    new.finish()
}

/// Length of the file that nobody retrieves.
const SIZE: u64 = 64 << 20;
/// What a process that takes all other free memory leaves for the rest of the machine.
const REST: u64 = 48 << 20;

fn unretrieved_old(old: &mut Old<'_>) -> Result<()> {
    let fd = memfd("unretrieved")?;
    Layout::full(23, SIZE).write(&fd)?;
    old.preserve(&fd, 1)
}

/// How many pages of new memory, the first byte of each aside, are not zero.
fn used_pages(memory: &mut [u8]) -> usize {
    let zeros = vec![0; page() as usize - 1];
    let pages = memory.chunks_exact_mut(page() as usize);
    pages
        .map(|page| {
            // Without a write, all are one page of zeros.
            page[0] = 1;
            usize::from(std::hint::black_box(page)[1..] != zeros[..])
        })
        .sum()
}

fn unretrieved_new(new: &mut New<'_>) -> Result<()> {
    new.finish()?;
    let free = mem_free()?;
    new.common.check(
        "enough-is-free",
        is(free > SIZE + REST, "less memory is free than the file had"),
    );
    let len = free.saturating_sub(REST) as usize;
    let found = in_child(|| {
        let mut memory = vec![0; len];
        if give_up_rights().is_err() {
            return STILL_ROOT;
        }
        let found = used_pages(&mut memory);
        // It is found when there is something.
        let few = &mut memory[..8 * page() as usize];
        few[5 * page() as usize + 8] = 1;
        match used_pages(few) {
            1 => found.min(100) as u8,
            _ => 101,
        }
    })?;
    new.common.check("zero", same(found, 0));
    Ok(())
}

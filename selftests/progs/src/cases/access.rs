// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Which files can be preserved, and how often.

use super::Case;
use crate::{
    expect::refused,
    memory::{
        memfd,
        page,
        reopen, //
    },
    pattern::Layout,
    run::Old, //
};
use anyhow::Result;
use liveupdate::Token;
use rustix::{
    fs::OFlags,
    io::Errno, //
};
use std::fs::File;

pub(super) const CASES: &[Case] = &[
    Case::local(
        "access.double",
        "A file is preserved once: the same, a duplicated and a reopened descriptor are refused",
        double,
    )
    .on_host(),
    Case::local(
        "access.unsupported",
        "Files of other kinds are refused, and the session is as good as before",
        unsupported,
    )
    .on_host(),
    Case::local(
        "access.read-only",
        "A descriptor that cannot both read and write is refused, because it would come back so",
        read_only,
    )
    .on_host(),
];

fn double(old: &mut Old<'_>) -> Result<()> {
    let layout = Layout::full(2, 3 * page());
    let fd = memfd("double")?;
    layout.write(&fd)?;
    old.preserve(&fd, 1)?;
    let other = old.new_session(".other")?;
    let session = old.session()?;
    let dup = rustix::io::dup(&fd)?;
    let opened = reopen(&fd, OFlags::RDWR)?;
    let fresh = memfd("fresh")?;
    let results = [
        (
            "same",
            refused(session.preserve(&fd, Token(2)), &[Errno::BUSY]),
        ),
        (
            "duplicate",
            refused(session.preserve(&dup, Token(2)), &[Errno::BUSY]),
        ),
        (
            "reopened",
            refused(session.preserve(&opened, Token(2)), &[Errno::BUSY]),
        ),
        (
            "other-session",
            refused(other.preserve(&fd, Token(1)), &[Errno::BUSY]),
        ),
        (
            "token-taken",
            refused(session.preserve(&fresh, Token(1)), &[Errno::EXIST]),
        ),
    ];
    for (name, result) in results {
        old.common.check(name, result);
    }
    old.close_session();
    let again = other.preserve(&opened, Token(1));
    old.common
        .check("free-after-close", crate::expect::works(again));
    old.common.check("content", layout.verify(&fd));
    Ok(())
}

fn unsupported(old: &mut Old<'_>) -> Result<()> {
    let (pipe, _other) = rustix::pipe::pipe()?;
    let null = File::open("/dev/null")?;
    let directory = File::open("/")?;
    let event = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC)?;
    let session = old.new_session(".unsupported")?;
    let files: [(&str, std::os::fd::BorrowedFd<'_>); 5] = {
        use std::os::fd::AsFd;
        [
            ("null", null.as_fd()),
            ("pipe", pipe.as_fd()),
            ("directory", directory.as_fd()),
            ("eventfd", event.as_fd()),
            ("session", session.as_fd()),
        ]
    };
    for (name, fd) in files {
        let result = refused(session.preserve(fd, Token(1)), &[Errno::NOENT]);
        old.common.check(name, result);
    }
    let fd = memfd("after")?;
    Layout::full(1, page()).write(&fd)?;
    let result = crate::expect::works(session.preserve(&fd, Token(1)));
    old.common.check("session-still-good", result);
    Ok(())
}

fn read_only(old: &mut Old<'_>) -> Result<()> {
    let fd = memfd("read-only")?;
    Layout::full(3, page()).write(&fd)?;
    let session = old.new_session(".weak")?;
    for (name, flags) in [("refused", OFlags::RDONLY), ("write-only", OFlags::WRONLY)] {
        let weak = reopen(&fd, flags)?;
        let result = refused(session.preserve(&weak, Token(1)), &[Errno::ACCESS]);
        old.common.check(name, result);
    }
    let strong = crate::expect::works(session.preserve(&fd, Token(1)));
    old.common.check("writable-works", strong);
    Ok(())
}

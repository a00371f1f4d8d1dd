// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The handler as a module: in use, not in use, missing.

use super::Case;
use crate::{
    expect::{
        is,
        refused,
        same,
        works, //
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
        module_loaded,
        rmmod, //
    }, //
};
use anyhow::Result;
use liveupdate::Token;
use rustix::io::Errno;
use std::process::Command;

pub(super) const CASES: &[Case] = &[
    Case::update(
        "module.in-use",
        "The modules cannot be unloaded while a file is preserved or waits, and can be afterwards",
        in_use_old,
        in_use_new,
    )
    .on_request(),
    Case::update(
        "module.missing",
        "Without the handler its files cannot be had, and those nobody asked for live until it is loaded",
        missing_old,
        missing_new,
    )
    .on_request(),
    Case::update(
        "module.retry",
        "A file whose handler is loaded after the first attempt to retrieve it comes back",
        in_use_old,
        retry_new,
    )
    .on_request(),
];

/// In the order in which they can be unloaded.
const MODULES: [&str; 2] = ["luo_memfd", "luo_rs"];

fn layout() -> Layout {
    Layout::full(0x30d01e, 3 * page())
}

fn in_use_old(old: &mut Old<'_>) -> Result<()> {
    let fd = memfd("in-use")?;
    layout().write(&fd)?;
    old.preserve(&fd, 1)?;
    for name in MODULES {
        old.common.check(
            &format!("{name}.stays"),
            refused(rmmod(name), &[Errno::AGAIN]),
        );
    }
    Ok(())
}

fn in_use_new(new: &mut New<'_>) -> Result<()> {
    // The device has been opened, so that the files wait for their handler.
    for name in MODULES {
        let stays = refused(rmmod(name), &[Errno::AGAIN]);
        new.common
            .check(&format!("{name}.stays-before-retrieve"), stays);
    }
    let fd = new.retrieve(1)?;
    for name in MODULES {
        let stays = refused(rmmod(name), &[Errno::AGAIN]);
        new.common
            .check(&format!("{name}.stays-before-finish"), stays);
    }
    new.finish()?;
    for name in MODULES {
        new.common
            .check(&format!("{name}.goes"), works(rmmod(name)));
    }
    // The file is an ordinary one and needs no handler any more.
    new.common.check("content", layout().verify(&fd));
    Ok(())
}

/// Loads the handler that was missing.
fn load(new: &mut New<'_>) -> Result<()> {
    let load = "insmod /lu/stage/1/modules/*luo_memfd.ko";
    let status = Command::new("sh").args(["-c", load]).status()?;
    new.common.check("loads", is(status.success(), load));
    Ok(())
}

fn retry_new(new: &mut New<'_>) -> Result<()> {
    let early = refused(new.session()?.retrieve(Token(1)), &[Errno::NODEV]);
    new.common.check("early", early);
    load(new)?;
    let fd = new.retrieve(1)?;
    new.common.check("content", layout().verify(&fd));
    Ok(())
}

fn missing_old(old: &mut Old<'_>) -> Result<()> {
    let fd = memfd("missing")?;
    layout().write(&fd)?;
    old.preserve(&fd, 1)?;
    for suffix in [".second", ".third"] {
        let session = old.new_session(suffix)?;
        let fd = memfd(suffix)?;
        layout().write(&fd)?;
        session.preserve(&fd, Token(1))?;
        old.keep(session);
    }
    Ok(())
}

fn missing_new(new: &mut New<'_>) -> Result<()> {
    let name = "luo_memfd";
    new.common.check(
        "is-missing",
        is(!module_loaded(name), "the handler is loaded"),
    );
    let dead = refused(new.session()?.retrieve(Token(1)), &[Errno::NODEV]);
    new.common.check("dead-file", dead);
    let unknown = refused(new.session()?.retrieve(Token(2)), &[Errno::NOENT]);
    new.common.check("unknown-token", unknown);
    let finished = new.finish().map_err(|e| format!("{e:#}"));
    new.common.check("dead-session-finishes", finished);
    drop(new.take_session(".second")?);
    let gone = new.take_session(".second").err();
    let gone = gone
        .as_ref()
        .and_then(|e| e.downcast_ref::<liveupdate::Error>());
    let errno = gone.and_then(liveupdate::Error::errno);
    new.common
        .check("closed-session-is-gone", same(errno, Some(Errno::NOENT)));
    // Nothing of that has touched the session that nobody asked for.
    load(new)?;
    let third = new.take_session(".third")?;
    let fd = third.retrieve(Token(1));
    let content = fd.map_err(|e| e.to_string());
    let content = content.and_then(|fd| layout().verify(fd));
    new.common.check("other-session-lives", content);
    new.common
        .check("other-session-finishes", works(third.finish()));
    Ok(())
}

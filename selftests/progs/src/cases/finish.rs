// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Sessions that are ended without all of their files having been retrieved.

use super::Case;
use crate::{
    expect::{
        refused,
        Check, //
    },
    memory::{
        memfd,
        page,
        Map, //
    },
    pattern::Layout,
    run::{
        New,
        Old, //
    },
    sys::{
        given_back,
        hook,
        mem_free,
        slack, //
    }, //
};
use anyhow::Result;
use liveupdate::{
    IncomingSession,
    Token, //
};
use rustix::io::Errno;

pub(super) const CASES: &[Case] = &[
    Case::update(
        "finish.unretrieved",
        "Finishing without retrieving gives all memory back",
        |old| preserve_all(old, ""),
        |new| {
            let session = new.take_session("")?;
            let freed = gives_back(session, 2, |_| Ok(()))?;
            new.common.check("memory", freed);
            Ok(())
        },
    ),
    Case::update(
        "finish.closed",
        "Closing a retrieved session without finishing gives all memory back",
        |old| preserve_all(old, ""),
        |new| {
            let session = new.take_session("")?;
            let before = mem_free()?;
            drop(session);
            new.common.check("memory", grew(before, 2)?);
            Ok(())
        },
    ),
    Case::update(
        "finish.retrieve-failed",
        "A failed retrieve stays failed, and what it held is free after finish",
        |old| preserve_all(old, ""),
        retrieve_failed,
    ),
    Case::update(
        "finish.half",
        "Of two files one is retrieved and stays, and the memory of the other is given back",
        |old| preserve_all(old, ""),
        half,
    ),
];

/// Length of each file.
const SIZE: u64 = 48 << 20;

/// How much may be missing: page tables, slab pages, per-CPU lists.
const SLACK: u64 = 3 << 20;

/// A large file of single pages, and one that is mostly holes.
fn layouts() -> [Layout; 2] {
    let sparse = Layout::every(12, SIZE, 0, 64 * page(), page());
    [Layout::full(11, SIZE), sparse]
}

pub(super) fn preserve_all(old: &mut Old<'_>, _: &str) -> Result<()> {
    for (token, layout) in (1..).zip(layouts()) {
        let fd = memfd("finish")?;
        layout.write(&fd)?;
        old.preserve(&fd, token)?;
    }
    Ok(())
}

/// The memory of some of the files has become free; each has pages everywhere once it was preserved.
fn grew(before: u64, files: u64) -> Result<Check> {
    given_back(before, files * SIZE, slack(SLACK))
}

/// Finishes a session after `first`: the memory of some of the files becomes free.
fn gives_back(
    session: IncomingSession,
    files: u64,
    first: impl FnOnce(&IncomingSession) -> Result<()>,
) -> Result<Check> {
    let before = mem_free()?;
    first(&session)?;
    session.finish().map_err(liveupdate::Error::from)?;
    grew(before, files)
}

fn retrieve_failed(new: &mut New<'_>) -> Result<()> {
    let session = new.take_session("")?;
    if !hook("fail retrieve 12")? {
        new.common.skip(
            "memory",
            "the kernel has no test hook to make a callback fail",
        );
        return Ok(());
    }
    let mut answers = Vec::new();
    let freed = gives_back(session, 2, |session| {
        for name in ["fails", "stays-failed"] {
            answers.push((name, refused(session.retrieve(Token(1)), &[Errno::NOMEM])));
        }
        hook("reset")?;
        answers.push((
            "still",
            refused(session.retrieve(Token(1)), &[Errno::NOMEM]),
        ));
        Ok(())
    })?;
    for (name, answer) in answers {
        new.common.check(name, answer);
    }
    new.common.check("memory", freed);
    Ok(())
}

fn half(new: &mut New<'_>) -> Result<()> {
    let [_, sparse] = layouts();
    let session = new.take_session("")?;
    let mut kept = None;
    let freed = gives_back(session, 1, |session| {
        kept = Some(session.retrieve(Token(2))?);
        Ok(())
    })?;
    new.common.check("memory", freed);
    let verified = kept
        .as_ref()
        .map_or(Err("nothing was retrieved".into()), |fd| sparse.verify(fd));
    new.common.check("content", verified);
    if let Some(fd) = kept {
        // It is an ordinary file now: its pages go when it goes.
        let map = Map::new(&fd, SIZE, false)?;
        map.touch();
        drop(map);
        let before = mem_free()?;
        drop(fd);
        new.common.check("freed-with-its-file", grew(before, 1)?);
    }
    Ok(())
}

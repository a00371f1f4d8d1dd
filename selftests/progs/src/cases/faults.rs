// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Every allocation of preserve and of retrieve fails once.

use super::Case;
use crate::{
    expect::{
        is,
        refused,
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
        given_back,
        mem_free,
        slack,
        FailNth, //
    }, //
};
use anyhow::{
    bail,
    Result, //
};
use liveupdate::Token;
use rustix::io::Errno;
use std::os::fd::OwnedFd;

pub(super) const CASES: &[Case] = &[
    Case::local(
        "faults.preserve",
        "Whatever allocation fails, preserve is undone and works when it is tried again",
        preserve,
    )
    .on_request(),
    Case::update(
        "faults.retrieve",
        "Whatever allocation fails, retrieve loses nothing but the file, and finish frees it",
        retrieve_old,
        retrieve_new,
    )
    .on_request(),
];

/// A sweep that is longer than this has gone astray.
const MOST: u32 = 2000;

fn layout() -> Layout {
    // Enough pages for more than one node of the page cache.
    Layout::every(0xfa17, 70 * page() + 1, 0, 3 * page(), 2 * page())
}

/// The file is not preserved, and all there.
fn untouched(fd: &OwnedFd) -> Check {
    layout().verify(fd)?;
    works(rustix::fs::ftruncate(fd, layout().size + 1))?;
    works(rustix::fs::ftruncate(fd, layout().size))
}

fn preserve(old: &mut Old<'_>) -> Result<()> {
    let fail = match FailNth::new()? {
        Ok(fail) => fail,
        Err(why) => return old.common.skip_all(&why),
    };
    let mut before = 0;
    let (mut refusals, mut undone) = (0, Ok(()));
    // The first sweep warms up, the second one is measured.
    for sweep in 0..2 {
        before = mem_free()?;
        for nth in 1.. {
            let fd = memfd("faults")?;
            layout().write(&fd)?;
            let session = old.new_session(".faults")?;
            let (result, injected) = fail.inject(nth, || session.preserve(&fd, Token(1)))?;
            if !injected {
                old.common.check(&format!("{sweep}.ends"), works(result));
                println!(
                    "# sweep {sweep}: {} allocations, {refusals} refusals",
                    nth - 1
                );
                old.common.check(
                    &format!("{sweep}.injected"),
                    is(nth > 10, "hardly any failed"),
                );
                break;
            }
            if nth > MOST {
                bail!("allocation {nth} still fails");
            }
            if result.is_err() {
                refusals += 1;
                let why = refused(result, &[Errno::NOMEM]).and_then(|()| untouched(&fd));
                let again = why.and_then(|()| works(session.preserve(&fd, Token(1))));
                undone = undone.and(again.map_err(|why| format!("allocation {nth}: {why}")));
            }
            drop(session);
            undone = undone.and(untouched(&fd).map_err(|why| format!("after {nth}: {why}")));
        }
    }
    old.common.check(
        "refused",
        is(refusals > 5, &format!("only {refusals} refusals")),
    );
    old.common.check("undone", undone);
    let memory = given_back(before, 0, slack(1 << 20))?;
    old.common.check("memory", memory);
    Ok(())
}

/// What creating a memfd fails with: shmem says that it has no space when it gets no inode.
const NO_MEMORY: [Errno; 2] = [Errno::NOMEM, Errno::NOSPC];

/// A failed retrieve is final, so each attempt needs a file of its own.
const FILES: u64 = 400;

fn retrieve_old(old: &mut Old<'_>) -> Result<()> {
    if let Err(why) = FailNth::new()? {
        return old.common.skip_all(&why);
    }
    for token in 1..=FILES {
        let fd = memfd("faults")?;
        layout().write(&fd)?;
        old.preserve(&fd, token)?;
    }
    Ok(())
}

fn retrieve_new(new: &mut New<'_>) -> Result<()> {
    let Ok(fail) = FailNth::new()? else {
        bail!("the new kernel has no fault injection");
    };
    let session = new.take_session("")?;
    let before = mem_free()?;
    let (mut refusals, mut good) = (0, Ok(()));
    let mut end = None;
    for nth in 1..=FILES as u32 {
        let token = Token(nth.into());
        let (result, injected) = fail.inject(nth, || session.retrieve(token))?;
        let seen = match result {
            Ok(fd) => layout().verify(fd),
            Err(error) => {
                refusals += 1;
                let errno = error.errno();
                refused(Err::<(), _>(error), &NO_MEMORY).and_then(|()| {
                    let again = session.retrieve(token).err().and_then(|e| e.errno());
                    crate::expect::same(again, errno)
                })
            }
        };
        good = good.and(seen.map_err(|why| format!("allocation {nth}: {why}")));
        if !injected {
            end = Some(nth);
            break;
        }
    }
    match end {
        Some(nth) => println!("# {} allocations, {refusals} refusals", nth - 1),
        None => bail!("{FILES} files are not enough for all allocations"),
    }
    new.common
        .check("injected", is(end > Some(10), "hardly any failed"));
    new.common.check(
        "refused",
        is(refusals > 5, &format!("only {refusals} refusals")),
    );
    new.common.check("good", good);
    session.finish().map_err(liveupdate::Error::from)?;
    // All files are gone now, the retrieved ones too.
    let memory = given_back(before, FILES * layout().size, slack(4 << 20))?;
    new.common.check("memory", memory);
    Ok(())
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Every allocation of a call fails once.

use crate::{
    expect::{
        is,
        refused,
        same,
        works,
        Check, //
    },
    run::{
        Common,
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

/// A sweep that is longer than this has gone astray.
pub const MOST: u32 = 2000;

/// A new file fails with one of these: file systems without memory for an inode say that they have no space.
const NO_MEMORY: [Errno; 2] = [Errno::NOMEM, Errno::NOSPC];

/// A sweep with fewer allocations has missed what it is for.
const LEAST: u32 = 5;

/// What is swept.
#[expect(missing_debug_implementations, reason = "functions have no text")]
pub struct Sweep<'a> {
    /// Makes a file with content.
    pub make: &'a dyn Fn() -> Result<OwnedFd>,
    /// The file is all there.
    pub verify: &'a dyn Fn(&OwnedFd) -> Check,
    /// It can be changed, as nothing is preserved.
    pub free: &'a dyn Fn(&OwnedFd) -> Check,
}

/// How a sweep went.
#[derive(Default)]
struct Tally {
    allocations: u32,
    refusals: u32,
}

impl Tally {
    fn report(&self, common: &mut Common<'_>, prefix: &str) {
        let (nr, refusals) = (self.allocations, self.refusals);
        println!("# {prefix}: {nr} allocations, {refusals} refusals");
        // Most calls get along without some of what they ask for.
        for (what, nr, least) in [("injected", nr, LEAST), ("refused", refusals, 1)] {
            common.check(
                &format!("{prefix}.{what}"),
                is(nr >= least, &format!("only {nr}")),
            );
        }
    }
}

fn untouched(sweep: &Sweep<'_>, fd: &OwnedFd) -> Check {
    (sweep.verify)(fd)?;
    (sweep.free)(fd)
}

/// Whatever allocation fails, preserve is undone and works when it is tried again.
pub fn preserve(old: &mut Old<'_>, sweep: &Sweep<'_>) -> Result<()> {
    let fail = match FailNth::new()? {
        Ok(fail) => fail,
        Err(why) => return old.common.skip_all(&why),
    };
    let mut before = 0;
    let mut undone = Ok(());
    // The first time warms up, the second one is measured.
    for round in 0..2 {
        let mut tally = Tally::default();
        before = mem_free()?;
        for nth in 1..=MOST {
            let fd = (sweep.make)()?;
            let session = old.new_session(".faults")?;
            let (result, injected) = fail.inject(nth, || session.preserve(&fd, Token(1)))?;
            if !injected {
                old.common.check(&format!("{round}.ends"), works(result));
                tally.allocations = nth - 1;
                break;
            }
            if result.is_err() {
                tally.refusals += 1;
                let why = refused(result, &[Errno::NOMEM]).and_then(|()| untouched(sweep, &fd));
                let again = why.and_then(|()| works(session.preserve(&fd, Token(1))));
                undone = undone.and(again.map_err(|why| format!("allocation {nth}: {why}")));
            }
            drop(session);
            let why = untouched(sweep, &fd).map_err(|why| format!("after {nth}: {why}"));
            undone = undone.and(why);
        }
        tally.report(&mut old.common, &round.to_string());
    }
    old.common.check("undone", undone);
    let memory = given_back(before, 0, slack(1 << 20))?;
    old.common.check("memory", memory);
    Ok(())
}

/// A failed retrieve can be final, so each attempt needs a file of its own.
pub fn retrieve_old(old: &mut Old<'_>, sweep: &Sweep<'_>, files: u64) -> Result<()> {
    if let Err(why) = FailNth::new()? {
        return old.common.skip_all(&why);
    }
    for token in 1..=files {
        let fd = (sweep.make)()?;
        old.preserve(&fd, token)?;
    }
    Ok(())
}

/// Whatever allocation fails, retrieve works when it is tried again, or it lost nothing but the file. Returns
/// how many files came back, all of which are closed again.
pub fn retrieve_new(
    new: &mut New<'_>,
    verify: &dyn Fn(&OwnedFd) -> Check,
    files: u64,
) -> Result<u64> {
    let Ok(fail) = FailNth::new()? else {
        bail!("the new kernel has no fault injection");
    };
    let session = new.session()?;
    let mut tally = Tally::default();
    let (mut good, mut kept, mut again) = (Ok(()), 0, 0);
    for nth in 1..=u32::try_from(files)? {
        let token = Token(nth.into());
        let (result, injected) = fail.inject(nth, || session.retrieve(token))?;
        let seen = match result {
            Ok(fd) => {
                kept += 1;
                verify(&fd)
            }
            Err(error) => {
                tally.refusals += 1;
                let errno = error.errno();
                refused(Err::<(), _>(error), &NO_MEMORY).and_then(|()| {
                    match session.retrieve(token) {
                        Ok(fd) => {
                            kept += 1;
                            again += 1;
                            verify(&fd)
                        }
                        Err(error) => same(error.errno(), errno),
                    }
                })
            }
        };
        good = good.and(seen.map_err(|why| format!("allocation {nth}: {why}")));
        if !injected {
            tally.allocations = nth - 1;
            break;
        }
    }
    if tally.allocations == 0 {
        bail!("{files} files are not enough for all allocations");
    }
    tally.report(&mut new.common, "sweep");
    println!("# {again} of them were not final");
    new.common
        .check("again", is(again > 0, "no file could be retrieved later"));
    new.common.check("good", good);
    new.finish()?;
    Ok(kept)
}

/// Whatever allocation fails, `call` can be made again.
pub fn call<T>(
    common: &mut Common<'_>,
    call: impl Fn() -> liveupdate::Result<T>,
    verify: impl Fn(&T) -> Check,
) -> Result<()> {
    let fail = match FailNth::new()? {
        Ok(fail) => fail,
        Err(why) => return common.skip_all(&why),
    };
    let mut tally = Tally::default();
    let mut good = Ok(());
    for nth in 1..=MOST {
        let (result, injected) = fail.inject(nth, &call)?;
        let seen = match result {
            Ok(value) => verify(&value),
            Err(error) => {
                tally.refusals += 1;
                refused(Err::<(), _>(error), &NO_MEMORY)
                    .and_then(|()| call().map_err(|error| format!("again: {error:?}")))
                    .and_then(|value| verify(&value))
            }
        };
        good = good.and(seen.map_err(|why| format!("allocation {nth}: {why}")));
        if !injected {
            tally.allocations = nth - 1;
            break;
        }
    }
    tally.report(common, "sweep");
    common.check("good", good);
    Ok(())
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Control groups of HugeTLB and of memory.

use super::{
    layout,
    pool,
    M2,
    POOL, //
};
use crate::{
    expect::{
        is,
        same, //
    },
    hugetlb::{
        huge_memfd,
        write, //
    },
    run::{
        New,
        Old, //
    },
    sys::{
        given_back,
        in_child,
        mem_free,
        set, //
    }, //
};
use anyhow::{
    Context,
    Result, //
};
use liveupdate::Token;
use rustix::{
    fs::MemfdFlags,
    io::Errno,
    mount::{
        mount_remount,
        MountFlags, //
    }, //
};
use std::{
    fs,
    os::fd::OwnedFd, //
};

const ROOT: &str = "/sys/fs/cgroup";
const PAGES: u64 = 8;

/// A control group in which huge pages are counted as such and as memory, with this process in it.
struct Group(String);

impl Group {
    fn new(name: &str) -> Result<Self> {
        set(
            &format!("{ROOT}/cgroup.subtree_control"),
            "+memory +hugetlb",
        )?;
        let dir = format!("{ROOT}/{name}");
        fs::create_dir_all(&dir)?;
        Ok(Self(dir))
    }

    fn enter(&self) -> Result<()> {
        set(&format!("{}/cgroup.procs", self.0), "0")
    }

    fn set(&self, key: &str, value: u64) -> Result<()> {
        set(&format!("{}/{key}", self.0), &value.to_string())
    }

    fn get(&self, key: &str) -> Result<u64> {
        let path = format!("{}/{key}", self.0);
        let text = fs::read_to_string(&path).context(path)?;
        Ok(text.trim().parse()?)
    }

    /// Huge pages in use and reserved, in bytes.
    fn huge(&self) -> Result<[u64; 2]> {
        Ok([
            self.get("hugetlb.2MB.current")?,
            self.get("hugetlb.2MB.rsvd.current")?,
        ])
    }

    /// Memory in huge pages, in huge pages: other memory is a fraction of one.
    fn memory(&self) -> Result<u64> {
        Ok((self.get("memory.current")? + M2 / 2) / M2)
    }
}

/// Lets huge pages count as memory.
fn count_as_memory() -> Result<()> {
    let option = c"memory_hugetlb_accounting";
    mount_remount(ROOT, MountFlags::empty(), option).context("cgroup2")
}

/// Leaves the group, so that others are not counted.
fn leave() -> Result<()> {
    set(&format!("{ROOT}/cgroup.procs"), "0")
}

pub(super) fn old(old: &mut Old<'_>) -> Result<()> {
    count_as_memory()?;
    POOL.set(4 * PAGES)?;
    let group = Group::new("charged")?;
    group.enter()?;
    for token in 1..=4 {
        let fd = huge_memfd(M2, MemfdFlags::ALLOW_SEALING)?;
        write(&layout(PAGES), &fd, M2)?;
        if token == 1 {
            let want = [PAGES * M2, PAGES * M2];
            old.common.check("charged", same(group.huge()?, want));
            old.common.check("memory", same(group.memory()?, PAGES));
        }
        old.preserve(&fd, token)?;
        if token == 1 {
            let want = [PAGES * M2, PAGES * M2];
            old.common.check("preserved", same(group.huge()?, want));
            old.common
                .check("memory-preserved", same(group.memory()?, PAGES));
        }
    }
    leave()
}

/// Retrieves in a child in a group: the error, if there was one.
fn retrieve_in(
    group: &Group,
    session: &liveupdate::IncomingSession,
    token: u64,
) -> Result<Option<Errno>> {
    let status = in_child(|| {
        // It must be told of the limit instead of being killed for it.
        if set("/proc/self/oom_score_adj", "-1000").is_err() || group.enter().is_err() {
            return 100;
        }
        match session.retrieve(Token(token)) {
            Ok(_) => 0,
            Err(error) => error.errno().map_or(101, |e| e.raw_os_error() as u8),
        }
    })?;
    Ok((status != 0).then(|| Errno::from_raw_os_error(status.into())))
}

/// Fails to retrieve a file in a group that has no room for all of it, twice. How many huge pages went into the
/// file: they wait in it, and the others outside.
fn refuse(
    new: &mut New<'_>,
    session: &liveupdate::IncomingSession,
    token: u64,
    group: &Group,
    errno: Errno,
) -> Result<u64> {
    let before = POOL.state()?;
    for name in ["refused", "refused-again"] {
        let answer = retrieve_in(group, session, token)?;
        new.common
            .check(&format!("{token}.{name}"), same(answer, Some(errno)));
    }
    let kept = POOL.state()?.nr - before.nr;
    new.common.check(
        &format!("{token}.charged"),
        same(group.huge()?, [kept * M2; 2]),
    );
    let want = [before.nr + kept, before.free, 0, 0];
    pool(&mut new.common, &format!("{token}.pool"), POOL, want)?;
    Ok(kept)
}

/// Retrieves, in a group that has room now, a file that was refused, and compares all there is of it.
fn try_again(
    new: &mut New<'_>,
    session: &liveupdate::IncomingSession,
    token: u64,
    group: &Group,
) -> Result<OwnedFd> {
    let answer = retrieve_in(group, session, token)?;
    new.common
        .check(&format!("{token}.retrieved"), same(answer, None));
    let fd = session.retrieve(Token(token))?;
    new.common
        .check(&format!("{token}.content"), layout(PAGES).verify(&fd));
    new.common.check(
        &format!("{token}.all-charged"),
        same(group.huge()?, [PAGES * M2; 2]),
    );
    Ok(fd)
}

pub(super) fn new(new: &mut New<'_>) -> Result<()> {
    count_as_memory()?;
    let session = new.take_session("")?;
    let before = POOL.state()?;
    let (nr, free) = (before.nr, before.free);

    let group = Group::new("charged")?;
    group.enter()?;
    let fd = session.retrieve(Token(1))?;
    leave()?;
    new.common.check("content", layout(PAGES).verify(&fd));
    let want = [PAGES * M2, PAGES * M2];
    new.common.check("charged", same(group.huge()?, want));
    new.common.check("memory", same(group.memory()?, PAGES));
    pool(&mut new.common, "pool", POOL, [nr + PAGES, free, 0, 0])?;

    let full = Group::new("full")?;
    full.set("hugetlb.2MB.max", (PAGES - 1) * M2)?;
    let most = refuse(new, &session, 2, &full, Errno::NOSPC)?;
    new.common.check("limit-kept", same(most, PAGES - 1));
    full.set("hugetlb.2MB.max", PAGES * M2)?;
    let second = try_again(new, &session, 2, &full)?;

    let small = Group::new("small")?;
    small.set("memory.max", PAGES / 2 * M2)?;
    let some = refuse(new, &session, 3, &small, Errno::NOMEM)?;
    let text = format!("{some} huge pages went in");
    new.common
        .check("memory-limit-kept", is(some < PAGES / 2, &text));
    small.set("memory.max", 2 * PAGES * M2)?;
    let third = try_again(new, &session, 3, &small)?;
    new.common.check("memory-all", same(small.memory()?, PAGES));
    pool(
        &mut new.common,
        "pool-all",
        POOL,
        [nr + 3 * PAGES, free, 0, 0],
    )?;

    // Nobody tries again.
    let half = Group::new("half")?;
    half.set("hugetlb.2MB.max", PAGES / 2 * M2)?;
    let waiting = refuse(new, &session, 4, &half, Errno::NOSPC)?;
    let bytes = mem_free()?;
    session.finish().map_err(liveupdate::Error::from)?;
    let memory = given_back(bytes, (PAGES - waiting) * M2, M2 / 2)?;
    new.common.check("4.memory", memory);
    new.common.check("4.uncharged", same(half.huge()?, [0, 0]));
    let (nr, free) = (nr + waiting, free + waiting);
    pool(
        &mut new.common,
        "pool-finished",
        POOL,
        [nr + 3 * PAGES, free, 0, 0],
    )?;

    new.common.check("finished", same(group.huge()?, want));
    new.common
        .check("memory-finished", same(group.memory()?, PAGES));
    drop((fd, second, third));
    for (name, group) in [("closed", group), ("2.closed", full), ("3.closed", small)] {
        new.common.check(name, same(group.huge()?, [0, 0]));
        new.common
            .check(&format!("{name}-memory"), same(group.memory()?, 0));
    }
    pool(
        &mut new.common,
        "pool-closed",
        POOL,
        [nr + 3 * PAGES, free + 3 * PAGES, 0, 0],
    )?;
    Ok(())
}

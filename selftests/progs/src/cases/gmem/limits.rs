// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Limits: of the format, of memory control groups, and of a kernel that cannot run VMs.

use super::update::MANY;
use crate::{
    cases::limits::limited,
    expect::{
        is,
        refused,
        same, //
    },
    gmem::{
        allocate,
        fill,
        resident,
        verify,
        Vm,
        DEFAULT,
        SHARED, //
    },
    memory::{
        page,
        Map, //
    },
    run::{
        New,
        Old, //
    },
    sys::{
        in_child,
        set, //
    }, //
};
use anyhow::Result;
use liveupdate::Token;
use rustix::{
    io::Errno,
    mm::{
        mlockall,
        MlockAllFlags, //
    }, //
};
use std::fs;

/// Files of as many pages cannot be described.
const TOO_MANY: u64 = 1 << 32;

pub(super) fn size_old(old: &mut Old<'_>) -> Result<()> {
    let vm = Vm::new(DEFAULT)?;
    let too_large = vm.memory(TOO_MANY * page(), SHARED)?;
    allocate(&too_large, 0..1)?;
    let result = old.session()?.preserve(&too_large, Token(2));
    old.common
        .check("too-large", refused(result, &[Errno::FBIG]));
    let thawed = allocate(&too_large, 1..2);
    old.common
        .check("not-frozen", is(thawed.is_ok(), "the file is frozen"));

    let memory = vm.memory((TOO_MANY - 1) * page(), SHARED)?;
    let map = Map::new(&memory, 16 * page(), true)?;
    fill(&map, 0..16);
    allocate(&memory, TOO_MANY - 2..TOO_MANY - 1)?;
    old.preserve(&memory, 1)
}

pub(super) fn size_new(new: &mut New<'_>) -> Result<()> {
    let memory = new.retrieve(1)?;
    let map = Map::new(&memory, (TOO_MANY - 1) * page(), true)?;
    new.common.check("content", verify(&map, 0..16, false));
    let last = resident(&map, 17)?;
    new.common.check(
        "holes",
        same(last.iter().filter(|there| **there).count(), 16),
    );
    let end = verify(&map, TOO_MANY - 2..TOO_MANY - 1, true);
    new.common.check("end", end);
    Ok(())
}

pub(super) fn memcg_new(new: &mut New<'_>) -> Result<()> {
    let session = new.take_session("")?;
    let group = match limited(MANY * page() / 2)? {
        Ok(group) => group,
        Err(why) => {
            new.common.skip("all", &why);
            return Ok(());
        }
    };
    let limit = fs::File::options()
        .write(true)
        .open(format!("{group}/memory.max"))?;
    // As likely to be killed for the limit as anybody.
    let status = in_child(|| {
        if set(&format!("{group}/cgroup.procs"), "0").is_err() {
            return 100;
        }
        // What is charged between the retrieve and the end of the limit could get somebody killed: a page
        // of this program, for one, or a file that is opened.
        if mlockall(MlockAllFlags::CURRENT).is_err() {
            return 104;
        }
        let memory = match session.retrieve(Token(1)) {
            Ok(memory) => memory,
            Err(error) => return error.errno().map_or(101, |e| e.raw_os_error() as u8),
        };
        if rustix::io::write(&limit, b"max").is_err() {
            return 103;
        }
        match Map::new(&memory, MANY * page(), false).map(|map| verify(&map, 0..MANY, false)) {
            Ok(Ok(())) => 0,
            _ => 102,
        }
    })?;
    new.common.check("retrieved", same(status, 0));
    let events = fs::read_to_string(format!("{group}/memory.events"))?;
    let killed = events
        .lines()
        .find_map(|line| line.strip_prefix("oom_kill "));
    new.common.check("nobody-killed", same(killed, Some("0")));
    let max = events.lines().find_map(|line| line.strip_prefix("max "));
    new.common
        .check("beyond", is(max != Some("0"), "the limit was not reached"));
    session.finish().map_err(liveupdate::Error::from)?;
    Ok(())
}

pub(super) fn no_kvm_new(new: &mut New<'_>) -> Result<()> {
    let result = new.session()?.retrieve(Token(1));
    new.common.check(
        "refused",
        is(result.is_err(), "there is a file without KVM"),
    );
    let again = new.session()?.retrieve(Token(1));
    new.common
        .check("again", is(again.is_err(), "there is a file without KVM"));
    Ok(())
}

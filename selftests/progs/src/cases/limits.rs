// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Memory limits of control groups, and memory of several nodes.

use super::Case;
use crate::{
    expect::{
        is,
        refused,
        same,
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
        answer,
        given_back,
        in_child,
        mem_free,
        set,
        slack, //
    }, //
};
use anyhow::{
    Context,
    Result, //
};
use liveupdate::Token;
use rustix::{
    io::Errno,
    mount::{
        mount,
        MountFlags, //
    }, //
};
use std::{
    fs,
    path::Path, //
};

pub(super) const CASES: &[Case] = &[
    Case::update(
        "memcg",
        "A retrieve beyond the memory limit of its caller fails alone, and finish gives the memory back",
        memcg_old,
        memcg_new,
    ),
    Case::update(
        "numa",
        "Files on two nodes come back with their content on the nodes where they were",
        numa_old,
        numa_new,
    )
    .on_request(),
];

const SIZE: u64 = 32 << 20;

fn memcg_old(old: &mut Old<'_>) -> Result<()> {
    for token in 1..=2 {
        let fd = memfd("memcg")?;
        Layout::full(token, SIZE).write(&fd)?;
        old.preserve(&fd, token)?;
    }
    Ok(())
}

/// A control group with a memory limit; the reason if there are none.
pub(super) fn limited(bytes: u64) -> Result<std::result::Result<String, String>> {
    let root = "/sys/fs/cgroup";
    if !Path::new(root).join("cgroup.controllers").exists() {
        if let Err(error) = mount("none", root, "cgroup2", MountFlags::empty(), None) {
            return Ok(Err(format!("cgroup2 cannot be mounted: {error}")));
        }
    }
    let controllers = fs::read_to_string(format!("{root}/cgroup.controllers"))?;
    if !controllers.split_whitespace().any(|c| c == "memory") {
        return Ok(Err("the kernel has no memory control groups".into()));
    }
    set(&format!("{root}/cgroup.subtree_control"), "+memory")?;
    let group = format!("{root}/limited");
    fs::create_dir_all(&group)?;
    set(&format!("{group}/memory.max"), &bytes.to_string())?;
    Ok(Ok(group))
}

fn memcg_new(new: &mut New<'_>) -> Result<()> {
    let session = new.take_session("")?;
    let group = match limited(SIZE / 2)? {
        Ok(group) => group,
        Err(why) => {
            new.common.skip("all", &why);
            return Ok(());
        }
    };
    let before = mem_free()?;
    let status = in_child(|| {
        let enter = || -> Result<()> {
            // It must be told of the limit instead of being killed for it.
            set("/proc/self/oom_score_adj", "-1000")?;
            set(&format!("{group}/cgroup.procs"), "0")
        };
        if enter().is_err() {
            return 100;
        }
        match session.retrieve(Token(1)) {
            Ok(_) => 0,
            Err(error) => error.errno().map_or(101, |e| e.raw_os_error() as u8),
        }
    })?;
    let answer = Errno::from_raw_os_error(status.into());
    new.common.check("refused", same(answer, Errno::NOMEM));
    let again = refused(session.retrieve(Token(1)), &[Errno::NOMEM]);
    new.common.check("stays-refused", again);
    let other = session.retrieve(Token(2));
    let other = other
        .map_err(|e| e.to_string())
        .and_then(|fd| Layout::full(2, SIZE).verify(fd));
    new.common.check("other-file-works", other);
    let finished = session.finish().map_err(|e| e.to_string());
    new.common.check("finish", finished);
    let memory = given_back(before, 2 * SIZE, slack(3 << 20))?;
    new.common.check("memory", memory);
    Ok(())
}

/// The node that this thread's new pages come from; -1 for the default.
fn prefer(node: i32) -> Result<()> {
    const MPOL_DEFAULT: libc::c_int = 0;
    const MPOL_BIND: libc::c_int = 2;
    let mask: libc::c_ulong = if node < 0 { 0 } else { 1 << node };
    // One more than the mask has bits: the kernel subtracts it.
    let (mode, bits) = if node < 0 {
        (MPOL_DEFAULT, 1)
    } else {
        (MPOL_BIND, 65)
    };
    // SAFETY: The mask is valid for the call and has as many bits as the kernel reads.
    let status = unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, &raw const mask, bits) };
    answer(status).context("set_mempolicy")
}

/// The node of each page of a file.
fn nodes(map: &Map, pages: u64) -> Result<Vec<i32>> {
    map.touch();
    let addresses: Vec<usize> = (0..pages)
        .map(|i| map.address() + (i * page()) as usize)
        .collect();
    let mut nodes: Vec<libc::c_int> = vec![-1; addresses.len()];
    // SAFETY: Both arrays have as many elements as are announced; nothing is moved.
    let status = unsafe {
        libc::syscall(
            libc::SYS_move_pages,
            0,
            addresses.len(),
            addresses.as_ptr(),
            std::ptr::null::<libc::c_int>(),
            nodes.as_mut_ptr(),
            0,
        )
    };
    answer(status).context("move_pages")?;
    Ok(nodes)
}

const NUMA_PAGES: u64 = 4096;

fn numa_layout(node: u64) -> Layout {
    Layout::full(0x20de + node, NUMA_PAGES * page())
}

fn numa_check(map: &Map, node: i32) -> Result<Check> {
    let nodes = nodes(map, NUMA_PAGES)?;
    let elsewhere = nodes.iter().filter(|n| **n != node).count();
    Ok(is(
        elsewhere == 0,
        &format!("{elsewhere} of {NUMA_PAGES} pages are not on node {node}"),
    ))
}

fn numa_old(old: &mut Old<'_>) -> Result<()> {
    if !Path::new("/sys/devices/system/node/node1").exists() {
        return old.common.skip_all("the machine has one memory node");
    }
    for node in 0..2 {
        let fd = memfd("numa")?;
        let layout = numa_layout(node);
        prefer(node as i32)?;
        let written = layout.write(&fd);
        prefer(-1)?;
        written?;
        old.preserve(&fd, node)?;
        old.note_pages(&fd, layout.size, node)?;
        // After preserve: pinning may have moved pages.
        let map = Map::new(&fd, layout.size, false)?;
        old.common.check(
            &format!("{node}.made-there"),
            numa_check(&map, node as i32)?,
        );
    }
    Ok(())
}

fn numa_new(new: &mut New<'_>) -> Result<()> {
    for node in 0..2 {
        let layout = numa_layout(node);
        let fd = new.retrieve(node)?;
        new.common
            .check(&format!("{node}.content"), layout.verify(&fd));
        let pages = new.same_pages(&fd, layout.size, node);
        new.common.check(&format!("{node}.same-pages"), pages);
        let map = Map::new(&fd, layout.size, false)?;
        new.common.check(
            &format!("{node}.still-there"),
            numa_check(&map, node as i32)?,
        );
    }
    Ok(())
}

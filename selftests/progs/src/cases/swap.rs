// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Pages that are swapped out when their file is preserved.

use super::Case;
use crate::{
    expect::is,
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
    sys::set, //
};
use anyhow::{
    ensure,
    Context,
    Result, //
};
use rustix::mm::Advice;
use std::{
    fs,
    io,
    path::Path, //
};

pub(super) const CASES: &[Case] = &[Case::update(
    "swap",
    "Pages that were swapped out when the file was preserved come back",
    swap_old,
    swap_new,
)];

fn layout() -> Layout {
    Layout::every(0x5a4b, 8 << 20, 0, 16 * page(), 11 * page())
}

/// `swapon` flags and the signature `mkswap` writes.
const SIGNATURE: &[u8] = b"SWAPSPACE2";

/// Makes a compressed swap device; false if the kernel has none.
pub(super) fn swap_on() -> Result<bool> {
    let device = "/dev/zram0";
    if !Path::new(device).exists() {
        return Ok(false);
    }
    let size: u64 = 64 << 20;
    set("/sys/block/zram0/disksize", &size.to_string())?;
    let mut header = vec![0; page() as usize];
    // version, last page, number of bad pages
    for (at, value) in [(1024, 1), (1028, (size / page() - 1) as u32), (1032, 0)] {
        header[at..at + 4].copy_from_slice(&u32::to_le_bytes(value));
    }
    let end = header.len();
    header[end - SIGNATURE.len()..].copy_from_slice(SIGNATURE);
    fs::write(device, header)?;
    // SAFETY: The path is a string that ends with a NUL and outlives the call.
    let status = unsafe { libc::syscall(libc::SYS_swapon, c"/dev/zram0".as_ptr(), 0) };
    ensure!(status == 0, "swapon: {}", io::Error::last_os_error());
    Ok(true)
}

pub(super) fn swapped(name: &str) -> Result<u64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let line = text.lines().find_map(|l| l.strip_prefix(name));
    let kib = line
        .and_then(|l| l.split_whitespace().next())
        .context("no swap in /proc/meminfo")?;
    Ok(kib.parse::<u64>()? << 10)
}

fn swap_old(old: &mut Old<'_>) -> Result<()> {
    if !swap_on()? {
        return old.common.skip_all("the kernel has no zram to swap to");
    }
    let fd = memfd("swap")?;
    layout().write(&fd)?;
    let map = Map::new(&fd, layout().size, true)?;
    map.touch();
    map.advise(Advice::LinuxPageOut)?;
    let out = swapped("SwapTotal:")? - swapped("SwapFree:")?;
    old.common.check(
        "swapped-out",
        is(out > 1 << 20, &format!("only {out} bytes are")),
    );
    old.preserve(&fd, 1)?;
    let left = swapped("SwapTotal:")? - swapped("SwapFree:")?;
    old.common.note("left", &left.to_string())
}

fn swap_new(new: &mut New<'_>) -> Result<()> {
    let fd = new.retrieve(1)?;
    new.common.check("content", layout().verify(&fd));
    Ok(())
}

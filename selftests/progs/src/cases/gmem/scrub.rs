// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What a guest wrote into private memory, and what is left of that.

use super::PAGES;
use crate::{
    expect::{
        is,
        same, //
    },
    gmem::{
        Vm,
        SW_PROTECTED, //
    },
    guest::{
        Guest,
        Stop, //
    },
    memory::page,
    run::{
        New,
        Old, //
    }, //
};
use anyhow::{
    Context,
    Result, //
};
use std::{
    fs::File,
    os::unix::fs::FileExt, //
};

/// The first word of the page that [`WRITE`] fills.
const FIRST: u16 = 0x1d2b;
/// `mov di, 0x8000; mov ax, FIRST; mov bx, 0x6255` and, up to the end of the page, `mov [di], ax; mul bx;
/// add ax, 0x3619; add di, 2; cmp di, 0x9000; jne`; `hlt`.
const WRITE: &[u8] = &[
    0xbf, 0x00, 0x80, 0xb8, 0x2b, 0x1d, 0xbb, 0x55, 0x62, // once
    0x89, 0x05, 0xf7, 0xe3, 0x05, 0x19, 0x36, 0x83, 0xc7, 0x02, 0x81, 0xff, 0x00, 0x90, 0x75, 0xf0,
    0xf4,
];

/// Whether a page is what [`WRITE`] makes of one.
///
/// Each word follows from the one before, so that nothing else in memory looks like it.
fn is_written(page: &[u8]) -> bool {
    let mut expected = FIRST;
    page.chunks_exact(2).all(|word| {
        let right = word == expected.to_le_bytes();
        expected = expected.wrapping_mul(0x6255).wrapping_add(0x3619);
        right
    })
}

/// How many pages of the machine's memory are as the guest wrote them.
fn written_pages() -> Result<usize> {
    const HEADER: usize = 64;
    const SEGMENT: usize = 56;

    let core = File::open("/proc/kcore").context("/proc/kcore")?;
    let mut headers = [0; 4096];
    let len = core.read_at(&mut headers, 0)?;
    let number = |at: usize| -> u64 {
        let bytes = headers.get(at..at + 8).unwrap_or(&[0; 8]);
        u64::from_le_bytes(bytes.try_into().unwrap_or_default())
    };
    let segments = (HEADER..len)
        .step_by(SEGMENT)
        .take((number(56) & 0xffff) as usize);
    let mut buffer = vec![0; 1 << 20];
    let mut found = 0;
    let mut seen = 0;
    for at in segments {
        // PT_LOAD, of memory that has a physical address.
        if number(at) & 0xffff_ffff != 1 || number(at + 24) == u64::MAX {
            continue;
        }
        let (start, len) = (number(at + 8), number(at + 32));
        let mut done = 0;
        while done < len {
            let part = (len - done).min(buffer.len() as u64) as usize;
            let read = core.read_at(&mut buffer[..part], start + done)?;
            if read == 0 {
                break;
            }
            let pages = buffer[..read].chunks_exact(page() as usize);
            found += pages.filter(|page| is_written(page)).count();
            done += read as u64;
        }
        seen += done;
    }
    // What was read is not to be found again.
    buffer.fill(0);
    std::hint::black_box(&buffer);
    anyhow::ensure!(seen > 256 << 20, "/proc/kcore shows {seen} bytes only");
    Ok(found)
}

pub(super) fn scrub_old(old: &mut Old<'_>) -> Result<()> {
    let vm = Vm::new(SW_PROTECTED)?;
    let memory = vm.memory(PAGES * page(), 0)?;
    let stop = Guest::private(&vm, &memory, PAGES, 8, WRITE)?.run()?;
    old.common.check("wrote", same(stop, Stop::Halt));
    old.preserve(&memory, 1)
}

pub(super) fn scrub_new(new: &mut New<'_>) -> Result<()> {
    new.session()?;
    let waiting = written_pages()?;
    new.common
        .check("waits", is(waiting != 0, "the page is not in memory"));
    new.finish()?;
    let left = written_pages()?;
    new.common.check("scrubbed", same(left, 0));
    Ok(())
}

// SPDX-License-Identifier: GPL-2.0-only OR BSD-3-Clause

//! Fuzzes the walk through a hand-over: it must end, and must not count any page twice.
//!
//! Input: changes of a good hand-over with files of all formats, each a page (one byte, in the order of
//! their addresses), a word in it (two bytes), whether it becomes the address of a page (bit 0 of one byte) and
//! is near the beginning (bit 1), and the value, or that page (eight bytes).

#![no_main]

use kho_fuzz::{
    walk::{
        image::{
            Image,
            PAGE, //
        },
        walk,
        Report, //
    },
    Input, //
};
use libfuzzer_sys::fuzz_target;
use std::sync::OnceLock;

/// The pages that are told, one by one.
fn told(report: &Report) -> u64 {
    let mut pages = u64::from(report.root.is_some());
    for subtree in &report.subtrees {
        pages += subtree.pages;
    }
    if let Some(luo) = &report.luo {
        pages += luo.pages + luo.shared.iter().map(|state| state.pages).sum::<u64>();
        for session in &luo.sessions {
            let files = session.files.iter();
            pages += session.pages + files.map(|file| file.pages + file.list_pages).sum::<u64>();
        }
    }
    pages
}

fuzz_target!(|data: &[u8]| {
    static GOOD: OnceLock<Image> = OnceLock::new();
    let mut image = GOOD.get_or_init(Image::full).clone();
    let pages: Vec<u64> = image.pages.keys().copied().collect();
    let mut input = Input(data);
    while !input.is_empty() {
        let page = pages[usize::from(input.u8()) % pages.len()];
        let (at, flags) = (input.u16(), input.u8());
        let words = if flags & 2 == 2 { 24 } else { 512 };
        let at = usize::from(at % words) * 8;
        let is_address = flags & 1 == 1;
        let value = match (is_address, input.u64()) {
            (true, nr) => pages[(nr % pages.len() as u64) as usize] << 12,
            (false, value) => value,
        };
        let bytes = image.pages.get_mut(&page).expect("it is one of them");
        bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
    }
    let fdt = image.fdt.clone();
    if let Ok(report) = walk(&fdt, &mut image, PAGE) {
        // A list that turns out to be wrong may have been told in part.
        assert!(told(&report) <= report.pages - report.unreferenced.pages);
        let is_good = data.is_empty();
        assert!(!is_good || report.is_complete());
    }
});

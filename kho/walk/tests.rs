// SPDX-License-Identifier: GPL-2.0-only OR BSD-3-Clause

use super::{
    image::{
        Image,
        PAGE, //
    },
    *,
};
use std::format;

fn report(image: &Image) -> Report {
    let mut image = image.clone();
    let fdt = image.fdt.clone();
    walk(&fdt, &mut image, PAGE).unwrap()
}

#[test]
fn every_page_of_a_good_hand_over_is_accounted_for() {
    let report = report(&Image::full());
    assert_eq!(report.problems, []);
    assert!(report.is_complete());
    let luo = report.luo.unwrap();
    assert_eq!((luo.liveupdates, luo.pages), (7, 2));
    let names: Vec<_> = luo.sessions.iter().map(|s| s.name.as_str()).collect();
    assert_eq!(names, ["vm-a", "vm-b", "vm-c", "vm-d", "vm-e"]);
    let files: Vec<_> = luo.sessions.iter().flat_map(|s| &s.files).collect();
    let pages: Vec<_> = files.iter().map(|f| (f.pages, f.list_pages)).collect();
    let memory = [(3, 3), (8, 3), (3 * 512, 3), (3, 3), (0, 1)];
    assert_eq!(pages, [&memory[..], &[(0, 3), (3, 5)]].concat());
    let says: Vec<_> = files.iter().filter_map(|f| f.says.as_deref()).collect();
    assert_eq!(
        says,
        [
            "PCI device 0000:01:01.0 (8086:10c9)",
            "page table with 1 area for 0000:01:01.0"
        ]
    );
    let shared: u64 = luo.shared.iter().map(|flb| flb.pages).sum();
    assert_eq!(shared, 8 + 4 + 2);
    // Blocks of files, the page of LUO and that of the root.
    let lists: u64 = luo.sessions.iter().map(|s| s.pages).sum();
    assert_eq!(lists, 5);
    let all: u64 = pages.iter().map(|(pages, lists)| pages + lists).sum();
    assert_eq!(report.pages, all + lists + shared + luo.pages + 1 + 1);
    let orders: Vec<_> = report.orders.iter().map(|o| (o.order, o.count)).collect();
    assert_eq!(orders, [(0, 43), (1, 1), (2, 2), (3, 1), (9, 3)]);
}

#[test]
fn what_nothing_refers_to_is_told() {
    let mut image = Image::default();
    image.preserved.insert((0x3_0000, 4));
    image.sessions(&[]);
    let report = report(&image);
    assert_eq!(report.problems, []);
    assert!(!report.is_complete() && report.is_without_sessions());
    assert_eq!(report.unreferenced.pages, 16);
    let piece = Piece {
        address: 0x3000_0000,
        pages: 16,
    };
    assert_eq!(report.unreferenced.examples, [piece]);
}

/// What is complained about once something was done to the image.
fn complaint(image: &Image) -> String {
    let report = report(image);
    assert!(!report.is_complete());
    let [problem] = &report.problems[..] else {
        panic!("{:?}", report.problems);
    };
    format!("{}: {}", problem.place, problem.what)
}

#[test]
fn each_kind_of_damage_is_told_where_it_is() {
    let mut image = Image::default();
    let file = image.memfd(&[0x7_0001]);
    image.preserved.remove(&(0x7_0001, 0));
    image.sessions(&[&[file]]);
    let text = "session vm-a, file 0: page is not preserved, or is used twice";
    assert_eq!(complaint(&image), text);

    let mut image = Image::default();
    let file = image.run();
    image.sessions(&[&[file, file]]);
    assert!(complaint(&image).contains("file 1: memory at"));

    let mut image = Image::default();
    let (name, _) = image.run();
    image.sessions(&[&[(name, 0x100_0000)]]);
    assert!(complaint(&image).contains("not preserved"));

    let mut image = Image::default();
    let (_, data) = image.run();
    image.sessions(&[&[(c"rs-memfd-v9", data)]]);
    assert!(complaint(&image).contains("version"));

    let mut image = Image::default();
    let (name, data) = image.huge();
    image.pages.get_mut(&(data >> 12)).unwrap()[20] ^= 1;
    image.sessions(&[&[(name, data)]]);
    assert_eq!(complaint(&image), "session vm-a, file 0: wrong checksum");

    let mut image = Image::default();
    let (table, data) = image.page_table();
    // The first page of the page table comes first of all.
    let first = image.pages.keys().next().copied().unwrap();
    image.preserved.remove(&(first, 0));
    image.sessions(&[&[(table, data)]]);
    let text = "session vm-a, file 0: what it refers to at 0x1001000 is not preserved";
    assert_eq!(complaint(&image), text);

    let mut image = Image::default();
    image.running();
    image.preserved.remove(&(0xa_0000, 3));
    image.sessions(&[]);
    assert!(complaint(&image).starts_with("state pci-running-v1: what it refers to"));

    let mut image = Image::default();
    let file = image.run();
    image.preserved.insert((0x8_0005, 0));
    image.sessions(&[&[file]]);
    assert!(complaint(&image).contains("more than once"));
}

#[test]
fn a_root_that_is_not_that_of_the_tree_is_noticed() {
    let mut image = Image::default();
    image.sessions(&[]);
    image.fdt[60] ^= 1;
    let mut memory = image.clone();
    let report = walk(&image.fdt, &mut memory, PAGE);
    if let Ok(report) = report {
        assert!(!report.problems.is_empty());
    }
}

#[test]
fn a_tree_that_comes_back_to_itself_is_refused() {
    let mut image = Image::default();
    image.sessions(&[]);
    let map = crate::abi::root::Root::parse(&image.fdt)
        .unwrap()
        .memory_map;
    let root = image.pages.get_mut(&(map >> 12)).unwrap();
    let below = root.chunks(8).position(|word| word != [0; 8]).unwrap();
    root[below * 8..][..8].copy_from_slice(&map.to_le_bytes());
    let fdt = image.fdt.clone();
    assert!(walk(&fdt, &mut image, PAGE).is_err());
}

/// Whatever one word is changed to: no panic, and nothing is taken twice.
#[test]
fn any_damaged_word_is_survived() {
    let good = Image::full();
    for page in good.pages.keys() {
        let words = good.pages[page].chunks(8).enumerate();
        for (at, word) in words.filter(|(_, word)| *word != [0; 8]) {
            let word = u64::from_le_bytes(word.try_into().unwrap());
            for bad in [0, 1, word ^ 1, word + 4096, word << 8, page << 12, u64::MAX] {
                let mut image = good.clone();
                let bytes = &mut image.pages.get_mut(page).unwrap()[at * 8..];
                bytes[..8].copy_from_slice(&bad.to_le_bytes());
                let fdt = image.fdt.clone();
                if let Ok(report) = walk(&fdt, &mut image, PAGE) {
                    assert!(report.orders.iter().all(|o| o.referenced <= o.count));
                }
            }
        }
    }
}

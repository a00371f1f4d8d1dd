// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A hand-over as a tree for people.

use kho::walk::{
    File,
    Luo,
    Report, //
};

use super::Direction;
use crate::output::human;

/// A line, and those below it.
struct Node {
    line: String,
    below: Vec<Node>,
}

impl Node {
    fn leaf(line: String) -> Self {
        let below = Vec::new();
        Self { line, below }
    }

    fn write(&self, out: &mut String, indent: &str) {
        for (node, left) in self.below.iter().zip((0..self.below.len()).rev()) {
            let (mark, more) = match left {
                0 => ("`-- ", "    "),
                _ => ("|-- ", "|   "),
            };
            *out += &format!("{indent}{mark}{}\n", node.line);
            node.write(out, &format!("{indent}{more}"));
        }
    }
}

/// A number of things.
fn count(number: u64, one: &str) -> String {
    match number {
        1 => format!("1 {one}"),
        _ => format!("{number} {one}s"),
    }
}

pub(super) fn tree(direction: Direction, report: &Report) -> String {
    let size = |pages: u64| human(pages.saturating_mul(report.page_size));
    let mut root = Node::leaf(format!(
        "{} ({}): {} in {}",
        match direction {
            Direction::In => "Handed over to this kernel",
            Direction::Out => "Going to be handed over",
        },
        report.kho,
        size(report.pages),
        count(report.pages, "preserved page")
    ));
    let orders = report.orders.iter().map(|order| {
        let pieces = count(order.count, "piece");
        Node::leaf(format!("{pieces} of {}", human(order.size)))
    });
    root.below.push(Node {
        line: format!(
            "preserved memory, in a tree of {} that are not in it",
            count(report.tree_pages, "page")
        ),
        below: orders.collect(),
    });
    root.below.push(Node::leaf(match report.root {
        Some(_) => "root: 1 page".into(),
        None => "root: not found in preserved memory".into(),
    }));
    for subtree in &report.subtrees {
        let mut line = format!(
            "{}: {}, {}",
            subtree.name.escape_debug(),
            human(subtree.bytes),
            count(subtree.pages, "page")
        );
        if let Some(says) = &subtree.says {
            line += &format!("; {}", says.escape_debug());
        }
        let mut node = Node::leaf(line);
        if let (Some(luo), "LUO") = (&report.luo, subtree.name.as_str()) {
            node.line += &format!(
                "; {}, live update {}, {} of lists",
                luo.version.escape_debug(),
                luo.liveupdates,
                count(luo.pages, "page")
            );
            node.below = sessions(direction, luo);
        }
        root.below.push(node);
    }
    let left = &report.unreferenced;
    let examples = left.examples.iter().map(|piece| {
        Node::leaf(format!(
            "{} at {:#x}",
            count(piece.pages, "page"),
            piece.address
        ))
    });
    root.below.push(Node {
        line: match (left.pages, direction) {
            (0, _) => "nothing else: every page is accounted for".into(),
            (pages, Direction::In) => {
                format!(
                    "nothing refers to {}: {}",
                    count(pages, "page"),
                    size(pages)
                )
            }
            (pages, Direction::Out) => format!(
                "nothing refers to {} yet: {}; files are listed when this kernel is left",
                count(pages, "page"),
                size(pages)
            ),
        },
        below: examples.collect(),
    });

    let mut out = format!("{}\n", root.line);
    root.write(&mut out, "");
    for problem in &report.problems {
        let (place, what) = (problem.place.escape_debug(), &problem.what);
        out += &format!("WRONG: {place}: {what}\n");
    }
    if report.more_problems > 0 {
        out += &format!("WRONG: {} more\n", count(report.more_problems, "thing"));
    }
    out
}

fn sessions(direction: Direction, luo: &Luo) -> Vec<Node> {
    let mut nodes = Vec::new();
    for session in &luo.sessions {
        nodes.push(Node {
            line: format!(
                "session {}: {}, {} of lists",
                session.name.escape_debug(),
                count(session.files.len() as u64, "file"),
                count(session.pages, "page")
            ),
            below: session.files.iter().map(file).collect(),
        });
    }
    if nodes.is_empty() {
        nodes.push(Node::leaf(match direction {
            Direction::In => "no sessions: there were none, or /dev/liveupdate was opened".into(),
            Direction::Out => "no sessions yet".into(),
        }));
    }
    for shared in &luo.shared {
        let files = count(shared.files, "file");
        let name = shared.compatible.escape_debug();
        let pages = match shared.pages {
            0 => String::new(),
            pages => format!(", {}", count(pages, "page")),
        };
        nodes.push(Node::leaf(format!(
            "state {name}, shared by {files}{pages}"
        )));
    }
    nodes
}

fn file(file: &File) -> Node {
    let name = file.compatible.escape_debug();
    if file.header.is_none() {
        return Node::leaf(format!(
            "file {}: {name}, a format that is not known",
            file.token
        ));
    }
    let is = match (&file.says, file.bytes) {
        (Some(says), _) => says.escape_debug().to_string(),
        (None, Some(bytes)) => human(bytes),
        (None, None) => "damaged".into(),
    };
    Node::leaf(format!(
        "file {}: {name}, {is}, {} in {}, {} of lists{}",
        file.token,
        count(file.pages, "page"),
        count(file.records, "record"),
        count(file.list_pages, "page"),
        match file.checksums {
            true => "",
            false => ", without checksums",
        }
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use kho::walk::{
        Order,
        Piece,
        Problem,
        Session,
        Subtree,
        Unreferenced, //
    };

    #[test]
    fn the_tree_is_readable() {
        let card = File {
            compatible: "rs-vfio-pci-v1".into(),
            token: 8,
            header: Some(0x4000),
            bytes: None,
            records: 64,
            pages: 0,
            list_pages: 6,
            says: Some("PCI device 0000:01:00.0 (8086:10c9)".into()),
            checksums: true,
        };
        let damaged = File {
            token: 9,
            records: 0,
            list_pages: 1,
            says: None,
            ..card.clone()
        };
        let file = File {
            compatible: "rs-memfd-v1".into(),
            token: 7,
            header: Some(0x1000),
            bytes: Some(6 << 20),
            records: 1,
            pages: 1536,
            list_pages: 3,
            says: None,
            checksums: true,
        };
        let report = Report {
            kho: "kho-v4".into(),
            page_size: 4096,
            root: Some(0x2000),
            tree_pages: 9,
            pages: 1543,
            orders: vec![Order {
                order: 0,
                size: 4096,
                count: 1543,
                referenced: 1542,
            }],
            subtrees: vec![Subtree {
                name: "LUO".into(),
                address: 0x3000,
                bytes: 32,
                pages: 1,
                says: None,
            }],
            luo: Some(Luo {
                version: "luo-v5".into(),
                liveupdates: 2,
                pages: 2,
                sessions: vec![Session {
                    name: "vm\n7".into(),
                    pages: 1,
                    files: vec![file, card, damaged],
                }],
                shared: vec![],
            }),
            unreferenced: Unreferenced {
                pages: 1,
                examples: vec![Piece {
                    address: 0x5000,
                    pages: 1,
                }],
            },
            problems: vec![Problem {
                place: "session vm\n7".into(),
                what: "wrong checksum".into(),
            }],
            more_problems: 3,
        };
        let expected = "\
Handed over to this kernel (kho-v4): 6.0 MiB in 1543 preserved pages
|-- preserved memory, in a tree of 9 pages that are not in it
|   `-- 1543 pieces of 4.0 KiB
|-- root: 1 page
|-- LUO: 32 B, 1 page; luo-v5, live update 2, 2 pages of lists
|   `-- session vm\\n7: 3 files, 1 page of lists
|       |-- file 7: rs-memfd-v1, 6.0 MiB, 1536 pages in 1 record, 3 pages of lists
|       |-- file 8: rs-vfio-pci-v1, PCI device 0000:01:00.0 (8086:10c9), 0 pages in 64 records, 6 pages of lists
|       `-- file 9: rs-vfio-pci-v1, damaged, 0 pages in 0 records, 1 page of lists
`-- nothing refers to 1 page: 4.0 KiB
    `-- 1 page at 0x5000
WRONG: session vm\\n7: wrong checksum
WRONG: 3 things more
";
        assert_eq!(tree(Direction::In, &report), expected);
    }
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Whether a kernel can be loaded: all of it goes to the scratch areas, which were set aside at the first boot.
//!
//! `kexec_file_load()` takes the first place that it finds, in the order of the areas, and never moves what it
//! has placed. So that a verdict is right, the same is done here (`kernel/kexec_file.c`,
//! `arch/x86/kernel/kexec-bzimage64.c`, `arch/arm64/kernel/{kexec_image,machine_kexec_file}.c` of Linux 7.3).

use super::image::{
    Image,
    Placement, //
};

const PAGE: u64 = 4096;
/// What goes beside kernel and initrd and is not known here: command line, what the kernel is told of the
/// machine, code that starts it. Less than this.
const EXTRA: u64 = 1 << 20;
/// How far above the kernel arm64 looks for its initrd, from the GiB on that the kernel is in.
const WINDOW: u64 = 32 << 30;

/// A piece of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Area {
    pub(crate) start: u64,
    pub(crate) len: u64,
}

impl Area {
    fn end(self) -> u64 {
        self.start.saturating_add(self.len)
    }
}

/// Something to place.
#[derive(Clone, Copy)]
struct Piece {
    len: u64,
    align: u64,
    min: u64,
    max: u64,
}

impl Piece {
    fn new(len: u64, align: u64, min: u64) -> Self {
        let len = len.checked_next_multiple_of(PAGE).unwrap_or(u64::MAX);
        let (align, max) = (align.max(PAGE), u64::MAX);
        Self {
            len,
            align,
            min,
            max,
        }
    }
}

/// The areas, and what is placed there.
struct Room<'a> {
    areas: &'a [Area],
    placed: Vec<Area>,
}

impl Room<'_> {
    /// What is in the way of a piece.
    fn conflict(&self, start: u64, len: u64) -> Option<Area> {
        let end = start.saturating_add(len);
        let mut placed = self.placed.iter().copied();
        placed.find(|other| start < other.end() && other.start < end)
    }

    /// The lowest place of an area.
    fn lowest(&self, area: Area, piece: Piece) -> Option<u64> {
        let end = area.end().min(piece.max);
        let mut start = area.start.max(piece.min);
        loop {
            start = start.checked_next_multiple_of(piece.align)?;
            if start.checked_add(piece.len)? > end {
                return None;
            }
            match self.conflict(start, piece.len) {
                Some(other) => start = other.end(),
                None => return Some(start),
            }
        }
    }

    /// The highest one.
    fn highest(&self, area: Area, piece: Piece) -> Option<u64> {
        let mut end = area.end().min(piece.max);
        loop {
            let start = end.checked_sub(piece.len)?;
            let start = start.checked_sub(start.checked_rem(piece.align)?)?;
            if start < area.start.max(piece.min) {
                return None;
            }
            match self.conflict(start, piece.len) {
                Some(other) => end = other.start,
                None => return Some(start),
            }
        }
    }

    fn place(&mut self, piece: Piece, bottom_up: bool) -> Option<Area> {
        let mut areas = self.areas.iter();
        let start = areas.find_map(|area| match bottom_up {
            true => self.lowest(*area, piece),
            false => self.highest(*area, piece),
        })?;
        let area = Area {
            start,
            len: piece.len,
        };
        self.placed.push(area);
        Some(area)
    }
}

/// Whether an image and an initrd of this size can be loaded into these areas, which are in KHO's order.
pub(crate) fn fits(areas: &[Area], image: &Image, initrd: u64) -> bool {
    let mut room = Room {
        areas,
        placed: Vec::new(),
    };
    // KHO's list of the areas.
    if room.place(Piece::new(PAGE, 64 << 10, 0), false).is_none() {
        return false;
    }
    match image.placement {
        Placement::X86 { align, address } => {
            let pieces = [
                Some(Piece::new(EXTRA, PAGE, 0x3000)),
                Some(Piece::new(image.memory, align, address.max(1 << 20))),
                (initrd > 0).then(|| Piece::new(initrd, PAGE, 16 << 20)),
            ];
            let mut pieces = pieces.into_iter().flatten();
            pieces.all(|piece| room.place(piece, false).is_some())
        }
        Placement::Arm64 => arm64(&mut room, image.memory, initrd),
    }
}

/// All else has to be above the kernel. If it is not, the kernel goes to a higher place.
fn arm64(room: &mut Room<'_>, memory: u64, initrd: u64) -> bool {
    const ALIGN: u64 = 2 << 20;

    let mut kernel = Piece::new(memory, ALIGN, 0);
    let before = room.placed.len();
    while let Some(place) = room.place(kernel, true) {
        kernel.min = place.end();
        let window = place.start - place.start % (1 << 30);
        let initrd = (initrd > 0).then(|| Piece {
            max: window.saturating_add(WINDOW),
            ..Piece::new(initrd, PAGE, kernel.min)
        });
        let tree = Piece::new(EXTRA, ALIGN, kernel.min);
        if initrd.is_none_or(|initrd| room.place(initrd, true).is_some())
            && room.place(tree, false).is_some()
        {
            return true;
        }
        room.placed.truncate(before);
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn areas(list: &[(u64, u64)]) -> Vec<Area> {
        let area = |(start, len): &(u64, u64)| Area {
            start: start * MIB,
            len: len * MIB,
        };
        list.iter().map(area).collect()
    }

    fn image(placement: Placement, mib: u64) -> Image {
        Image::for_tests(placement, mib * MIB)
    }

    #[test]
    fn arm64_has_its_initrd_above_the_kernel() {
        let kernel = image(Placement::Arm64, 20);
        let high_first = areas(&[(4000, 128), (1100, 176), (2000, 160)]);
        // It goes to the area that comes first, and nothing is above that one.
        assert!(fits(&high_first, &kernel, 100 * MIB));
        assert!(fits(&high_first, &kernel, 106 * MIB));
        // Below the first area there is room, which is found when the first one is used up.
        assert!(!fits(&high_first, &kernel, 159 * MIB));
        let low_first = areas(&[(1100, 128), (2000, 176), (4000, 160)]);
        assert!(fits(&low_first, &kernel, 176 * MIB));
        assert!(!fits(&low_first, &kernel, 177 * MIB));
        let far = areas(&[(1100, 64), (1100 + (33 << 10), 176)]);
        assert!(fits(&far, &kernel, 100 * MIB));
        // It has to be in the window of the kernel, which is in the other area.
        assert!(!fits(&far, &kernel, 170 * MIB));
        assert!(!fits(&areas(&[(1024, 16)]), &kernel, 0));
    }

    #[test]
    fn x86_fills_areas_from_above() {
        let placement = Placement::X86 {
            align: 2 * MIB,
            address: 16 * MIB,
        };
        let kernel = image(placement, 40);
        assert!(fits(&areas(&[(100, 40), (200, 66)]), &kernel, 38 * MIB));
        // What goes beside the kernel is in the first area, from where its initrd is kept.
        assert!(!fits(&areas(&[(100, 40), (200, 66)]), &kernel, 39 * MIB));
        assert!(!fits(&areas(&[(0, 50)]), &kernel, 0));
        assert!(!fits(&[], &kernel, 0));
        assert!(!fits(&areas(&[(100, 60)]), &kernel, u64::MAX));
    }
}

// SPDX-License-Identifier: GPL-2.0-only OR BSD-3-Clause

//! The format of a memfd, byte for byte that of the kernel's own handler.
//!
//! A header ([`MemfdSer`]) in a page of its own points, through a [`KhoVmalloc`], to an array with
//! one record ([`FolioSer`]) for each folio of the file, in ascending order of index. An index
//! without a record is a hole.
//!
//! The layout is a contract with every kernel that writes or reads [`COMPATIBLE`]: any change needs
//! another string.
//!
//! The format has no checksum. [`Header::parse`] and [`FolioChecker`] find everything that
//! contradicts itself or KHO's record of preserved memory. They cannot find: a changed but possible
//! file position, size (as long as the folios fit) or set of seals, folios that swapped their
//! places in the file, the page number of another file's folio of the same order, a record cleared to zero
//! (a hole), and changed data.
//!
//! C header: [`include/linux/kho/abi/memfd.h`](srctree/include/linux/kho/abi/memfd.h)

mod check;
mod seals;

pub use self::{
    check::{
        Folio,
        FolioChecker, //
    },
    seals::{
        CreateMode,
        Seals, //
    },
};

use super::{
    check_file,
    vmalloc::{
        CheckedVmalloc,
        KhoVmalloc, //
    },
    Error,
    PageSize,
    Result, //
};
use core::{
    ffi::CStr,
    mem::{
        offset_of,
        size_of, //
    }, //
};
use zerocopy_derive::{
    FromBytes,
    Immutable,
    IntoBytes,
    KnownLayout, //
};

/// The name of this format in the Live Update Orchestrator.
pub const COMPATIBLE: &CStr = c"memfd-v2";

/// The kernel's `struct memfd_luo_ser`.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
pub struct MemfdSer {
    /// File position in bytes.
    pub pos: u64,
    /// File size in bytes.
    pub size: u64,
    /// Seals, see [`Seals`].
    pub seals: u32,
    /// Must be zero.
    pub flags: u32,
    /// Number of records.
    pub nr_folios: u64,
    /// The array of [`FolioSer`]; all zero if there is none.
    pub folios: KhoVmalloc,
}

const _: () = assert!(size_of::<MemfdSer>() == 48);
const _: () = assert!(offset_of!(MemfdSer, pos) == 0);
const _: () = assert!(offset_of!(MemfdSer, size) == 8);
const _: () = assert!(offset_of!(MemfdSer, seals) == 16);
const _: () = assert!(offset_of!(MemfdSer, flags) == 20);
const _: () = assert!(offset_of!(MemfdSer, nr_folios) == 24);
const _: () = assert!(offset_of!(MemfdSer, folios) == 32);

/// The kernel's `struct memfd_luo_folio_ser`.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
pub struct FolioSer {
    /// Bits 0 to 51: page number of the first page. Bits 52 to 63: flags.
    word: u64,
    /// Index of the first page in the file, in pages.
    index: u64,
}

const _: () = assert!(size_of::<FolioSer>() == 16);
const _: () = assert!(offset_of!(FolioSer, word) == 0);
const _: () = assert!(offset_of!(FolioSer, index) == 8);

impl FolioSer {
    /// The folio holds data of the user.
    pub const DIRTY: u16 = 1 << 0;
    /// The folio's content is valid; without this it must be zeroed before anyone sees it.
    pub const UPTODATE: u16 = 1 << 1;
    /// All flags of this version.
    pub const FLAGS: u16 = Self::DIRTY | Self::UPTODATE;

    const PFN_BITS: u32 = 52;
    const PFN_MASK: u64 = (1 << Self::PFN_BITS) - 1;

    /// A record for the folio that starts at page number `pfn` and is at `index` in the file, or
    /// [`None`] if the page number or the flags do not fit.
    #[inline]
    pub const fn new(pfn: u64, flags: u16, index: u64) -> Option<Self> {
        if pfn > Self::PFN_MASK || flags & !Self::FLAGS != 0 {
            return None;
        }
        Some(Self {
            word: pfn | (flags as u64) << Self::PFN_BITS,
            index,
        })
    }

    /// Page number of the folio's first page; 0 if the record is to be skipped.
    #[inline]
    pub const fn pfn(&self) -> u64 {
        self.word & Self::PFN_MASK
    }

    /// All twelve flag bits, known or not.
    #[inline]
    pub const fn flags(&self) -> u16 {
        // CAST: twelve bits are left.
        (self.word >> Self::PFN_BITS) as u16
    }

    /// Index of the folio's first page in the file.
    #[inline]
    pub const fn index(&self) -> u64 {
        self.index
    }
}

/// A header that is consistent in itself.
///
/// # Invariants
///
/// `pos` and `size` are at most [`i64::MAX`]. `nr_folios` is at most the number of pages in the
/// file, it is zero if and only if `folios` is [`None`], and otherwise that many records fit in
/// what `folios` describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pos: u64,
    size: u64,
    seals: Seals,
    nr_folios: u64,
    folios: Option<CheckedVmalloc>,
}

impl Header {
    /// Checks all that can be checked without the array.
    pub fn parse(raw: &MemfdSer, page: PageSize) -> Result<Self> {
        if raw.flags != 0 {
            return Err(Error::UnknownFlags);
        }
        let seals = Seals::from_bits(raw.seals)?;
        check_file(raw.pos, raw.size)?;
        let pages = page.pages(raw.size);
        if raw.nr_folios > pages {
            return Err(Error::Count);
        }
        let folios = raw
            .folios
            .parse_records::<FolioSer>(raw.nr_folios, pages, page)?;

        // INVARIANT: checked above.
        Ok(Self {
            pos: raw.pos,
            size: raw.size,
            seals,
            nr_folios: raw.nr_folios,
            folios,
        })
    }

    /// File position in bytes.
    #[inline]
    pub fn pos(&self) -> u64 {
        self.pos
    }

    /// File size in bytes.
    #[inline]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The seals to add.
    #[inline]
    pub fn seals(&self) -> Seals {
        self.seals
    }

    /// Number of records in the array.
    #[inline]
    pub fn nr_folios(&self) -> u64 {
        self.nr_folios
    }

    /// Where the array is; [`None`] if there are no folios.
    #[inline]
    pub fn folios(&self) -> Option<&CheckedVmalloc> {
        self.folios.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::{
        FromBytes as _,
        IntoBytes as _, //
    };

    const PAGE: PageSize = match PageSize::new(12) {
        Some(page) => page,
        None => panic!(),
    };

    fn good() -> MemfdSer {
        MemfdSer {
            pos: 5,
            size: 3 * 4096 - 1,
            seals: 0x22,
            flags: 0,
            nr_folios: 3,
            folios: KhoVmalloc {
                first: 0x1234_5000,
                total_pages: 1,
                flags: KhoVmalloc::ALLOC,
                order: 0,
            },
        }
    }

    /// Refuses the good header with one thing changed.
    fn refuse(change: impl FnOnce(&mut MemfdSer)) -> Error {
        let mut raw = good();
        change(&mut raw);
        Header::parse(&raw, PAGE).unwrap_err()
    }

    #[test]
    fn header_bytes_are_those_of_c() {
        let mut bytes = [0u8; 48];
        bytes[0] = 5;
        bytes[8..10].copy_from_slice(&[0xff, 0x2f]);
        bytes[16] = 0x22;
        bytes[24] = 3;
        bytes[32..36].copy_from_slice(&[0x00, 0x50, 0x34, 0x12]);
        bytes[40] = 1;
        bytes[44] = 1;
        assert_eq!(good().as_bytes(), bytes);
        assert_eq!(MemfdSer::read_from_bytes(&bytes).unwrap(), good());
    }

    #[test]
    fn record_bytes_are_those_of_c() {
        let record = FolioSer::new(0xf_edcb_a987_6543, FolioSer::FLAGS, 0x0102).unwrap();
        assert_eq!(
            record.as_bytes(),
            [0x43, 0x65, 0x87, 0xa9, 0xcb, 0xed, 0x3f, 0x00, 0x02, 0x01, 0, 0, 0, 0, 0, 0]
        );
        assert_eq!(record.pfn(), 0xf_edcb_a987_6543);
        assert_eq!(record.flags(), FolioSer::FLAGS);
        assert_eq!(record.index(), 0x0102);
    }

    #[test]
    fn records_that_do_not_fit_cannot_be_made() {
        assert!(FolioSer::new(1 << 52, 0, 0).is_none());
        assert!(FolioSer::new(1, 4, 0).is_none());
        assert_eq!(
            FolioSer::read_from_bytes(&[0xff; 16]).unwrap().flags(),
            0xfff
        );
    }

    #[test]
    fn a_good_header_passes() {
        let header = Header::parse(&good(), PAGE).unwrap();
        assert_eq!((header.pos(), header.size()), (5, 3 * 4096 - 1));
        assert_eq!(header.seals().bits(), 0x22);
        assert_eq!(header.nr_folios(), 3);
        assert_eq!(header.folios().unwrap().as_raw(), &good().folios);
    }

    #[test]
    fn empty_and_all_holes_have_no_array() {
        let header = Header::parse(&MemfdSer::default(), PAGE).unwrap();
        assert!(header.folios().is_none());
        let holes = MemfdSer {
            size: 1 << 44,
            ..Default::default()
        };
        assert!(Header::parse(&holes, PAGE).unwrap().folios().is_none());
    }

    #[test]
    fn sixteen_tebibytes_of_single_pages_pass() {
        let mut raw = good();
        raw.size = 1 << 44;
        raw.nr_folios = 1 << 32;
        raw.folios.total_pages = 1 << 24;
        assert!(Header::parse(&raw, PAGE).is_ok());
        raw.folios.total_pages -= 1;
        assert_eq!(Header::parse(&raw, PAGE), Err(Error::Array));
    }

    #[test]
    fn bad_headers_are_refused() {
        assert_eq!(refuse(|raw| raw.flags = 1), Error::UnknownFlags);
        assert_eq!(refuse(|raw| raw.seals = 0x40), Error::UnknownSeals);
        assert_eq!(refuse(|raw| raw.pos = 1 << 63), Error::Position);
        assert_eq!(refuse(|raw| raw.size = 1 << 63), Error::Size);
        assert_eq!(refuse(|raw| raw.size = 0), Error::Count);
        assert_eq!(refuse(|raw| raw.nr_folios = 4), Error::Count);
        assert_eq!(refuse(|raw| raw.nr_folios = u64::MAX), Error::Count);
        assert_eq!(refuse(|raw| raw.nr_folios = 0), Error::Array);
        assert_eq!(refuse(|raw| raw.folios.first = 0), Error::Array);
        assert_eq!(refuse(|raw| raw.folios.total_pages = 0), Error::Array);
        assert_eq!(refuse(|raw| raw.folios.flags = 8), Error::UnknownFlags);
    }

    #[test]
    fn a_truncated_array_is_refused() {
        let mut raw = good();
        raw.size = 300 * 4096;
        raw.nr_folios = 257;
        assert_eq!(Header::parse(&raw, PAGE), Err(Error::Array));
        raw.folios.total_pages = 2;
        assert!(Header::parse(&raw, PAGE).is_ok());
    }
}

// SPDX-License-Identifier: GPL-2.0-only

//! Preserves memfds over a live update.
//!
//! # What is preserved
//!
//! * Data and size. Holes are filled: afterwards there is memory behind all of the file. Memory
//!   beyond the end of the file (`FALLOC_FL_KEEP_SIZE`) is not preserved.
//! * Position of the file, as it is just before the jump.
//! * Seals, as they are just before the jump, and whether the file may be made executable
//!   (`MFD_NOEXEC_SEAL`; see [`luo::abi::memfd::CreateMode`] for the case that cannot be told).
//!
//! Everything else is what `memfd_create("")` makes of it: name, owner, mode, labels, and
//! `FD_CLOEXEC`.
//!
//! # What is refused
//!
//! * `EACCES`: the file is not open for reading and writing. It would come back so, and give its
//!   holder a right that it did not have.
//! * `EOPNOTSUPP`: a seal that this module does not know.
//! * `EHWPOISON`: memory of the file is broken. This is checked again just before the jump.
//! * `EBUSY`: the file is preserved already. `EINTR`: the caller is being killed. `EAGAIN`: memory is
//!   so short that the file was swapped out again and again; trying later helps.
//!
//! # While it is preserved
//!
//! The file can be read, written and mapped, but its size and its holes are fixed. All memory is
//! pinned, `pin_chunk` pages at a time, so that preserving needs, besides the sixteen bytes that are
//! handed over for each folio, eight bytes for each page of a chunk, however large the file is.
//!
//! # Afterwards
//!
//! Until the session is finished, all memory of the file stays where it is: devices may still be
//! writing to it. `F_SEAL_WRITE` cannot be added in this time (`EBUSY`).
//!
//! # Formats
//!
//! Both formats are always read. The parameter `format`, which can be changed at any time, says what is
//! written from then on:
//!
//! * `memfd-v2`, the default, is that of the kernel's own handler, so that either can take over from the
//!   other.
//! * `rs-memfd-v1` ([`luo::abi::memfd_extents`]) has one record for each run of pages, and costs much less
//!   time on both sides. Where pages follow one another, in alignment, they come back as large folios, unless
//!   `large_folios=0` is given. A file has less than 2^32 pages. Also the mode of the file is kept.
//!
//! In `rs-memfd-v1`, memory is not pinned but where it has to be brought in or moved first: references hold it
//! in its place.

mod memfd;

use kernel::prelude::*;
use luo::{
    liveupdate::{
        self,
        FileHandler as _,
        Registration, //
    },
    param::Choice, //
};
use memfd::{
    Memfd,
    MemfdExtents, //
};

module! {
    type: LuoMemfd,
    name: "luo_memfd",
    authors: ["liveupdate-rs"],
    description: "Live update of memfds",
    license: "GPL",
    alias: ["luo-file-memfd-v2", "luo-file-rs-memfd-v1"],
    params: {
        pin_chunk: u32 {
            default: 512,
            description: "Pages that are pinned at a time",
        },
        large_folios: u8 {
            default: 1,
            description: "0: what arrives as rs-memfd-v1 is put into files as single pages",
        },
    },
}

/// The format that is written.
static FORMAT: Choice = Choice::new(&[Memfd::COMPATIBLE, MemfdExtents::COMPATIBLE]);
/// The first one.
const V2: usize = 0;

luo::choice_param!(
    "luo_memfd",
    "format",
    crate::FORMAT,
    "Format that is written: memfd-v2 or rs-memfd-v1; both are read"
);
luo::handler_format!(Memfd);
luo::handler_format!(MemfdExtents);

/// The handlers, in the order in which they are asked.
struct LuoMemfd {
    _v2: Option<Pin<KBox<Registration<Memfd>>>>,
    _extents: Option<Pin<KBox<Registration<MemfdExtents>>>>,
}

impl kernel::Module for LuoMemfd {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        if !liveupdate::enabled() {
            pr_info!("inactive: boot with \"kho=on liveupdate=on\" to preserve files\n");
            return Ok(Self {
                _v2: None,
                _extents: None,
            });
        }
        let v2 = register()?;
        // Files may be preserved by now, so that this must not fail.
        let extents = Registration::new().inspect_err(|err| {
            pr_err!(
                "{}: cannot register the handler: {:?}; such files can be neither preserved nor retrieved\n",
                MemfdExtents::COMPATIBLE,
                err
            );
        });
        Ok(Self {
            _v2: v2,
            _extents: extents.ok(),
        })
    }
}

fn register() -> Result<Option<Pin<KBox<Registration<Memfd>>>>> {
    // In test kernels, the handler has shared state that is of no use otherwise.
    let registration = if cfg!(CONFIG_LIVEUPDATE_TEST) {
        Registration::with_flb()
    } else {
        Registration::new()
    };
    match registration {
        Err(EEXIST) => {
            pr_info!(
                "inactive: the kernel's own memfd handler is in use; unload memfd_luo, or build the kernel without CONFIG_LIVEUPDATE_MEMFD, to use this one; only rs-memfd-v1 is read here\n"
            );
            Ok(None)
        }
        registration => registration.map(Some),
    }
}

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
//! The format is that of the kernel's own handler, so that either can take over from the other.

mod memfd;

use kernel::prelude::*;
use luo::liveupdate::Registration;
use memfd::Memfd;

module! {
    type: LuoMemfd,
    name: "luo_memfd",
    authors: ["liveupdate-rs"],
    description: "Live update of memfds",
    license: "GPL",
    alias: ["luo-file-memfd-v2"],
    params: {
        pin_chunk: u32 {
            default: 512,
            description: "Pages that are pinned at a time",
        },
    },
}

luo::handler_module!(LuoMemfd, Memfd, register());

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
                "inactive: the kernel's own memfd handler is in use; unload memfd_luo, or build the kernel without CONFIG_LIVEUPDATE_MEMFD, to use this one\n"
            );
            Ok(None)
        }
        registration => registration.map(Some),
    }
}

// SPDX-License-Identifier: GPL-2.0-only

//! Preserves memfds with huge pages (`MFD_HUGETLB`) over a live update.
//!
//! # What is preserved
//!
//! * Data and size, in the same huge pages. Holes are filled, each with a huge page of the pool.
//! * Position of the file, as it is just before the jump.
//! * Seals, as they are just before the jump, and whether the mode lets anybody execute the file.
//!
//! Everything else is what `memfd_create("", MFD_HUGETLB)` makes of it: name, owner, labels, memory
//! policy, and `FD_CLOEXEC`.
//!
//! # What is refused
//!
//! * `EACCES`: the file is not open for reading and writing.
//! * `EOPNOTSUPP`: a file in a mounted hugetlbfs or SysV shared memory, memory with tags (MTE), or a seal that
//!   this module does not know.
//! * `ENOMEM`: not enough free huge pages to fill the holes, or to move those out of the area of
//!   `hugetlb_cma=`.
//! * `EHWPOISON`: memory of the file is broken. This and tags are checked again just before the jump.
//! * `EBUSY`: the file is preserved already. `EINTR`: the caller is being killed.
//!
//! # While it is preserved
//!
//! The file can be read and mapped, and written through mappings, but its size and its holes are fixed.
//! All memory is pinned.
//!
//! # Afterwards
//!
//! The huge pages are added to the pool of the new kernel, and charged to the cgroups of the process that
//! retrieves the file. When the file goes, they stay in the pool, or, if `surplus` was set in the old
//! kernel, are freed.

mod hugetlb;

use hugetlb::HugetlbFiles;
use kernel::prelude::*;
use luo::liveupdate::Registration;

module! {
    type: LuoHugetlb,
    name: "luo_hugetlb",
    authors: ["liveupdate-rs"],
    description: "Live update of memfds with huge pages",
    license: "GPL",
    alias: ["luo-file-rs-hugetlb-v1"],
    params: {
        surplus: u8 {
            default: 0,
            description: "1: huge pages that are preserved become surplus pages of the next kernel",
        },
    },
}

luo::handler_module!(LuoHugetlb, HugetlbFiles, Registration::new().map(Some));

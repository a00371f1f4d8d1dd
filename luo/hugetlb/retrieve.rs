// SPDX-License-Identifier: GPL-2.0-only

//! The new kernel's side.
//!
//! Everything is checked before the first huge page is restored, and nobody gets the file before the
//! last one is in it. Whatever fails, dropping what is left frees the memory.

use kernel::prelude::*;
use luo::{
    abi::hugetlb::{
        Header,
        HugetlbSer, //
    },
    hugetlb::{
        HeldHugePages,
        IncomingHugePages,
        NewHugetlb, //
    },
    kho::{
        Incoming,
        RestoreError,
        PAGE, //
    },
    liveupdate::Retrieved, //
};

/// Huge pages of the file that `header` stands for.
fn pages(header: Incoming<HugetlbSer>) -> IncomingHugePages {
    IncomingHugePages::new(header, |raw| raw.extents)
}

pub(super) fn retrieve(header: Incoming<HugetlbSer>) -> Result<Retrieved<HeldHugePages>> {
    let raw = *header;
    let pages = pages(header);

    Header::parse(&raw, PAGE)
        .map_err(RestoreError::Header)
        .and_then(|header| restore(&header, pages))
        .map_err(|err| {
            pr_err!(
                "retrieve failed, a memfd of {} bytes is lost and its memory freed: {}\n",
                raw.size,
                err
            );
            err.to_error()
        })
}

fn restore(
    header: &Header,
    pages: IncomingHugePages,
) -> Result<Retrieved<HeldHugePages>, RestoreError> {
    let pages = pages.check(header)?;
    let file = create(header).map_err(RestoreError::Create)?;
    let live = pages.insert_into(&file, header)?;
    Ok(Retrieved {
        file: file.into_file(),
        live,
        bytes: header.size(),
    })
}

/// An empty file that is otherwise like the old one.
///
/// The mode comes before the seals, as `F_SEAL_EXEC` adds others to a file that can be executed. The
/// seals come before the data: with it, `F_SEAL_WRITE` would find our references and fail.
fn create(header: &Header) -> Result<NewHugetlb> {
    let file = NewHugetlb::new(header.order()).inspect_err(|err| {
        if *err == ENODEV {
            pr_err!(
                "this kernel has no huge pages of 2^{} pages\n",
                header.order()
            );
        }
    })?;
    if !header.is_executable() {
        file.set_noexec();
    }
    file.add_seals(header.seals().bits())?;
    file.set_size(header.size())?;
    file.set_pos(header.pos())?;
    Ok(file)
}

pub(super) fn discard(header: Incoming<HugetlbSer>) {
    let raw = *header;
    let pages = pages(header);

    let result = match Header::parse(&raw, PAGE) {
        // Dropping them frees the memory.
        Ok(header) => pages.check(&header).map(drop),
        // Dropping them frees what can be identified.
        Err(err) => Err(RestoreError::Header(err)),
    };
    if let Err(err) = result {
        pr_err!(
            "finish: {}; what cannot be identified stays unused until the next boot\n",
            err
        );
    }
}

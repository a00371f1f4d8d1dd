// SPDX-License-Identifier: GPL-2.0-only

//! The new kernel's side.
//!
//! Everything is checked before the first huge page is restored, and nobody gets the file before the
//! last one is in it. Whatever fails, dropping what is left frees the memory.

use kernel::prelude::*;
use luo::{
    abi::hugetlb::Header,
    hugetlb::{
        NewHugetlb,
        Pages, //
    },
    kho::{
        HeldExtents,
        ListedExtents,
        RestoreError, //
    },
    liveupdate::Retrieved, //
};

pub(super) fn retrieve(
    pages: ListedExtents,
    header: &Header,
) -> Result<Retrieved<HeldExtents>, RestoreError> {
    let file = create(header).map_err(RestoreError::Create)?;
    let into = Pages {
        file: &file,
        surplus: header.is_surplus(),
    };
    let live = pages.insert_into(&into, header.list())?;
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
    let file = NewHugetlb::new(header.list().order()).inspect_err(|err| {
        if *err == ENODEV {
            pr_err!(
                "this kernel has no huge pages of 2^{} pages\n",
                header.list().order()
            );
        }
    })?;
    if !header.is_executable() {
        file.set_noexec();
    }
    file.add_seals(header.seals())?;
    file.set_size(header.size())?;
    file.set_pos(header.pos())?;
    Ok(file)
}

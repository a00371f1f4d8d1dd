// SPDX-License-Identifier: GPL-2.0-only

//! The new kernel's side.
//!
//! Everything is checked before the first huge page is restored, and nobody gets the file before the
//! last one is in it. Whatever fails, dropping what is left frees the memory. What fails because there is
//! no room, or somebody looks at a huge page, can be tried again: huge pages that are in the file stay there.

use kernel::prelude::*;
use luo::{
    abi::hugetlb::Header,
    hugetlb::{
        NewHugetlb,
        Pages, //
    },
    kho::{
        Failed,
        HeldExtents,
        ListedExtents,
        RestoreError, //
    },
    liveupdate::Retrieved, //
};

/// Huge pages that wait, and the file that some of them are in.
///
/// The fields are dropped in this order: the file is what frees huge pages that are in it.
pub(crate) struct Checked {
    pages: ListedExtents,
    file: Option<NewHugetlb>,
}

impl Checked {
    pub(super) fn new(pages: ListedExtents) -> Self {
        Self { pages, file: None }
    }
}

#[expect(
    clippy::result_large_err,
    reason = "to box it takes memory, just when there may be none"
)]
pub(super) fn retrieve(
    Checked { pages, file }: Checked,
    header: &Header,
) -> Result<Retrieved<HeldExtents>, Failed<Checked>> {
    let file = match file.map_or_else(|| create(header), Ok) {
        Ok(file) => file,
        Err(err) => {
            return Err(Failed {
                error: RestoreError::Create(err),
                // It will never have them.
                rest: (err != ENODEV).then_some(Checked { pages, file: None }),
            });
        }
    };
    let into = Pages {
        file: &file,
        surplus: header.is_surplus(),
    };
    match pages.insert_into(&into, header.list()) {
        Ok(live) => Ok(Retrieved {
            file: file.into_file(),
            live,
            bytes: header.size(),
        }),
        Err(failed) => Err(failed.map(|pages| Checked {
            pages,
            file: Some(file),
        })),
    }
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

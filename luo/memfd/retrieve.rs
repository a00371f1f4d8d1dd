// SPDX-License-Identifier: GPL-2.0-only

//! The new kernel's side.
//!
//! Each folio is checked before it is put into the file, and nobody gets the file before the last one
//! is. Whatever fails, dropping what is left frees the memory.

use kernel::prelude::*;
use luo::{
    abi::memfd::{
        CreateMode,
        FolioChecker,
        FolioSer,
        Header, //
    },
    kho::{
        HeldFolios,
        ListedFolios,
        RestoreError,
        PAGE, //
    },
    liveupdate::Retrieved,
    max_folio_order,
    memfd::NewMemfd, //
};

pub(super) fn retrieve(
    folios: ListedFolios<FolioSer>,
    header: &Header,
) -> Result<Retrieved<HeldFolios<FolioSer>>, RestoreError> {
    let file = create(header).map_err(RestoreError::Create)?;
    let live = folios.insert_into(&file, || {
        let mut checker = FolioChecker::new(header, PAGE, max_folio_order());
        move |record: &FolioSer, order| checker.check(record, |_| order).map(|_| ())
    })?;
    Ok(Retrieved {
        file: file.into_file(),
        live,
        bytes: header.size(),
    })
}

/// An empty file that is otherwise like the old one.
///
/// The seals come before the data, as they are enforced where files are used, not where folios are
/// put into them: with data, adding `F_SEAL_WRITE` would find our references and fail.
fn create(header: &Header) -> Result<NewMemfd> {
    let seals = header.seals();
    let file = NewMemfd::new(CreateMode::from_seals(seals))?;
    file.add_seals(seals)?;
    file.set_size(header.size())?;
    file.set_pos(header.pos())?;
    Ok(file)
}

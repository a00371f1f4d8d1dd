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
        Header,
        MemfdSer, //
    },
    kho::{
        HeldFolios,
        Incoming,
        IncomingFolios,
        RestoreError,
        PAGE, //
    },
    liveupdate::Retrieved,
    max_folio_order,
    memfd::NewMemfd, //
};

/// Folios of the file that `header` stands for.
fn folios(header: Incoming<MemfdSer>) -> IncomingFolios<FolioSer> {
    IncomingFolios::new(header, |raw| raw.folios, max_folio_order())
}

pub(super) fn retrieve(header: Incoming<MemfdSer>) -> Result<Retrieved<HeldFolios<FolioSer>>> {
    let raw = *header;
    let folios = folios(header);

    Header::parse(&raw, PAGE)
        .map_err(RestoreError::Header)
        .and_then(|header| restore(&header, folios))
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
    folios: IncomingFolios<FolioSer>,
) -> Result<Retrieved<HeldFolios<FolioSer>>, RestoreError> {
    let folios = folios.check(header.folios(), header.nr_folios())?;
    let file = create(header).map_err(RestoreError::Create)?;
    let mut checker = FolioChecker::new(header, PAGE, max_folio_order());
    let live = folios.insert_into(&file, |record, order| {
        checker.check(record, |_| order).map(|_| ())
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
    file.add_seals(seals.bits())?;
    file.set_size(header.size())?;
    file.set_pos(header.pos())?;
    Ok(file)
}

pub(super) fn discard(header: Incoming<MemfdSer>) {
    let raw = *header;
    let folios = folios(header);

    let result = match Header::parse(&raw, PAGE) {
        // Dropping them frees the memory.
        Ok(header) => folios.check(header.folios(), header.nr_folios()).map(drop),
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

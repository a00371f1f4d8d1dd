// SPDX-License-Identifier: GPL-2.0-only

//! The old kernel's side.

use super::chunk;
use kernel::{
    fs::File,
    prelude::*, //
};
use luo::{
    abi::memfd::{
        FolioSer,
        MemfdSer, //
    },
    fs,
    kho::{
        PreservedBox,
        PreservedFolios, //
    },
    liveupdate::Preserved,
    shmem::{
        FrozenShmem,
        Shmem, //
    }, //
};

/// What is undone if the update does not happen.
///
/// The fields are dropped in this order: only when nothing is preserved any more may the file change.
pub(crate) struct State {
    folios: PreservedFolios<FolioSer>,
    _frozen: FrozenShmem,
}

impl State {
    #[cfg(CONFIG_LIVEUPDATE_TEST)]
    pub(super) fn test_records(&self) -> luo::test::Records<'_> {
        luo::test::Records::new(&self.folios)
    }
}

pub(super) fn preserve(file: &File) -> Result<Preserved<MemfdSer, State>> {
    if !fs::is_read_write(file) {
        return Err(EACCES);
    }
    let file = Shmem::new(file).ok_or(EINVAL)?;
    let seals = fs::seals(file.file())?.bits();

    // From here on, the size cannot change.
    let frozen = file.freeze()?;
    let folios = PreservedFolios::new(file, chunk())?;
    let header = PreservedBox::new(MemfdSer {
        pos: fs::pos(file.file()),
        size: file.size(),
        seals,
        flags: 0,
        nr_folios: folios.len(),
        folios: folios.describe(),
    })?;
    Ok(Preserved {
        bytes: folios.bytes(),
        state: State {
            folios,
            _frozen: frozen,
        },
        header,
    })
}

/// Position and seals may have changed, and memory may have broken.
pub(super) fn freeze(file: &File, preserved: &mut Preserved<MemfdSer, State>) -> Result {
    preserved.state.folios.check_health()?;
    preserved.header.seals = fs::seals(file)?.bits();
    preserved.header.pos = fs::pos(file);
    Ok(())
}

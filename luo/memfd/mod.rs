// SPDX-License-Identifier: GPL-2.0-only

//! The handlers: see the module's description.

mod extents;
mod preserve;
mod retrieve;

pub(crate) use self::extents::MemfdExtents;

use crate::{
    module_parameters,
    FORMAT,
    V2, //
};
use core::num::NonZeroU32;
use kernel::{
    fs::File,
    prelude::*, //
};
use luo::{
    abi::{
        self,
        memfd::{
            FolioSer,
            Header,
            MemfdSer,
            COMPATIBLE, //
        }, //
    },
    fs,
    kho::{
        Failed,
        HeldFolios,
        Incoming,
        IncomingFolios,
        ListedFolios,
        RestoreError,
        PAGE, //
    },
    liveupdate::{
        FileHandler,
        Preserved,
        Retrieved, //
    },
    max_folio_order,
    shmem::Shmem,
    test::{
        self,
        TestFlb, //
    }, //
};

/// Preserves and restores memfds in the kernel's own format.
pub(crate) struct Memfd;

fn is_memfd(file: &File) -> bool {
    Shmem::new(file).is_some() && fs::is_unlinked(file)
}

/// Pages that are pinned at a time.
fn chunk() -> NonZeroU32 {
    test::chunk()
        .or(NonZeroU32::new(module_parameters::pin_chunk.value()))
        .unwrap_or(NonZeroU32::MIN)
}

#[vtable]
impl FileHandler for Memfd {
    const COMPATIBLE: &'static CStr = COMPATIBLE;

    type Header = MemfdSer;
    type State = preserve::State;
    type Live = HeldFolios<FolioSer>;
    type Flb = TestFlb;
    type Parsed = Header;
    type Memory = IncomingFolios<FolioSer>;
    type Checked = ListedFolios<FolioSer>;

    /// LUO asks this handler first, and then the other one.
    fn can_preserve(file: &File) -> bool {
        FORMAT.get() == V2 && is_memfd(file)
    }

    fn preserve(file: &File) -> Result<Preserved<MemfdSer, preserve::State>> {
        preserve::preserve(file)
    }

    fn freeze(file: &File, preserved: &mut Preserved<MemfdSer, preserve::State>) -> Result {
        preserve::freeze(file, preserved)
    }

    fn claim(header: Incoming<MemfdSer>) -> IncomingFolios<FolioSer> {
        IncomingFolios::new(header, |raw| raw.folios, max_folio_order())
    }

    fn parse(raw: &MemfdSer) -> Result<Header, abi::Error> {
        Header::parse(raw, PAGE)
    }

    fn check(
        folios: IncomingFolios<FolioSer>,
        header: &Header,
    ) -> Result<ListedFolios<FolioSer>, RestoreError> {
        folios.check(header.folios(), header.nr_folios())
    }

    fn retrieve(
        folios: ListedFolios<FolioSer>,
        header: &Header,
    ) -> Result<Retrieved<HeldFolios<FolioSer>>, Failed<ListedFolios<FolioSer>>> {
        Ok(retrieve::retrieve(folios, header)?)
    }

    #[cfg(CONFIG_LIVEUPDATE_TEST)]
    fn test_records(state: &preserve::State) -> Option<luo::test::Records<'_>> {
        Some(state.test_records())
    }
}

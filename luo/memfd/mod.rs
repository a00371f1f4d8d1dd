// SPDX-License-Identifier: GPL-2.0-only

//! The handler: see the module's description.

mod preserve;
mod retrieve;

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
    test::TestFlb, //
};

/// Preserves and restores memfds.
pub(crate) struct Memfd;

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

    fn can_preserve(file: &File) -> bool {
        Shmem::new(file).is_some() && fs::is_unlinked(file)
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

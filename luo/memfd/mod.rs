// SPDX-License-Identifier: GPL-2.0-only

//! The handler: see the module's description.

mod preserve;
mod retrieve;

use kernel::{
    fs::File,
    prelude::*, //
};
use luo::{
    abi::memfd::{
        FolioSer,
        MemfdSer,
        COMPATIBLE, //
    },
    fs,
    kho::{
        HeldFolios,
        Incoming, //
    },
    liveupdate::{
        FileHandler,
        Preserved,
        Retrieved, //
    },
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

    fn can_preserve(file: &File) -> bool {
        Shmem::new(file).is_some() && fs::is_unlinked(file)
    }

    fn preserve(file: &File) -> Result<Preserved<MemfdSer, preserve::State>> {
        preserve::preserve(file)
    }

    fn freeze(file: &File, preserved: &mut Preserved<MemfdSer, preserve::State>) -> Result {
        preserve::freeze(file, preserved)
    }

    fn retrieve(header: Incoming<MemfdSer>) -> Result<Retrieved<HeldFolios<FolioSer>>> {
        retrieve::retrieve(header)
    }

    fn discard(header: Incoming<MemfdSer>) {
        retrieve::discard(header);
    }

    #[cfg(CONFIG_LIVEUPDATE_TEST)]
    fn test_records(state: &preserve::State) -> Option<luo::test::Records<'_>> {
        Some(state.test_records())
    }
}

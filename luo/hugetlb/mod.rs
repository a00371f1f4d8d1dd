// SPDX-License-Identifier: GPL-2.0-only

//! The handler: see the module's description.

mod preserve;
mod retrieve;

use kernel::{
    fs::File,
    prelude::*, //
};
use luo::{
    abi::hugetlb::{
        HugetlbSer,
        COMPATIBLE, //
    },
    flb::NoFlb,
    hugetlb::{
        HeldHugePages,
        Hugetlb, //
    },
    kho::Incoming,
    liveupdate::{
        FileHandler,
        Preserved,
        Retrieved, //
    }, //
};

/// Preserves and restores memfds with huge pages.
pub(crate) struct HugetlbFiles;

#[vtable]
impl FileHandler for HugetlbFiles {
    const COMPATIBLE: &'static CStr = COMPATIBLE;

    type Header = HugetlbSer;
    type State = preserve::State;
    type Live = HeldHugePages;
    type Flb = NoFlb;

    fn can_preserve(file: &File) -> bool {
        Hugetlb::new(file).is_some()
    }

    fn preserve(file: &File) -> Result<Preserved<HugetlbSer, preserve::State>> {
        preserve::preserve(file)
    }

    fn freeze(file: &File, preserved: &mut Preserved<HugetlbSer, preserve::State>) -> Result {
        preserve::freeze(file, preserved)
    }

    fn retrieve(header: Incoming<HugetlbSer>) -> Result<Retrieved<HeldHugePages>> {
        retrieve::retrieve(header)
    }

    fn discard(header: Incoming<HugetlbSer>) {
        retrieve::discard(header);
    }

    #[cfg(CONFIG_LIVEUPDATE_TEST)]
    fn test_records(state: &preserve::State) -> Option<luo::test::Records<'_>> {
        Some(state.test_records())
    }
}

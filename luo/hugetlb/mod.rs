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
        extents::Class,
        hugetlb::{
            Header,
            HugetlbSer,
            COMPATIBLE, //
        }, //
    },
    flb::NoFlb,
    hugetlb::Hugetlb,
    kho::{
        Failed,
        HeldExtents,
        Incoming,
        IncomingExtents,
        RestoreError,
        PAGE, //
    },
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
    type Live = HeldExtents;
    type Flb = NoFlb;
    type Parsed = Header;
    type Memory = IncomingExtents;
    type Checked = retrieve::Checked;

    fn can_preserve(file: &File) -> bool {
        Hugetlb::new(file).is_some()
    }

    fn preserve(file: &File) -> Result<Preserved<HugetlbSer, preserve::State>> {
        preserve::preserve(file)
    }

    fn freeze(file: &File, preserved: &mut Preserved<HugetlbSer, preserve::State>) -> Result {
        preserve::freeze(file, preserved)
    }

    fn claim(header: Incoming<HugetlbSer>) -> IncomingExtents {
        IncomingExtents::new(header, |raw| raw.extents, Class::Shared)
    }

    fn parse(raw: &HugetlbSer) -> Result<Header, abi::Error> {
        Header::parse(raw, PAGE)
    }

    fn check(pages: IncomingExtents, header: &Header) -> Result<retrieve::Checked, RestoreError> {
        pages.check(header.list()).map(retrieve::Checked::new)
    }

    fn retrieve(
        pages: retrieve::Checked,
        header: &Header,
    ) -> Result<Retrieved<HeldExtents>, Failed<retrieve::Checked>> {
        retrieve::retrieve(pages, header)
    }

    #[cfg(CONFIG_LIVEUPDATE_TEST)]
    fn test_sum(header: &mut HugetlbSer, state: &preserve::State) {
        header.extents_checksum = state.test_checksum();
        header.checksum = header.sum();
    }

    #[cfg(CONFIG_LIVEUPDATE_TEST)]
    fn test_records(state: &preserve::State) -> Option<luo::test::Records<'_>> {
        Some(state.test_records())
    }
}

// SPDX-License-Identifier: GPL-2.0-only

//! The handler: see the module's description.

mod preserve;

use crate::kvm::{
    GuestMemfd,
    NewGuestMemfd,
    PreservedPages, //
};
use kernel::{
    fs::File,
    prelude::*, //
};
use luo::{
    abi::{
        self,
        extents::Class,
        guest_memfd::{
            GuestMemfdSer,
            Header,
            COMPATIBLE, //
        }, //
    },
    flb::NoFlb,
    kho::{
        Failed,
        HeldExtents,
        Incoming,
        IncomingExtents,
        ListedExtents,
        RestoreError,
        PAGE, //
    },
    liveupdate::{
        FileHandler,
        Preserved,
        Retrieved, //
    }, //
};

/// Preserves and restores guest_memfd files.
pub(crate) struct GuestMemfdFiles;

#[vtable]
impl FileHandler for GuestMemfdFiles {
    const COMPATIBLE: &'static CStr = COMPATIBLE;

    type Header = GuestMemfdSer;
    type State = PreservedPages;
    type Live = HeldExtents;
    type Flb = NoFlb;
    type Parsed = Header;
    type Memory = IncomingExtents;
    type Checked = ListedExtents;

    fn can_preserve(file: &File) -> bool {
        GuestMemfd::new(file).is_some()
    }

    fn preserve(file: &File) -> Result<Preserved<GuestMemfdSer, PreservedPages>> {
        preserve::preserve(file)
    }

    fn freeze(file: &File, preserved: &mut Preserved<GuestMemfdSer, PreservedPages>) -> Result {
        // Its VM may have begun to encrypt it.
        let file = GuestMemfd::new(file).ok_or(EINVAL)?;
        if file.vm_type() != preserved.header.vm_type {
            return Err(EOPNOTSUPP);
        }
        preserved.state.check_health()
    }

    fn claim(header: Incoming<GuestMemfdSer>) -> IncomingExtents {
        IncomingExtents::new(header, |raw| raw.extents, Class::PrivatePlain)
    }

    fn parse(raw: &GuestMemfdSer) -> Result<Header, abi::Error> {
        Header::parse(raw, PAGE)
    }

    fn check(pages: IncomingExtents, header: &Header) -> Result<ListedExtents, RestoreError> {
        pages.check(header.list())
    }

    /// Everything is checked before the first page is restored, and nobody gets the file before the
    /// last one is in it. Whatever fails, dropping what is left frees the memory.
    fn retrieve(
        pages: ListedExtents,
        header: &Header,
    ) -> Result<Retrieved<HeldExtents>, Failed<ListedExtents>> {
        let file = NewGuestMemfd::new(header.size(), header.flags(), header.vm_type())
            .map_err(RestoreError::Create)?;
        let live = pages
            .insert_into(&file, header.list())
            .map_err(|failed| failed.error)?;
        Ok(Retrieved {
            file: file.into_file(),
            live,
            bytes: header.list().nr_pages() << PAGE.shift(),
        })
    }

    #[cfg(CONFIG_LIVEUPDATE_TEST)]
    fn test_sum(header: &mut GuestMemfdSer, pages: &PreservedPages) {
        header.extents_checksum = pages.list().test_checksum();
        header.checksum = header.sum();
    }

    #[cfg(CONFIG_LIVEUPDATE_TEST)]
    fn test_records(pages: &PreservedPages) -> Option<luo::test::Records<'_>> {
        Some(luo::test::Records::of_extents(pages.list()))
    }
}

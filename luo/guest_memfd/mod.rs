// SPDX-License-Identifier: GPL-2.0-only

//! The handler: see the module's description.

mod policy;
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
use policy::{
    IncomingPolicies,
    ListedPolicies,
    PreservedPolicies, //
};

/// Preserves and restores guest_memfd files.
pub(crate) struct GuestMemfdFiles;

/// What is preserved of a file.
pub(crate) struct PreservedMemory {
    #[cfg_attr(
        not(CONFIG_LIVEUPDATE_TEST),
        expect(dead_code, reason = "owned, and looked at by the test hook only")
    )]
    policies: PreservedPolicies,
    pages: PreservedPages,
}

/// What arrives of a file.
pub(crate) struct IncomingMemory {
    policies: IncomingPolicies,
    pages: IncomingExtents,
}

/// What can be made a file again.
pub(crate) struct ListedMemory {
    /// [`None`] if they are damaged.
    policies: Option<ListedPolicies>,
    pages: ListedExtents,
}

#[vtable]
impl FileHandler for GuestMemfdFiles {
    const COMPATIBLE: &'static CStr = COMPATIBLE;

    type Header = GuestMemfdSer;
    type State = PreservedMemory;
    type Live = HeldExtents;
    type Flb = NoFlb;
    type Parsed = Header;
    type Memory = IncomingMemory;
    type Checked = ListedMemory;

    fn can_preserve(file: &File) -> bool {
        GuestMemfd::new(file).is_some()
    }

    fn preserve(file: &File) -> Result<Preserved<GuestMemfdSer, PreservedMemory>> {
        preserve::preserve(file)
    }

    fn freeze(file: &File, preserved: &mut Preserved<GuestMemfdSer, PreservedMemory>) -> Result {
        // Its VM may have begun to encrypt it.
        let file = GuestMemfd::new(file).ok_or(EINVAL)?;
        if file.vm_type() != preserved.header.vm_type {
            return Err(EOPNOTSUPP);
        }
        preserved.state.pages.check_health()
    }

    fn claim(mut header: Incoming<GuestMemfdSer>) -> IncomingMemory {
        IncomingMemory {
            policies: IncomingPolicies::new(&mut header),
            pages: IncomingExtents::new(header, |raw| raw.extents, Class::PrivatePlain),
        }
    }

    fn parse(raw: &GuestMemfdSer) -> Result<Header, abi::Error> {
        Header::parse(raw, PAGE)
    }

    fn check(memory: IncomingMemory, header: &Header) -> Result<ListedMemory, RestoreError> {
        Ok(ListedMemory {
            policies: memory.policies.check(header),
            pages: memory.pages.check(header.list())?,
        })
    }

    /// Everything is checked before the first page is restored, and nobody gets the file before the
    /// last one is in it. Whatever fails, dropping what is left frees the memory.
    fn retrieve(
        memory: ListedMemory,
        header: &Header,
    ) -> Result<Retrieved<HeldExtents>, Failed<ListedMemory>> {
        let file = NewGuestMemfd::new(header.size(), header.flags(), header.vm_type())
            .map_err(RestoreError::Create)?;
        if let Some(policies) = memory.policies {
            policies.apply(&file);
        }
        let live = memory
            .pages
            .insert_into(&file, header.list())
            .map_err(|failed| failed.error)?;
        Ok(Retrieved {
            file: file.into_file(),
            live,
            bytes: header.list().nr_pages() << PAGE.shift(),
        })
    }

    #[cfg(CONFIG_LIVEUPDATE_TEST)]
    fn test_sum(header: &mut GuestMemfdSer, memory: &PreservedMemory) {
        header.extents_checksum = memory.pages.list().test_checksum();
        header.checksum = header.sum();
    }

    #[cfg(CONFIG_LIVEUPDATE_TEST)]
    fn test_records(memory: &PreservedMemory) -> Option<luo::test::Records<'_>> {
        let records = luo::test::Records::of_extents(memory.pages.list());
        Some(records.with_policies(memory.policies.records()))
    }
}

// SPDX-License-Identifier: GPL-2.0-only

//! The old kernel's side.

use super::{
    policy::PreservedPolicies,
    PreservedMemory, //
};
use crate::kvm::{
    GuestMemfd,
    PreservedPages, //
};
use kernel::{
    fs::File,
    prelude::*, //
};
use luo::{
    abi::guest_memfd::{
        self,
        GuestMemfdSer,
        Header, //
    },
    kho::{
        PreservedBox,
        PAGE, //
    },
    liveupdate::Preserved, //
};

pub(super) fn preserve(file: &File) -> Result<Preserved<GuestMemfdSer, PreservedMemory>> {
    let file = GuestMemfd::new(file).ok_or(EINVAL)?;
    let class = guest_memfd::class(file.flags(), file.vm_type()).map_err(|_| {
        pr_info!(
            "memory of a VM of type {:#x}, with flags {:#x}, cannot be preserved\n",
            file.vm_type(),
            file.flags()
        );
        EOPNOTSUPP
    })?;
    // Pages are numbered with 32 bits, and the next kernel refuses a file that has more, if only in holes.
    let end = u32::try_from(file.size() >> PAGE.shift()).map_err(|_| EFBIG)?;

    // From here on, no memory comes or goes, and no policy is changed.
    let pages = PreservedPages::new(file, class)?;
    let policies = PreservedPolicies::new(&pages, end).inspect_err(|err| {
        if matches!(*err, EFBIG | EOPNOTSUPP) {
            pr_info!("the memory policies of a file cannot be preserved: there are too many, or unknown ones\n");
        }
    })?;
    let list = pages.list();
    let mut header = GuestMemfdSer {
        magic: GuestMemfdSer::MAGIC,
        version: GuestMemfdSer::VERSION,
        len: GuestMemfdSer::LEN,
        size: file.size(),
        nr_pages: list.nr_pages(),
        extents_checksum: list.checksum(),
        flags: file.flags(),
        vm_type: file.vm_type(),
        nr_extents: list.nr_extents()?,
        page_shift: u8::try_from(PAGE.shift()).map_err(|_| EINVAL)?,
        extents: list.describe(),
        nr_policies: policies.nr()?,
        policies: policies.describe(),
        ..GuestMemfdSer::default()
    };
    header.checksum = header.sum();
    // What is written can be read.
    Header::parse(&header, PAGE).map_err(|_| EINVAL)?;
    Ok(Preserved {
        bytes: pages.bytes().saturating_add(policies.bytes()),
        state: PreservedMemory { policies, pages },
        header: PreservedBox::new(header)?,
    })
}

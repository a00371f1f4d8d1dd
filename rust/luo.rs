// SPDX-License-Identifier: GPL-2.0-only

//! What the live update handlers share: the only place with C bindings and `unsafe` code.
//!
//! A handler module implements [`liveupdate::FileHandler`] for a file type and holds a
//! [`liveupdate::Registration`]. Everything it preserves is an owner in the old kernel that undoes
//! the preservation when it is dropped ([`kho::PreservedBox`], [`kho::PreservedVec`],
//! [`kho::PreservedFolios`], [`kho::PreservedRuns`]), and everything that arrives is a value in the new kernel that can be
//! used up only once and frees what it stands for when it is dropped ([`kho::Incoming`],
//! [`kho::IncomingVec`], [`kho::IncomingFolios`], [`kho::IncomingRuns`]). Nothing turns one kind into the other.
//!
//! C headers: [`include/linux/liveupdate.h`](srctree/include/linux/liveupdate.h),
//! [`include/linux/kexec_handover.h`](srctree/include/linux/kexec_handover.h)

use kernel::prelude::*;

#[path = "../kho/abi/mod.rs"]
pub mod abi;

#[doc(hidden)]
pub mod bindings;

pub mod coco;
pub mod flb;
pub mod fs;
pub mod health;
#[cfg(CONFIG_HUGETLBFS)]
pub mod hugetlb;
pub mod kho;
pub mod liveupdate;
pub mod memfd;
pub mod orphan;
pub(crate) mod parallel;
pub mod param;
pub mod pin;
pub mod shmem;
pub mod status;
pub mod test;

/// A field for a static in `.modinfo`: see [`modinfo!`](crate::modinfo).
#[doc(hidden)]
pub const fn modinfo_field<const LEN: usize>(key: &[u8], value: &[u8]) -> [u8; LEN] {
    assert!(LEN == key.len() + value.len() + 2);
    let mut field = [0; LEN];
    let mut i = 0;
    while i < LEN - 1 {
        field[i] = if i < key.len() {
            key[i]
        } else if i == key.len() {
            b'='
        } else {
            value[i - key.len() - 1]
        };
        i += 1;
    }
    field
}

/// Adds a field to what `modinfo` tells of a module. `$value` is a slice of bytes.
#[macro_export]
macro_rules! modinfo {
    ($key:literal, $value:expr) => {
        const _: () = {
            #[cfg(MODULE)]
            #[link_section = ".modinfo"]
            #[used(compiler)]
            static FIELD: [u8; LEN] = $crate::modinfo_field($key.as_bytes(), $value);
            #[cfg(MODULE)]
            const LEN: usize = $key.len() + $value.len() + 2;
        };
    };
}

/// To be called in long loops: lets others run, and tells whether the task is being killed.
pub fn interrupted() -> bool {
    // SAFETY: FFI call without requirements but that it may sleep.
    unsafe { bindings::luo_helper_interrupted() }
}

/// Order of the largest folio that can be in a file.
pub fn max_folio_order() -> u32 {
    // SAFETY: FFI call without requirements.
    unsafe { bindings::luo_helper_max_folio_order() }
}

module! {
    type: LuoRs,
    name: "luo_rs",
    authors: ["liveupdate-rs"],
    description: "Live update of host kernels: what the handlers share",
    license: "GPL",
}

/// This module.
#[doc(hidden)]
#[pin_data]
pub struct LuoRs {
    // Before the devices: they read what the handlers report.
    registry: status::Registry,
    orphanage: orphan::Orphanage,
    #[cfg(CONFIG_HUGETLBFS)]
    pools: hugetlb::pools::Registry,
    #[pin]
    status: status::Device,
    #[pin]
    test: test::Device,
}

impl kernel::InPlaceModule for LuoRs {
    fn init(module: &'static ThisModule) -> impl PinInit<Self, Error> {
        if !liveupdate::enabled() {
            pr_info!("live update is off: boot with \"kho=on liveupdate=on\" to preserve files\n");
        }
        try_pin_init!(Self {
            registry: status::Registry::new(module),
            orphanage: orphan::Orphanage::new(),
            #[cfg(CONFIG_HUGETLBFS)]
            pools: hugetlb::pools::Registry::new(module),
            status <- status::Device::register(),
            test <- test::Device::register(module),
        })
    }
}

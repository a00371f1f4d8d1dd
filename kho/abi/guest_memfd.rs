// SPDX-License-Identifier: GPL-2.0-only OR BSD-3-Clause

//! The format of a guest_memfd file, which is this project's own.
//!
//! A header ([`GuestMemfdSer`]) in a page of its own points to a list of [`extents`](super::extents).
//! Holes stay holes. All memory of a file is of one [`Class`], which follows from the flags, as the
//! kernel has no attributes for parts of a file. The fields for that, for larger folios, and for a
//! reference to a preserved VM are there, and must be zero.
//!
//! It also points to a list of memory [policies](policy).
//!
//! The header has a checksum of itself, and one of the extents.
//!
//! The layout is a contract with every kernel that writes or reads [`COMPATIBLE`]: any change needs
//! another string.

pub mod policy;

use super::{
    extents::{
        Checksum,
        Class,
        ExtentList,
        RawList, //
    },
    vmalloc::KhoVmalloc,
    Error,
    PageSize,
    Result, //
};
use core::{
    ffi::CStr,
    mem::{
        offset_of,
        size_of, //
    }, //
};
use policy::PolicyList;
use zerocopy_derive::{
    FromBytes,
    Immutable,
    IntoBytes,
    KnownLayout, //
};

/// The name of this format in the Live Update Orchestrator.
pub const COMPATIBLE: &CStr = c"rs-guest-memfd-v1";

/// What describes one file.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
pub struct GuestMemfdSer {
    /// [`GuestMemfdSer::sum`] of all that follows.
    pub checksum: u64,
    /// [`GuestMemfdSer::MAGIC`].
    pub magic: u32,
    /// [`GuestMemfdSer::VERSION`].
    pub version: u16,
    /// Size of this header in bytes.
    pub len: u16,
    /// File size in bytes.
    pub size: u64,
    /// Number of pages in all extents.
    pub nr_pages: u64,
    /// [`Checksum`] of the records.
    pub extents_checksum: u64,
    /// Flags of `KVM_CREATE_GUEST_MEMFD`, see [`GuestMemfdSer::MMAP`] and the others.
    pub flags: u64,
    /// What kind of VM the memory is for, see [`GuestMemfdSer::DEFAULT_VM`] and the others.
    pub vm_type: u64,
    /// The token of the preserved VM. Must be zero.
    pub vm_token: u64,
    /// Number of records.
    pub nr_extents: u32,
    /// Base two logarithm of the number of pages in a folio. Must be zero.
    pub order: u8,
    /// Base two logarithm of the size of a page.
    pub page_shift: u8,
    /// Must be zero.
    pub reserved: u16,
    /// The array of [`ExtentSer`](super::extents::ExtentSer); all zero if there is none.
    pub extents: KhoVmalloc,
    /// The array of [`PolicySer`](policy::PolicySer); all zero if there is none.
    pub policies: KhoVmalloc,
    /// An array of ranges with attributes. Must be zero.
    pub attributes: KhoVmalloc,
    /// Number of memory policies.
    pub nr_policies: u32,
    /// Number of ranges with attributes. Must be zero.
    pub nr_attributes: u32,
}

const _: () = assert!(size_of::<GuestMemfdSer>() == 128);
const _: () = assert!(offset_of!(GuestMemfdSer, checksum) == 0);
const _: () = assert!(offset_of!(GuestMemfdSer, magic) == 8);
const _: () = assert!(offset_of!(GuestMemfdSer, version) == 12);
const _: () = assert!(offset_of!(GuestMemfdSer, len) == 14);
const _: () = assert!(offset_of!(GuestMemfdSer, size) == 16);
const _: () = assert!(offset_of!(GuestMemfdSer, nr_pages) == 24);
const _: () = assert!(offset_of!(GuestMemfdSer, extents_checksum) == 32);
const _: () = assert!(offset_of!(GuestMemfdSer, flags) == 40);
const _: () = assert!(offset_of!(GuestMemfdSer, vm_type) == 48);
const _: () = assert!(offset_of!(GuestMemfdSer, vm_token) == 56);
const _: () = assert!(offset_of!(GuestMemfdSer, nr_extents) == 64);
const _: () = assert!(offset_of!(GuestMemfdSer, order) == 68);
const _: () = assert!(offset_of!(GuestMemfdSer, page_shift) == 69);
const _: () = assert!(offset_of!(GuestMemfdSer, reserved) == 70);
const _: () = assert!(offset_of!(GuestMemfdSer, extents) == 72);
const _: () = assert!(offset_of!(GuestMemfdSer, policies) == 88);
const _: () = assert!(offset_of!(GuestMemfdSer, attributes) == 104);
const _: () = assert!(offset_of!(GuestMemfdSer, nr_policies) == 120);
const _: () = assert!(offset_of!(GuestMemfdSer, nr_attributes) == 124);

impl GuestMemfdSer {
    /// "LUGM", read as bytes.
    pub const MAGIC: u32 = u32::from_le_bytes(*b"LUGM");
    /// This version.
    pub const VERSION: u16 = 1;
    /// Size of the header.
    pub const LEN: u16 = size_of::<Self>() as u16;

    /// The file can be mapped (`GUEST_MEMFD_FLAG_MMAP`).
    pub const MMAP: u64 = 1 << 0;
    /// The host may look at the memory (`GUEST_MEMFD_FLAG_INIT_SHARED`).
    pub const INIT_SHARED: u64 = 1 << 1;
    /// All flags of this version.
    pub const FLAGS: u64 = Self::MMAP | Self::INIT_SHARED;

    /// A VM without private memory.
    pub const DEFAULT_VM: u64 = 0;
    /// A VM with private memory that the host only promises not to look at
    /// (`KVM_X86_SW_PROTECTED_VM`).
    pub const SW_PROTECTED_VM: u64 = 1;

    /// What [`GuestMemfdSer::checksum`] must be.
    #[must_use]
    pub fn sum(&self) -> u64 {
        Checksum::of_sealed(self)
    }
}

/// What kind of memory a file with these flags has, if it is for a kind of VM that can be handed over.
///
/// # Errors
///
/// [`Error::UnknownFlags`] or [`Error::VmType`].
pub fn class(flags: u64, vm_type: u64) -> Result<Class> {
    let shared = flags & GuestMemfdSer::INIT_SHARED != 0;
    match vm_type {
        _ if flags & !GuestMemfdSer::FLAGS != 0 => Err(Error::UnknownFlags),
        GuestMemfdSer::DEFAULT_VM if shared => Ok(Class::Shared),
        GuestMemfdSer::DEFAULT_VM => Ok(Class::PrivatePlain),
        GuestMemfdSer::SW_PROTECTED_VM if !shared => Ok(Class::PrivatePlain),
        _ => Err(Error::VmType),
    }
}

/// A header that is consistent in itself.
///
/// # Invariants
///
/// `size` is a multiple of the page size, not zero, and at most [`i64::MAX`]. The flags are known and fit
/// the type of the VM. The folios of `list` are pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    size: u64,
    flags: u64,
    vm_type: u64,
    list: ExtentList,
    policies: Result<PolicyList>,
}

impl Header {
    /// Checks all that can be checked without the array.
    pub fn parse(raw: &GuestMemfdSer, page: PageSize) -> Result<Self> {
        if raw.magic != GuestMemfdSer::MAGIC
            || raw.version != GuestMemfdSer::VERSION
            || raw.len != GuestMemfdSer::LEN
        {
            return Err(Error::Version);
        }
        if raw.checksum != raw.sum() {
            return Err(Error::Checksum);
        }
        if raw.vm_token != 0
            || raw.reserved != 0
            || raw.nr_attributes != 0
            || !raw.attributes.is_null()
        {
            return Err(Error::UnknownFlags);
        }
        let class = class(raw.flags, raw.vm_type)?;
        if raw.order != 0 {
            return Err(Error::Order);
        }
        if raw.size == 0 || !page.is_aligned(raw.size) {
            return Err(Error::Size);
        }
        let list = RawList {
            size: raw.size,
            nr_pages: raw.nr_pages,
            checksum: raw.extents_checksum,
            nr_extents: raw.nr_extents,
            order: raw.order,
            page_shift: raw.page_shift,
            extents: raw.extents,
            class,
        };
        let list = ExtentList::parse(&list, page)?;
        let pages = raw.size >> page.shift();
        let policies = PolicyList::parse(raw.nr_policies, &raw.policies, pages, page);

        // INVARIANT: checked above.
        Ok(Self {
            size: raw.size,
            flags: raw.flags,
            vm_type: raw.vm_type,
            list,
            policies,
        })
    }

    /// File size in bytes.
    #[inline]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Flags of `KVM_CREATE_GUEST_MEMFD`.
    #[inline]
    pub fn flags(&self) -> u64 {
        self.flags
    }

    /// What kind of VM the memory is for.
    #[inline]
    pub fn vm_type(&self) -> u64 {
        self.vm_type
    }

    /// The list of pages.
    #[inline]
    pub fn list(&self) -> &ExtentList {
        &self.list
    }

    /// The list of memory policies, or what is wrong with its description, which the file can do without.
    #[inline]
    pub fn policies(&self) -> Result<&PolicyList> {
        self.policies.as_ref().map_err(|error| *error)
    }
}

#[cfg(test)]
mod tests;

// SPDX-License-Identifier: GPL-2.0-only

//! iommufd files, their page tables, and the devices that use these.
//!
//! This is a part of `luo_iommu`, not of `luo_rs`, which does not need iommufd.
//!
//! C headers: `include/linux/iommufd_liveupdate.h`, `include/linux/iommu_liveupdate.h`

mod compare;
mod incoming;
mod ioctl;
mod manifest;

pub(crate) use self::{
    incoming::{
        Device,
        HeldTables, //
    },
    manifest::Manifest, //
};

use core::ptr::NonNull;
use kernel::{
    error::{
        from_err_ptr,
        from_result,
        to_result, //
    },
    fs::File,
    prelude::*,
    sync::aref::ARef, //
};
use luo::{
    abi::iommu::{
        AreaSer,
        DeviceSer,
        IommuSer, //
    },
    bindings,
    kho::PreservedPages,
    liveupdate::{
        FileHandler,
        Registration, //
    }, //
};

/// Registers a handler whose files are of page tables that IOMMUs go on using.
pub(crate) fn register<T: FileHandler>() -> Result<Pin<KBox<Registration<T>>>> {
    // SAFETY: The function adds the state of the IOMMU core to the handler, and does nothing else.
    unsafe { Registration::with_kernel_flb(bindings::iommu_liveupdate_register_flb) }
}

/// A file that is known to be an iommufd.
///
/// # Invariants
///
/// `context` is that of `file`, as long as the file lives.
#[derive(Clone, Copy)]
pub(crate) struct IommuFile<'a> {
    file: &'a File,
    context: NonNull<kernel::bindings::iommufd_ctx>,
}

impl<'a> IommuFile<'a> {
    /// Takes `file` if it is one.
    pub(crate) fn new(file: &'a File) -> Option<Self> {
        // SAFETY: The file is alive.
        let context = unsafe { bindings::luo_helper_iommufd_ctx(file.as_ptr()) };
        // INVARIANT: Just looked up.
        Some(Self {
            file,
            context: NonNull::new(context)?,
        })
    }

    /// A number that is the same for all files of the context, of which there is one.
    pub(crate) fn id(self) -> usize {
        self.context.as_ptr() as usize
    }

    /// Keeps everybody from changing it, until the result is dropped.
    pub(crate) fn preserve(self) -> Result<FixedContext> {
        // SAFETY: By the type invariants.
        let domain = unsafe { bindings::iommufd_liveupdate_preserve(self.context.as_ptr()) };
        let domain = NonNull::new(from_err_ptr(domain)?).ok_or(ENXIO)?;
        // INVARIANT: It is preserved, and was not before.
        Ok(FixedContext {
            context: self.context,
            domain,
            _file: ARef::from(self.file),
        })
    }
}

impl IommuFile<'_> {
    /// Calls `f` with each table and each leaf of the page table that has a number in it, until it fails.
    pub(crate) fn walk<F: FnMut(&Item) -> Result>(self, hwpt: u32, mut f: F) -> Result {
        // SAFETY: By the type invariants. The callback is for `F`.
        to_result(unsafe {
            bindings::iommufd_liveupdate_walk(
                self.context.as_ptr(),
                hwpt,
                Some(walk_one::<F>),
                (&raw mut f).cast(),
            )
        })
    }
}

/// A table or a leaf of a page table.
pub(crate) type Item = bindings::pt_iommu_item;

/// What is mapped to a file, or to something else if that is NULL.
pub(crate) type Area = bindings::iommufd_area;

/// The file that is mapped in an area.
pub(crate) fn file_of(area: &Area) -> Option<&File> {
    if area.file.is_null() {
        return None;
    }
    // SAFETY: What is mapped is held as long as the area is reported. Nobody can have called `fdget_pos()`
    // for the reference that it has.
    Some(unsafe { File::from_raw_file(area.file) })
}

/// The record of an area.
pub(crate) fn record(area: &Area) -> AreaSer {
    // CAST: Small constants.
    let may = |bit: u32| area.prot & bit as i32 != 0;
    let mut record = AreaSer {
        iova: area.iova,
        length: area.length,
        offset: area.offset,
        ..AreaSer::default()
    };
    if may(bindings::LUO_HELPER_IOMMU_READ) {
        record.flags |= AreaSer::READ;
    }
    if may(bindings::LUO_HELPER_IOMMU_WRITE) {
        record.flags |= AreaSer::WRITE;
    }
    record.checksum = record.sum();
    record
}

/// A context that nobody can change.
///
/// # Invariants
///
/// The context is preserved, and we did that. `domain` is its only page table.
pub(crate) struct FixedContext {
    context: NonNull<kernel::bindings::iommufd_ctx>,
    domain: NonNull<kernel::bindings::iommu_domain>,
    // The context stays as long as the file.
    _file: ARef<File>,
}

// SAFETY: What is called for it takes locks, and may be called from any thread.
unsafe impl Send for FixedContext {}

impl FixedContext {
    /// Format of the page table, if it is one that can be handed over.
    pub(crate) fn format(&self) -> Option<u16> {
        // SAFETY: By the type invariants.
        match unsafe { bindings::luo_helper_iommu_format(self.domain.as_ptr()) } {
            bindings::LUO_HELPER_IOMMU_VTD_SECOND_STAGE => Some(IommuSer::VTD_SECOND_STAGE),
            _ => None,
        }
    }

    /// The last address that can be mapped.
    pub(crate) fn last(&self) -> u64 {
        // SAFETY: By the type invariants.
        unsafe { bindings::luo_helper_iommu_last(self.domain.as_ptr()) }
    }

    /// Calls `f` with each table and each leaf of the page table, until it fails.
    pub(crate) fn walk<F: FnMut(&Item) -> Result>(&self, mut f: F) -> Result {
        // SAFETY: By the type invariants the domain cannot change. The callback is for `F`.
        to_result(unsafe {
            bindings::iommu_liveupdate_walk(
                self.domain.as_ptr(),
                Some(walk_one::<F>),
                (&raw mut f).cast(),
            )
        })
    }

    /// Preserves all of the page table's memory. How many levels it has is returned, too.
    pub(crate) fn preserve_tables(&self) -> Result<(PreservedPages, u16)> {
        let mut pages = PreservedPages::new();
        let mut levels = 0;
        self.walk(|item| {
            if !item.is_table {
                return Ok(());
            }
            if item.size != luo::kho::PAGE.bytes() {
                return Err(EOPNOTSUPP);
            }
            if pages.is_empty() {
                let top = u16::try_from(item.level).map_err(|_| EOPNOTSUPP)?;
                levels = top.saturating_add(1);
            }
            // SAFETY: It is a page of its own, and as nobody can change the page table it stays there for
            // as long as this exists. The handler drops what is returned before it drops this.
            unsafe { pages.push(item.phys) }?;
            if luo::interrupted() {
                return Err(EINTR);
            }
            Ok(())
        })?;
        Ok((pages, levels))
    }

    /// Calls `f` with each area, until it fails.
    pub(crate) fn areas<F: FnMut(&Area) -> Result>(&self, mut f: F) -> Result {
        // SAFETY: By the type invariants. The callback is for `F`.
        to_result(unsafe {
            bindings::iommufd_liveupdate_walk_areas(
                self.context.as_ptr(),
                Some(area_one::<F>),
                (&raw mut f).cast(),
            )
        })
    }

    /// The devices that are bound, which may use the page table.
    pub(crate) fn devices(&self) -> Result<KVec<DeviceSer>> {
        let mut list: [bindings::luo_helper_iommu_device; IommuSer::MAX_DEVICES] =
            pin_init::zeroed();
        // SAFETY: By the type invariants, and there is room for so many.
        let nr = unsafe {
            bindings::luo_helper_iommufd_devices(
                self.context.as_ptr(),
                list.as_mut_ptr(),
                // CAST: It is small.
                list.len() as u32,
            )
        };
        let nr = usize::try_from(nr).map_err(|_| Error::from_errno(nr))?;
        let mut devices = KVec::new();
        for raw in list.iter().take(nr) {
            devices.push(
                DeviceSer {
                    domain: raw.domain,
                    bdf: raw.bdf,
                    reserved: 0,
                },
                GFP_KERNEL,
            )?;
        }
        Ok(devices)
    }
}

impl Drop for FixedContext {
    fn drop(&mut self) {
        // SAFETY: By the type invariants.
        unsafe { bindings::iommufd_liveupdate_unpreserve(self.context.as_ptr()) };
    }
}

/// # Safety
///
/// `item` must be valid, and `arg` must be an `F` that nobody else uses.
unsafe extern "C" fn walk_one<F: FnMut(&Item) -> Result>(
    item: *const Item,
    arg: *mut c_void,
) -> c_int {
    // SAFETY: The caller guarantees it.
    let (item, f) = unsafe { (&*item, &mut *arg.cast::<F>()) };
    from_result(|| f(item).map(|()| 0))
}

/// # Safety
///
/// `area` must be valid, and `arg` must be an `F` that nobody else uses.
unsafe extern "C" fn area_one<F: FnMut(&Area) -> Result>(
    area: *const Area,
    arg: *mut c_void,
) -> c_int {
    // SAFETY: The caller guarantees it.
    let (area, f) = unsafe { (&*area, &mut *arg.cast::<F>()) };
    from_result(|| f(area).map(|()| 0))
}

// SPDX-License-Identifier: GPL-2.0-only

//! What user space asks the file that tells what was mapped.
//!
//! C header: `iommu_preserve/include/uapi/linux/luo_iommu.h`

use super::Manifest;
use core::ops::ControlFlow;
use kernel::{
    ffi::{
        c_long,
        c_uint,
        c_ulong, //
    },
    fs::LocalFile,
    page::PAGE_SIZE,
    prelude::*,
    sync::Arc,
    types::ForeignOwnable,
    uaccess::{
        UserPtr,
        UserSlice, //
    }, //
};
use luo::{
    abi::iommu::{
        AreaSer,
        IommuSer, //
    },
    bindings, //
};

const INFO: usize = bindings::LUO_HELPER_IOMMU_INFO_SIZE as usize;
const AREAS: usize = bindings::LUO_HELPER_IOMMU_AREAS_SIZE as usize;
const VERIFY: usize = bindings::LUO_HELPER_IOMMU_VERIFY_SIZE as usize;

/// Size of `struct luo_iommu_area`.
const AREA: u64 = 40;
/// Where the number is in `struct luo_iommu_areas`.
const NR: usize = 8;
/// Where the address is in `struct luo_iommu_verify`.
const IOVA: usize = 16;

/// A structure that begins with its size.
struct Request<const LEN: usize>([u8; LEN]);

impl<const LEN: usize> Request<LEN> {
    /// Reads one that may be larger than what is known of it, if there is nothing behind that.
    fn read(arg: UserPtr) -> Result<Self> {
        let size = UserSlice::new(arg, size_of::<u32>())
            .reader()
            .read::<u32>()? as usize;
        if size < LEN {
            return Err(EINVAL);
        }
        if size > PAGE_SIZE {
            return Err(E2BIG);
        }
        let mut known = [0; LEN];
        let mut reader = UserSlice::new(arg, size).reader();
        reader.read_slice(&mut known)?;
        let mut unknown = KVec::new();
        reader.read_all(&mut unknown, GFP_KERNEL)?;
        if unknown.iter().any(|byte| *byte != 0) {
            return Err(E2BIG);
        }
        Ok(Self(known))
    }

    fn u32_at(&self, at: usize) -> u32 {
        let bytes = self.0.get(at..).and_then(|rest| rest.first_chunk());
        u32::from_ne_bytes(*bytes.unwrap_or(&[0; 4]))
    }

    fn u64_at(&self, at: usize) -> u64 {
        let bytes = self.0.get(at..).and_then(|rest| rest.first_chunk());
        u64::from_ne_bytes(*bytes.unwrap_or(&[0; 8]))
    }
}

fn get_info(manifest: &Manifest, arg: UserPtr) -> Result {
    Request::<INFO>::read(arg)?;
    let header = manifest.header();
    let mut writer = UserSlice::new(arg, INFO).writer();
    // CAST: A small constant.
    writer.write(&(INFO as u32))?;
    writer.write(&IommuSer::VTD_SECOND_STAGE)?;
    writer.write(&header.levels())?;
    writer.write(&header.nr_areas())?;
    writer.write(&0u32)?;
    writer.write(&header.last())?;
    writer.write(&manifest.nr_tables())
}

fn get_areas(manifest: &Manifest, arg: UserPtr) -> Result {
    let request = Request::<AREAS>::read(arg)?;
    let (first, nr) = (request.u32_at(4), request.u32_at(NR));
    if request.u32_at(12) != 0 {
        return Err(EINVAL);
    }
    let left = manifest.header().nr_areas().saturating_sub(first);
    let nr = nr.min(left);
    let len = usize::try_from(u64::from(nr) * AREA).map_err(|_| EFAULT)?;
    let to = usize::try_from(request.u64_at(16)).map_err(|_| EFAULT)?;
    let mut writer = UserSlice::new(UserPtr::from_addr(to), len).writer();
    manifest.try_for_each_area(first, nr, |area: &AreaSer| {
        for word in [area.iova, area.length, area.offset, area.token] {
            writer.write(&word)?;
        }
        writer.write(&area.flags)?;
        writer.write(&0u32)?;
        match luo::interrupted() {
            true => Err(EINTR),
            false => Ok(()),
        }
    })?;
    UserSlice::new(arg.wrapping_byte_add(NR), size_of::<u32>())
        .writer()
        .write(&nr)
}

fn verify(manifest: &Manifest, arg: UserPtr) -> Result {
    let request = Request::<VERIFY>::read(arg)?;
    if request.u32_at(12) != 0 {
        return Err(EINVAL);
    }
    let file = LocalFile::fget(request.u32_at(4))?;
    // SAFETY: `ioctl()` has no position, so that this thread has not called `fdget_pos()`.
    let file = unsafe { LocalFile::assume_no_fdget_pos(file) };
    match manifest.compare(&file, request.u32_at(8))? {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(iova) => {
            UserSlice::new(arg.wrapping_byte_add(IOVA), size_of::<u64>())
                .writer()
                .write(&iova)?;
            Err(EADDRNOTAVAIL)
        }
    }
}

/// # Safety
///
/// `file` must be a file with the operations of [`Manifest`], which is alive.
pub(super) unsafe extern "C" fn ioctl(
    file: *mut kernel::bindings::file,
    cmd: c_uint,
    arg: c_ulong,
) -> c_long {
    // SAFETY: The file is alive during the call, and has its private data until it is released.
    let manifest = unsafe { Arc::<Manifest>::borrow((*file).private_data.cast()) };
    let arg = UserPtr::from_addr(arg);
    let result = match cmd {
        bindings::LUO_HELPER_IOMMU_GET_INFO => get_info(&manifest, arg),
        bindings::LUO_HELPER_IOMMU_GET_AREAS => get_areas(&manifest, arg),
        bindings::LUO_HELPER_IOMMU_VERIFY => verify(&manifest, arg),
        _ => Err(ENOTTY),
    };
    match result {
        Ok(()) => 0,
        Err(err) => err.to_errno() as c_long,
    }
}

// SPDX-License-Identifier: GPL-2.0-only

//! The file that tells what was mapped.

use super::{
    compare::Comparison,
    ioctl::ioctl,
    HeldTables,
    IommuFile, //
};
use core::{
    ops::ControlFlow,
    ptr::NonNull, //
};
use kernel::{
    bindings::file_operations,
    error::from_err_ptr,
    fs::File,
    module::this_module,
    new_mutex,
    prelude::*,
    sync::{
        aref::ARef,
        Arc,
        Mutex, //
    },
    types::ForeignOwnable, //
};
use luo::{
    abi::iommu::{
        AreaSer,
        Header, //
    },
    bindings,
    kho::{
        IncomingList,
        IncomingPages,
        PAGE, //
    }, //
};

/// What was mapped, and the page table that did it.
#[pin_data]
pub(crate) struct Manifest {
    header: Header,
    areas: IncomingList<AreaSer>,
    /// [`None`] once the session is finished.
    #[pin]
    tables: Mutex<Option<HeldTables>>,
}

/// The operations of the file.
const OPERATIONS: &file_operations = &file_operations {
    owner: this_module::<crate::LuoIommu>().as_ptr(),
    unlocked_ioctl: Some(ioctl),
    // The arguments are the same for 32 bits.
    #[cfg(CONFIG_COMPAT)]
    compat_ioctl: Some(kernel::bindings::compat_ptr_ioctl),
    release: Some(release),
    ..pin_init::zeroed()
};

impl Manifest {
    /// Takes over what was checked.
    pub(crate) fn new(
        header: &Header,
        areas: IncomingList<AreaSer>,
        tables: HeldTables,
    ) -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                header: *header,
                areas,
                tables <- new_mutex!(Some(tables)),
            }),
            GFP_KERNEL,
        )
    }

    /// Takes the page table out, which happens once.
    pub(crate) fn take_tables(&self) -> Option<HeldTables> {
        self.tables.lock().take()
    }

    /// What the header says.
    pub(super) fn header(&self) -> &Header {
        &self.header
    }

    /// How many pages the page table has.
    pub(super) fn nr_tables(&self) -> u64 {
        let tables = self.tables.lock();
        let pages = tables.as_ref().and_then(HeldTables::pages);
        pages.map_or(0, IncomingPages::len)
    }

    /// Calls `f` with `nr` areas from the number `first` on, until it fails.
    pub(super) fn try_for_each_area(
        &self,
        first: u32,
        nr: u32,
        mut f: impl FnMut(&AreaSer) -> Result,
    ) -> Result {
        let mut at = 0;
        self.areas.try_for_each(first.saturating_add(nr), |area| {
            let skip = at < first;
            at = at.saturating_add(1);
            match skip {
                true => Ok(()),
                false => f(area),
            }
        })
    }

    /// Compares the page table with one of the iommufd `file`. Breaks with the first address that differs.
    pub(super) fn compare(&self, file: &File, hwpt: u32) -> Result<ControlFlow<u64>> {
        let other = IommuFile::new(file).ok_or(EBADFD)?;
        // CAST: It was bounded when it was parsed.
        let mut areas = VVec::with_capacity(self.header.nr_areas() as usize, GFP_KERNEL)?;
        self.try_for_each_area(0, self.header.nr_areas(), |area| {
            Ok(areas.push((area.iova, area.length), GFP_KERNEL)?)
        })?;

        let tables = self.tables.lock();
        let pages = tables.as_ref().and_then(HeldTables::pages).ok_or(ENODATA)?;
        let mut top = None;
        pages.try_for_each(|pfn| {
            top = top.or(PAGE.phys(pfn));
            Ok(())
        })?;
        let top = top.ok_or(ENODATA)?;
        let mut comparison = Comparison::new(pages.reader()?, top, &self.header, areas);
        let mut differs = None;
        let walked = other.walk(hwpt, |item| match comparison.step(item) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(iova) => {
                differs = Some(iova);
                Err(EADDRNOTAVAIL)
            }
        });
        if let Some(iova) = differs {
            return Ok(ControlFlow::Break(iova));
        }
        walked.map(|()| comparison.end())
    }

    /// A file of it.
    pub(crate) fn open(this: Arc<Self>) -> Result<ARef<File>> {
        let private = this.into_foreign();
        // SAFETY: The operations are static, and take the private data for what it is.
        let file = unsafe {
            bindings::anon_inode_getfile(
                c"[luo-iommu]".as_char_ptr(),
                OPERATIONS,
                private.cast(),
                kernel::bindings::O_RDONLY as c_int,
            )
        };
        let file = from_err_ptr(file).and_then(|file| NonNull::new(file.cast()).ok_or(ENOMEM));
        match file {
            // SAFETY: We own the only reference, and `File` is a transparent wrapper; nobody can have
            // called `fdget_pos()` for it.
            Ok(file) => Ok(unsafe { ARef::from_raw(file) }),
            Err(err) => {
                // SAFETY: There is no file that has it.
                drop(unsafe { Arc::<Self>::from_foreign(private) });
                Err(err)
            }
        }
    }
}

/// # Safety
///
/// `file` must be a file with [`OPERATIONS`], whose last reference is gone.
unsafe extern "C" fn release(
    _inode: *mut kernel::bindings::inode,
    file: *mut kernel::bindings::file,
) -> c_int {
    // SAFETY: `open()` set the private data, and nobody uses it any more.
    drop(unsafe { Arc::<Manifest>::from_foreign((*file).private_data.cast()) });
    0
}

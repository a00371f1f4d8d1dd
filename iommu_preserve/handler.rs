// SPDX-License-Identifier: GPL-2.0-only

//! The handler: see the module's description.

use crate::iommu::{
    file_of,
    record,
    Device,
    FixedContext,
    HeldTables,
    IommuFile,
    Manifest, //
};
use kernel::{
    fs::File,
    prelude::*,
    sync::Arc, //
};
use luo::{
    abi::{
        self,
        iommu::{
            AreaSer,
            DeviceSer,
            Header,
            IommuSer,
            COMPATIBLE, //
        }, //
    },
    flb::NoFlb,
    kho::{
        is_preserved,
        Failed,
        Incoming,
        IncomingList,
        IncomingPages,
        PreservedBox,
        PreservedPages,
        PreservedVec,
        RestoreError,
        PAGE, //
    },
    liveupdate::{
        FileHandler,
        Preserved,
        Retrieved,
        Siblings, //
    },
    orphan::Orphan, //
};

/// Preserves iommufd files.
pub(crate) struct IommuFiles;

/// What is preserved of a file. The fields are dropped in this order.
pub(crate) struct State {
    _tables: PreservedPages,
    areas: PreservedVec<AreaSer>,
    context: FixedContext,
}

/// What arrives of a file.
pub(crate) struct IncomingFile {
    tables: IncomingPages,
    areas: IncomingList<AreaSer>,
}

/// What can be made a file.
pub(crate) struct CheckedFile {
    areas: IncomingList<AreaSer>,
    tables: HeldTables,
}

#[vtable]
impl FileHandler for IommuFiles {
    const COMPATIBLE: &'static CStr = COMPATIBLE;
    const WHEN_LOST: &'static str = "its page table kept while a device uses it";

    type Header = IommuSer;
    type State = State;
    type Live = Arc<Manifest>;
    type Flb = NoFlb;
    type Parsed = Header;
    type Memory = IncomingFile;
    type Checked = CheckedFile;

    /// These files have no inode of their own. What is retrieved is no iommufd, and each has one file.
    fn id(file: &File) -> usize {
        IommuFile::new(file).map_or(file.as_ptr() as usize, IommuFile::id)
    }

    fn can_preserve(file: &File) -> bool {
        IommuFile::new(file).is_some()
    }

    fn preserve(file: &File) -> Result<Preserved<IommuSer, State>> {
        preserve(IommuFile::new(file).ok_or(EINVAL)?)
    }

    fn name_siblings(
        preserved: &mut Preserved<IommuSer, State>,
        siblings: &Siblings<'_>,
    ) -> Result {
        let State { areas, context, .. } = &mut preserved.state;
        let mut tokens = KVVec::new();
        context.areas(|area| {
            let token = file_of(area).and_then(|file| siblings.token(file));
            Ok(tokens.push(token, GFP_KERNEL)?)
        })?;
        let mut tokens = tokens.iter();
        areas.for_each_mut(|area| area.set_token(tokens.next().copied().flatten()));
        Ok(())
    }

    fn freeze(_file: &File, preserved: &mut Preserved<IommuSer, State>) -> Result {
        freeze(preserved)
    }

    fn claim(mut header: Incoming<IommuSer>) -> IncomingFile {
        IncomingFile {
            tables: IncomingPages::take(&mut header, |raw| &mut raw.tables),
            areas: IncomingList::take(&mut header, |raw| &mut raw.areas),
        }
    }

    fn parse(raw: &IommuSer) -> Result<Header, abi::Error> {
        Header::parse(raw, PAGE)
    }

    /// If this fails, pages of the page table stay where they are: a device may use it.
    fn check(memory: IncomingFile, header: &Header) -> Result<CheckedFile, RestoreError> {
        let IncomingFile {
            mut tables,
            mut areas,
        } = memory;
        tables
            .check(header.tables(), header.nr_tables())
            .map_err(RestoreError::List)?;
        let tables = HeldTables::new(tables, header).map_err(RestoreError::Create)?;

        areas.check(header.areas()).map_err(RestoreError::List)?;
        let mut before = None;
        areas
            .try_for_each(header.nr_areas(), |area| {
                before = Some(area.parse(before, header.last(), PAGE)?);
                Ok::<_, abi::Error>(())
            })
            .map_err(RestoreError::List)?;
        Ok(CheckedFile { areas, tables })
    }

    fn retrieve(
        checked: CheckedFile,
        header: &Header,
    ) -> Result<Retrieved<Arc<Manifest>>, Failed<CheckedFile>> {
        let CheckedFile { areas, tables } = checked;
        let open = || {
            let live = Manifest::new(header, areas, tables)?;
            Ok((Manifest::open(live.clone())?, live))
        };
        let (file, live) = open().map_err(RestoreError::Create)?;
        Ok(Retrieved {
            file,
            live,
            bytes: header.nr_tables() << PAGE.shift(),
        })
    }

    fn before_discard(header: &Header) {
        for device in header.devices() {
            Device::new(device).stop();
        }
    }

    fn finished(_file: &File, live: Arc<Manifest>) -> Option<KBox<dyn Orphan>> {
        let tables = live.take_tables()?;
        if !tables.is_in_use() {
            return None;
        }
        pr_warn!(
            "a device still uses the previous kernel's page table, which is kept until it does not\n"
        );
        // Without memory for this, it is kept until the next boot, as it says.
        let orphan = KBox::new(tables, GFP_KERNEL).ok()?;
        Some(orphan)
    }
}

fn preserve(file: IommuFile<'_>) -> Result<Preserved<IommuSer, State>> {
    let refuse = |why| {
        pr_info!("an iommufd cannot be preserved: {}\n", why);
        EOPNOTSUPP
    };
    let context = file.preserve().map_err(|err| match err {
        EOPNOTSUPP => refuse(
            "it has more than one page table, memory that is not of a file, or a device without an IOMMU",
        ),
        ENXIO => {
            pr_info!("an iommufd cannot be preserved: it has no page table\n");
            ENXIO
        }
        err => err,
    })?;
    let format = context
        .format()
        .ok_or_else(|| refuse("its IOMMU, or a page table of this kind, cannot be handed over"))?;
    let (tables, levels) = context.preserve_tables()?;

    let mut areas = PreservedVec::new();
    let mut before = None;
    context.areas(|area| {
        let record = record(area);
        // What is written can be read.
        before = match record.parse(before, context.last(), PAGE) {
            Ok(last) => Some(last),
            Err(_) => return Err(refuse("an area is not of whole pages")),
        };
        let room = areas.room()?;
        let slot = room.first_mut().ok_or(ENOMEM)?;
        slot.write(record);
        areas.commit(1);
        Ok(())
    })?;
    let header = IommuSer {
        magic: IommuSer::MAGIC,
        version: IommuSer::VERSION,
        len: IommuSer::LEN,
        format,
        levels,
        nr_areas: u32::try_from(areas.len()).map_err(|_| EFBIG)?,
        nr_tables: tables.len(),
        last: context.last(),
        tables: tables.describe(),
        areas: areas.describe(),
        ..IommuSer::default()
    };
    Ok(Preserved {
        bytes: tables.bytes().saturating_add(areas.bytes()),
        header: PreservedBox::new(header)?,
        state: State {
            _tables: tables,
            areas,
            context,
        },
    })
}

/// Refuses the update if devices could write to what is not preserved, and says which devices there are.
fn freeze(preserved: &mut Preserved<IommuSer, State>) -> Result {
    let context = &preserved.state.context;
    context.walk(|item| {
        if item.is_table {
            return Ok(());
        }
        let first = item.phys >> PAGE.shift();
        let end = first.saturating_add(PAGE.pages(item.size));
        let mut pfn = first;
        while pfn < end {
            let Some(left) = is_preserved(pfn) else {
                let iova = item.iova.saturating_add((pfn - first) << PAGE.shift());
                pr_err!(
                    "devices can use memory that is not preserved at {:#x} to {:#x}: preserve its file first\n",
                    iova,
                    item.iova.saturating_add(item.size - 1)
                );
                return Err(EFAULT);
            };
            pfn = pfn.saturating_add(left);
        }
        Ok(())
    })?;

    let devices = context.devices()?;
    let header = &mut preserved.header;
    header.devices = [DeviceSer::default(); IommuSer::MAX_DEVICES];
    for (to, from) in header.devices.iter_mut().zip(devices.iter()) {
        *to = *from;
    }
    header.nr_devices = u32::try_from(devices.len()).map_err(|_| EFBIG)?;
    header.checksum = header.sum();
    // What is written can be read.
    Header::parse(header, PAGE).map_err(|_| EINVAL)?;
    Ok(())
}

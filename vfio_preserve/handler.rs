// SPDX-License-Identifier: GPL-2.0-only

//! The handler: see the module's description.

use crate::vfio::{
    DeviceState,
    IncomingDevice,
    RunningDevice,
    VfioFile, //
};
use kernel::{
    fs::File,
    prelude::*, //
};
use luo::{
    abi::{
        self,
        vfio_pci::{
            ConfigSer,
            Header,
            VfioPciSer,
            COMPATIBLE, //
        }, //
    },
    flb::NoFlb,
    kho::{
        Failed,
        Incoming,
        IncomingList,
        PreservedBox,
        PreservedVec,
        RestoreError,
        PAGE, //
    },
    liveupdate::{
        FileHandler,
        Preserved,
        Retrieved, //
    },
    orphan::Orphan, //
};

/// Preserves and restores files of VFIO PCI devices.
pub(crate) struct VfioPciFiles;

/// What is preserved of a file.
pub(crate) struct State {
    config: PreservedVec<ConfigSer>,
    /// Where what the driver knows is collected.
    now: DeviceState,
    running: RunningDevice,
}

/// What arrives of a file.
pub(crate) struct IncomingFile {
    config: IncomingList<ConfigSer>,
}

/// What can be made a file again.
pub(crate) struct CheckedFile {
    state: DeviceState,
    device: IncomingDevice,
}

#[vtable]
impl FileHandler for VfioPciFiles {
    const COMPATIBLE: &'static CStr = COMPATIBLE;
    const WHEN_LOST: &'static str = "what was handed over of its configuration freed";

    type Header = VfioPciSer;
    type State = State;
    type Live = IncomingDevice;
    type Flb = NoFlb;
    type Parsed = Header;
    type Memory = IncomingFile;
    type Checked = CheckedFile;

    /// Devices can have several files, of which none has an inode of its own.
    fn id(file: &File) -> usize {
        VfioFile::new(file).map_or(0, VfioFile::id)
    }

    fn can_preserve(file: &File) -> bool {
        VfioFile::new(file).is_some()
    }

    fn preserve(file: &File) -> Result<Preserved<VfioPciSer, State>> {
        preserve(file)
    }

    fn freeze(file: &File, preserved: &mut Preserved<VfioPciSer, State>) -> Result {
        freeze(VfioFile::new(file).ok_or(EINVAL)?, preserved)
    }

    fn unfreeze(file: &File, _preserved: &mut Preserved<VfioPciSer, State>) {
        if let Some(file) = VfioFile::new(file) {
            file.thaw();
        }
    }

    fn claim(mut header: Incoming<VfioPciSer>) -> IncomingFile {
        IncomingFile {
            config: IncomingList::take(&mut header, |raw| &mut raw.config),
        }
    }

    fn parse(raw: &VfioPciSer) -> Result<Header, abi::Error> {
        Header::parse(raw, PAGE)
    }

    /// From the device on, whatever fails stops it.
    fn check(mut memory: IncomingFile, header: &Header) -> Result<CheckedFile, RestoreError> {
        let identity = header.identity();
        let device = IncomingDevice::find(identity.domain, identity.bdf).ok_or_else(|| {
            pr_err!(
                "{:04x}:{:04x}: what was preserved of this device is not there any more\n",
                identity.vendor,
                identity.device
            );
            RestoreError::Create(ENODEV)
        })?;

        let mut state = DeviceState::new().map_err(RestoreError::Create)?;
        state.set(header.cfg_size(), header.flags());
        memory
            .config
            .check(Some(header.config()))
            .map_err(RestoreError::List)?;
        let mut offset = 0u32;
        let nr = Header::records(header.cfg_size());
        memory
            .config
            .try_for_each(nr, |record| {
                let (map, seen) = record.parse(offset)?;
                // CAST: The configuration space is small.
                state.set_piece(offset as usize, map, seen);
                offset = offset.saturating_add(ConfigSer::BYTES as u32);
                Ok::<_, abi::Error>(())
            })
            .map_err(RestoreError::List)?;
        Ok(CheckedFile { state, device })
    }

    fn retrieve(
        checked: CheckedFile,
        header: &Header,
    ) -> Result<Retrieved<IncomingDevice>, Failed<CheckedFile>> {
        let identity = header.identity();
        if let Some(what) = identity.difference(&checked.device.identity()) {
            pr_err!(
                "{:04x}:{:04x}: is another device now, or was changed: {}\n",
                identity.vendor,
                identity.device,
                what
            );
            return Err(RestoreError::Create(ENODEV).into());
        }
        match checked.device.open(&checked.state) {
            Ok(file) => Ok(Retrieved {
                file,
                live: checked.device,
                bytes: u64::from(header.cfg_size()),
            }),
            // It goes on running; its driver may only be missing.
            Err(err) => Err(Failed {
                error: RestoreError::Create(err),
                rest: Some(checked),
            }),
        }
    }

    fn before_discard(header: &Header) {
        let identity = header.identity();
        IncomingDevice::stop_at(identity.domain, identity.bdf);
    }

    fn before_finish(file: &File) {
        if let Some(file) = VfioFile::new(file) {
            if !file.settle() {
                pr_warn!(
                    "a device was not bound, or not attached, when its session was finished, and is stopped\n"
                );
            }
        }
    }

    /// A device of which nothing can be read may write to memory of the session, and which one it is nobody knows.
    fn before_loss(live: Option<&IncomingDevice>) {
        if let Some(device) = live {
            if device.stop_unused() {
                pr_warn!(
                    "a device whose file was lost after it was retrieved is stopped when its session is finished\n"
                );
            }
            return;
        }
        let nr = IncomingDevice::stop_unclaimed();
        if nr != 0 {
            pr_err!(
                "what was preserved of a device cannot be read when its session is finished: all that nobody has retrieved are stopped, {}, as it may be any of these\n",
                nr
            );
        }
    }

    fn finished(_file: &File, live: IncomingDevice) -> Option<KBox<dyn Orphan>> {
        live.leave();
        None
    }
}

fn preserve(file: &File) -> Result<Preserved<VfioPciSer, State>> {
    let file = VfioFile::new(file).ok_or(EINVAL)?;
    let refuse = |why| {
        let identity = file.identity();
        pr_info!(
            "{:04x}:{:04x} at {:04x}: cannot be preserved: {}\n",
            identity.vendor,
            identity.device,
            identity.bdf,
            why
        );
        EOPNOTSUPP
    };
    if !file.is_bound_cdev() {
        return Err(refuse(
            "this is no file of its character device, or is not bound to an iommufd",
        ));
    }
    if file.has_iommu() && !file.has_preserved_iommufd() {
        return Err(refuse(
            "it is behind an IOMMU, and its iommufd has to be preserved before it",
        ));
    }
    if file.group_size() != 1 {
        return Err(refuse("its IOMMU group has other devices"));
    }
    let running = file.preserve().map_err(|err| match err {
        EOPNOTSUPP => refuse("it is a virtual function, has such, or may use ATS"),
        EXDEV => refuse("its IOMMU cannot go on translating for it in the way that it does"),
        ENXIO => refuse("it is behind an IOMMU, and nothing is attached to it"),
        err => err,
    })?;

    let mut config = PreservedVec::new();
    for _ in 0..Header::records(file.cfg_size()) {
        config.room()?;
        config.commit(1);
    }
    let header = VfioPciSer {
        magic: VfioPciSer::MAGIC,
        version: VfioPciSer::VERSION,
        len: VfioPciSer::LEN,
        config: config.describe(),
        ..VfioPciSer::default()
    };
    Ok(Preserved {
        bytes: config.bytes(),
        state: State {
            config,
            now: DeviceState::new()?,
            running,
        },
        header: PreservedBox::new(header)?,
    })
}

/// Writes down what the device and its driver are when nobody can change them any more.
fn freeze(file: VfioFile<'_>, preserved: &mut Preserved<VfioPciSer, State>) -> Result {
    let State {
        config,
        now,
        running,
    } = &mut preserved.state;
    if !running.is_translated(file) {
        pr_err!("a device is preserved, and its iommufd is not any more: preserve both again\n");
        return Err(EBUSY);
    }
    file.freeze(now)?;

    let mut offset = 0usize;
    config.for_each_mut(|record| {
        *record = now.piece(offset);
        offset = offset.saturating_add(ConfigSer::BYTES);
    });
    let header = &mut preserved.header;
    header.identity = file.identity();
    header.flags = now.flags();
    header.cfg_size = now.cfg_size();
    header.checksum = header.sum();
    // What is written can be read.
    if Header::parse(header, PAGE).is_err() {
        file.thaw();
        return Err(EINVAL);
    }
    Ok(())
}

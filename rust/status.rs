// SPDX-License-Identifier: GPL-2.0-only

//! What is preserved right now: the read-only device `/dev/luo_status`.
//!
//! The first line names the format's version, then there is one record a line, each a word and
//! `key=value` pairs; readers must skip words and keys that they do not know:
//!
//! ```text
//! luo_rs 1
//! handler compatible=memfd-v2 module=luo_memfd preserved=1 incoming=0 bytes=4096
//! file compatible=memfd-v2 state=preserved id=12 bytes=4096
//! file compatible=rs-hugetlb-v1 state=preserved id=13 bytes=6295552 huge_page=2097152 huge_pages=3
//! orphan compatible=memfd-v2 bytes=4096
//! ```
//!
//! `huge_page` is how many bytes each huge page of a file has, if these are of HugeTLB, and `huge_pages` how
//! many they are. `bytes` also counts memory that describes the file.
//!
//! LUO tells its handlers neither tokens nor sessions, so none are shown. What a reader gets is a
//! snapshot made when the device was opened.
//!
//! Lock order: [`REGISTRY`], then a handler's list of files. Orphans come last.

use core::{
    fmt::Write as _,
    ops::Deref, //
};
use kernel::{
    fmt,
    fs::{
        File,
        Kiocb, //
    },
    iov::IovIterDest,
    miscdevice::{
        MiscDevice,
        MiscDeviceOptions,
        MiscDeviceRegistration, //
    },
    new_mutex,
    prelude::*,
    rbtree::{
        RBTree,
        RBTreeNodeReservation, //
    },
    sync::{
        Arc,
        Mutex, //
    }, //
};

/// Version of the text, for readers.
const VERSION: u32 = 1;

kernel::sync::global_lock! {
    // SAFETY: `Registry::new()` is called when the module is loaded, before anything else.
    unsafe(uninit) static REGISTRY: Mutex<KVec<Arc<Handler>>> = KVec::new();
}

/// Proof that the list of handlers can be used.
pub(crate) struct Registry(());

impl Registry {
    /// Called once, when the module is loaded.
    pub(crate) fn new(_module: &'static ThisModule) -> Self {
        // SAFETY: Modules are initialised once.
        unsafe { REGISTRY.init() };
        Self(())
    }
}

/// Where a file is on its way.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum FileState {
    /// In the old kernel, which runs on.
    Preserved,
    /// In the old kernel, just before the jump.
    Frozen,
    /// In the new kernel, not finished.
    Retrieved,
}

impl FileState {
    fn name(self) -> &'static str {
        match self {
            Self::Preserved => "preserved",
            Self::Frozen => "frozen",
            Self::Retrieved => "retrieved",
        }
    }
}

/// Tells the files of a handler apart: where the header of a file is or was, and which kernel made it.
///
/// A file cannot serve for this. LUO may drop one that it was just given, and then finishes what the
/// handler takes for retrieved without it. And memory of headers that arrived is used again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Key {
    /// A file of this kernel.
    Outgoing(u64),
    /// A file of the previous kernel.
    Incoming(u64),
}

struct Row {
    state: FileState,
    ino: u64,
    bytes: u64,
    huge_pages: Option<HugePages>,
}

/// Huge pages of a file.
struct HugePages {
    /// Bytes in each.
    size: u64,
    nr: u64,
}

#[cfg(CONFIG_HUGETLBFS)]
impl HugePages {
    /// Those of `file`, if it has any; its size does not change while it is preserved.
    fn of(file: &File) -> Option<Self> {
        let file = crate::hugetlb::Hugetlb::new(file)?;
        let shift = file.order().checked_add(crate::kho::PAGE.shift())?;
        let size = 1u64.checked_shl(shift)?;
        let nr = file.size().checked_next_multiple_of(size)? >> shift;
        Some(Self { size, nr })
    }
}

#[cfg(not(CONFIG_HUGETLBFS))]
impl HugePages {
    fn of(_file: &File) -> Option<Self> {
        None
    }
}

/// The files of one handler.
#[pin_data]
pub(crate) struct Handler {
    compatible: &'static CStr,
    module: &'static CStr,
    #[pin]
    rows: Mutex<RBTree<Key, Row>>,
}

impl Handler {
    fn new(compatible: &'static CStr, module: &'static CStr) -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                compatible,
                module,
                rows <- new_mutex!(RBTree::new()),
            }),
            GFP_KERNEL,
        )
    }

    /// Allocates what is needed to add a file, so that adding it cannot fail.
    pub(crate) fn reserve(&self) -> Result<Reserved<'_>> {
        Ok(Reserved {
            handler: self,
            node: RBTreeNodeReservation::new(GFP_KERNEL)?,
        })
    }

    pub(crate) fn set_state(&self, key: Key, state: FileState) {
        if let Some(row) = self.rows.lock().get_mut(&key) {
            row.state = state;
        }
    }

    pub(crate) fn remove(&self, key: Key) {
        let row = self.rows.lock().remove_node(&key);
        drop(row);
    }
}

/// A handler that is shown in the report until this is dropped.
pub(crate) struct Entry(Arc<Handler>);

impl Entry {
    /// Adds a handler to the report.
    pub(crate) fn new(compatible: &'static CStr, module: &'static CStr) -> Result<Self> {
        let this = Self(Handler::new(compatible, module)?);
        REGISTRY.lock().push(this.0.clone(), GFP_KERNEL)?;
        Ok(this)
    }
}

impl Deref for Entry {
    type Target = Handler;

    fn deref(&self) -> &Handler {
        &self.0
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        REGISTRY.lock().retain(|other| !Arc::ptr_eq(other, &self.0));
    }
}

/// Room for one more file.
pub(crate) struct Reserved<'a> {
    handler: &'a Handler,
    node: RBTreeNodeReservation<Key, Row>,
}

impl Reserved<'_> {
    pub(crate) fn insert(self, key: Key, file: &File, state: FileState, bytes: u64) {
        let ino = crate::fs::ino(file);
        let row = Row {
            state,
            ino,
            bytes,
            huge_pages: HugePages::of(file),
        };
        let node = self.node.into_node(key, row);
        let old = self.handler.rows.lock().insert(node);
        drop(old);
    }
}

/// The text for one reader.
struct Report(KVVec<u8>);

impl fmt::Write for Report {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        self.0
            .extend_from_slice(s.as_bytes(), GFP_KERNEL)
            .map_err(|_| fmt::Error)
    }
}

impl Report {
    fn new() -> Result<Self> {
        crate::orphan::retry();
        let mut this = Self(KVVec::new());
        this.fill().map_err(|_| ENOMEM)?;
        Ok(this)
    }

    fn fill(&mut self) -> fmt::Result {
        writeln!(self, "luo_rs {VERSION}")?;
        for handler in REGISTRY.lock().iter() {
            let rows = handler.rows.lock();
            let incoming = rows
                .values()
                .filter(|row| row.state == FileState::Retrieved)
                .count();
            let preserved = rows.values().count() - incoming;
            // The sizes of files that arrived are what the previous kernel says.
            let bytes = rows
                .values()
                .fold(0u64, |sum, row| sum.saturating_add(row.bytes));
            writeln!(
                self,
                "handler compatible={} module={} preserved={preserved} incoming={incoming} bytes={bytes}",
                text(handler.compatible),
                text(handler.module),
            )?;
            for row in rows.values() {
                write!(
                    self,
                    "file compatible={} state={} id={} bytes={}",
                    text(handler.compatible),
                    row.state.name(),
                    row.ino,
                    row.bytes
                )?;
                if let Some(HugePages { size, nr }) = row.huge_pages {
                    write!(self, " huge_page={size} huge_pages={nr}")?;
                }
                writeln!(self)?;
            }
        }
        crate::orphan::try_for_each(|compatible, bytes| {
            writeln!(self, "orphan compatible={compatible} bytes={bytes}")
        })
    }
}

/// A name, which is ASCII.
fn text(name: &'static CStr) -> &'static str {
    name.to_str().unwrap_or("?")
}

/// The device.
#[pin_data]
pub(crate) struct Device {
    #[pin]
    device: MiscDeviceRegistration<Snapshot>,
}

impl Device {
    pub(crate) fn register() -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            device <- MiscDeviceRegistration::register(MiscDeviceOptions {
                name: c"luo_status",
            }),
        })
    }
}

/// What one open of the device shows.
struct Snapshot {
    text: KVVec<u8>,
}

#[vtable]
impl MiscDevice for Snapshot {
    type Ptr = KBox<Self>;

    fn open(_file: &File, _misc: &MiscDeviceRegistration<Self>) -> Result<KBox<Self>> {
        let text = Report::new()?.0;
        Ok(KBox::new(Self { text }, GFP_KERNEL)?)
    }

    fn read_iter(mut kiocb: Kiocb<'_, Self::Ptr>, iov: &mut IovIterDest<'_>) -> Result<usize> {
        let this = kiocb.file();
        iov.simple_read_from_buffer(kiocb.ki_pos_mut(), &this.text)
    }
}

// SPDX-License-Identifier: GPL-2.0-only

//! The handler of the second format, which has a record for each run of pages.

use super::chunk;
use crate::module_parameters;
use kernel::{
    fs::File,
    prelude::*, //
};
use luo::{
    abi::{
        self,
        memfd_extents::{
            Header,
            MemfdExtentsSer,
            COMPATIBLE, //
        }, //
    },
    flb::NoFlb,
    fs,
    kho::{
        Failed,
        HeldRuns,
        Incoming,
        IncomingRuns,
        ListedRuns,
        PreservedBox,
        PreservedRuns,
        RestoreError,
        PAGE, //
    },
    liveupdate::{
        FileHandler,
        Preserved,
        Retrieved, //
    },
    max_folio_order,
    memfd::NewMemfd,
    shmem::{
        FrozenShmem,
        Shmem, //
    }, //
};

/// Preserves and restores memfds as runs of pages.
pub(crate) struct MemfdExtents;

/// What is undone if the update does not happen.
///
/// The fields are dropped in this order: only when nothing is preserved any more may the file change.
pub(crate) struct State {
    runs: PreservedRuns,
    _frozen: FrozenShmem,
}

#[vtable]
impl FileHandler for MemfdExtents {
    const COMPATIBLE: &'static CStr = COMPATIBLE;

    type Header = MemfdExtentsSer;
    type State = State;
    type Live = HeldRuns;
    type Flb = NoFlb;
    type Parsed = Header;
    type Memory = IncomingRuns;
    type Checked = ListedRuns;

    /// LUO asks the handler of the other format first.
    fn can_preserve(file: &File) -> bool {
        super::is_memfd(file)
    }

    fn preserve(file: &File) -> Result<Preserved<MemfdExtentsSer, State>> {
        preserve(file)
    }

    /// Position, seals and mode may have changed, and memory may have broken.
    fn freeze(file: &File, preserved: &mut Preserved<MemfdExtentsSer, State>) -> Result {
        preserved.state.runs.check_health()?;
        update(file, &mut preserved.header)
    }

    fn claim(header: Incoming<MemfdExtentsSer>) -> IncomingRuns {
        IncomingRuns::new(header, |raw| raw.extents)
    }

    fn parse(raw: &MemfdExtentsSer) -> Result<Header, abi::Error> {
        Header::parse(raw, PAGE)
    }

    fn check(runs: IncomingRuns, header: &Header) -> Result<ListedRuns, RestoreError> {
        runs.check(header.list())
    }

    fn retrieve(
        runs: ListedRuns,
        header: &Header,
    ) -> Result<Retrieved<HeldRuns>, Failed<ListedRuns>> {
        Ok(retrieve(runs, header)?)
    }

    #[cfg(CONFIG_LIVEUPDATE_TEST)]
    fn test_sum(header: &mut MemfdExtentsSer, state: &State) {
        header.extents_checksum = state.runs.list().test_checksum();
        header.checksum = header.sum();
    }

    #[cfg(CONFIG_LIVEUPDATE_TEST)]
    fn test_records(state: &State) -> Option<luo::test::Records<'_>> {
        Some(luo::test::Records::of_extents(state.runs.list()))
    }
}

/// Puts into the header what may have changed since, and its checksum.
fn update(file: &File, header: &mut MemfdExtentsSer) -> Result {
    header.seals = fs::seals(file)?.bits();
    header.pos = fs::pos(file);
    header.flags &= !MemfdExtentsSer::NOEXEC;
    if !fs::is_executable(file) {
        header.flags |= MemfdExtentsSer::NOEXEC;
    }
    header.checksum = header.sum();
    Ok(())
}

fn preserve(file: &File) -> Result<Preserved<MemfdExtentsSer, State>> {
    if !fs::is_read_write(file) {
        return Err(EACCES);
    }
    let file = Shmem::new(file).ok_or(EINVAL)?;
    fs::seals(file.file())?;

    // From here on, the size cannot change.
    let frozen = file.freeze()?;
    let runs = PreservedRuns::new(file, chunk())?;
    let list = runs.list();
    let mut header = MemfdExtentsSer {
        size: file.size(),
        nr_pages: list.nr_pages(),
        extents_checksum: list.checksum(),
        nr_extents: list.nr_extents()?,
        page_shift: u8::try_from(PAGE.shift()).map_err(|_| EINVAL)?,
        extents: list.describe(),
        ..MemfdExtentsSer::default()
    };
    update(file.file(), &mut header)?;
    Ok(Preserved {
        bytes: runs.bytes(),
        state: State {
            runs,
            _frozen: frozen,
        },
        header: PreservedBox::new(header)?,
    })
}

/// Everything is checked before the first folio is made, and nobody gets the file before the last one is in
/// it. Whatever fails, dropping what is left frees the memory.
fn retrieve(runs: ListedRuns, header: &Header) -> Result<Retrieved<HeldRuns>, RestoreError> {
    let max_order = match module_parameters::large_folios.value() {
        0 => 0,
        _ => max_folio_order(),
    };
    let file = create(header).map_err(RestoreError::Create)?;
    let live = runs.insert_into(&file, header.list(), max_order)?;
    Ok(Retrieved {
        file: file.into_file(),
        live,
        bytes: header.size(),
    })
}

/// An empty file that is otherwise like the old one.
///
/// The mode comes before the seals, as `F_SEAL_EXEC` adds others to a file that can be executed. The
/// seals come before the data: with it, `F_SEAL_WRITE` would find our references and fail.
fn create(header: &Header) -> Result<NewMemfd> {
    let file = NewMemfd::new(abi::memfd::CreateMode::AllowSealing)?;
    if !header.is_executable() {
        file.set_noexec();
    }
    file.add_seals(header.seals())?;
    file.set_size(header.size())?;
    file.set_pos(header.pos())?;
    Ok(file)
}

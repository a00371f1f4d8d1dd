// SPDX-License-Identifier: GPL-2.0-only

//! The old kernel's side.

use crate::module_parameters;
use kernel::{
    fs::File,
    prelude::*, //
};
use luo::{
    abi::hugetlb::HugetlbSer,
    fs,
    hugetlb::{
        FrozenHugetlb,
        Hugetlb,
        PreservedHugePages, //
    },
    kho::{
        PreservedBox,
        PAGE, //
    },
    liveupdate::Preserved, //
};

/// What is undone if the update does not happen.
///
/// The fields are dropped in this order: only when nothing is preserved any more may the file change.
pub(crate) struct State {
    pages: PreservedHugePages,
    _frozen: FrozenHugetlb,
}

impl State {
    #[cfg(CONFIG_LIVEUPDATE_TEST)]
    pub(super) fn test_records(&self) -> luo::test::Records<'_> {
        luo::test::Records::of_extents(self.pages.list())
    }

    #[cfg(CONFIG_LIVEUPDATE_TEST)]
    pub(super) fn test_checksum(&self) -> u64 {
        self.pages.list().test_checksum()
    }
}

/// Puts into the header what may have changed since, and its checksum.
fn update(file: Hugetlb<'_>, header: &mut HugetlbSer) -> Result {
    header.seals = fs::seals(file.file())?.bits();
    header.pos = fs::pos(file.file());
    header.flags &= !HugetlbSer::NOEXEC;
    if !file.is_executable() {
        header.flags |= HugetlbSer::NOEXEC;
    }
    header.checksum = header.sum();
    Ok(())
}

pub(super) fn preserve(file: &File) -> Result<Preserved<HugetlbSer, State>> {
    if !fs::is_read_write(file) {
        return Err(EACCES);
    }
    let file = Hugetlb::new(file).ok_or(EINVAL)?;
    if !file.is_memfd() {
        pr_info!("a file that is no memfd cannot be preserved: it is in a mounted hugetlbfs, or SysV shared memory\n");
        return Err(EOPNOTSUPP);
    }
    fs::seals(file.file())?;

    file.fill_holes()?;
    // From here on, the size cannot change.
    let frozen = file.freeze()?;
    let surplus = module_parameters::surplus.value() != 0;
    let pages = PreservedHugePages::new(file, surplus)?;
    let list = pages.list();
    let mut header = HugetlbSer {
        size: file.size(),
        nr_pages: list.nr_pages(),
        extents_checksum: list.checksum(),
        flags: if surplus { HugetlbSer::SURPLUS } else { 0 },
        nr_extents: list.nr_extents()?,
        order: u8::try_from(list.order()).map_err(|_| EINVAL)?,
        page_shift: u8::try_from(PAGE.shift()).map_err(|_| EINVAL)?,
        extents: list.describe(),
        ..HugetlbSer::default()
    };
    update(file, &mut header)?;
    Ok(Preserved {
        bytes: pages.bytes(),
        state: State {
            pages,
            _frozen: frozen,
        },
        header: PreservedBox::new(header)?,
    })
}

/// Position, seals and mode may have changed, and memory may have broken.
pub(super) fn freeze(file: &File, preserved: &mut Preserved<HugetlbSer, State>) -> Result {
    let file = Hugetlb::new(file).ok_or(EINVAL)?;
    preserved.state.pages.check_health()?;
    update(file, &mut preserved.header)
}

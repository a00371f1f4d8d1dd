// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Which pages of a guest are private, and whether pages may come and go at all.
//!
//! While memory is preserved, it has the pages that it has. A vCPU that touches a hole then waits until it
//! is stopped, and touches it again afterwards, in whichever kernel that is. A page that the guest wants to
//! be converted between private and shared is converted afterwards: the vCPU that asked for it waits, and
//! what is to be done is part of the state.

use std::fs::File;
use std::sync::atomic::{
    AtomicBool,
    AtomicU64,
    Ordering, //
};
use std::sync::{
    Arc,
    Mutex,
    MutexGuard,
    PoisonError, //
};

use anyhow::{
    ensure,
    Context,
    Result, //
};
use kvm_bindings::{
    kvm_memory_attributes,
    KVM_MEMORY_ATTRIBUTE_PRIVATE, //
};
use kvm_ioctls::VmFd;
use rustix::fs::{
    fallocate,
    FallocateFlags, //
};
use zerocopy::{
    FromBytes,
    Immutable,
    IntoBytes,
    KnownLayout, //
};

use super::{
    Memory,
    PAGE, //
};
use crate::arch::RAM_BASE;
use crate::state::{
    Kind,
    State,
    Writer, //
};

/// Pages that are private or to become so, or shared; by number, from the beginning of memory.
#[derive(Clone, Copy, Debug, Eq, FromBytes, Immutable, IntoBytes, KnownLayout, PartialEq)]
#[repr(C)]
struct Part {
    first: u64,
    count: u64,
    private: u64,
}

impl Part {
    fn end(&self) -> Option<u64> {
        self.first.checked_add(self.count)
    }

    /// Whether it is a part of a memory of so many pages.
    fn is_valid(&self, pages: u64) -> bool {
        self.private <= 1 && self.count > 0 && self.end().is_some_and(|end| end <= pages)
    }
}

/// What became of a request to convert.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Outcome {
    Done,
    /// It waits until memory is not preserved any more, and so must the vCPU.
    Later,
    /// There is no such memory.
    Refused,
}

/// The part of guest memory that can change its shape.
#[derive(Debug)]
pub(crate) struct Shape {
    frozen: AtomicBool,
    waited: AtomicU64,
    /// Of VMs with private memory.
    private: Option<Private>,
}

#[derive(Debug)]
struct Private {
    vm: Arc<VmFd>,
    shared: File,
    private: File,
    pages: Mutex<Pages>,
}

#[derive(Debug, Default)]
struct Pages {
    private: Vec<bool>,
    waiting: Vec<Part>,
    conversions: u64,
}

impl Shape {
    /// The shape of new memory, which is private from page `first` on if there is such memory.
    pub(crate) fn new(vm: &Arc<VmFd>, memory: &Memory, first: u64) -> Result<Self> {
        let count = (memory.size / PAGE).saturating_sub(first);
        let shape = Self::all_shared(vm, memory)?;
        if let Some(private) = &shape.private {
            let private_part = Part {
                first,
                count,
                private: 1,
            };
            private.set(&mut private.lock(), private_part)?;
        }
        Ok(shape)
    }

    /// The shape that another VMM saved. With `forget`, for tests, private pages are taken for shared ones.
    pub(crate) fn restore(
        vm: &Arc<VmFd>,
        memory: &Memory,
        state: &State,
        forget: bool,
    ) -> Result<Self> {
        let shape = Self::all_shared(vm, memory)?;
        // Until it is known that the state is not used a second time.
        shape.frozen.store(true, Ordering::SeqCst);
        if let Some(private) = &shape.private {
            let mut pages = private.lock();
            let count = memory.size / PAGE;
            for part in state.list::<Part>(Kind::Private, 0)? {
                ensure!(
                    part.private == 1 && part.is_valid(count),
                    "the state has private pages where there is no memory"
                );
                if !forget {
                    private.set(&mut pages, part)?;
                }
            }
            pages.waiting = state.list(Kind::Waiting, 0)?;
            ensure!(
                pages.waiting.iter().all(|part| part.is_valid(count)),
                "the state has conversions where there is no memory"
            );
        }
        Ok(shape)
    }

    fn all_shared(vm: &Arc<VmFd>, memory: &Memory) -> Result<Self> {
        let private = match &memory.private {
            None => None,
            Some(file) => Some(Private {
                vm: vm.clone(),
                shared: memory.file.try_clone()?,
                private: memory.view.as_ref().unwrap_or(file).try_clone()?,
                pages: Mutex::new(Pages {
                    private: vec![false; usize::try_from(memory.size / PAGE)?],
                    ..Pages::default()
                }),
            }),
        };
        Ok(Self {
            frozen: AtomicBool::new(false),
            waited: AtomicU64::new(0),
            private,
        })
    }

    pub(crate) fn save(&self, writer: &mut Writer) -> Result<()> {
        if let Some(private) = &self.private {
            writer.put_list(Kind::Private, 0, &private.lock().parts())?;
            writer.put_list(Kind::Waiting, 0, &private.lock().waiting)?;
        }
        Ok(())
    }

    /// From now on no page comes or goes.
    pub(crate) fn freeze(&self) {
        // A conversion that is under way has the lock.
        let _pages = self.private.as_ref().map(Private::lock);
        self.frozen.store(true, Ordering::SeqCst);
    }

    /// Pages may come and go again: does what was to be done meanwhile.
    pub(crate) fn thaw(&self) -> Result<()> {
        let Some(private) = &self.private else {
            self.frozen.store(false, Ordering::SeqCst);
            return Ok(());
        };
        let mut pages = private.lock();
        for part in std::mem::take(&mut pages.waiting) {
            private.convert(&mut pages, part)?;
        }
        self.frozen.store(false, Ordering::SeqCst);
        Ok(())
    }

    pub(crate) fn is_frozen(&self) -> bool {
        self.frozen.load(Ordering::SeqCst)
    }

    /// A vCPU waits because memory is preserved.
    pub(crate) fn waits(&self) {
        self.waited.fetch_add(1, Ordering::SeqCst);
    }

    /// How often a vCPU had to wait.
    pub(crate) fn waited(&self) -> u64 {
        self.waited.load(Ordering::SeqCst)
    }

    /// The guest asks for `count` pages at `address` to be private, or shared.
    pub(crate) fn convert(&self, address: u64, count: u64, private: bool) -> Result<Outcome> {
        let Some(memory) = &self.private else {
            return Ok(Outcome::Refused);
        };
        let mut pages = memory.lock();
        let part = Part {
            first: address.wrapping_sub(RAM_BASE) / PAGE,
            count,
            private: u64::from(private),
        };
        if !address.is_multiple_of(PAGE) || !part.is_valid(pages.private.len() as u64) {
            return Ok(Outcome::Refused);
        }
        if self.is_frozen() {
            pages.waiting.push(part);
            return Ok(Outcome::Later);
        }
        memory.convert(&mut pages, part)?;
        Ok(Outcome::Done)
    }

    /// How many pages are private, and how many conversions there were in this process; nothing if the
    /// host sees all memory.
    pub(crate) fn private(&self) -> Option<(u64, u64)> {
        let pages = self.private.as_ref()?.lock();
        let count = pages.private.iter().filter(|is| **is).count() as u64;
        Some((count, pages.conversions))
    }

    /// Whether the host finds nothing where the guest has private pages.
    pub(crate) fn is_hidden(&self, memory: &Memory) -> Result<bool> {
        let parts = self
            .private
            .as_ref()
            .map_or_else(Vec::new, |private| private.lock().parts());
        for part in parts {
            if !memory.is_empty(part.first..part.end().context("checked before")?)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

impl Private {
    fn lock(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells KVM and notes which pages are private.
    fn set(&self, pages: &mut Pages, part: Part) -> Result<()> {
        let attributes = match part.private {
            0 => 0,
            _ => u64::from(KVM_MEMORY_ATTRIBUTE_PRIVATE),
        };
        let request = kvm_memory_attributes {
            address: RAM_BASE + part.first * PAGE,
            size: part.count * PAGE,
            attributes,
            flags: 0,
        };
        self.vm
            .set_memory_attributes(request)
            .context("KVM does not make memory private or shared")?;
        let end = part.end().context("checked before")?;
        let range = usize::try_from(part.first)?..usize::try_from(end)?;
        pages
            .private
            .get_mut(range)
            .context("checked before")?
            .fill(part.private != 0);
        Ok(())
    }

    /// Converts pages. What was in them is gone: the guest must not find there what the host put there
    /// before, nor the host what the guest did.
    fn convert(&self, pages: &mut Pages, part: Part) -> Result<()> {
        self.set(pages, part)?;
        let old = match part.private {
            0 => &self.private,
            _ => &self.shared,
        };
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        fallocate(old, flags, part.first * PAGE, part.count * PAGE)
            .context("the old pages cannot be given back")?;
        pages.conversions += 1;
        Ok(())
    }
}

impl Pages {
    /// The runs of private pages.
    fn parts(&self) -> Vec<Part> {
        let mut parts: Vec<Part> = Vec::new();
        for page in (0..)
            .zip(&self.private)
            .filter_map(|(page, is)| is.then_some(page))
        {
            match parts.last_mut() {
                Some(part) if part.first + part.count == page => part.count += 1,
                _ => parts.push(Part {
                    first: page,
                    count: 1,
                    private: 1,
                }),
            }
        }
        parts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_outside_of_memory_are_refused() {
        let part = |first, count, private| Part {
            first,
            count,
            private,
        };
        assert!(part(0, 8, 1).is_valid(8));
        assert!(part(7, 1, 0).is_valid(8));
        for (first, count, private) in [
            (0, 9, 1),
            (8, 1, 1),
            (1, 0, 1),
            (0, 8, 2),
            (u64::MAX, 1, 0),
            (1, u64::MAX, 0),
        ] {
            assert!(!part(first, count, private).is_valid(8));
        }
    }

    #[test]
    fn private_pages_are_saved_as_runs() {
        let pages = Pages {
            private: vec![false, true, true, false, true],
            ..Pages::default()
        };
        let runs: Vec<_> = pages.parts().iter().map(|p| (p.first, p.count)).collect();
        assert_eq!(runs, [(1, 2), (4, 1)]);
        assert!(Pages::default().parts().is_empty());
    }
}

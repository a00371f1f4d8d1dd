// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Guest memory: a file, mapped into this process and into the guest, and for VMs with private memory
//! another one that only the guest sees.
//!
//! The files are what is preserved; everything else about them can be made anew from their kind and size.
//! A kind that the host's kernel cannot create or preserve is refused there, with its reason.

mod backend;
mod contents;
mod shape;

use std::fs::File;
use std::os::fd::{
    AsFd,
    AsRawFd,
    BorrowedFd,
    FromRawFd, //
};

use anyhow::{
    ensure,
    Context,
    Result, //
};
use kvm_bindings::{
    kvm_create_guest_memfd,
    kvm_userspace_memory_region,
    kvm_userspace_memory_region2,
    KVM_MEM_GUEST_MEMFD, //
};
use kvm_ioctls::VmFd;
use rustix::fs::{
    fallocate,
    ftruncate,
    memfd_create,
    FallocateFlags,
    MemfdFlags, //
};
use vm_memory::{
    Bytes,
    FileOffset,
    GuestAddress,
    GuestMemoryBackend,
    GuestMemoryMmap, //
};

pub(crate) use backend::Backend;
pub(crate) use shape::{
    Outcome,
    Shape, //
};

use crate::arch::RAM_BASE;

const MIB: u64 = 1 << 20;
pub(crate) const PAGE: u64 = 4096;

/// `GUEST_MEMFD_FLAG_MMAP` and `GUEST_MEMFD_FLAG_INIT_SHARED`.
const SHARED: u64 = 1 << 0 | 1 << 1;

/// The files that another VMM left.
#[derive(Debug)]
pub(crate) struct Files {
    pub(crate) memory: File,
    /// Of VMs with private memory.
    pub(crate) private: Option<File>,
}

/// Guest memory. It must live longer than the VM it is attached to; [`crate::machine::Machine`]
/// sees to that.
#[derive(Debug)]
pub(crate) struct Memory {
    file: File,
    private: Option<File>,
    /// The VM's own file of guest_memfd memory that came from the previous kernel. What is preserved again
    /// is the file that came: a session with this one would keep the VM, and the memory with it.
    view: Option<File>,
    map: GuestMemoryMmap,
    size: u64,
    backend: Backend,
}

impl Memory {
    /// Makes new, empty memory, which is for `vm` if it is of a kind that belongs to a VM. With `sparse`,
    /// pages are allocated when the guest touches them; those of a memfd always are.
    pub(crate) fn create(backend: Backend, size: u64, vm: &VmFd, sparse: bool) -> Result<Self> {
        let fill = |file: &File| {
            fallocate(file, FallocateFlags::KEEP_SIZE, 0, size)
                .with_context(|| format!("there are no {} MiB of {backend:?}", size / MIB))
        };
        let allocated = |flags| {
            let file = guest_memfd(vm, size, flags)?;
            if !sparse {
                fill(&file)?;
            }
            Ok::<_, anyhow::Error>(file)
        };
        ensure!(
            !sparse || backend.tells_pages(),
            "where huge pages have holes cannot be told, so there must be none"
        );
        let huge = match backend {
            Backend::Memfd | Backend::SwProtected => MemfdFlags::empty(),
            Backend::Hugetlb2M => MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB,
            Backend::Hugetlb1G => MemfdFlags::HUGETLB | MemfdFlags::HUGE_1GB,
            Backend::GuestMemfd => {
                let files = Files {
                    memory: allocated(SHARED)?,
                    private: None,
                };
                return Self::adopt(backend, files, size);
            }
        };
        let fd = memfd_create("guest-ram", MemfdFlags::CLOEXEC | huge)
            .with_context(|| format!("the kernel does not give a memfd for {backend:?}"))?;
        ftruncate(&fd, size).context("the memfd does not take its size")?;
        let file = File::from(fd);
        if !backend.tells_pages() {
            fill(&file)?;
        }
        let private = match backend {
            Backend::SwProtected => Some(allocated(0)?),
            _ => None,
        };
        let files = Files {
            memory: file,
            private,
        };
        Self::adopt(backend, files, size)
    }

    /// Takes over memory that another VMM left.
    pub(crate) fn adopt(backend: Backend, files: Files, size: u64) -> Result<Self> {
        ensure!(
            size > 0 && size.is_multiple_of(backend.alignment()),
            "memory of {size} bytes is not a multiple of {} MiB, which {backend:?} needs",
            backend.alignment() / MIB
        );
        let Files {
            memory: file,
            private,
        } = files;
        ensure!(
            private.is_some() == backend.is_private(),
            "{backend:?} has another number of files"
        );
        for file in [Some(&file), private.as_ref()].into_iter().flatten() {
            let len = file.metadata()?.len();
            ensure!(
                len == size,
                "a file of the guest's memory has {len} bytes and should have {size}"
            );
        }
        let region = (
            GuestAddress(RAM_BASE),
            usize::try_from(size)?,
            Some(FileOffset::new(file.try_clone()?, 0)),
        );
        let map = GuestMemoryMmap::from_ranges_with_files([region]).with_context(|| {
            format!(
                "{} MiB of {backend:?} cannot be mapped; are there enough huge pages?",
                size / MIB
            )
        })?;
        Ok(Self {
            file,
            private,
            view: None,
            map,
            size,
            backend,
        })
    }

    /// The files that are preserved, once more.
    pub(crate) fn duplicates(&self) -> Result<Files> {
        Ok(Files {
            memory: self.file.try_clone()?,
            private: self.private.as_ref().map(File::try_clone).transpose()?,
        })
    }

    /// The files that are to be preserved.
    pub(crate) fn files(&self) -> (BorrowedFd<'_>, Option<BorrowedFd<'_>>) {
        (self.file.as_fd(), self.private.as_ref().map(AsFd::as_fd))
    }

    /// The file of guest_memfd, if there is one: the one that is preserved, not the VM's.
    fn guest_memfd(&self) -> Option<&File> {
        match self.backend {
            Backend::GuestMemfd => Some(&self.file),
            _ => self.private.as_ref(),
        }
    }

    /// Makes memory that another VMM left a part of `vm`, if it is of a kind that belongs to a VM.
    pub(crate) fn link(&mut self, vm: &VmFd) -> Result<()> {
        if let Some(file) = self.guest_memfd() {
            // SAFETY: `vm` has the descriptor open as long as it is borrowed.
            let vm = unsafe { BorrowedFd::borrow_raw(vm.as_raw_fd()) };
            self.view = Some(liveupdate::guest_memfd::link(file, vm)?.into());
        }
        Ok(())
    }

    /// Gives the memory to a VM.
    pub(crate) fn attach(&self, vm: &VmFd) -> Result<()> {
        if let Some(file) = self.view.as_ref().or(self.guest_memfd()) {
            let region = kvm_userspace_memory_region2 {
                slot: 0,
                flags: KVM_MEM_GUEST_MEMFD,
                guest_phys_addr: RAM_BASE,
                memory_size: self.size,
                userspace_addr: self.host_address()?,
                guest_memfd: u32::try_from(file.as_raw_fd())?,
                ..Default::default()
            };
            // SAFETY: as below.
            return unsafe { vm.set_user_memory_region2(region) }
                .context("KVM does not take the guest_memfd file");
        }
        let region = kvm_userspace_memory_region {
            slot: 0,
            flags: 0,
            guest_phys_addr: RAM_BASE,
            memory_size: self.size,
            userspace_addr: self.host_address()?,
        };
        // SAFETY: the region is the whole of a mapping that `self` owns, and `Machine` keeps `self`
        // for as long as the VM.
        unsafe { vm.set_user_memory_region(region) }.context("KVM does not take the memory")
    }

    fn host_address(&self) -> Result<u64> {
        Ok(self.map.get_host_address(GuestAddress(RAM_BASE))? as u64)
    }

    pub(crate) fn map(&self) -> &GuestMemoryMmap {
        &self.map
    }

    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    pub(crate) fn backend(&self) -> Backend {
        self.backend
    }

    /// The address behind the last byte.
    pub(crate) fn end(&self) -> u64 {
        RAM_BASE + self.size
    }

    /// Changes one byte in the middle, to show that it is noticed.
    pub(crate) fn damage(&self) -> Result<()> {
        let address = GuestAddress(RAM_BASE + self.size / 2);
        let byte: u8 = self.map.read_obj(address)?;
        Ok(self.map.write_obj(byte ^ 0x10, address)?)
    }
}

fn guest_memfd(vm: &VmFd, size: u64, flags: u64) -> Result<File> {
    let request = kvm_create_guest_memfd {
        size,
        flags,
        ..Default::default()
    };
    let fd = vm
        .create_guest_memfd(request)
        .context("KVM does not give a guest_memfd file of this kind")?;
    // SAFETY: the descriptor is new, and nobody else knows it.
    Ok(unsafe { File::from_raw_fd(fd) })
}

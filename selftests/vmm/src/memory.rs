// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Guest memory: one file, mapped into this process and into the guest.
//!
//! The file is what is preserved; everything else about it can be made anew from its kind and size.
//! A kind that the host's kernel cannot create or preserve is refused there, with its reason.

use std::fs::File;
use std::os::fd::{
    AsFd,
    AsRawFd,
    BorrowedFd,
    FromRawFd, //
};

use anyhow::{
    bail,
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
    GuestMemoryMmap,
    GuestMemoryRegion, //
};

use crate::arch::RAM_BASE;
use crate::state::checksum;

const MIB: u64 = 1 << 20;
const CHUNK: usize = 1 << 20;
const PAGE: u64 = 4096;

/// `GUEST_MEMFD_FLAG_MMAP` and `GUEST_MEMFD_FLAG_INIT_SHARED`.
const SHARED: u64 = 1 << 0 | 1 << 1;

/// What guest memory is made of.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
pub(crate) enum Backend {
    /// A memfd with ordinary pages.
    Memfd,
    /// A memfd with huge pages of 2 MiB.
    #[value(name = "hugetlb-2m")]
    Hugetlb2M,
    /// A memfd with huge pages of 1 GiB.
    #[value(name = "hugetlb-1g")]
    Hugetlb1G,
    /// KVM's guest_memfd.
    GuestMemfd,
}

impl Backend {
    /// The number that stands for it in the state.
    pub(crate) fn number(self) -> u32 {
        match self {
            Self::Memfd => 1,
            Self::Hugetlb2M => 2,
            Self::Hugetlb1G => 3,
            Self::GuestMemfd => 4,
        }
    }

    pub(crate) fn from_number(number: u32) -> Result<Self> {
        Ok(match number {
            1 => Self::Memfd,
            2 => Self::Hugetlb2M,
            3 => Self::Hugetlb1G,
            4 => Self::GuestMemfd,
            other => bail!("the state names a kind of memory that is not known: {other}"),
        })
    }

    fn alignment(self) -> u64 {
        match self {
            Self::Hugetlb1G => 1 << 30,
            _ => 2 * MIB,
        }
    }
}

/// Guest memory. It must live longer than the VM it is attached to; [`crate::machine::Machine`]
/// sees to that.
#[derive(Debug)]
pub(crate) struct Memory {
    file: File,
    map: GuestMemoryMmap,
    size: u64,
    backend: Backend,
}

impl Memory {
    /// Makes new, empty memory, which is for `vm` if it is of a kind that belongs to a VM.
    pub(crate) fn create(backend: Backend, size: u64, vm: &VmFd) -> Result<Self> {
        let huge = match backend {
            Backend::Memfd => MemfdFlags::empty(),
            Backend::Hugetlb2M => MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB,
            Backend::Hugetlb1G => MemfdFlags::HUGETLB | MemfdFlags::HUGE_1GB,
            Backend::GuestMemfd => return Self::create_guest_memfd(size, vm),
        };
        let fd = memfd_create("guest-ram", MemfdFlags::CLOEXEC | huge)
            .with_context(|| format!("the kernel does not give a memfd for {backend:?}"))?;
        ftruncate(&fd, size).context("the memfd does not take its size")?;
        Self::adopt(backend, fd.into(), size)
    }

    fn create_guest_memfd(size: u64, vm: &VmFd) -> Result<Self> {
        let request = kvm_create_guest_memfd {
            size,
            flags: SHARED,
            ..Default::default()
        };
        let fd = vm
            .create_guest_memfd(request)
            .context("KVM does not give a guest_memfd file that can be mapped")?;
        // SAFETY: the descriptor is new, and nobody else knows it.
        let file = unsafe { File::from_raw_fd(fd) };
        // When it is preserved, nothing can be allocated any more, and the guest may still run.
        fallocate(&file, FallocateFlags::KEEP_SIZE, 0, size)
            .with_context(|| format!("there are no {} MiB of memory", size / MIB))?;
        Self::adopt(Backend::GuestMemfd, file, size)
    }

    /// Takes over memory that another VMM left.
    pub(crate) fn adopt(backend: Backend, file: File, size: u64) -> Result<Self> {
        ensure!(
            size > 0 && size.is_multiple_of(backend.alignment()),
            "memory of {size} bytes is not a multiple of {} MiB, which {backend:?} needs",
            backend.alignment() / MIB
        );
        let len = file.metadata()?.len();
        ensure!(
            len == size,
            "the file of the guest's memory has {len} bytes and should have {size}"
        );
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
            map,
            size,
            backend,
        })
    }

    /// Makes memory that another VMM left a part of `vm`, if it is of a kind that belongs to a VM.
    pub(crate) fn link(&mut self, vm: &VmFd) -> Result<()> {
        if self.backend == Backend::GuestMemfd {
            // SAFETY: `vm` has the descriptor open as long as it is borrowed.
            let vm = unsafe { BorrowedFd::borrow_raw(vm.as_raw_fd()) };
            self.file = liveupdate::guest_memfd::link(&self.file, vm)?.into();
        }
        Ok(())
    }

    /// Gives the memory to a VM.
    pub(crate) fn attach(&self, vm: &VmFd) -> Result<()> {
        if self.backend == Backend::GuestMemfd {
            let region = kvm_userspace_memory_region2 {
                slot: 0,
                flags: KVM_MEM_GUEST_MEMFD,
                guest_phys_addr: RAM_BASE,
                memory_size: self.size,
                userspace_addr: self.host_address()?,
                guest_memfd: u32::try_from(self.file.as_raw_fd())?,
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

    /// The checksum of every byte.
    pub(crate) fn checksum(&self) -> Result<u64> {
        let mut buffer = vec![0; CHUNK];
        let mut sum = 0;
        for region in self.map.iter() {
            for offset in (0..region.len()).step_by(CHUNK) {
                let address = GuestAddress(region.start_addr().0 + offset);
                self.map.read_slice(&mut buffer, address)?;
                sum = checksum(sum, &buffer);
            }
        }
        Ok(sum)
    }

    /// A digest of the numbers of all physical pages that the memory is in.
    pub(crate) fn pages(&self) -> Result<u64> {
        use std::os::unix::fs::FileExt;

        let pagemap = File::open("/proc/self/pagemap").context("/proc is needed")?;
        let mut entries = vec![0; usize::try_from(self.size / PAGE * 8)?];
        let at = self.host_address()? / PAGE * 8;
        // An entry tells of a page only if this process has touched it.
        let mut byte = [0];
        for offset in (0..self.size).step_by(PAGE as usize) {
            self.map
                .read_slice(&mut byte, GuestAddress(RAM_BASE + offset))?;
        }
        pagemap.read_exact_at(&mut entries, at)?;
        let mut numbers = Vec::with_capacity(entries.len());
        for entry in entries.chunks_exact(8) {
            // Bits 0 to 54 are the page's number, which only root gets to see.
            let entry = entry.try_into().map_or(0, u64::from_le_bytes) & ((1 << 55) - 1);
            ensure!(entry != 0, "the kernel does not tell the numbers of pages");
            numbers.extend_from_slice(&entry.to_le_bytes());
        }
        Ok(checksum(0, &numbers))
    }

    /// Changes one byte in the middle, to show that it is noticed.
    pub(crate) fn damage(&self) -> Result<()> {
        let address = GuestAddress(RAM_BASE + self.size / 2);
        let byte: u8 = self.map.read_obj(address)?;
        Ok(self.map.write_obj(byte ^ 0x10, address)?)
    }
}

impl AsFd for Memory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

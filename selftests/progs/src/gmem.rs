// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Guest memory of KVM, and virtual machines that have it but run nothing.

use crate::memory::{
    page,
    Map, //
};
use anyhow::{
    Context,
    Result, //
};
use kvm_bindings::{
    kvm_create_guest_memfd,
    kvm_userspace_memory_region2,
    KVM_MEM_GUEST_MEMFD, //
};
use kvm_ioctls::{
    Kvm,
    VmFd, //
};
use rustix::{
    fs::{
        fallocate,
        FallocateFlags, //
    },
    io::Errno, //
};
use std::{
    ops::Range,
    os::fd::{
        AsFd,
        AsRawFd,
        BorrowedFd,
        FromRawFd,
        OwnedFd, //
    },
    sync::atomic::Ordering, //
};

/// `GUEST_MEMFD_FLAG_MMAP` and `GUEST_MEMFD_FLAG_INIT_SHARED`.
pub const SHARED: u64 = 1 << 0 | 1 << 1;
/// A VM without private memory.
pub const DEFAULT: u64 = 0;
/// `KVM_X86_SW_PROTECTED_VM`.
pub const SW_PROTECTED: u64 = 1;

/// A VM.
#[derive(Debug)]
pub struct Vm(pub(crate) VmFd);

impl Vm {
    /// Makes one of the given type.
    pub fn new(kind: u64) -> Result<Self> {
        let kvm = Kvm::new().context("/dev/kvm cannot be opened")?;
        Ok(Self(kvm.create_vm_with_type(kind)?))
    }

    /// Makes guest memory of it.
    pub fn memory(&self, size: u64, flags: u64) -> Result<OwnedFd> {
        let request = kvm_create_guest_memfd {
            size,
            flags,
            ..Default::default()
        };
        let fd = self.0.create_guest_memfd(request)?;
        // SAFETY: The descriptor is new, and nobody else knows it.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }

    /// Binds guest memory to guest addresses. What the VM sees there is never used.
    pub fn bind(&self, memory: impl AsFd, size: u64) -> rustix::io::Result<()> {
        let region = kvm_userspace_memory_region2 {
            slot: 0,
            flags: KVM_MEM_GUEST_MEMFD,
            guest_phys_addr: 0,
            memory_size: size,
            userspace_addr: 0,
            guest_memfd: memory.as_fd().as_raw_fd() as u32,
            ..Default::default()
        };
        // SAFETY: There is no memory at the address, and the VM has no vCPUs that could use it.
        unsafe { self.0.set_user_memory_region2(region) }
            .map_err(|error| Errno::from_raw_os_error(error.errno()))
    }
}

impl AsFd for Vm {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: The VM has the descriptor open for as long as it is borrowed.
        unsafe { BorrowedFd::borrow_raw(self.0.as_raw_fd()) }
    }
}

/// Allocates some pages.
pub fn allocate(memory: impl AsFd, pages: Range<u64>) -> rustix::io::Result<()> {
    let len = (pages.end - pages.start) * page();
    fallocate(memory, FallocateFlags::KEEP_SIZE, pages.start * page(), len)
}

/// Frees some pages.
pub fn punch(memory: impl AsFd, pages: Range<u64>) -> rustix::io::Result<()> {
    let flags = FallocateFlags::KEEP_SIZE | FallocateFlags::PUNCH_HOLE;
    let len = (pages.end - pages.start) * page();
    fallocate(memory, flags, pages.start * page(), len)
}

/// What belongs at `offset`.
fn word(offset: u64) -> u64 {
    (offset ^ 0x676d_656d).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1
}

/// Writes the pattern to some pages.
pub fn fill(map: &Map, pages: Range<u64>) {
    for at in (pages.start * page()..pages.end * page()).step_by(8) {
        map.word(at).store(word(at), Ordering::Relaxed);
    }
}

/// Compares some pages with the pattern, or with zero.
///
/// # Errors
///
/// A sentence that says how much differs.
pub fn verify(map: &Map, pages: Range<u64>, zero: bool) -> Result<(), String> {
    let words = (pages.start * page()..pages.end * page()).step_by(8);
    let want = |at| if zero { 0 } else { word(at) };
    let bad = words
        .clone()
        .filter(|at| map.word(*at).load(Ordering::Relaxed) != want(*at))
        .count();
    if bad == 0 {
        return Ok(());
    }
    Err(format!("{bad} of {} words differ", words.count()))
}

/// Has the kernel read a byte of a mapping: `EFAULT` if there is no memory.
pub fn probe(map: &Map, offset: u64) -> rustix::io::Result<()> {
    let file = rustix::fs::memfd_create("probe", rustix::fs::MemfdFlags::CLOEXEC)?;
    let address = map.address() as u64 + offset;
    // SAFETY: The kernel checks the address when it reads the byte.
    let done = unsafe { libc::pwrite(file.as_raw_fd(), address as *const libc::c_void, 1, 0) };
    match done {
        1 => Ok(()),
        _ => Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)),
    }
}

/// Which of the first pages of a mapping have valid memory, without touching them.
pub fn resident(map: &Map, pages: u64) -> Result<Vec<bool>> {
    let mut bytes = vec![0u8; usize::try_from(pages)?];
    let len = usize::try_from(pages * page())?;
    // SAFETY: There is a byte for each page.
    let ret = unsafe { libc::mincore(map.address() as *mut _, len, bytes.as_mut_ptr()) };
    if ret != 0 {
        return Err(std::io::Error::last_os_error()).context("mincore");
    }
    Ok(bytes.iter().map(|byte| byte & 1 != 0).collect())
}

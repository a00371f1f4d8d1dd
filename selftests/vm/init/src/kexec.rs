// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Loading a kernel to jump into.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

/// `kexec_file_load(2)`'s flag for a call without an initrd.
const NO_INITRAMFS: libc::c_ulong = 4;

/// Loads a kernel for `reboot(2)` to jump into, in the place of one that is loaded.
///
/// # Errors
///
/// If a file cannot be opened, or the kernel refuses; one that was loaded before stays loaded then.
pub fn load(kernel: &Path, initrd: Option<&Path>, line: &str) -> io::Result<()> {
    let kernel = File::open(kernel)?;
    let initrd = initrd.map(File::open).transpose()?;
    let line = CString::new(line.trim_end())?;
    let flags = if initrd.is_some() { 0 } else { NO_INITRAMFS };

    // SAFETY: the descriptors are open for the time of the call, and the string is as long as is
    // said, its NUL included. The kernel only reads them.
    let done = unsafe {
        libc::syscall(
            libc::SYS_kexec_file_load,
            kernel.as_raw_fd(),
            initrd.as_ref().map_or(-1, AsRawFd::as_raw_fd),
            line.as_bytes_with_nul().len(),
            line.as_ptr(),
            flags,
        )
    };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * Guest memory that came from the previous kernel.
 *
 * LIVEUPDATE_SESSION_RETRIEVE_FD of a guest_memfd file that was preserved by
 * luo_guest_memfd gives a file that has the memory and belongs to no VM. It can
 * be mapped, if the preserved file could be, kept, sent to another process, and
 * preserved again. KVM_SET_USER_MEMORY_REGION2 does not take it: for that,
 * LUO_GUEST_MEMFD_LINK makes a file that belongs to a VM.
 */
#ifndef _UAPI_LINUX_LUO_GUEST_MEMFD_H
#define _UAPI_LINUX_LUO_GUEST_MEMFD_H

#include <linux/ioctl.h>
#include <linux/types.h>

#define LUO_GUEST_MEMFD_IOCTL_TYPE	0xBB

/**
 * struct luo_guest_memfd_link - argument of LUO_GUEST_MEMFD_LINK
 * @size: Input; sizeof(struct luo_guest_memfd_link).
 * @flags: Input; must be 0.
 * @vm_fd: Input; a VM that this process has created.
 * @fd: Output; a guest_memfd file of that VM, close-on-exec.
 *
 * The new file has the same memory, and is like one that
 * KVM_CREATE_GUEST_MEMFD makes. One such file can exist at a time; when it is
 * closed and unmapped, the memory stays, and another link can be made.
 *
 * Errors: EBUSY, a VM has the memory, or it is preserved for the next kernel;
 * EINVAL, @vm_fd is no VM or one of another type than the memory was made for,
 * @flags is not 0, or @size is too small; E2BIG, there is something behind the
 * members that this kernel knows; EIO, the VM is another process's.
 */
struct luo_guest_memfd_link {
	__u32 size;
	__u32 flags;
	__s32 vm_fd;
	__s32 fd;
};

#define LUO_GUEST_MEMFD_LINK	_IO(LUO_GUEST_MEMFD_IOCTL_TYPE, 0x00)

#endif /* _UAPI_LINUX_LUO_GUEST_MEMFD_H */

/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Headers that the kernel's own Rust bindings lack, sorted alphabetically.
 */

#include <linux/fs.h>
#include <linux/kexec_handover.h>
#ifdef CONFIG_KVM_GUEST_MEMFD
#include <linux/kvm_gmem.h>
#endif
#include <linux/liveupdate.h>
#include <linux/memfd.h>
#include <linux/mm.h>
#include <linux/shmem_fs.h>

#include "helpers/helpers.h"

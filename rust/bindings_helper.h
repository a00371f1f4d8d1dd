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
#ifdef CONFIG_VFIO_PCI_LIVEUPDATE
#include <linux/pci_liveupdate.h>
#endif
#include <linux/shmem_fs.h>
#ifdef CONFIG_VFIO_PCI_LIVEUPDATE
#include <linux/vfio_liveupdate.h>
#include <linux/vfio_pci_liveupdate.h>
#endif

#include "helpers/helpers.h"

/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Headers that the kernel's own Rust bindings lack, sorted alphabetically.
 */

#ifdef CONFIG_IOMMU_LIVEUPDATE
#include <linux/anon_inodes.h>
#endif
#include <linux/fs.h>
#ifdef CONFIG_IOMMU_LIVEUPDATE
#include <linux/generic_pt/iommu.h>
#include <linux/iommu_liveupdate.h>
#include <linux/iommufd_liveupdate.h>
#endif
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
#include <linux/sort.h>
#ifdef CONFIG_VFIO_PCI_LIVEUPDATE
#include <linux/vfio_liveupdate.h>
#include <linux/vfio_pci_liveupdate.h>
#endif

#include "helpers/helpers.h"

// SPDX-License-Identifier: GPL-2.0-only
/*
 * A part of luo_vfio_pci, not of luo_rs, which does not need VFIO.
 */

#include <linux/cleanup.h>
#include <linux/device.h>
#include <linux/iommu.h>
#ifdef CONFIG_IOMMU_LIVEUPDATE
#include <linux/iommu_liveupdate.h>
#include <linux/iommufd_liveupdate.h>
#include <linux/module.h>
#endif
#include <linux/mutex.h>
#include <linux/pci.h>
#include <linux/pci_liveupdate.h>
#include <linux/vfio.h>
#include <linux/vfio_liveupdate.h>
#include <linux/vfio_pci_core.h>
#include <linux/vfio_pci_liveupdate.h>

#include "helpers.h"

static_assert(VFIO_PCI_STATE_RESET_WORKS == LUO_HELPER_VFIO_RESET_WORKS);
static_assert(VFIO_PCI_STATE_PCI_2_3 == LUO_HELPER_VFIO_PCI_2_3);
static_assert(VFIO_PCI_STATE_NOINTX == LUO_HELPER_VFIO_NOINTX);
static_assert(VFIO_PCI_STATE_VIRQ_DISABLED == LUO_HELPER_VFIO_VIRQ_DISABLED);

/* The device of a file, if it is bound to vfio-pci. It stays as long as the file. */
struct vfio_device *luo_helper_vfio_device(struct file *file)
{
	struct vfio_device *device = vfio_device_from_file(file);

	return device && vfio_device_is_vfio_pci(device) ? device : NULL;
}

struct pci_dev *luo_helper_vfio_pci_dev(struct vfio_device *device)
{
	return to_pci_dev(device->dev);
}

u16 luo_helper_vfio_cfg_size(struct vfio_device *device)
{
	return to_pci_dev(device->dev)->cfg_size;
}

static int count(struct device *dev, void *nr)
{
	++*(unsigned int *)nr;
	return 0;
}

/* Number of devices that can only be given away together. */
unsigned int luo_helper_vfio_group_size(struct vfio_device *device)
{
	struct iommu_group *group = iommu_group_get(device->dev);
	unsigned int nr = 0;

	/* Without an IOMMU, nothing ties it to others. */
	if (!group)
		return 1;
	iommu_group_for_each_dev(group, &nr, count);
	iommu_group_put(group);
	return nr;
}

/*
 * Whether an IOMMU may translate for the device. device_iommu_mapped() is no
 * answer: without an IOMMU, VFIO gives a device a group, too.
 */
bool luo_helper_vfio_has_iommu(struct vfio_device *device)
{
	const struct dev_iommu *iommu = device->dev->iommu;

	return iommu && iommu->iommu_dev;
}

#ifdef CONFIG_IOMMU_LIVEUPDATE
MODULE_IMPORT_NS("IOMMUFD");

/* Whether the page table that the device uses is preserved, and stays as it is. */
bool luo_helper_vfio_iommufd_preserved(struct vfio_device *device)
{
	struct iommufd_ctx *ictx = vfio_iommufd_device_ictx(device);

	return ictx && iommufd_liveupdate_is_preserved(ictx);
}

int luo_helper_vfio_iommu_preserve(struct vfio_device *device)
{
	return iommu_liveupdate_preserve(to_pci_dev(device->dev));
}

void luo_helper_vfio_iommu_unpreserve(struct pci_dev *dev)
{
	iommu_liveupdate_unpreserve(dev);
}

bool luo_helper_vfio_iommu_preserved(struct vfio_device *device)
{
	return luo_helper_vfio_iommufd_preserved(device) &&
	       iommu_liveupdate_is_preserved(to_pci_dev(device->dev));
}

/* Stops a device that still uses the page table of the previous kernel. */
bool luo_helper_vfio_iommu_settle(struct vfio_device *device)
{
	if (!iommu_liveupdate_is_pending(device->dev))
		return true;
	pci_clear_master(to_pci_dev(device->dev));
	iommu_liveupdate_release(device->dev);
	return false;
}
#else
bool luo_helper_vfio_iommufd_preserved(struct vfio_device *device)
{
	return false;
}

int luo_helper_vfio_iommu_preserve(struct vfio_device *device)
{
	return -EOPNOTSUPP;
}

void luo_helper_vfio_iommu_unpreserve(struct pci_dev *dev)
{
}

bool luo_helper_vfio_iommu_preserved(struct vfio_device *device)
{
	return false;
}

bool luo_helper_vfio_iommu_settle(struct vfio_device *device)
{
	return true;
}
#endif

static int is_child(struct device *dev, const void *parent)
{
	return dev->parent == parent;
}

/* The result has a reference of its registration. */
struct vfio_device *luo_helper_vfio_find(struct pci_dev *dev)
{
	struct vfio_device *device = vfio_find_device(&dev->dev, is_child);

	if (device && !vfio_device_is_vfio_pci(device)) {
		vfio_device_put_registration(device);
		device = NULL;
	}
	return device;
}

void luo_helper_vfio_put(struct vfio_device *device)
{
	vfio_device_put_registration(device);
}

/* Whether a file of it is bound. */
bool luo_helper_vfio_is_open(struct vfio_device *device)
{
	guard(mutex)(&device->dev_set->lock);
	return device->open_count;
}

/* Whether a file of it was retrieved, that may not be bound yet. */
static bool is_retrieved(struct vfio_device *device)
{
	struct vfio_pci_core_device *vdev =
		container_of(device, struct vfio_pci_core_device, vdev);

	guard(mutex)(&device->dev_set->lock);
	return vdev->adopt || device->open_count;
}

/* A device whose file was retrieved is looked after when that is finished. */
static bool is_unclaimed(struct pci_dev *dev, void *nr)
{
	struct vfio_device *device = luo_helper_vfio_find(dev);
	bool claimed = false;

	if (device) {
		claimed = is_retrieved(device);
		luo_helper_vfio_put(device);
	}
	if (!claimed)
		++*(unsigned int *)nr;
	return !claimed;
}

/* Stops all incoming devices whose file nobody has. Returns how many these were. */
unsigned int luo_helper_vfio_stop_unclaimed(void)
{
	unsigned int nr = 0;

	pci_liveupdate_stop_incoming(is_unclaimed, &nr);
	return nr;
}

void luo_helper_pci_identity(struct pci_dev *dev,
			     struct luo_helper_pci_identity *identity)
{
	*identity = (struct luo_helper_pci_identity) {
		.serial = pci_get_dsn(dev),
		.domain = pci_domain_nr(dev->bus),
		.bdf = pci_dev_id(dev),
		.vendor = dev->vendor,
		.device = dev->device,
		.subsystem_vendor = dev->subsystem_vendor,
		.subsystem_device = dev->subsystem_device,
	};
	pci_read_config_dword(dev, PCI_CLASS_REVISION, &identity->class);
	pci_read_config_dword(dev, PCI_ROM_ADDRESS, &identity->rom);
	pci_read_config_word(dev, PCI_COMMAND, &identity->command);
	for (int i = 0; i < ARRAY_SIZE(identity->bars); i++)
		pci_read_config_dword(dev, PCI_BASE_ADDRESS_0 + 4 * i,
				      &identity->bars[i]);
}

struct pci_dev *luo_helper_pci_find(u32 domain, u16 bdf)
{
	return pci_get_domain_bus_and_slot(domain, PCI_BUS_NUM(bdf), bdf & 0xff);
}

void luo_helper_pci_get(struct pci_dev *dev)
{
	pci_dev_get(dev);
}

void luo_helper_pci_put(struct pci_dev *dev)
{
	pci_dev_put(dev);
}

/* What is at the address of a device that was removed may be another one. */
void luo_helper_pci_stop(struct pci_dev *dev)
{
	if (pci_liveupdate_is_incoming(dev))
		pci_clear_master(dev);
}

// SPDX-License-Identifier: GPL-2.0-only
/*
 * A part of luo_iommu, not of luo_rs, which does not need iommufd.
 */

#include <linux/generic_pt/iommu.h>
#include <linux/iommu.h>
#include <linux/iommu_liveupdate.h>
#include <linux/iommufd.h>
#include <linux/iommufd_liveupdate.h>
#include <linux/module.h>
#include <linux/pci.h>

#include "../../iommu_preserve/include/uapi/linux/luo_iommu.h"
#include "helpers.h"

MODULE_IMPORT_NS("IOMMUFD");

static_assert(LUO_IOMMU_GET_INFO == LUO_HELPER_IOMMU_GET_INFO);
static_assert(LUO_IOMMU_GET_AREAS == LUO_HELPER_IOMMU_GET_AREAS);
static_assert(LUO_IOMMU_VERIFY == LUO_HELPER_IOMMU_VERIFY);
static_assert(sizeof(struct luo_iommu_info) == LUO_HELPER_IOMMU_INFO_SIZE);
static_assert(sizeof(struct luo_iommu_areas) == LUO_HELPER_IOMMU_AREAS_SIZE);
static_assert(sizeof(struct luo_iommu_verify) == LUO_HELPER_IOMMU_VERIFY_SIZE);
static_assert(IOMMU_READ == LUO_HELPER_IOMMU_READ);
static_assert(IOMMU_WRITE == LUO_HELPER_IOMMU_WRITE);

/* The context of a file, which stays as long as the file. */
struct iommufd_ctx *luo_helper_iommufd_ctx(struct file *file)
{
	struct iommufd_ctx *ictx = iommufd_ctx_from_file(file);

	if (IS_ERR(ictx))
		return NULL;
	iommufd_ctx_put(ictx);
	return ictx;
}

/*
 * The format of the page table of a domain, which only its driver knows. There
 * is one driver, and one format with which it preserves devices.
 */
unsigned int luo_helper_iommu_format(struct iommu_domain *domain)
{
	if (!iommupt_from_domain(domain) || !domain->owner ||
	    !domain->owner->liveupdate ||
	    !domain->owner->liveupdate->can_preserve(domain))
		return LUO_HELPER_IOMMU_UNKNOWN;
	return LUO_HELPER_IOMMU_VTD_SECOND_STAGE;
}

u64 luo_helper_iommu_last(struct iommu_domain *domain)
{
	return domain->geometry.aperture_end;
}

struct devices {
	struct luo_helper_iommu_device *list;
	unsigned int nr;
	unsigned int max;
};

static int add_device(struct pci_dev *dev, void *arg)
{
	struct devices *devices = arg;

	if (devices->nr == devices->max)
		return -ENOSPC;
	devices->list[devices->nr++] = (struct luo_helper_iommu_device) {
		.domain = pci_domain_nr(dev->bus),
		.bdf = pci_dev_id(dev),
	};
	return 0;
}

/* All devices that are bound to a context that is preserved; how many. */
int luo_helper_iommufd_devices(struct iommufd_ctx *ictx,
			       struct luo_helper_iommu_device *list,
			       unsigned int max)
{
	struct devices devices = { .list = list, .max = max };

	return iommufd_liveupdate_walk_devices(ictx, add_device, &devices) ?:
	       devices.nr;
}

/* Whether a device uses a page table of the previous kernel. */
bool luo_helper_iommu_pending(u32 domain, u16 bdf)
{
	struct pci_dev *dev = pci_get_domain_bus_and_slot(domain,
							  PCI_BUS_NUM(bdf),
							  bdf & 0xff);
	bool pending = dev && iommu_liveupdate_is_pending(&dev->dev);

	pci_dev_put(dev);
	return pending;
}

/* Stops it if it does. */
void luo_helper_iommu_stop(u32 domain, u16 bdf)
{
	struct pci_dev *dev = pci_get_domain_bus_and_slot(domain,
							  PCI_BUS_NUM(bdf),
							  bdf & 0xff);

	if (dev && iommu_liveupdate_is_pending(&dev->dev)) {
		pci_warn(dev, "nobody has replaced its translation, stopped\n");
		pci_clear_master(dev);
		iommu_liveupdate_release(&dev->dev);
	}
	pci_dev_put(dev);
}

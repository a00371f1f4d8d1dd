/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * C functions for what Rust cannot call itself: inline functions and macros.
 */

#ifndef LUO_HELPERS_H
#define LUO_HELPERS_H

#include <linux/types.h>

struct address_space;
struct file;
struct folio;
struct kho_run;
struct module;
struct pci_dev;
struct vfio_device;

/* file.c */
unsigned long luo_helper_file_inode_key(struct file *file);
u64 luo_helper_file_ino(struct file *file);
loff_t luo_helper_file_pos(struct file *file);
bool luo_helper_file_is_unlinked(struct file *file);
bool luo_helper_file_is_exec(struct file *file);
void luo_helper_set_file_noexec(struct file *file);
bool luo_helper_set_file_pos(struct file *file, loff_t pos);

/* folio.c */
#define LUO_HELPER_ORDER_BITS 6

unsigned int luo_helper_max_folio_order(void);
struct folio *luo_helper_pfn_folio(u64 pfn);
int luo_helper_folio_nid(struct folio *folio);
void luo_helper_folio_put(struct folio *folio);
void luo_helper_folio_zero(struct folio *folio);
bool luo_helper_folio_poisoned(struct folio *folio);
long luo_helper_broken_pages(void);
unsigned int luo_helper_take_folios(const phys_addr_t *phys, unsigned int nr,
				    unsigned int max_order,
				    struct folio **folios, u8 *orders);
int luo_helper_folios_preserve(struct folio **folios, unsigned int nr,
			       struct file *file, u64 index, u64 *words,
			       unsigned int *nr_done);
int luo_helper_take_runs(struct file *file, u64 *index, u64 end,
			 struct kho_run *runs, unsigned int *nr,
			 unsigned int max);
void luo_helper_put_run(u64 pfn, u64 nr_pages);
bool luo_helper_run_poisoned(u64 pfn, u64 nr_pages);

/* guest_memfd.c */
#ifdef CONFIG_KVM_GUEST_MEMFD
#define LUO_HELPER_GMEM_BATCH 31

/* struct luo_guest_memfd_link and LUO_GUEST_MEMFD_LINK */
#define LUO_HELPER_GMEM_LINK_SIZE 16
#define LUO_HELPER_GMEM_LINK_FD 12
#define LUO_HELPER_GMEM_LINK 0xBB00

/* What to do with memory that was never used. */
#define LUO_HELPER_GMEM_UNUSED_REFUSE 0
#define LUO_HELPER_GMEM_UNUSED_CLEAR 1
/* For tests, which have to notice it. */
#define LUO_HELPER_GMEM_UNUSED_KEEP 2

unsigned long luo_helper_gmem_nr_pages(struct file *file);
int luo_helper_gmem_preserve(struct file *file, unsigned long index,
			     unsigned int max, unsigned int unused, u64 *pfns,
			     u64 *indices, unsigned int *nr_done,
			     unsigned int *nr_unused);
int luo_helper_gmem_insert(struct file *file, struct folio *folio,
			   unsigned long index, bool uptodate);

/* Words of 64 nodes each. */
#define LUO_HELPER_GMEM_NODE_WORDS 16

/* struct mpol_range, whatever the number of nodes */
struct luo_helper_gmem_policy {
	u64 start;
	u64 end;
	s32 mode;
	s32 home_node;
	u64 nodes[LUO_HELPER_GMEM_NODE_WORDS];
};

void luo_helper_gmem_nodes(u64 *nodes);
bool luo_helper_gmem_get_policy(struct file *file, u64 index,
				struct luo_helper_gmem_policy *policy);
int luo_helper_gmem_set_policy(struct file *file,
			       const struct luo_helper_gmem_policy *policy);
#endif

/* hugetlb.c */
#ifdef CONFIG_HUGETLBFS
bool luo_helper_is_hugetlb(struct file *file);
bool luo_helper_hugetlb_is_memfd(struct file *file);
unsigned int luo_helper_hugetlb_order(struct file *file);
loff_t luo_helper_hugetlb_size(struct file *file);
void luo_helper_hugetlb_set_size(struct file *file, loff_t size);
int luo_helper_hugetlb_freeze(struct file *file);
void luo_helper_hugetlb_thaw(struct file *file);
int luo_helper_hugetlb_check(struct folio *folio);
int luo_helper_hugetlb_preserve(struct folio **folios, unsigned int nr,
				struct file *file, u64 index, u64 *pfns,
				unsigned int *nr_done);
int luo_helper_hugetlb_insert(struct file *file, struct folio *folio,
			      unsigned long index, bool surplus);
#endif

/* iommu.c */
#ifdef CONFIG_IOMMU_LIVEUPDATE
struct iommu_domain;
struct iommufd_ctx;

/* Formats of page tables. */
#define LUO_HELPER_IOMMU_UNKNOWN 0
#define LUO_HELPER_IOMMU_VTD_SECOND_STAGE 1

/* struct luo_iommu_info and the others, see luo_iommu.h */
#define LUO_HELPER_IOMMU_GET_INFO 0xbb10
#define LUO_HELPER_IOMMU_GET_AREAS 0xbb11
#define LUO_HELPER_IOMMU_VERIFY 0xbb12
#define LUO_HELPER_IOMMU_INFO_SIZE 32
#define LUO_HELPER_IOMMU_AREAS_SIZE 24
#define LUO_HELPER_IOMMU_VERIFY_SIZE 24

/* What devices may do in an area. */
#define LUO_HELPER_IOMMU_READ 1
#define LUO_HELPER_IOMMU_WRITE 2

struct luo_helper_iommu_device {
	u32 domain;
	u16 bdf;
	u16 reserved;
};

struct iommufd_ctx *luo_helper_iommufd_ctx(struct file *file);
unsigned int luo_helper_iommu_format(struct iommu_domain *domain);
u64 luo_helper_iommu_last(struct iommu_domain *domain);
int luo_helper_iommufd_devices(struct iommufd_ctx *ictx,
			       struct luo_helper_iommu_device *devices,
			       unsigned int max);
bool luo_helper_iommu_pending(u32 domain, u16 bdf);
void luo_helper_iommu_stop(u32 domain, u16 bdf);
#endif

/* kho.c */
phys_addr_t luo_helper_virt_to_phys(const void *mem);
void *luo_helper_phys_to_virt(phys_addr_t phys);

/* parallel.c */
unsigned int luo_helper_cpus(void);
void luo_helper_parallel(void (*fn)(void *context, unsigned int nr),
			 void *context, unsigned int nr);

/* shmem.c */
bool luo_helper_is_shmem(struct file *file);
loff_t luo_helper_shmem_size(struct file *file);
void luo_helper_shmem_set_size(struct file *file, loff_t size);
unsigned int luo_helper_shmem_max_order(struct file *file);
int luo_helper_shmem_freeze(struct file *file);
void luo_helper_shmem_thaw(struct file *file);
int luo_helper_shmem_insert(struct file *file, struct folio **folios,
			    const unsigned long *indices, unsigned int nr,
			    unsigned int *nr_done);

/* task.c */
bool luo_helper_interrupted(void);
void luo_helper_module_get(struct module *module);
void luo_helper_module_put(struct module *module);

/* vfio.c */
#ifdef CONFIG_VFIO_PCI_LIVEUPDATE
/* VFIO_PCI_STATE_* */
#define LUO_HELPER_VFIO_RESET_WORKS 1
#define LUO_HELPER_VFIO_PCI_2_3 2
#define LUO_HELPER_VFIO_NOINTX 4
#define LUO_HELPER_VFIO_VIRQ_DISABLED 8

/* What tells a device from others. */
struct luo_helper_pci_identity {
	u64 serial;
	u32 domain;
	u32 class;
	u32 bars[6];
	u32 rom;
	u16 vendor;
	u16 device;
	u16 subsystem_vendor;
	u16 subsystem_device;
	u16 bdf;
	u16 command;
};

struct vfio_device *luo_helper_vfio_device(struct file *file);
struct pci_dev *luo_helper_vfio_pci_dev(struct vfio_device *device);
u16 luo_helper_vfio_cfg_size(struct vfio_device *device);
unsigned int luo_helper_vfio_group_size(struct vfio_device *device);
bool luo_helper_vfio_has_iommu(struct vfio_device *device);
bool luo_helper_vfio_iommufd_preserved(struct vfio_device *device);
int luo_helper_vfio_iommu_preserve(struct vfio_device *device);
void luo_helper_vfio_iommu_unpreserve(struct pci_dev *dev);
bool luo_helper_vfio_iommu_preserved(struct vfio_device *device);
bool luo_helper_vfio_iommu_settle(struct vfio_device *device);
struct vfio_device *luo_helper_vfio_find(struct pci_dev *dev);
void luo_helper_vfio_put(struct vfio_device *device);
bool luo_helper_vfio_is_open(struct vfio_device *device);
unsigned int luo_helper_vfio_stop_unclaimed(void);
void luo_helper_pci_identity(struct pci_dev *dev,
			     struct luo_helper_pci_identity *identity);
struct pci_dev *luo_helper_pci_find(u32 domain, u16 bdf);
void luo_helper_pci_get(struct pci_dev *dev);
void luo_helper_pci_put(struct pci_dev *dev);
void luo_helper_pci_stop(struct pci_dev *dev);
#endif

#endif /* LUO_HELPERS_H */

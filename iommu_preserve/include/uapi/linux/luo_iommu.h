/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * What devices had mapped in the previous kernel.
 *
 * LIVEUPDATE_SESSION_RETRIEVE_FD of an iommufd that was preserved by luo_iommu
 * gives a file that tells what was mapped in it. It is no iommufd: whoever has it
 * opens a new one, maps the same there, and attaches the devices. That replaces
 * the previous kernel's page table.
 */
#ifndef _UAPI_LINUX_LUO_IOMMU_H
#define _UAPI_LINUX_LUO_IOMMU_H

#include <linux/ioctl.h>
#include <linux/types.h>

#define LUO_IOMMU_IOCTL_TYPE	0xBB

/* Values of luo_iommu_info.format */
#define LUO_IOMMU_VTD_SECOND_STAGE	1

/**
 * struct luo_iommu_info - argument of LUO_IOMMU_GET_INFO
 * @size: Input; sizeof(struct luo_iommu_info).
 * @format: Output; format of the page table.
 * @levels: Output; how many levels it has.
 * @nr_areas: Output; how many areas were mapped.
 * @last: Output; the last address that could be mapped.
 * @nr_tables: Output; how many pages the page table has, 0 once the session
 *	is finished.
 *
 * Errors: EINVAL, @size is too small.
 */
struct luo_iommu_info {
	__u32 size;
	__u16 format;
	__u16 levels;
	__u32 nr_areas;
	__u32 reserved;
	__aligned_u64 last;
	__aligned_u64 nr_tables;
};

#define LUO_IOMMU_GET_INFO	_IO(LUO_IOMMU_IOCTL_TYPE, 0x10)

#define LUO_IOMMU_AREA_READ	(1 << 0)
#define LUO_IOMMU_AREA_WRITE	(1 << 1)
#define LUO_IOMMU_AREA_TOKEN	(1 << 2)

/**
 * struct luo_iommu_area - a range of addresses that was mapped to a file
 * @iova: Its first address.
 * @length: Its length in bytes.
 * @offset: Where in the file it began, in bytes.
 * @token: The file's token in the session, if LUO_IOMMU_AREA_TOKEN is set. If it
 *	is not, the file is preserved in another session.
 * @flags: LUO_IOMMU_AREA_*; whether devices could read and write.
 * @reserved: 0.
 */
struct luo_iommu_area {
	__aligned_u64 iova;
	__aligned_u64 length;
	__aligned_u64 offset;
	__aligned_u64 token;
	__u32 flags;
	__u32 reserved;
};

/**
 * struct luo_iommu_areas - argument of LUO_IOMMU_GET_AREAS
 * @size: Input; sizeof(struct luo_iommu_areas).
 * @first: Input; number of the first area to report; they are in the order of
 *	their addresses.
 * @nr: Input; how many areas there is room for. Output; how many were written.
 * @reserved: Input; must be 0.
 * @areas: Input; address of an array of struct luo_iommu_area.
 *
 * Errors: EINVAL, @size is too small or @reserved is not 0; EFAULT.
 */
struct luo_iommu_areas {
	__u32 size;
	__u32 first;
	__u32 nr;
	__u32 reserved;
	__aligned_u64 areas;
};

#define LUO_IOMMU_GET_AREAS	_IO(LUO_IOMMU_IOCTL_TYPE, 0x11)

/**
 * struct luo_iommu_verify - argument of LUO_IOMMU_VERIFY
 * @size: Input; sizeof(struct luo_iommu_verify).
 * @iommufd: Input; a new iommufd.
 * @hwpt_id: Input; a page table of it that was made with IOMMU_HWPT_ALLOC.
 * @reserved: Input; must be 0.
 * @iova: Output; the first address that is translated in another way.
 *
 * Compares the previous kernel's page table with the new one, of which nothing may
 * be changed meanwhile, before it is attached: each address has to lead to the
 * same memory.
 *
 * Errors: EADDRNOTAVAIL, they differ at @iova; ENODATA, the session is finished;
 * EINVAL, @size is too small or @reserved is not 0; EBADF or EBADFD, @iommufd is no
 * iommufd; ENOENT, there is no such page table.
 */
struct luo_iommu_verify {
	__u32 size;
	__s32 iommufd;
	__u32 hwpt_id;
	__u32 reserved;
	__aligned_u64 iova;
};

#define LUO_IOMMU_VERIFY	_IO(LUO_IOMMU_IOCTL_TYPE, 0x12)

#endif /* _UAPI_LINUX_LUO_IOMMU_H */

// SPDX-License-Identifier: GPL-2.0-only

#include <linux/fs.h>
#include <linux/hugetlb.h>
#include <linux/kexec_handover.h>
#include <linux/mm.h>
#include <linux/pagemap.h>

#ifdef CONFIG_HUGETLBFS

#ifdef CONFIG_ARM64_MTE
#include <asm/mte.h>

static bool huge_folio_has_tags(struct folio *folio)
{
	return folio_test_hugetlb_mte_tagged(folio);
}
#else
static bool huge_folio_has_tags(struct folio *folio)
{
	return false;
}
#endif

bool luo_helper_is_hugetlb(struct file *file)
{
	return is_file_hugepages(file);
}

/*
 * Whether this is a memfd, or like one: on the kernel's own mount, which has no
 * limits, and no SysV shared memory.
 */
bool luo_helper_hugetlb_is_memfd(struct file *file)
{
	struct inode *inode = file_inode(file);

	return (inode->i_sb->s_flags & SB_KERNMOUNT) &&
	       !(inode->i_flags & S_PRIVATE) && !inode->i_nlink;
}

unsigned int luo_helper_hugetlb_order(struct file *file)
{
	return huge_page_order(hstate_file(file));
}

loff_t luo_helper_hugetlb_size(struct file *file)
{
	return i_size_read(file_inode(file));
}

/* Only for a file that nobody else knows yet. */
void luo_helper_hugetlb_set_size(struct file *file, loff_t size)
{
	i_size_write(file_inode(file), size);
}

int luo_helper_hugetlb_freeze(struct file *file)
{
	struct inode *inode = file_inode(file);
	int err = 0;

	inode_lock(inode);
	if (HUGETLBFS_I(inode)->mapping_frozen)
		err = -EBUSY;
	else
		hugetlbfs_freeze(inode, true);
	inode_unlock(inode);
	return err;
}

void luo_helper_hugetlb_thaw(struct file *file)
{
	struct inode *inode = file_inode(file);

	inode_lock(inode);
	hugetlbfs_freeze(inode, false);
	inode_unlock(inode);
}

/* Whether a huge page of a file can be handed over. */
int luo_helper_hugetlb_check(struct folio *folio)
{
	if (unlikely(folio_contain_hwpoisoned_page(folio)))
		return -EHWPOISON;
	/* The next kernel would clear them when the memory is mapped. */
	if (unlikely(huge_folio_has_tags(folio)))
		return -EOPNOTSUPP;
	return 0;
}

static int huge_folio_preserve(struct folio *folio,
			       const struct address_space *mapping, u64 index)
{
	int err = 0;

	folio_lock(folio);
	if (unlikely(folio->mapping != mapping || folio->index != index))
		err = -EIO;
	/* The next kernel needs such an area for itself, in the same place. */
	else if (unlikely(folio_test_hugetlb_cma(folio)))
		err = -EOPNOTSUPP;
	else
		err = luo_helper_hugetlb_check(folio);
	folio_unlock(folio);
	return err ?: kho_preserve_folio(folio);
}

/*
 * Preserves the pinned huge pages that follow one another in @file from the page
 * @index on, up to the first error. @pfns gets their page numbers.
 */
int luo_helper_hugetlb_preserve(struct folio **folios, unsigned int nr,
				struct file *file, u64 index, u64 *pfns,
				unsigned int *nr_done)
{
	unsigned int i;
	int err = 0;

	for (i = 0; i < nr; i++) {
		err = huge_folio_preserve(folios[i], file->f_mapping, index);
		if (err)
			break;
		pfns[i] = folio_pfn(folios[i]);
		index += folio_nr_pages(folios[i]);
	}
	*nr_done = i;
	return err;
}

int luo_helper_hugetlb_insert(struct file *file, struct folio *folio,
			      unsigned long index, bool surplus)
{
	return hugetlb_insert_folio(file_inode(file), folio, index, surplus);
}

#endif /* CONFIG_HUGETLBFS */

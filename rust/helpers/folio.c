// SPDX-License-Identifier: GPL-2.0-only

#include <linux/highmem.h>
#include <linux/mm.h>
#include <linux/pagemap.h>

unsigned int luo_helper_max_folio_order(void)
{
	return MAX_PAGECACHE_ORDER;
}

struct folio *luo_helper_pfn_folio(u64 pfn)
{
	return pfn_folio(pfn);
}

void luo_helper_folio_put(struct folio *folio)
{
	folio_put(folio);
}

void luo_helper_folio_zero(struct folio *folio)
{
	folio_zero_range(folio, 0, folio_size(folio));
	flush_dcache_folio(folio);
}

bool luo_helper_folio_poisoned(struct folio *folio)
{
	return folio_contain_hwpoisoned_page(folio);
}

/*
 * Makes the content of a pinned folio final: as much memory as the page cache of @file has at
 * @index, all of it valid, and dirty, so that reclaim never drops it in the next kernel.
 *
 * Returns -EAGAIN if reclaim took the folio from the page cache before it was pinned.
 */
int luo_helper_folio_settle(struct folio *folio, struct file *file,
			    u64 index,
			    struct luo_helper_settled *settled)
{
	int err = 0;

	folio_lock(folio);
	if (unlikely(folio->mapping != file->f_mapping ||
		     folio->index != index)) {
		err = -EAGAIN;
		goto unlock;
	}
	if (unlikely(folio_contain_hwpoisoned_page(folio))) {
		err = -EHWPOISON;
		goto unlock;
	}
	/* Allocated by fallocate(), but never used: it may hold anything. */
	if (unlikely(!folio_test_uptodate(folio))) {
		luo_helper_folio_zero(folio);
		folio_mark_uptodate(folio);
	}
	if (!folio_test_dirty(folio))
		folio_mark_dirty(folio);
	settled->pfn = folio_pfn(folio);
	settled->order = folio_order(folio);
unlock:
	folio_unlock(folio);
	return err;
}

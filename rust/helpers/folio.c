// SPDX-License-Identifier: GPL-2.0-only

#include <linux/highmem.h>
#include <linux/kexec_handover.h>
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
 * Marks a pinned folio as preserved, and makes its content final: as much memory
 * as the page cache of @file has at @index, all of it valid, and dirty, so that
 * reclaim never drops it in the next kernel.
 *
 * Returns page number and order, in LUO_HELPER_ORDER_BITS at the end, or an error:
 * -EAGAIN if reclaim took the folio from the page cache before it was pinned.
 */
s64 luo_helper_folio_preserve(struct folio *folio, struct file *file, u64 index)
{
	const struct address_space *mapping = file->f_mapping;
	int err = 0;

	folio_lock(folio);
	if (unlikely(folio->mapping != mapping || folio->index != index)) {
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
	/* All that folio_mark_dirty() does in shared memory is to set the flag. */
	if (likely(mapping->a_ops->dirty_folio == noop_dirty_folio))
		folio_set_dirty(folio);
	else
		folio_mark_dirty(folio);
unlock:
	folio_unlock(folio);
	if (!err)
		err = kho_preserve_folio(folio);
	if (unlikely(err))
		return err;
	return folio_pfn(folio) << LUO_HELPER_ORDER_BITS | folio_order(folio);
}

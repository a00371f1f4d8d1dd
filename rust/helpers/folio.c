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

int luo_helper_folio_nid(struct folio *folio)
{
	return folio_nid(folio);
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

/* kho_try_restore_folios() that tells the orders, too. */
unsigned int luo_helper_take_folios(const phys_addr_t *phys, unsigned int nr,
				    unsigned int max_order,
				    struct folio **folios, u8 *orders)
{
	unsigned int i;

	nr = kho_try_restore_folios(phys, nr, max_order, folios);
	for (i = 0; i < nr; i++)
		orders[i] = folio_order(folios[i]);
	return nr;
}

bool luo_helper_folio_poisoned(struct folio *folio)
{
	return folio_contain_hwpoisoned_page(folio);
}

/* How many pages of the machine are broken. */
long luo_helper_broken_pages(void)
{
#ifdef CONFIG_MEMORY_FAILURE
	return atomic_long_read(&num_poisoned_pages);
#else
	return 0;
#endif
}

/*
 * Marks a pinned folio as preserved, and makes its content final: as much memory
 * as the page cache has at @index, all of it valid, and dirty, so that reclaim
 * never drops it in the next kernel.
 */
static __always_inline int
folio_preserve(struct folio *folio, bool large,
	       const struct address_space *mapping, u64 index)
{
	int err = -EAGAIN;

	folio_lock(folio);
	if (unlikely(folio->mapping != mapping || folio->index != index))
		goto unlock;
	err = -EHWPOISON;
	if (unlikely(large ? folio_contain_hwpoisoned_page(folio) :
			     folio_test_hwpoison(folio)))
		goto unlock;
	/* Allocated by fallocate(), but never used: it may hold anything. */
	if (unlikely(!folio_test_uptodate(folio))) {
		luo_helper_folio_zero(folio);
		folio_mark_uptodate(folio);
	}
	/*
	 * All that folio_mark_dirty() does in shared memory, without finding the
	 * mapping and its operations anew for each folio.
	 */
	folio_set_dirty(folio);
	folio_unlock(folio);
	return kho_preserve_folio(folio);
unlock:
	folio_unlock(folio);
	return err;
}

/*
 * Preserves the pinned folios that follow one another in @file, which is in
 * shared memory, from @index on, up to the first error: -EAGAIN if reclaim took a
 * folio from the page cache before it was pinned. For each, @words gets the page
 * number and, in the last LUO_HELPER_ORDER_BITS, the order.
 */
int luo_helper_folios_preserve(struct folio **folios, unsigned int nr,
			       struct file *file, u64 index, u64 *words,
			       unsigned int *nr_done)
{
	const struct address_space *mapping = file->f_mapping;
	struct folio **end = folios + nr;
	u64 *word = words;
	int err = 0;

	for (; folios != end; folios++) {
		struct folio *folio = *folios;
		unsigned int order;

		/* Pinned, so it stays one page: twice the code, but no shifts. */
		if (likely(!folio_test_large(folio))) {
			err = folio_preserve(folio, false, mapping, index);
			if (unlikely(err))
				break;
			*word++ = (u64)folio_pfn(folio) << LUO_HELPER_ORDER_BITS;
			index++;
			continue;
		}
		err = folio_preserve(folio, true, mapping, index);
		if (unlikely(err))
			break;
		order = folio_order(folio);
		*word++ = (u64)folio_pfn(folio) << LUO_HELPER_ORDER_BITS | order;
		index += 1ULL << order;
	}
	*nr_done = word - words;
	return err;
}

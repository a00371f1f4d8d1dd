// SPDX-License-Identifier: GPL-2.0-only

#include <linux/kexec_handover.h>
#include <linux/mm.h>
#include <linux/pagemap.h>

/* Pages that are taken in one call, if they are single pages. */
#define PAGES 512

/* How often a folio is looked up again that is not where it was. */
#define TRIES 16

/*
 * Takes a reference of the folios of @file, which is in shared memory and frozen,
 * from the page *@index to the page @end, and adds their pages to @runs, of which
 * *@nr of @max are used; the last of them may become longer. *@index is where it
 * ended, which is not always @end.
 *
 * To take a folio away, reclaim, migration and collapse lock it first, and then
 * find our reference: while a folio is locked and in its place, they did neither.
 *
 * The contents become final: pages that fallocate() added and nobody used may hold
 * anything.
 *
 * Returns -EAGAIN if a page at *@index has to be pinned first, which brings it here
 * and to where it can stay: there is none, it is swapped out, or it is in memory
 * that only movable pages may be in, as the scratch areas of KHO are.
 */
int luo_helper_take_runs(struct file *file, u64 *index, u64 end,
			 struct kho_run *runs, unsigned int *nr,
			 unsigned int max)
{
	const struct address_space *mapping = file->f_mapping;
	unsigned long next = *index, last = min_t(u64, end, next + PAGES);
	struct kho_run *run = runs + *nr - 1;
	XA_STATE(xas, &file->f_mapping->i_pages, next);
	unsigned long block = ULONG_MAX;
	unsigned int tries = 0;
	struct folio *folio;
	/* Where the last run ends; nowhere, if there is none. */
	unsigned long run_end = *nr ? run->pfn + run->nr_pages : 0;
	int err = 0;

	rcu_read_lock();
	for (folio = xas_load(&xas); next < last; folio = xas_next(&xas)) {
		unsigned long pfn, nr_pages = 1;
		bool again = false;

		/* Nothing, a swap entry, or something of the tree itself. */
		if (unlikely(!folio || xa_is_internal(folio) ||
			     xa_is_value(folio))) {
			if (xas_retry(&xas, folio))
				continue;
			err = -EAGAIN;
			break;
		}
		/* It is on its way to somewhere. */
		if (unlikely(!folio_try_get(folio))) {
			xas_reset(&xas);
			continue;
		}
		if (unlikely(!folio_trylock(folio))) {
			rcu_read_unlock();
			folio_lock(folio);
			again = true;
			rcu_read_lock();
		}
		if (unlikely(folio->mapping != mapping || folio->index != next)) {
			folio_unlock(folio);
			folio_put(folio);
			xas_set(&xas, next);
			if (++tries < TRIES)
				continue;
			err = -EAGAIN;
			break;
		}
		pfn = folio_pfn(folio);
		/* A pageblock is of one kind. */
		if (pfn >> pageblock_order != block) {
			err = folio_is_longterm_pinnable(folio) ? 0 : -EAGAIN;
			if (err)
				goto put;
			block = pfn >> pageblock_order;
		}
		if (unlikely(folio_contain_hwpoisoned_page(folio))) {
			err = -EHWPOISON;
			goto put;
		}
		if (unlikely(!folio_test_uptodate(folio))) {
			rcu_read_unlock();
			luo_helper_folio_zero(folio);
			folio_mark_uptodate(folio);
			again = true;
			rcu_read_lock();
		}
		if (unlikely(folio_test_large(folio))) {
			nr_pages = min_t(u64, folio_next_index(folio), end) - next;
			again = true;
		}
		if (pfn != run_end || !run_end) {
			if (unlikely(*nr == max))
				goto put;
			++*nr;
			run++;
			run->pfn = pfn;
			run->nr_pages = 0;
		}
		run->nr_pages += nr_pages;
		run_end = pfn + nr_pages;
		next += nr_pages;
		folio_unlock(folio);
		if (unlikely(again))
			xas_set(&xas, next);
		continue;
put:
		folio_unlock(folio);
		folio_put(folio);
		break;
	}
	rcu_read_unlock();
	*index = next;
	return err;
}

/* Gives back the references that were taken of the folios of a run. */
void luo_helper_put_run(u64 pfn, u64 nr_pages)
{
	u64 end = pfn + nr_pages;
	unsigned int i = 0;

	while (pfn < end) {
		struct folio *folio = pfn_folio(pfn);

		pfn += folio_nr_pages(folio);
		folio_put(folio);
		if (!(++i % 1024))
			cond_resched();
	}
}

bool luo_helper_run_poisoned(u64 pfn, u64 nr_pages)
{
	u64 end = pfn + nr_pages;
	unsigned int i = 0;

	while (pfn < end) {
		struct folio *folio = pfn_folio(pfn);

		if (folio_contain_hwpoisoned_page(folio))
			return true;
		pfn += folio_nr_pages(folio);
		if (!(++i % 1024))
			cond_resched();
	}
	return false;
}

// SPDX-License-Identifier: GPL-2.0-only
/*
 * A part of luo_guest_memfd, not of luo_rs, which does not need KVM.
 */

#include <linux/bitmap.h>
#include <linux/fs.h>
#include <linux/highmem.h>
#include <linux/kexec_handover.h>
#include <linux/kvm_gmem.h>
#include <linux/mempolicy.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/pagemap.h>
#include <linux/folio_batch.h>

#include "../../luo/include/uapi/linux/luo_guest_memfd.h"
#include "helpers.h"

static_assert(LUO_HELPER_GMEM_BATCH >= FOLIO_BATCH_SIZE);
static_assert(sizeof(struct luo_guest_memfd_link) == LUO_HELPER_GMEM_LINK_SIZE);
static_assert(offsetof(struct luo_guest_memfd_link, fd) == LUO_HELPER_GMEM_LINK_FD);
static_assert(LUO_GUEST_MEMFD_LINK == LUO_HELPER_GMEM_LINK);
static_assert(MAX_NUMNODES <= LUO_HELPER_GMEM_NODE_WORDS * 64);

/* What initializes KVM on x86; the symbols are all of kvm. */
MODULE_SOFTDEP("pre: kvm_amd kvm_intel");

unsigned long luo_helper_gmem_nr_pages(struct file *file)
{
	return READ_ONCE(file->f_mapping->nrpages);
}

/*
 * Marks a folio as preserved, and makes its content final. KVM clears memory when
 * it is used for the first time, as long as it is not up to date. What a guest
 * writes after this must not be cleared by the next kernel, and what was never
 * cleared must not get to the guest.
 */
static int gmem_folio_preserve(struct folio *folio,
			       const struct address_space *mapping,
			       unsigned int unused, unsigned int *nr_unused)
{
	int err = 0;

	folio_lock(folio);
	if (unlikely(folio->mapping != mapping)) {
		err = -EIO;
	} else if (unlikely(folio_test_large(folio))) {
		err = -EOPNOTSUPP;
	} else if (unlikely(folio_contain_hwpoisoned_page(folio))) {
		err = -EHWPOISON;
	} else if (!folio_test_uptodate(folio)) {
		++*nr_unused;
		if (unused == LUO_HELPER_GMEM_UNUSED_CLEAR) {
			folio_zero_range(folio, 0, folio_size(folio));
			flush_dcache_folio(folio);
		}
		if (unused == LUO_HELPER_GMEM_UNUSED_REFUSE)
			err = -EOPNOTSUPP;
		else
			folio_mark_uptodate(folio);
	}
	folio_unlock(folio);
	return err ?: kho_preserve_folio(folio);
}

/*
 * Preserves the first folios of @file, which is frozen, from the page @index on:
 * at most @max and LUO_HELPER_GMEM_BATCH, and up to the first error. @pfns and
 * @indices get their page numbers and where they are in the file. @unused is what
 * to do with content that KVM would clear, and @nr_unused how often it was done.
 */
int luo_helper_gmem_preserve(struct file *file, unsigned long index,
			     unsigned int max, unsigned int unused, u64 *pfns,
			     u64 *indices, unsigned int *nr_done,
			     unsigned int *nr_unused)
{
	struct folio_batch folios;
	unsigned int i, nr;
	int err = 0;

	*nr_unused = 0;
	folio_batch_init(&folios);
	nr = filemap_get_folios(file->f_mapping, &index, -1UL, &folios);
	nr = min(nr, max);
	for (i = 0; i < nr; i++) {
		struct folio *folio = folios.folios[i];

		err = gmem_folio_preserve(folio, file->f_mapping, unused,
					  nr_unused);
		if (err)
			break;
		pfns[i] = folio_pfn(folio);
		indices[i] = folio->index;
	}
	folio_batch_release(&folios);
	*nr_done = i;
	return err;
}

/*
 * Puts a folio with valid content into a new file. Where it is not @uptodate, KVM
 * would clear it.
 *
 * If that failed, the guest would be lost, as a retrieve is not repeated. The
 * memory is there already, so that refusing to account for it saves none: a
 * cgroup gets beyond its limit, and nobody is killed for it.
 */
int luo_helper_gmem_insert(struct file *file, struct folio *folio,
			   unsigned long index, bool uptodate)
{
	struct address_space *mapping = file->f_mapping;
	int err;

	err = filemap_add_folio(mapping, folio, index,
				mapping_gfp_mask(mapping) | __GFP_NOFAIL |
				__GFP_RETRY_MAYFAIL);
	if (err)
		return err;
	if (likely(uptodate))
		folio_mark_uptodate(folio);
	folio_unlock(folio);
	return 0;
}

static void nodes_to_words(u64 *words, const nodemask_t *nodes)
{
	memset(words, 0, LUO_HELPER_GMEM_NODE_WORDS * sizeof(*words));
	bitmap_to_arr64(words, nodes->bits, MAX_NUMNODES);
}

/* The nodes that have memory. */
void luo_helper_gmem_nodes(u64 *nodes)
{
	nodes_to_words(nodes, &node_states[N_MEMORY]);
}

bool luo_helper_gmem_get_policy(struct file *file, u64 index,
				struct luo_helper_gmem_policy *policy)
{
	struct mpol_range range;

	if (!kvm_gmem_get_policy_range(file, index, &range))
		return false;

	policy->start = range.start;
	policy->end = range.end;
	policy->mode = range.mode;
	policy->home_node = range.home_node;
	nodes_to_words(policy->nodes, &range.nodes);
	return true;
}

/* Nodes that this kernel has no numbers for are left out. */
int luo_helper_gmem_set_policy(struct file *file,
			       const struct luo_helper_gmem_policy *policy)
{
	struct mpol_range range = {
		.start = policy->start,
		.end = policy->end,
		.mode = policy->mode,
		.home_node = policy->home_node,
	};

	bitmap_from_arr64(range.nodes.bits, policy->nodes, MAX_NUMNODES);
	return kvm_gmem_set_policy_range(file, &range);
}

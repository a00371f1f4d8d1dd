// SPDX-License-Identifier: GPL-2.0-only

#include <linux/io.h>
#include <linux/kexec_handover.h>

phys_addr_t luo_helper_virt_to_phys(const void *mem)
{
	return virt_to_phys((void *)mem);
}

void *luo_helper_phys_to_virt(phys_addr_t phys)
{
	return phys_to_virt(phys);
}

/* kho_restore_folio() warns if nothing waits at @phys; this is silent. */
struct folio *luo_helper_take_folio(phys_addr_t phys)
{
	if (unlikely(kho_incoming_order(phys) < 0))
		return NULL;
	return kho_restore_folio(phys);
}

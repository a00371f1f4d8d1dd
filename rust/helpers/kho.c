// SPDX-License-Identifier: GPL-2.0-only

#include <linux/io.h>

phys_addr_t luo_helper_virt_to_phys(const void *mem)
{
	return virt_to_phys((void *)mem);
}

void *luo_helper_phys_to_virt(phys_addr_t phys)
{
	return phys_to_virt(phys);
}

// SPDX-License-Identifier: GPL-2.0-only

#include <linux/module.h>
#include <linux/sched.h>
#include <linux/sched/signal.h>

/* To be called in long loops: lets others run, and tells whether the task is being killed. */
bool luo_helper_interrupted(void)
{
	cond_resched();
	return fatal_signal_pending(current);
}

/* For a caller that runs on behalf of @module, so that it cannot go away meanwhile. */
void luo_helper_module_get(struct module *module)
{
	__module_get(module);
}

void luo_helper_module_put(struct module *module)
{
	module_put(module);
}

// SPDX-License-Identifier: GPL-2.0-only

#include <linux/cpumask.h>
#include <linux/memcontrol.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>
#include <linux/workqueue.h>

#include "helpers.h"

struct parallel_work {
	struct work_struct work;
	void (*fn)(void *context, unsigned int nr);
	void *context;
	struct mem_cgroup *memcg;
	unsigned int nr;
};

unsigned int luo_helper_cpus(void)
{
	return num_online_cpus();
}

static void parallel_run(struct work_struct *work)
{
	struct parallel_work *this = container_of(work, struct parallel_work, work);
	struct mem_cgroup *old = set_active_memcg(this->memcg);

	this->fn(this->context, this->nr);
	set_active_memcg(old);
}

/*
 * Calls @fn with each number below @nr, in several tasks if there is memory for
 * that. All of them have the memory cgroup of the caller.
 */
void luo_helper_parallel(void (*fn)(void *context, unsigned int nr),
			 void *context, unsigned int nr)
{
	struct parallel_work *works = NULL;
	struct mem_cgroup *memcg;
	unsigned int i;

	if (nr > 1)
		works = kcalloc(nr - 1, sizeof(*works), GFP_KERNEL | __GFP_NOWARN);
	if (!works) {
		for (i = 0; i < nr; i++)
			fn(context, i);
		return;
	}

	memcg = get_mem_cgroup_from_mm(current->mm);
	for (i = 1; i < nr; i++) {
		struct parallel_work *this = &works[i - 1];

		this->fn = fn;
		this->context = context;
		this->memcg = memcg;
		this->nr = i;
		INIT_WORK(&this->work, parallel_run);
		queue_work(system_dfl_wq, &this->work);
	}
	fn(context, 0);
	for (i = 1; i < nr; i++)
		flush_work(&works[i - 1].work);
	mem_cgroup_put(memcg);
	kfree(works);
}

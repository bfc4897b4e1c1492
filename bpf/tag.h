/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/* Which tagged cgroup the running task is in. */
#ifndef SP_TAG_H
#define SP_TAG_H

#include "maps.h"

/* Deeper tagged cgroups are refused by the loader. */
#define SP_LEVELS 32

static __always_inline const struct sp_config *settings(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&config, &zero);
}

#define SP_SLICE 0x100

/*
 * tag_of_task gives the level of the tagged cgroup that the task is in or below,
 * with SP_SLICE if each child of it is a workload; 0: the task is not tagged. Only
 * the levels at which something is tagged are asked, so that an untagged task of
 * the host pays for one or two look-ups.
 */
GLOBAL __u32 tag_of_task(__u32 levels)
{
	for (int level = 1; level < SP_LEVELS; level++) {
		const struct sp_tag *tag;
		__u64 id;

		if (!(levels & (1U << level)))
			continue;
		id = bpf_get_current_ancestor_cgroup_id(level);
		if (!id) /* the task's cgroup is above this level */
			return 0;
		tag = bpf_map_lookup_elem(&tagged, &id);
		if (tag)
			return tag->slice ? level | SP_SLICE : level;
	}
	return 0;
}

#endif

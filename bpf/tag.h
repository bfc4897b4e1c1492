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

/*
 * tag_of_task gives the tag of the task's cgroup or of one above it. Only the
 * levels at which something is tagged are asked, so that an untagged task of the
 * host pays for one or two look-ups.
 */
static __always_inline const struct sp_tag *tag_of_task(__u32 levels)
{
	for (int level = 1; level < SP_LEVELS; level++) {
		const struct sp_tag *tag;
		__u64 id;

		if (!(levels & (1U << level)))
			continue;
		id = bpf_get_current_ancestor_cgroup_id(level);
		if (!id) /* the task's cgroup is above this level */
			return NULL;
		tag = bpf_map_lookup_elem(&tagged, &id);
		if (tag)
			return tag;
	}
	return NULL;
}

#endif

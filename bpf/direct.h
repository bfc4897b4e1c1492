/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/* Rules with `handling: direct`, decided here. */
#ifndef SP_DIRECT_H
#define SP_DIRECT_H

#include "addr.h"
#include "maps.h"

struct sp_match {
	__u32 order;
	__u32 rule;
};

/* first_range gives the index of the first range with the port, SP_RANGES: none. */
GLOBAL __u32 first_range(const struct sp_ranges *ranges, __u16 port)
{
	if (!ranges)
		return SP_RANGES;
	for (__u32 i = 0; i < SP_RANGES; i++) {
		if (i >= ranges->n)
			break;
		if (port >= ranges->r[i].first && port <= ranges->r[i].last)
			return i;
	}
	return SP_RANGES;
}

static __always_inline void match_ports(const struct sp_ranges *ranges, __u16 port, struct sp_match *m)
{
	__u32 i;

	if (!ranges)
		return;
	/* The loader put them in the order of the rules. */
	i = first_range(ranges, port);
	if (i >= SP_RANGES)
		return;
	/* The verifier of Linux 6.1 forgets the comparison; clang must not drop the mask. */
	asm volatile("" : "+r"(i));
	i &= SP_RANGES - 1;
	if (ranges->r[i].order < m->order) {
		m->order = ranges->r[i].order;
		m->rule = ranges->r[i].rule;
	}
}

/*
 * direct_rule gives the id of the first rule that lets this socket talk to the
 * target directly, 0 if none does. The loader flattens overlapping prefixes, so
 * that the longest match knows every rule that covers it.
 */
GLOBAL __u32 direct_rule(const struct sp_sock *st, const struct sp_config *cfg, const struct sp_addr *dst,
			 __u16 port, __u32 protocol)
{
	struct sp_match m = { .order = ~0U, .rule = 0 };
	struct sp_direct_key key = {};

	if (!st || !cfg || !dst || !cfg->direct)
		return 0;
	key.prefixlen = SP_DIRECT_HEAD + 128;
	key.generation = cfg->generation;
	key.protocol = protocol | (is4(dst) ? SP_DIRECT_IPV4 : 0);
	key.addr = *dst;
	match_ports(bpf_map_lookup_elem(&direct, &key), port, &m);
	for (int i = 0; i <= SP_PATH; i++) {
		__u64 id = i < SP_PATH ? st->path[i] : st->flow.cgroup;

		if (!id || (i < SP_PATH && id == st->flow.cgroup))
			continue;
		key.cgroup[0] = id;
		key.cgroup[1] = id >> 32;
		match_ports(bpf_map_lookup_elem(&direct, &key), port, &m);
	}
	return m.rule;
}

/* answers_on is true where `listen` lets the socket's cgroup answer other hosts. */
GLOBAL bool answers_on(const struct sp_sock *st, __u16 port)
{
	struct sp_inbound_key key = { .port = port };

	if (!st)
		return false;
	if (bpf_map_lookup_elem(&inbound, &key))
		return true;
	for (int i = 0; i <= SP_PATH; i++) {
		key.cgroup = i < SP_PATH ? st->path[i] : st->flow.cgroup;
		if (key.cgroup && bpf_map_lookup_elem(&inbound, &key))
			return true;
	}
	return false;
}

#endif

/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/* Counting and telling what was refused. */
#ifndef SP_COUNT_H
#define SP_COUNT_H

#include "addr.h"
#include "maps.h"

#define SECOND 1000000000ULL

/*
 * count changes a counter of this CPU in one step: a program that runs in a task may be
 * interrupted by one that counts the same, and a gauge that lost a number is wrong for
 * good.
 */
static __always_inline void count(__u32 what, __s64 by)
{
	__u64 *n = bpf_map_lookup_elem(&counters, &what);

	if (n)
		__sync_fetch_and_add(n, by);
}

/* tell sends one event. A full buffer is counted: what it told is in the counters. */
static __always_inline void tell(__u32 kind, __u32 reason, const struct sp_flow *flow)
{
	struct sp_event *e = bpf_ringbuf_reserve(&events, sizeof(*e), 0);

	if (!e) {
		count(SP_EVENTS_LOST, 1);
		return;
	}
	e->kind = kind;
	e->reason = reason;
	e->flow = *flow;
	bpf_ringbuf_submit(e, 0);
}

/*
 * note counts a refusal in a table. It is true where the table took it. The
 * first of its kind is told at once; the daemon reads the totals of the rest once
 * a second, so that a workload that tries in a loop costs one event a second.
 */
static __always_inline bool note(void *table, struct sp_refusal_key *key, const struct sp_flow *flow)
{
	struct sp_refusal *r = bpf_map_lookup_elem(table, key);
	__u64 now = bpf_ktime_get_ns();

	if (!r) {
		struct sp_refusal first = {
			.total = 1,
			.last = now,
			.cgroup = flow->cgroup,
			.netns = flow->netns,
			.pid = flow->pid,
			.uid = flow->uid,
		};

		if (!bpf_map_update_elem(table, key, &first, BPF_NOEXIST)) {
			tell(SP_EVENT_REFUSED, key->reason & ~SP_ANY_DESTINATION, flow);
			return true;
		}
		/* Full, or another CPU was first. */
		r = bpf_map_lookup_elem(table, key);
		if (!r)
			return false;
	}
	__sync_fetch_and_add(&r->total, 1);
	r->last = now;
	r->cgroup = flow->cgroup;
	r->netns = flow->netns;
	r->pid = flow->pid;
	r->uid = flow->uid;
	return true;
}

GLOBAL int tell_refusal(__u32 reason, const struct sp_flow *flow)
{
	struct sp_refusal_key key = {};

	if (!flow)
		return 0;
	key.workload = flow->workload;
	key.dst = flow->dst;
	key.port = flow->dport;
	key.protocol = flow->protocol;
	key.reason = reason;
	count(reason, 1);
	if (note(&refusals, &key, flow))
		return 0;
	/* Too many destinations: keep the count, let the destination go. */
	key.dst = (struct sp_addr){};
	key.port = 0;
	key.reason |= SP_ANY_DESTINATION;
	if (!note(&refusals_any, &key, flow))
		count(SP_EVENTS_LOST, 1);
	return 0;
}

/* refuse counts and tells a refusal. Its value is what a program returns for it. */
static __always_inline int refuse(__u32 reason, const struct sp_flow *flow)
{
	tell_refusal(reason, flow);
	return 0;
}

#endif

/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/*
 * Flow places: each flow holds one from connect until its socket is closed. They
 * bound what a workload can make the daemon and the kernel remember.
 */
#ifndef SP_PLACE_H
#define SP_PLACE_H

#include "count.h"

static __always_inline struct sp_share *share_of(__u64 workload)
{
	struct sp_share *s = bpf_map_lookup_elem(&shares, &workload);

	if (!s) {
		struct sp_share none = {};

		bpf_map_update_elem(&shares, &workload, &none, BPF_NOEXIST);
		s = bpf_map_lookup_elem(&shares, &workload);
	}
	return s;
}

/*
 * reserve_place gives the reason for which the flow gets no place, 0 if it has
 * one now. A socket that holds one from an attempt without a SYN keeps it.
 */
GLOBAL __u32 reserve_place(const struct sp_flow *flow, __u32 most)
{
	struct sp_share *share;
	struct sp_flow place;

	if (!flow)
		return SP_FLOW_LOST;
	place = *flow;
	if (!bpf_map_update_elem(&places, &place.cookie, &place, BPF_EXIST))
		return 0;
	share = share_of(place.workload);
	/* Too many workloads: this one cannot be bounded, so it gets nothing. */
	if (!share)
		return SP_WORKLOAD_FULL;
	/* Counted before it is compared: two CPUs cannot both take the last one. */
	if (__sync_fetch_and_add(&share->places, 1) >= most) {
		__sync_fetch_and_add(&share->places, -1);
		return SP_WORKLOAD_FULL;
	}
	if (bpf_map_update_elem(&places, &place.cookie, &place, BPF_NOEXIST)) {
		__sync_fetch_and_add(&share->places, -1);
		return SP_MAP_FULL;
	}
	count(SP_PLACES_USED, 1);
	return 0;
}

/* end_place frees the flow's place and tells the final totals if asked to. */
GLOBAL int end_place(const struct sp_flow *flow, bool told)
{
	struct sp_share *share;
	struct sp_flow *place;
	__u64 cookie, workload;

	if (!flow)
		return 0;
	cookie = flow->cookie;
	workload = flow->workload;
	place = bpf_map_lookup_elem(&places, &cookie);
	if (!place)
		return 0;
	if (told)
		tell(SP_EVENT_CLOSED, 0, place);
	/* Whoever deletes it gives it back, so it is given back once. */
	if (bpf_map_delete_elem(&places, &cookie))
		return 0;
	count(SP_PLACES_USED, -1);
	share = bpf_map_lookup_elem(&shares, &workload);
	if (share)
		__sync_fetch_and_add(&share->places, -1);
	return 0;
}

static __always_inline void tuple_key(struct sp_tuple *t, __u64 netns, const struct sp_addr *src, __u16 sport,
				      const struct sp_addr *dst, __u16 dport)
{
	t->netns = netns;
	t->src = *src;
	t->dst = *dst;
	t->sport = sport;
	t->dport = dport;
	t->pad = 0;
}

/* drop_handoff removes the flow from the table of unaccepted ones if it is there. */
static __always_inline void drop_handoff(const struct sp_flow *flow, const struct sp_addr *hop, __u16 port)
{
	struct sp_flow *waiting;
	struct sp_tuple key;

	if (flow->kind != SP_CAPTURED || !flow->sport)
		return;
	tuple_key(&key, flow->netns, &flow->src, flow->sport, hop, port);
	waiting = bpf_map_lookup_elem(&handoffs, &key);
	/* The place may have a new owner: its entry is not ours to remove. */
	if (waiting && waiting->cookie == flow->cookie && !bpf_map_delete_elem(&handoffs, &key))
		count(SP_HANDOFFS_USED, -1);
}

static __always_inline void drop_asker(struct sp_sock *st)
{
	struct sp_share *share;
	struct sp_flow *asker;

	if (!st->asker.sport)
		return;
	asker = bpf_map_lookup_elem(&askers, &st->asker);
	if (asker && asker->cookie == st->flow.cookie && !bpf_map_delete_elem(&askers, &st->asker)) {
		count(SP_ASKERS_USED, -1);
		share = bpf_map_lookup_elem(&shares, &st->flow.workload);
		if (share)
			__sync_fetch_and_add(&share->askers, -1);
	}
	st->asker.sport = 0;
}

#endif

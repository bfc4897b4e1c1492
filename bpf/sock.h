/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/* Sockets of a tagged cgroup: what may be made, and what is kept of each. */
#ifndef SP_SOCK_H
#define SP_SOCK_H

#include "count.h"
#include "place.h"
#include "tag.h"

/*
 * sock_create runs in the task that calls socket(2). It allows the two transports
 * that the other programs can decide on, and writes down which cgroup made the
 * socket: that, and nothing the task can change later, is the workload.
 *
 * The kernel's own sockets do not come here (SMC, RDS and MPTCP subflows among
 * them). They have no storage, and so neither connect nor send.
 */
SEC("cgroup/sock_create")
int sock_create(struct bpf_sock *ctx)
{
	const struct sp_config *cfg = settings();
	struct sp_flow flow = {};
	struct sp_sock *st;
	__u32 tag, level;

	flow.protocol = ctx->protocol;
	flow.cgroup = bpf_get_current_cgroup_id();
	flow.workload = flow.cgroup;
	flow.netns = bpf_get_netns_cookie(ctx);
	flow.pid = bpf_get_current_pid_tgid() >> 32;
	flow.uid = bpf_get_current_uid_gid();

	/* Without its tag nobody could say whose socket this is. */
	if (!cfg)
		return refuse(SP_NO_CONFIG, &flow);
	tag = tag_of_task(cfg->levels);
	if (!tag)
		return refuse(SP_NO_CONFIG, &flow);
	level = tag & (SP_LEVELS - 1);
	if (tag & SP_SLICE) {
		__u64 child = bpf_get_current_ancestor_cgroup_id(level + 1);

		if (child)
			flow.workload = child;
	} else {
		flow.workload = bpf_get_current_ancestor_cgroup_id(level);
	}

	/* A raw socket writes its own headers: no port to judge, no connect. */
	if (ctx->type == SOCK_RAW)
		return refuse(SP_RAW_DENIED, &flow);
	/*
	 * MPTCP adds paths that connect never sees, SCTP and UDP-Lite have no handler
	 * behind the listeners, ping sockets carry data to any address.
	 */
	if (!(ctx->type == SOCK_STREAM && ctx->protocol == IPPROTO_TCP) &&
	    !(ctx->type == SOCK_DGRAM && ctx->protocol == IPPROTO_UDP))
		return refuse(SP_PROTOCOL_DENIED, &flow);

	st = bpf_sk_storage_get(&sockets, ctx, NULL, BPF_SK_STORAGE_GET_F_CREATE);
	/* No memory: a socket without an owner must not exist. */
	if (!st)
		return refuse(SP_NO_CONFIG, &flow);
	flow.cookie = bpf_get_socket_cookie(ctx);
	st->flow = flow;
	for (int i = 0; i < SP_PATH; i++)
		st->path[i] = bpf_get_current_ancestor_cgroup_id(level + i);
	return 1;
}

/*
 * sock_release runs when the last descriptor of a socket is closed. A connection
 * lives on and gives its place back at TCP_CLOSE; here go the places of sockets
 * that never sent a SYN, and all that UDP holds.
 */
SEC("cgroup/sock_release")
int sock_release(struct bpf_sock *ctx)
{
	struct sp_sock *st = bpf_sk_storage_get(&sockets, ctx, NULL, 0);

	if (!st)
		return 1;
	if (ctx->protocol == IPPROTO_UDP) {
		drop_asker(st);
		end_place(&st->flow, st->flow.kind == SP_DIRECT);
		return 1;
	}
	/*
	 * A socket already closed whose place is still there lost its callback:
	 * another program overwrote the socket's callback flags.
	 */
	if (st->flow.progress == SP_RESERVED || ctx->state == BPF_TCP_CLOSE) {
		drop_handoff(&st->flow, &st->hop, st->hop_port);
		end_place(&st->flow, st->flow.progress != SP_RESERVED);
	}
	return 1;
}

#endif

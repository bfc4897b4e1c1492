/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/*
 * setsockopt(2): joining a group. The kernel reports each group to the network by
 * itself, in IGMP and MLD packets that belong to no socket: neither egress nor the
 * guard can tell whose they are, and up to 112 bits of the group's address are the
 * program's choice, and so are as much as it likes to say. Refusing it here is the
 * only place. Programs that announce themselves by multicast could send nothing
 * through us anyway.
 */
#ifndef SP_GROUP_H
#define SP_GROUP_H

#include "count.h"

#define IPPROTO_IP 0
#define IPPROTO_IGMP 2
#define IPPROTO_IPV6 41
#define IPPROTO_ICMPV6 58

/* linux/in.h and linux/in6.h; the numbers from 42 on are the same in both levels. */
#define IP_ADD_MEMBERSHIP 35
#define IP_ADD_SOURCE_MEMBERSHIP 39
#define IPV6_ADD_MEMBERSHIP 20
#define IPV6_JOIN_ANYCAST 27
#define MCAST_JOIN_GROUP 42
#define MCAST_JOIN_SOURCE_GROUP 46

/* The kernel shows programs this much of a value (kernel/bpf/cgroup.c). */
#define SHOWN_OPTION 4096

static __always_inline bool joins_group(const struct bpf_sockopt *ctx)
{
	switch (ctx->level) {
	case IPPROTO_IP:
		return ctx->optname == IP_ADD_MEMBERSHIP || ctx->optname == IP_ADD_SOURCE_MEMBERSHIP ||
		       ctx->optname == MCAST_JOIN_GROUP || ctx->optname == MCAST_JOIN_SOURCE_GROUP;
	case IPPROTO_IPV6:
		return ctx->optname == IPV6_ADD_MEMBERSHIP || ctx->optname == IPV6_JOIN_ANYCAST ||
		       ctx->optname == MCAST_JOIN_GROUP || ctx->optname == MCAST_JOIN_SOURCE_GROUP;
	}
	return false;
}

SEC("cgroup/setsockopt")
int set_option(struct bpf_sockopt *ctx)
{
	struct sp_flow flow = {};
	struct sp_sock *st;

	if (!joins_group(ctx)) {
		/* 0: the kernel takes the caller's own value, which is longer than shown. */
		if (ctx->optlen > SHOWN_OPTION)
			ctx->optlen = 0;
		return 1;
	}
	/* A socket has no cgroup of its own to ask for here: its storage knows it. */
	if (ctx->sk) {
		st = bpf_sk_storage_get(&sockets, ctx->sk, NULL, 0);
		if (st)
			flow = st->flow;
	}
	if (!flow.workload)
		flow.workload = bpf_get_current_cgroup_id();
	flow.cgroup = bpf_get_current_cgroup_id();
	flow.pid = bpf_get_current_pid_tgid() >> 32;
	flow.uid = bpf_get_current_uid_gid();
	flow.dst = (struct sp_addr){};
	flow.dport = 0;
	flow.protocol = ctx->level == IPPROTO_IP ? IPPROTO_IGMP : IPPROTO_ICMPV6;
	return refuse(SP_PROTOCOL_DENIED, &flow);
}

#endif

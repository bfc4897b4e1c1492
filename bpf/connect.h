/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/*
 * connect(2), also by io_uring and TCP Fast Open: decide where the socket may go
 * and rewrite the target to our listener. Returning 0 makes the call fail with
 * EPERM before anything is sent.
 */
#ifndef SP_CONNECT_H
#define SP_CONNECT_H

#include "count.h"
#include "direct.h"
#include "listener.h"
#include "place.h"
#include "tag.h"

/* unknown refuses a call on a socket without an owner. */
static __noinline int unknown(struct bpf_sock_addr *ctx, const struct sp_addr *dst)
{
	struct sp_flow flow = {
		.dst = *dst,
		.dport = ntohs(ctx->user_port),
		.protocol = ctx->protocol,
		.netns = bpf_get_netns_cookie(ctx),
		.cgroup = bpf_get_current_cgroup_id(),
		.pid = bpf_get_current_pid_tgid() >> 32,
		.uid = bpf_get_current_uid_gid(),
	};

	flow.workload = flow.cgroup;
	return refuse(SP_FOREIGN_SOCKET, &flow);
}

/* aim writes down who calls and for which target. */
static __always_inline void aim(struct sp_sock *st, const struct sp_addr *dst, __u16 dport)
{
	st->flow.dst = *dst;
	st->flow.dport = dport;
	st->flow.pid = bpf_get_current_pid_tgid() >> 32;
	st->flow.uid = bpf_get_current_uid_gid();
}

/* begin writes the attempt over whatever the socket's storage held before. */
static __always_inline void begin(struct sp_sock *st, const struct sp_addr *dst, __u16 dport)
{
	struct sp_addr none = {};

	st->state = SP_IDLE;
	st->hop_port = 0;
	st->peer = *dst;
	st->peer_port = dport;
	st->flow.src = none;
	st->flow.sport = 0;
	aim(st, dst, dport);
	st->flow.kind = 0;
	st->flow.progress = SP_RESERVED;
	st->flow.rule = 0;
	st->flow.opened = bpf_ktime_get_ns();
	st->flow.sent = 0;
	st->flow.received = 0;
	st->flow.segs_out = 0;
	st->flow.segs_in = 0;
	st->flow.retrans = 0;
	st->flow.srtt = 0;
	st->sampled = 0;
}

static __always_inline bool is_probe(const struct sp_config *cfg, const struct sp_sock *st, const struct sp_addr *dst,
				     __u16 dport)
{
	return cfg->probe_cgroup && cfg->probe_cgroup == st->flow.cgroup && at(&cfg->probe, dst, dport);
}

/*
 * captured_tcp decides for a TCP target. It is 1 with st->hop set where the
 * target must be rewritten, 1 without for a direct flow, 0 for a refusal.
 */
static __noinline int captured_tcp(struct bpf_sock_addr *ctx, struct sp_sock *st, const struct sp_config *cfg)
{
	const struct sp_listeners *l = bpf_map_lookup_elem(&listeners, &st->flow.netns);
	const struct sp_endpoint *hop;
	__u32 reason;

	/*
	 * A place from an attempt that failed before its SYN stays with the socket;
	 * one that sent a SYN has been freed at TCP_CLOSE, before the kernel lets the
	 * socket connect again.
	 */
	if (own_address(l, &st->peer, st->peer_port))
		return refuse(SP_OWN_ADDRESS, &st->flow);

	/*
	 * The kernel connects to loopback for the unspecified address; no rule can
	 * mean that, so it takes the way through policy.
	 */
	if (!unspecified(&st->peer))
		st->flow.rule = direct_rule(st, cfg, &st->peer, st->peer_port, IPPROTO_TCP);
	if (st->flow.rule) {
		st->flow.kind = SP_DIRECT;
		st->generation = cfg->generation;
		reason = reserve_place(&st->flow, cfg->share);
		if (reason)
			return refuse(reason, &st->flow);
		st->state = SP_TO_PEER;
		return 1;
	}

	/* A namespace that we do not know has no way out. */
	if (!l)
		return refuse(SP_NO_LISTENER, &st->flow);
	if (is_probe(cfg, st, &st->peer, st->peer_port))
		hop = &l->probe;
	else if (is4(&st->peer))
		hop = &l->tcp4;
	else
		hop = &l->tcp6;
	if (!hop->port)
		return refuse(SP_NO_LISTENER, &st->flow);
	reason = tcp_listener(ctx, &hop->addr, hop->port);
	if (reason)
		return refuse(reason, &st->flow);
	st->flow.kind = SP_CAPTURED;
	reason = reserve_place(&st->flow, cfg->share);
	if (reason)
		return refuse(reason, &st->flow);
	st->hop = hop->addr;
	st->hop_port = hop->port;
	st->state = SP_TO_HOP;
	return 1;
}

/*
 * captured_udp decides for a UDP target. libc connects a UDP socket to each
 * address of a name to learn which source address it would have, and sends
 * nothing: that stays possible, and the packets are egress's to judge.
 */
static __noinline int captured_udp(struct bpf_sock_addr *ctx, struct sp_sock *st)
{
	const struct sp_listeners *l = bpf_map_lookup_elem(&listeners, &st->flow.netns);
	const struct sp_endpoint *hop;
	struct sp_addr any = {};
	__u32 reason;

	if (own_address(l, &st->flow.dst, st->flow.dport))
		return refuse(SP_OWN_ADDRESS, &st->flow);
	if (st->flow.dport == DNS_PORT) {
		if (!l)
			return refuse(SP_NO_LISTENER, &st->flow);
		hop = is4(&st->flow.dst) ? &l->dns4 : &l->dns6;
		if (!hop->port)
			return refuse(SP_NO_LISTENER, &st->flow);
		reason = udp_listener(ctx, &any, 0, &hop->addr, hop->port);
		if (reason)
			return refuse(reason, &st->flow);
		st->hop = hop->addr;
		st->hop_port = hop->port;
		st->asked = st->flow.dst;
		st->asked_port = DNS_PORT;
	} else {
		st->hop_port = 0;
	}
	st->peer = st->flow.dst;
	st->peer_port = st->flow.dport;
	return 1;
}

static __always_inline int captured(struct bpf_sock_addr *ctx, struct sp_addr *dst)
{
	struct sp_sock *st = bpf_sk_storage_get(&sockets, ctx->sk, NULL, 0);
	const struct sp_config *cfg = settings();

	/*
	 * Made before the cgroup was tagged, or by the kernel for itself: nobody
	 * knows who owns it.
	 */
	if (!st)
		return unknown(ctx, dst);
	if (ctx->protocol == IPPROTO_TCP) {
		begin(st, dst, ntohs(ctx->user_port));
		if (!cfg)
			return refuse(SP_NO_CONFIG, &st->flow);
		return captured_tcp(ctx, st, cfg);
	}
	if (ctx->protocol == IPPROTO_UDP) {
		aim(st, dst, ntohs(ctx->user_port));
		return captured_udp(ctx, st);
	}
	/* sock_create lets nothing else be made. */
	return refuse(SP_PROTOCOL_DENIED, &st->flow);
}

SEC("cgroup/connect4")
int connect4(struct bpf_sock_addr *ctx)
{
	struct sp_sock *st;
	struct sp_addr dst;

	addr4(&dst, ctx->user_ip4);
	if (!captured(ctx, &dst))
		return 0;
	st = bpf_sk_storage_get(&sockets, ctx->sk, NULL, 0);
	if (!st)
		return 0;
	if (st->hop_port) {
		ctx->user_ip4 = st->hop.w[3];
		ctx->user_port = htons(st->hop_port);
	}
	return 1;
}

SEC("cgroup/connect6")
int connect6(struct bpf_sock_addr *ctx)
{
	struct sp_sock *st;
	struct sp_addr dst;

	dst.w[0] = ctx->user_ip6[0];
	dst.w[1] = ctx->user_ip6[1];
	dst.w[2] = ctx->user_ip6[2];
	dst.w[3] = ctx->user_ip6[3];
	if (!captured(ctx, &dst))
		return 0;
	st = bpf_sk_storage_get(&sockets, ctx->sk, NULL, 0);
	if (!st)
		return 0;
	if (st->hop_port) {
		ctx->user_ip6[0] = st->hop.w[0];
		ctx->user_ip6[1] = st->hop.w[1];
		ctx->user_ip6[2] = st->hop.w[2];
		ctx->user_ip6[3] = st->hop.w[3];
		ctx->user_port = htons(st->hop_port);
	}
	return 1;
}

#endif

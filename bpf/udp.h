/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/*
 * sendmsg(2) with a destination, and the source address that recvmsg(2) shows.
 * Only DNS and direct rules have a way out; the rest fails with EPERM, which also
 * makes QUIC clients fall back to TCP at once.
 */
#ifndef SP_UDP_H
#define SP_UDP_H

#include "connect.h"

/* sent decides for one datagram. 2 means: rewrite the target to *hop. */
static __noinline int sent(struct bpf_sock_addr *ctx, struct sp_sock *st, struct sp_endpoint *hop)
{
	const struct sp_listeners *l = bpf_map_lookup_elem(&listeners, &st->flow.netns);
	const struct sp_config *cfg = settings();
	struct sp_addr any = {};
	__u32 reason;

	if (!cfg)
		return refuse(SP_NO_CONFIG, &st->flow);
	if (own_address(l, &st->flow.dst, st->flow.dport))
		return refuse(SP_OWN_ADDRESS, &st->flow);
	if (st->flow.dport != DNS_PORT) {
		/* Egress asks again, by the packet, and counts it. */
		if (!unspecified(&st->flow.dst) &&
		    direct_rule(st, cfg, &st->flow.dst, st->flow.dport, IPPROTO_UDP))
			return 1;
		return refuse(SP_UDP_DENIED, &st->flow);
	}
	if (!l)
		return refuse(SP_NO_LISTENER, &st->flow);
	*hop = is4(&st->flow.dst) ? l->dns4 : l->dns6;
	if (!hop->port)
		return refuse(SP_NO_LISTENER, &st->flow);
	reason = udp_listener(ctx, &any, 0, &hop->addr, hop->port);
	if (reason)
		return refuse(reason, &st->flow);
	st->asked = st->flow.dst;
	st->asked_port = DNS_PORT;
	return 2;
}

SEC("cgroup/sendmsg4")
int sendmsg4(struct bpf_sock_addr *ctx)
{
	struct sp_sock *st = bpf_sk_storage_get(&sockets, ctx->sk, NULL, 0);
	struct sp_endpoint hop = {};
	struct sp_addr dst;
	__u16 port = ntohs(ctx->user_port);
	int verdict;

	addr4(&dst, ctx->user_ip4);
	if (!st)
		return unknown(ctx, &dst);
	/*
	 * An IPv6 socket connected to a mapped address comes here with each send, and
	 * with the destination that connect wrote: it was decided then.
	 */
	if (ctx->family == AF_INET6 && st->hop_port && port == st->hop_port && same(&dst, &st->hop))
		return 1;
	aim(st, &dst, port);
	verdict = sent(ctx, st, &hop);
	if (verdict == 2) {
		ctx->user_ip4 = hop.addr.w[3];
		ctx->user_port = htons(hop.port);
		return 1;
	}
	return verdict;
}

SEC("cgroup/sendmsg6")
int sendmsg6(struct bpf_sock_addr *ctx)
{
	struct sp_sock *st = bpf_sk_storage_get(&sockets, ctx->sk, NULL, 0);
	struct sp_endpoint hop = {};
	struct sp_addr dst;
	int verdict;

	dst.w[0] = ctx->user_ip6[0];
	dst.w[1] = ctx->user_ip6[1];
	dst.w[2] = ctx->user_ip6[2];
	dst.w[3] = ctx->user_ip6[3];
	if (!st)
		return unknown(ctx, &dst);
	aim(st, &dst, ntohs(ctx->user_port));
	verdict = sent(ctx, st, &hop);
	if (verdict == 2) {
		ctx->user_ip6[0] = hop.addr.w[0];
		ctx->user_ip6[1] = hop.addr.w[1];
		ctx->user_ip6[2] = hop.addr.w[2];
		ctx->user_ip6[3] = hop.addr.w[3];
		ctx->user_port = htons(hop.port);
		return 1;
	}
	return verdict;
}

/*
 * answered gives the storage of a socket that got a datagram from our resolver:
 * it shall see the server that it asked, since libc drops answers from others.
 */
static __always_inline const struct sp_sock *answered(struct bpf_sock *sk, const struct sp_addr *src, __u16 port)
{
	const struct sp_sock *st = bpf_sk_storage_get(&sockets, sk, NULL, 0);
	const struct sp_listeners *l;

	if (!st || !st->asked_port)
		return NULL;
	l = bpf_map_lookup_elem(&listeners, &st->flow.netns);
	if (!l || !(at(&l->dns4, src, port) || at(&l->dns6, src, port)))
		return NULL;
	return st;
}

SEC("cgroup/recvmsg4")
int recvmsg4(struct bpf_sock_addr *ctx)
{
	const struct sp_sock *st;
	struct sp_addr src;

	addr4(&src, ctx->user_ip4);
	st = answered(ctx->sk, &src, ntohs(ctx->user_port));
	if (st && is4(&st->asked)) {
		ctx->user_ip4 = st->asked.w[3];
		ctx->user_port = htons(st->asked_port);
	}
	return 1;
}

SEC("cgroup/recvmsg6")
int recvmsg6(struct bpf_sock_addr *ctx)
{
	const struct sp_sock *st;
	struct sp_addr src;

	src.w[0] = ctx->user_ip6[0];
	src.w[1] = ctx->user_ip6[1];
	src.w[2] = ctx->user_ip6[2];
	src.w[3] = ctx->user_ip6[3];
	st = answered(ctx->sk, &src, ntohs(ctx->user_port));
	if (st) {
		ctx->user_ip6[0] = st->asked.w[0];
		ctx->user_ip6[1] = st->asked.w[1];
		ctx->user_ip6[2] = st->asked.w[2];
		ctx->user_ip6[3] = st->asked.w[3];
		ctx->user_port = htons(st->asked_port);
	}
	return 1;
}

#endif

/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/* getpeername(2) tells the target that connect(2) was given. */
#ifndef SP_PEERNAME_H
#define SP_PEERNAME_H

#include "addr.h"
#include "maps.h"

/* redirected gives the storage of a socket whose peer is the hop of its connect. */
static __always_inline const struct sp_sock *redirected(struct bpf_sock *sk, const struct sp_addr *peer, __u16 port)
{
	const struct sp_sock *st = bpf_sk_storage_get(&sockets, sk, NULL, 0);

	if (!st || !st->hop_port || st->hop_port != port || !same(&st->hop, peer))
		return NULL;
	return st;
}

SEC("cgroup/getpeername4")
int getpeername4(struct bpf_sock_addr *ctx)
{
	const struct sp_sock *st;
	struct sp_addr peer;

	addr4(&peer, ctx->user_ip4);
	st = redirected(ctx->sk, &peer, ntohs(ctx->user_port));
	if (st) {
		ctx->user_ip4 = st->peer.w[3];
		ctx->user_port = htons(st->peer_port);
	}
	return 1;
}

SEC("cgroup/getpeername6")
int getpeername6(struct bpf_sock_addr *ctx)
{
	const struct sp_sock *st;
	struct sp_addr peer;

	peer.w[0] = ctx->user_ip6[0];
	peer.w[1] = ctx->user_ip6[1];
	peer.w[2] = ctx->user_ip6[2];
	peer.w[3] = ctx->user_ip6[3];
	st = redirected(ctx->sk, &peer, ntohs(ctx->user_port));
	if (st) {
		ctx->user_ip6[0] = st->peer.w[0];
		ctx->user_ip6[1] = st->peer.w[1];
		ctx->user_ip6[2] = st->peer.w[2];
		ctx->user_ip6[3] = st->peer.w[3];
		ctx->user_port = htons(st->peer_port);
	}
	return 1;
}

#endif

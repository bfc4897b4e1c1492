/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/*
 * Programs on the root of cgroup2. A socket belongs to the cgroup that made it,
 * so the programs of a tagged cgroup never see one that was inherited, passed by
 * SCM_RIGHTS or taken with pidfd_getfd. Here every socket of the host comes by, and
 * a tagged task is refused on those that no tagged cgroup made.
 */
#ifndef SP_FOREIGN_H
#define SP_FOREIGN_H

#include "connect.h"

static __always_inline bool foreign(struct bpf_sock_addr *ctx)
{
	const struct sp_config *cfg = settings();

	/* An array element is always there; without it nothing is tagged either. */
	if (!cfg || !cfg->levels)
		return false;
	if (!tag_of_task(cfg->levels))
		return false;
	return !bpf_sk_storage_get(&sockets, ctx->sk, NULL, 0);
}

static __always_inline int foreign4(struct bpf_sock_addr *ctx)
{
	struct sp_addr dst;

	if (!foreign(ctx))
		return 1;
	addr4(&dst, ctx->user_ip4);
	return unknown(ctx, &dst);
}

static __always_inline int foreign6(struct bpf_sock_addr *ctx)
{
	struct sp_addr dst;

	if (!foreign(ctx))
		return 1;
	dst.w[0] = ctx->user_ip6[0];
	dst.w[1] = ctx->user_ip6[1];
	dst.w[2] = ctx->user_ip6[2];
	dst.w[3] = ctx->user_ip6[3];
	return unknown(ctx, &dst);
}

SEC("cgroup/connect4")
int foreign_connect4(struct bpf_sock_addr *ctx)
{
	return foreign4(ctx);
}

SEC("cgroup/connect6")
int foreign_connect6(struct bpf_sock_addr *ctx)
{
	return foreign6(ctx);
}

SEC("cgroup/sendmsg4")
int foreign_sendmsg4(struct bpf_sock_addr *ctx)
{
	return foreign4(ctx);
}

SEC("cgroup/sendmsg6")
int foreign_sendmsg6(struct bpf_sock_addr *ctx)
{
	return foreign6(ctx);
}

#endif

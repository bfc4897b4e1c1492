/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/*
 * Nothing captured goes to a socket that the keeper has not marked. While the
 * daemon is down any local process could bind its port and would receive what
 * workloads send.
 */
#ifndef SP_LISTENER_H
#define SP_LISTENER_H

#include "addr.h"
#include "maps.h"

/* A look-up in the network namespace of the context (bpf-helpers(7)). */
#define SAME_NETNS ((__u64)BPF_F_CURRENT_NETNS)

/* tcp_listener gives why nothing may be sent there, 0 if it is ours. */
static __always_inline __u32 tcp_listener(void *ctx, const struct sp_addr *dst, __u16 dport)
{
	struct bpf_sock_tuple tuple = {};
	struct sp_addr any = {};
	__u32 reason = SP_FOREIGN_LISTENER;
	struct bpf_sock *sk;

	sk = bpf_sk_lookup_tcp(ctx, &tuple, tuple_of(&tuple, &any, 0, dst, dport), SAME_NETNS, 0);
	if (!sk)
		return SP_NO_LISTENER;
	if (sk->state == BPF_TCP_LISTEN && bpf_sk_storage_get(&marks, sk, NULL, 0))
		reason = 0;
	bpf_sk_release(sk);
	return reason;
}

/*
 * udp_listener asks which socket would get this datagram. With a source it is the
 * answer that the kernel itself will find.
 */
static __always_inline __u32 udp_listener(void *ctx, const struct sp_addr *src, __u16 sport,
					  const struct sp_addr *dst, __u16 dport)
{
	struct bpf_sock_tuple tuple = {};
	__u32 reason = SP_FOREIGN_LISTENER;
	struct bpf_sock *sk;

	sk = bpf_sk_lookup_udp(ctx, &tuple, tuple_of(&tuple, src, sport, dst, dport), SAME_NETNS, 0);
	if (!sk)
		return SP_NO_LISTENER;
	if (bpf_sk_storage_get(&marks, sk, NULL, 0))
		reason = 0;
	bpf_sk_release(sk);
	return reason;
}

/*
 * own_address is true for the listeners of this namespace and for what the daemon
 * listed. A workload never talks to sallyport by its address: a captured flow
 * whose target is the listener would make the worker dial itself. The kernel takes
 * the unspecified address for loopback, so it counts as such.
 */
static __always_inline bool own_address(const struct sp_listeners *l, const struct sp_addr *dst, __u16 port)
{
	struct sp_endpoint e = { .addr = *dst, .port = port };

	if (unspecified(dst)) {
		if (dst->w[2])
			addr4(&e.addr, SP_LOOPBACK4);
		else
			e.addr.w[3] = htonl(1);
	}
	if (l && (at(&l->tcp4, &e.addr, port) || at(&l->tcp6, &e.addr, port) || at(&l->dns4, &e.addr, port) ||
		  at(&l->dns6, &e.addr, port) || at(&l->probe, &e.addr, port)))
		return true;
	return bpf_map_lookup_elem(&own, &e) != NULL;
}

#endif

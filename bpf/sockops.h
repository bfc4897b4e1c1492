/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/*
 * TCP's life: SYN, accept, close. The kernel ignores what these programs return;
 * what they cannot do they leave undone in the socket's storage, and egress then
 * drops the packets. ctx->reply is never written: it lies over ctx->args, which
 * other programs of the same call read, and 0 is the kernel's default.
 */
#ifndef SP_SOCKOPS_H
#define SP_SOCKOPS_H

#include "count.h"
#include "direct.h"
#include "place.h"
#include "tag.h"

/*
 * VOLATILE keeps clang from merging reads of the context into one at a computed
 * offset, which the verifier refuses.
 */
#define VOLATILE(x) (*(volatile __u32 *)&(x))

static __always_inline void ends(struct bpf_sock_ops *ctx, struct sp_addr *local, struct sp_addr *remote)
{
	__u32 local4 = VOLATILE(ctx->local_ip4);
	__u32 remote4 = VOLATILE(ctx->remote_ip4);

	local->w[0] = VOLATILE(ctx->local_ip6[0]);
	local->w[1] = VOLATILE(ctx->local_ip6[1]);
	local->w[2] = VOLATILE(ctx->local_ip6[2]);
	local->w[3] = VOLATILE(ctx->local_ip6[3]);
	remote->w[0] = VOLATILE(ctx->remote_ip6[0]);
	remote->w[1] = VOLATILE(ctx->remote_ip6[1]);
	remote->w[2] = VOLATILE(ctx->remote_ip6[2]);
	remote->w[3] = VOLATILE(ctx->remote_ip6[3]);
	if (ctx->family == AF_INET) {
		addr4(local, local4);
		addr4(remote, remote4);
	}
}

/* watch asks for a call at each change of the connection's state. */
static __always_inline void watch(struct bpf_sock_ops *ctx)
{
	bpf_sock_ops_cb_flags_set(ctx, ctx->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_STATE_CB_FLAG);
}

/* departing runs before the SYN: the source port is known, nothing has left. */
static __always_inline void departing(struct bpf_sock_ops *ctx, struct sp_sock *st)
{
	struct sp_flow *place = bpf_map_lookup_elem(&places, &st->flow.cookie);
	struct sp_addr remote;
	struct sp_tuple key;

	if (!place) {
		/* connect decided nothing for this SYN. */
		st->state = SP_IDLE;
		return;
	}
	ends(ctx, &st->flow.src, &remote);
	st->flow.sport = ctx->local_port;
	st->flow.progress = SP_CONNECTING;
	watch(ctx);
	*place = st->flow;
	if (st->state == SP_TO_PEER) {
		tell(SP_EVENT_OPENED, 0, &st->flow);
		return;
	}
	tuple_key(&key, st->flow.netns, &st->flow.src, st->flow.sport, &st->hop, st->hop_port);
	if (bpf_map_update_elem(&handoffs, &key, &st->flow, BPF_NOEXIST)) {
		/*
		 * Another socket's entry under our ends cannot be: an entry goes before
		 * its port does. Whatever it is, the accepted side must not mistake it
		 * for this flow, so the SYN stays here.
		 */
		st->state = SP_IDLE;
		refuse(SP_FLOW_LOST, &st->flow);
		return;
	}
	count(SP_HANDOFFS_USED, 1);
}

/* answering runs for a socket that a tagged listener will accept. */
static __always_inline void answering(struct bpf_sock_ops *ctx, struct sp_sock *st, const struct sp_config *cfg)
{
	__u32 reason;

	/* The storage is a copy of the listener's: the owner is right, the rest is not. */
	st->state = SP_IDLE;
	st->hop_port = 0;
	st->flow.cookie = bpf_get_socket_cookie(ctx);
	ends(ctx, &st->flow.src, &st->flow.dst);
	st->flow.sport = ctx->local_port;
	st->flow.dport = ntohl(ctx->remote_port);
	st->flow.kind = SP_INBOUND;
	st->flow.progress = SP_ESTABLISHED;
	st->flow.rule = 0;
	st->flow.opened = bpf_ktime_get_ns();
	st->listed = answers_on(st, st->flow.sport);
	reason = reserve_place(&st->flow, cfg->share);
	if (reason) {
		refuse(reason, &st->flow);
		return;
	}
	st->state = SP_ANSWERS;
	watch(ctx);
	tell(SP_EVENT_OPENED, 0, &st->flow);
}

/*
 * totals copies what TCP counted. bytes_acked and bytes_received count SYN and FIN
 * as one byte each (RFC 9293, 3.4); payload is meant here.
 */
static __always_inline void totals(struct bpf_sock_ops *ctx, const struct sp_sock *st, struct sp_flow *place,
				   __u32 old)
{
	__u64 sent = ctx->bytes_acked;
	__u64 received = ctx->bytes_received;
	bool finished = old == BPF_TCP_FIN_WAIT1 || old == BPF_TCP_FIN_WAIT2 || old == BPF_TCP_CLOSING ||
			old == BPF_TCP_LAST_ACK;

	if (sent && place->kind != SP_INBOUND)
		sent--;
	if (sent && finished && ctx->snd_una == ctx->snd_nxt)
		sent--;
	if (old == BPF_TCP_CLOSE_WAIT || old == BPF_TCP_LAST_ACK || old == BPF_TCP_CLOSING ||
	    (old == BPF_TCP_FIN_WAIT2 && received > st->half_closed))
		received -= received > 0;
	place->sent = sent;
	place->received = received;
	place->segs_out = ctx->segs_out;
	place->segs_in = ctx->segs_in;
	place->retrans = ctx->total_retrans;
	place->srtt = ctx->srtt_us >> 3;
}

static __always_inline void changed(struct bpf_sock_ops *ctx, struct sp_sock *st)
{
	struct sp_flow *place;
	__u32 old = ctx->args[0], now = ctx->args[1];

	if (now == BPF_TCP_FIN_WAIT2)
		st->half_closed = ctx->bytes_received;
	if (now != BPF_TCP_ESTABLISHED && now != BPF_TCP_CLOSE)
		return;
	place = bpf_map_lookup_elem(&places, &st->flow.cookie);
	if (now == BPF_TCP_ESTABLISHED) {
		st->flow.progress = SP_ESTABLISHED;
		if (place)
			place->progress = SP_ESTABLISHED;
		return;
	}
	/*
	 * st->state stays: a RST may still follow, to where the flow went. Before the
	 * socket sends a SYN again, connect decides again.
	 */
	drop_handoff(&st->flow, &st->hop, st->hop_port);
	if (place) {
		totals(ctx, st, place, old);
		end_place(&st->flow, true);
	}
	st->flow.progress = SP_RESERVED;
}

/* sock_ops sits on tagged cgroups. */
SEC("sockops")
int sock_ops(struct bpf_sock_ops *ctx)
{
	const struct sp_config *cfg;
	struct bpf_sock *sk = ctx->sk;
	struct sp_sock *st;
	__u32 op = ctx->op;

	if (op != BPF_SOCK_OPS_TCP_CONNECT_CB && op != BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB &&
	    op != BPF_SOCK_OPS_STATE_CB)
		return 1;
	if (!sk)
		return 1;
	st = bpf_sk_storage_get(&sockets, sk, NULL, 0);
	/* No owner: egress drops what it sends. */
	if (!st)
		return 1;
	switch (op) {
	case BPF_SOCK_OPS_TCP_CONNECT_CB:
		if (st->state != SP_IDLE)
			departing(ctx, st);
		break;
	case BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB:
		cfg = settings();
		if (cfg)
			answering(ctx, st, cfg);
		break;
	case BPF_SOCK_OPS_STATE_CB:
		changed(ctx, st);
		break;
	}
	return 1;
}

/*
 * sock_ops_accept sits on the cgroup in which the keeper makes its listeners. The
 * flow goes from the table into the accepted socket before the worker can see it:
 * from then on no other connection from the same port can be taken for it.
 */
SEC("sockops")
int sock_ops_accept(struct bpf_sock_ops *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	struct sp_addr local, remote;
	struct sp_flow *flow, *mine;
	struct sp_tuple key;

	if (ctx->op != BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB || !sk)
		return 1;
	if (!bpf_sk_storage_get(&marks, sk, NULL, 0))
		return 1;
	ends(ctx, &local, &remote);
	tuple_key(&key, bpf_get_netns_cookie(ctx), &remote, ntohl(ctx->remote_port), &local, ctx->local_port);
	flow = bpf_map_lookup_elem(&handoffs, &key);
	/* An untagged process of the host found our port: the worker will close it. */
	if (!flow)
		return 1;
	mine = bpf_sk_storage_get(&accepted, sk, flow, BPF_SK_STORAGE_GET_F_CREATE);
	if (!mine) {
		refuse(SP_FLOW_LOST, flow);
		return 1;
	}
	/*
	 * The client may have gone while the entry was read, and its memory may have
	 * been given to another flow. Then the copy speaks of that one, or of two.
	 */
	if (bpf_map_lookup_elem(&handoffs, &key) != flow || flow->cookie != mine->cookie ||
	    mine->sport != key.sport || !same(&mine->src, &key.src) || mine->netns != key.netns) {
		refuse(SP_FLOW_LOST, mine);
		bpf_sk_storage_delete(&accepted, sk);
		return 1;
	}
	if (!bpf_map_delete_elem(&handoffs, &key))
		count(SP_HANDOFFS_USED, -1);
	return 1;
}

#endif

/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/*
 * Every packet of a tagged cgroup's sockets, again. A socket option or ancillary
 * datum set after connect can give a redirected packet another interface or first
 * hop: IP(V6)_PKTINFO, IP_UNICAST_IF, SO_BINDTODEVICE, source routes. What is passed
 * here is what was decided, judged by the packet itself. Refusing makes the send
 * fail with EPERM, or TCP retransmit into the same refusal.
 */
#ifndef SP_EGRESS_H
#define SP_EGRESS_H

#include "count.h"
#include "direct.h"
#include "listener.h"
#include "place.h"
#include "tag.h"

#define PASS 1

/* lo is the first interface of every network namespace (net/core/dev.c). */
#define LO 1

#define ETH_P_IP 0x0800
#define ETH_P_IPV6 0x86DD

struct sp_packet {
	struct sp_addr src;
	struct sp_addr dst;
	__u16 sport;
	__u16 dport;
	__u8 protocol;
};

/*
 * parse reads the addresses and ports. It is false for what the other side could
 * send elsewhere than the destination address says (IPv4 options and IPv6 extension
 * headers carry source routes) and for what has no ports: none of it was decided.
 */
static __always_inline bool parse(struct __sk_buff *skb, struct sp_packet *p)
{
	__u8 *data = (__u8 *)(long)skb->data;
	__u8 *end = (__u8 *)(long)skb->data_end;
	__u16 *ports;

	if (skb->protocol == htons(ETH_P_IP)) {
		if (data + 24 > end)
			return false;
		if (data[0] != 0x45) /* version 4, a header without options */
			return false;
		p->protocol = data[9];
		addr4(&p->src, *(__u32 *)(data + 12));
		addr4(&p->dst, *(__u32 *)(data + 16));
		ports = (__u16 *)(data + 20);
	} else if (skb->protocol == htons(ETH_P_IPV6)) {
		if (data + 44 > end)
			return false;
		p->protocol = data[6];
		for (int i = 0; i < 4; i++) {
			p->src.w[i] = *(__u32 *)(data + 8 + 4 * i);
			p->dst.w[i] = *(__u32 *)(data + 24 + 4 * i);
		}
		ports = (__u16 *)(data + 40);
		if (p->protocol == IPPROTO_HOPOPTS) {
			/* Segments over 64 KiB carry the jumbo option alone (RFC 2675). */
			if (data + 52 > end || data[41] != 0 || data[42] != 0xC2 || data[43] != 4)
				return false;
			p->protocol = data[40];
			ports = (__u16 *)(data + 48);
		}
	} else {
		return false;
	}
	p->sport = ntohs(ports[0]);
	p->dport = ntohs(ports[1]);
	return true;
}

/* drop refuses a packet. The task that sent it is not known here. */
static __always_inline int drop(struct __sk_buff *skb, const struct sp_sock *st, const struct sp_packet *p, __u32 reason)
{
	struct sp_flow flow = {};

	if (st) {
		flow.cookie = st->flow.cookie;
		flow.cgroup = st->flow.cgroup;
		flow.workload = st->flow.workload;
		flow.netns = st->flow.netns;
		flow.pid = st->flow.pid;
		flow.uid = st->flow.uid;
	} else {
		flow.cgroup = bpf_skb_cgroup_id(skb);
		flow.workload = flow.cgroup;
	}
	flow.src = p->src;
	flow.sport = p->sport;
	flow.dst = p->dst;
	flow.dport = p->dport;
	flow.protocol = p->protocol;
	/* The workload knows a captured flow by the target that it named. */
	if (st && st->state == SP_TO_HOP) {
		flow.dst = st->flow.dst;
		flow.dport = st->flow.dport;
	}
	return refuse(reason, &flow);
}

/* sample keeps the totals of an open TCP flow at most a second old. */
static __always_inline void sample(struct bpf_sock *sk, struct sp_sock *st)
{
	__u64 now = bpf_ktime_get_ns();
	struct bpf_tcp_sock *tp;
	struct sp_flow *place;

	if (now - st->sampled < SECOND)
		return;
	st->sampled = now;
	tp = bpf_tcp_sock(sk);
	place = bpf_map_lookup_elem(&places, &st->flow.cookie);
	if (!tp || !place)
		return;
	place->sent = tp->bytes_acked - (tp->bytes_acked && place->kind != SP_INBOUND);
	place->received = tp->bytes_received;
	place->segs_out = tp->segs_out;
	place->segs_in = tp->segs_in;
	place->retrans = tp->total_retrans;
	place->srtt = tp->srtt_us >> 3;
}

/* leave_tcp gives the reason why a segment must not leave, 0 if it may. */
static __always_inline __u32 leave_tcp(struct __sk_buff *skb, struct bpf_sock *sk, struct sp_sock *st,
				     const struct sp_packet *p)
{
	const struct sp_config *cfg;
	__u32 reason;

	switch (st->state) {
	case SP_TO_HOP:
		if (skb->ifindex != LO || p->dport != st->hop_port || !same(&p->dst, &st->hop))
			return SP_EGRESS_DENIED;
		/*
		 * A SYN may be sent long after connect looked at the listener, when the
		 * first one met a full queue: look again.
		 */
		if (sk->state == BPF_TCP_SYN_SENT) {
			reason = tcp_listener(skb, &p->dst, p->dport);
			if (reason)
				return reason;
		}
		break;
	case SP_TO_PEER:
		if (p->dport != st->peer_port || !same(&p->dst, &st->peer))
			return SP_EGRESS_DENIED;
		cfg = settings();
		if (!cfg)
			return SP_NO_CONFIG;
		if (st->generation != cfg->generation) {
			/* The rules changed since: the flow goes on only if one still says so. */
			if (!direct_rule(st, cfg, &p->dst, p->dport, IPPROTO_TCP))
				return SP_EGRESS_DENIED;
			st->generation = cfg->generation;
		}
		break;
	case SP_ANSWERS:
		if (p->dport != st->flow.dport || !same(&p->dst, &st->flow.dst))
			return SP_EGRESS_DENIED;
		if (skb->ifindex != LO && !st->listed)
			return SP_INBOUND_DENIED;
		break;
	default:
		/*
		 * A listening socket sends only SYN-ACKs, which hold no data. Before Linux
		 * 6.5 they do not come here; what the accepted socket sends does.
		 */
		if (sk->state != BPF_TCP_LISTEN)
			return SP_EGRESS_DENIED;
		if (skb->ifindex != LO && !answers_on(st, p->sport))
			return SP_INBOUND_DENIED;
		return 0;
	}
	sample(sk, st);
	return 0;
}

/* ask notes who asks the resolver, under the address that it will see. */
static __always_inline __u32 ask(struct sp_sock *st, const struct sp_packet *p, const struct sp_config *cfg)
{
	struct sp_asker_key key = { .netns = st->flow.netns, .src = p->src, .sport = p->sport };
	struct sp_share *share, *before;
	struct sp_flow flow = st->flow;
	struct sp_flow *left;
	__u32 reason = SP_ASKER_FULL;

	flow.src = p->src;
	flow.sport = p->sport;
	flow.dst = st->asked;
	flow.dport = DNS_PORT;
	flow.kind = SP_CAPTURED;
	flow.opened = bpf_ktime_get_ns();
	if (st->asker.sport == key.sport && same(&st->asker.src, &key.src) &&
	    !bpf_map_update_elem(&askers, &key, &flow, BPF_EXIST))
		return 0;
	/* The socket has another port now: the old note is not true any more. */
	drop_asker(st);
	share = share_of(st->flow.workload);
	if (!share)
		return SP_WORKLOAD_FULL;
	/* A note that another socket left under these ends before it lost its port. */
	left = bpf_map_lookup_elem(&askers, &key);
	if (left) {
		before = bpf_map_lookup_elem(&shares, &left->workload);
		if (before && !bpf_map_delete_elem(&askers, &key)) {
			__sync_fetch_and_add(&before->askers, -1);
			count(SP_ASKERS_USED, -1);
		}
	}
	if (__sync_fetch_and_add(&share->askers, 1) >= cfg->asker_share)
		reason = SP_WORKLOAD_FULL;
	else if (!bpf_map_update_elem(&askers, &key, &flow, BPF_NOEXIST))
		reason = 0;
	if (reason) {
		__sync_fetch_and_add(&share->askers, -1);
		return reason;
	}
	st->asker = key;
	count(SP_ASKERS_USED, 1);
	return 0;
}

/* count_udp keeps the place of a direct UDP socket: its flow is its first target. */
static __always_inline __u32 count_udp(struct __sk_buff *skb, struct sp_sock *st, const struct sp_packet *p,
				       const struct sp_config *cfg, __u32 rule)
{
	struct sp_flow *place = bpf_map_lookup_elem(&places, &st->flow.cookie);
	struct sp_flow flow;
	__u32 reason;

	if (!place) {
		flow = st->flow;
		flow.src = p->src;
		flow.sport = p->sport;
		flow.dst = p->dst;
		flow.dport = p->dport;
		flow.kind = SP_DIRECT;
		flow.progress = SP_ESTABLISHED;
		flow.rule = rule;
		flow.opened = bpf_ktime_get_ns();
		reason = reserve_place(&flow, cfg->share);
		if (reason)
			return reason;
		st->flow.kind = SP_DIRECT;
		tell(SP_EVENT_OPENED, 0, &flow);
		place = bpf_map_lookup_elem(&places, &st->flow.cookie);
		if (!place)
			return SP_FLOW_LOST;
	}
	__sync_fetch_and_add(&place->sent, skb->len);
	__sync_fetch_and_add(&place->segs_out, 1);
	return 0;
}

/*
 * leave_udp judges each datagram by itself: threads may send from one socket to
 * several targets at once, so nothing is taken from what a call before it said.
 */
static __always_inline __u32 leave_udp(struct __sk_buff *skb, struct sp_sock *st, const struct sp_packet *p)
{
	const struct sp_listeners *l = bpf_map_lookup_elem(&listeners, &st->flow.netns);
	const struct sp_config *cfg = settings();
	__u32 rule, reason;

	if (!cfg)
		return SP_NO_CONFIG;
	if (l && st->asked_port && (at(&l->dns4, &p->dst, p->dport) || at(&l->dns6, &p->dst, p->dport))) {
		if (skb->ifindex != LO)
			return SP_EGRESS_DENIED;
		reason = udp_listener(skb, &p->src, p->sport, &p->dst, p->dport);
		if (!reason)
			reason = ask(st, p, cfg);
		return reason;
	}
	/* Port 53 has one way only, also where a direct rule covers the address. */
	if (p->dport == DNS_PORT)
		return SP_UDP_DENIED;
	rule = direct_rule(st, cfg, &p->dst, p->dport, IPPROTO_UDP);
	if (!rule)
		return SP_UDP_DENIED;
	return count_udp(skb, st, p, cfg, rule);
}

SEC("cgroup_skb/egress")
int egress(struct __sk_buff *skb)
{
	struct bpf_sock *sk = skb->sk;
	struct sp_packet p = {};
	struct sp_sock *st;
	__u32 reason;

	/*
	 * Packets without a full socket are the kernel's own answers for one that is
	 * gone (RST, time-wait): no data of the workload is in them.
	 */
	if (!sk)
		return PASS;
	sk = bpf_sk_fullsock(sk);
	if (!sk)
		return PASS;
	st = bpf_sk_storage_get(&sockets, sk, NULL, 0);
	/*
	 * No storage: older than the tag, or made by the kernel for itself. Nobody
	 * decided on it. The same for what is not the transport of its socket.
	 */
	reason = SP_EGRESS_DENIED;
	if (parse(skb, &p) && st) {
		if (p.protocol == IPPROTO_TCP && sk->protocol == IPPROTO_TCP)
			reason = leave_tcp(skb, sk, st, &p);
		else if (p.protocol == IPPROTO_UDP && sk->protocol == IPPROTO_UDP)
			reason = leave_udp(skb, st, &p);
	}
	if (reason)
		return drop(skb, st, &p, reason);
	return PASS;
}

#endif

/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/*
 * What the programs and the daemon share. bpf2go makes the Go types of it, and
 * package origin reads struct sp_flow with a decoder of its own; a test compares
 * both. A change of a layout needs a new version in the pin path.
 */
#ifndef SP_TYPES_H
#define SP_TYPES_H

#include <linux/types.h>

/* IPv6 in network byte order; IPv4 as ::ffff:a.b.c.d (RFC 4291, 2.5.5.2). */
struct sp_addr {
	__u32 w[4];
};

/* Why something was refused. Package datapath has the same names. */
enum sp_reason {
	SP_NO_REASON,
	SP_NO_LISTENER,      /* nobody of ours listens in that namespace */
	SP_FOREIGN_LISTENER, /* somebody else holds our listener's port */
	SP_MAP_FULL,         /* no flow place is left */
	SP_WORKLOAD_FULL,    /* this workload holds its half of the places */
	SP_FOREIGN_SOCKET,   /* a socket that no tagged cgroup made */
	SP_OWN_ADDRESS,      /* the target is sallyport itself */
	SP_PROTOCOL_DENIED,  /* a transport that nothing here can decide on */
	SP_RAW_DENIED,       /* a raw socket */
	SP_UDP_DENIED,       /* UDP that is neither DNS nor direct */
	SP_EGRESS_DENIED,    /* a packet that belongs to no decision */
	SP_INBOUND_DENIED,   /* an answer to a connection from outside */
	SP_FLOW_LOST,        /* the origin of a connection could not be kept */
	SP_ASKER_FULL,       /* no place is left for a DNS client */
	SP_NO_CONFIG,        /* what a program needs to decide is not there */
	SP_REASONS,
};

/* What the daemon counts that is not a refusal. */
enum sp_counter {
	SP_EVENTS_LOST = SP_REASONS, /* the ring buffer or a refusal table was full */
	SP_PLACES_USED,
	SP_HANDOFFS_USED,
	SP_ASKERS_USED,
	SP_COUNTERS,
};

/* How a flow goes on. */
enum sp_kind {
	SP_CAPTURED = 1, /* redirected to our listener */
	SP_DIRECT,       /* left alone by a rule */
	SP_INBOUND,      /* accepted by the workload */
};

/* How far a flow is. */
enum sp_progress {
	SP_RESERVED,    /* the place is held, no SYN was sent */
	SP_CONNECTING,  /* the SYN is on its way */
	SP_ESTABLISHED,
};

/* One connection: who made it, where it goes, and what it did. */
struct sp_flow {
	__u64 cookie;   /* of the workload's socket */
	__u64 cgroup;   /* the cgroup that made the socket */
	__u64 workload; /* the tagged cgroup, or its child below a slice */
	__u64 netns;    /* cookie of the socket's network namespace */
	__u64 opened;   /* CLOCK_MONOTONIC, ns */
	struct sp_addr src;
	struct sp_addr dst; /* where the workload wanted to go; inbound: the peer */
	__u16 sport;        /* ports in host byte order */
	__u16 dport;
	__u16 protocol; /* IPPROTO_TCP or IPPROTO_UDP; of a refused socket, any */
	__u8 kind;      /* enum sp_kind */
	__u8 progress;  /* enum sp_progress */
	__u32 pid; /* of the task that called connect or sendmsg */
	__u32 uid;
	__u32 rule; /* of a direct flow: key into direct_rules */
	__u32 srtt; /* smoothed round trip, µs */
	__u64 sent; /* payload bytes, acknowledged for TCP */
	__u64 received;
	__u32 segs_out;
	__u32 segs_in;
	__u32 retrans;
	__u32 pad2;
};

/* A flow's ends as both of its sockets know them. */
struct sp_tuple {
	__u64 netns;
	struct sp_addr src;
	struct sp_addr dst;
	__u16 sport;
	__u16 dport;
	__u32 pad;
};

/* A DNS client as the resolver sees it. */
struct sp_asker_key {
	__u64 netns;
	struct sp_addr src;
	__u16 sport;
	__u16 pad;
	__u32 pad2;
};

/* What a socket of a tagged cgroup may send. */
enum sp_state {
	SP_IDLE,     /* nothing was decided: nothing leaves */
	SP_TO_HOP,   /* captured: only to the hop, only on lo */
	SP_TO_PEER,  /* direct: only to the peer */
	SP_ANSWERS,  /* inbound: only to the peer */
};

/* Levels below the tagged cgroup that a rule may name. */
#define SP_PATH 4

/* Storage of every socket that sock_create saw below a tagged cgroup. */
struct sp_sock {
	struct sp_flow flow;
	__u64 path[SP_PATH]; /* ids from the tagged cgroup down */
	struct sp_addr peer; /* the last connect's own target */
	struct sp_addr hop;  /* what it was rewritten to; port 0: it was not */
	struct sp_addr asked; /* where the last DNS question was meant to go */
	struct sp_asker_key asker; /* our entry in the asker table; port 0: none */
	__u64 sampled;      /* when the place last got totals, ns */
	__u64 half_closed;  /* bytes received when we had closed our side */
	__u32 generation;   /* of the direct rules that allowed the flow */
	__u16 peer_port;
	__u16 hop_port;
	__u16 asked_port;
	__u8 state;  /* enum sp_state */
	__u8 listed; /* inbound: `listen` names the local port */
	__u32 pad;
};

/* A tagged cgroup. */
struct sp_tag {
	__u32 level;
	__u32 slice; /* each child is a workload of its own */
};

struct sp_endpoint {
	struct sp_addr addr;
	__u16 port; /* 0: none */
	__u16 pad;
};

/* Our listeners in one network namespace. */
struct sp_listeners {
	struct sp_endpoint tcp4, tcp6, dns4, dns6;
	struct sp_endpoint probe; /* where the self-probe's second address goes */
};

struct sp_config {
	__u64 probe_cgroup;
	struct sp_endpoint probe; /* the self-probe's second address */
	__u32 levels;             /* bit n: some tagged cgroup is at level n */
	__u32 generation;         /* of the direct rules in force */
	__u32 direct;             /* how many there are */
	__u32 share;              /* places that one workload may hold */
	__u32 asker_share;
};

/* Per workload: what it holds of the shared tables. */
struct sp_share {
	__s64 places;
	__s64 askers;
};

/*
 * Direct rules: LPM over generation, cgroup, protocol and address. The family goes
 * with the protocol, so that ::/0 does not cover IPv4.
 */
#define SP_DIRECT_IPV4 0x100
struct sp_direct_key {
	__u32 prefixlen;
	__u32 generation;
	__u32 cgroup[2]; /* low, high word; 0: every tagged cgroup */
	__u32 protocol;
	struct sp_addr addr;
};

/* Bits of sp_direct_key before the address. */
#define SP_DIRECT_HEAD 128
#define SP_RANGES 16

struct sp_range {
	__u32 order; /* the rule's place in the configuration */
	__u32 rule;
	__u16 first;
	__u16 last;
};

struct sp_ranges {
	__u32 n;
	struct sp_range r[SP_RANGES];
};

/* Ports on which a cgroup may answer connections from other hosts. */
struct sp_inbound_key {
	__u64 cgroup;
	__u16 port;
	__u16 pad;
	__u32 pad2;
};

/*
 * Refusals are told once a second for each of these. In the table without
 * destinations the reason has a bit more, so that no key is in both.
 */
#define SP_ANY_DESTINATION 0x100
struct sp_refusal_key {
	__u64 workload;
	struct sp_addr dst;
	__u16 port;
	__u16 protocol;
	__u32 reason;
};

struct sp_refusal {
	__u64 total;
	__u64 last; /* CLOCK_MONOTONIC, ns */
	__u64 cgroup;
	__u64 netns;
	__u32 pid;
	__u32 uid;
};

enum sp_event_kind {
	SP_EVENT_REFUSED = 1,
	SP_EVENT_OPENED,
	SP_EVENT_CLOSED,
};

struct sp_event {
	__u32 kind;
	__u32 reason;
	struct sp_flow flow;
};

#endif

/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/*
 * Every map with its bound. The loader sets the sizes that depend on the number
 * of places (places, handoffs, askers); the numbers here are the defaults.
 */
#ifndef SP_MAPS_H
#define SP_MAPS_H

#include "helpers.h"
#include "types.h"

/* What a socket may do; accepted sockets inherit a copy of their listener's. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC | BPF_F_CLONE);
	__type(key, int);
	__type(value, struct sp_sock);
} sockets SEC(".maps");

/*
 * The keeper's mark on its own listeners. Accepted sockets inherit it, which is
 * how sock_ops knows that a connection came in through one of them.
 */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC | BPF_F_CLONE);
	__type(key, int);
	__type(value, __u32);
} marks SEC(".maps");

/* The origin of each connection that our listeners accepted. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct sp_flow);
} accepted SEC(".maps");

/* One place per flow, by socket cookie. Never LRU: a flow is not forgotten. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, __u64);
	__type(value, struct sp_flow);
} places SEC(".maps");

/*
 * Flows between SYN and accept. As many places as `places`, of which each flow
 * holds one before it comes here: this table cannot overflow first.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, struct sp_tuple);
	__type(value, struct sp_flow);
} handoffs SEC(".maps");

/* DNS clients, for the resolver. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, struct sp_asker_key);
	__type(value, struct sp_flow);
} askers SEC(".maps");

/* What each workload holds of the tables above. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, __u64);
	__type(value, struct sp_share);
} shares SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, __u64);
	__type(value, struct sp_tag);
} tagged SEC(".maps");

/* By netns cookie. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, __u64);
	__type(value, struct sp_listeners);
} listeners SEC(".maps");

/* Addresses of sallyport itself besides the listeners. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, struct sp_endpoint);
	__type(value, __u8);
} own SEC(".maps");

/* Twice the rules that may be in force: the next generation is filled beside. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 16384);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct sp_direct_key);
	__type(value, struct sp_ranges);
} direct SEC(".maps");

/* Names of direct rules, for the daemon that adopts these maps. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, __u32);
	__type(value, char[128]);
} direct_rules SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, struct sp_inbound_key);
	__type(value, __u8);
} inbound SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct sp_config);
} config SEC(".maps");

/* Refusals per CPU, by enum sp_reason and enum sp_counter. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, SP_COUNTERS);
	__type(key, __u32);
	__type(value, __u64);
} counters SEC(".maps");

/* What was refused lately, by destination. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, struct sp_refusal_key);
	__type(value, struct sp_refusal);
} refusals SEC(".maps");

/*
 * The same without a destination, for when `refusals` is full: a workload that
 * tries every address cannot hide another one's refusals.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, struct sp_refusal_key);
	__type(value, struct sp_refusal);
} refusals_any SEC(".maps");

/* How much of each refusal the daemon has told; only the daemon writes it. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8192);
	__type(key, struct sp_refusal_key);
	__type(value, __u64);
} refusals_told SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 20);
} events SEC(".maps");

#endif

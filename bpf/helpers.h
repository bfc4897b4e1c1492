/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/*
 * The kernel helpers that the programs call, by their UAPI numbers, and the
 * macros of the loader's conventions. Every helper here exists in Linux 6.1 for
 * each program type that uses it.
 */
#ifndef SP_HELPERS_H
#define SP_HELPERS_H

#include <linux/bpf.h>
#include <linux/types.h>
#include <stdbool.h>

#define SEC(name) __attribute__((section(name), used))
#undef __always_inline /* <linux/stddef.h> has a weaker one */
#define __always_inline inline __attribute__((always_inline))
/*
 * A function that is not static is verified once, by its arguments' types, and
 * not again at each call; loading takes a fifth of the time. Its pointers may be
 * NULL for all the verifier knows, and its result may be any number. Linux 6.1 takes
 * no key or value of a map through such a pointer: they are copied first.
 */
#define GLOBAL __attribute__((noinline))
#define __noinline __attribute__((noinline))

/* The loader reads a map's definition from these members' types. */
#define __uint(name, val) int(*name)[val]
#define __type(name, val) typeof(val) *name

#define NULL ((void *)0)

/* Both targets are little-endian: amd64 and arm64. */
#define ntohs(x) __builtin_bswap16(x)
#define htons(x) __builtin_bswap16(x)
#define ntohl(x) __builtin_bswap32(x)
#define htonl(x) __builtin_bswap32(x)

#define HELPER(ret, name, ...) static ret (*bpf_##name)(__VA_ARGS__) = (void *)BPF_FUNC_##name

HELPER(void *, map_lookup_elem, void *map, const void *key);
HELPER(long, map_update_elem, void *map, const void *key, const void *value, __u64 flags);
HELPER(long, map_delete_elem, void *map, const void *key);
HELPER(__u64, ktime_get_ns, void);
HELPER(__u64, get_current_pid_tgid, void);
HELPER(__u64, get_current_uid_gid, void);
HELPER(__u64, get_current_cgroup_id, void);
HELPER(__u64, get_current_ancestor_cgroup_id, int level);
HELPER(__u64, get_socket_cookie, void *ctx);
HELPER(__u64, get_netns_cookie, void *ctx);
HELPER(__u64, skb_cgroup_id, struct __sk_buff *skb);
HELPER(void *, sk_storage_get, void *map, void *sk, void *value, __u64 flags);
HELPER(long, sk_storage_delete, void *map, void *sk);
HELPER(struct bpf_sock *, sk_lookup_tcp, void *ctx, struct bpf_sock_tuple *tuple, __u32 size, __u64 netns, __u64 flags);
HELPER(struct bpf_sock *, sk_lookup_udp, void *ctx, struct bpf_sock_tuple *tuple, __u32 size, __u64 netns, __u64 flags);
HELPER(long, sk_release, void *sk);
HELPER(struct bpf_sock *, sk_fullsock, struct bpf_sock *sk);
HELPER(struct bpf_tcp_sock *, tcp_sock, struct bpf_sock *sk);
HELPER(long, sock_ops_cb_flags_set, struct bpf_sock_ops *ops, int flags);
HELPER(void *, ringbuf_reserve, void *ringbuf, __u64 size, __u64 flags);
HELPER(void, ringbuf_submit, void *data, __u64 flags);

#endif

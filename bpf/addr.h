/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/* Addresses of 16 bytes, whatever the family. */
#ifndef SP_ADDR_H
#define SP_ADDR_H

#include "helpers.h"
#include "types.h"

#define SP_MAPPED htonl(0x0000ffff)
#define SP_LOOPBACK4 htonl(0x7f000001)

#define AF_INET 2
#define AF_INET6 10
#define SOCK_STREAM 1
#define SOCK_DGRAM 2
#define SOCK_RAW 3
#define IPPROTO_HOPOPTS 0
#define IPPROTO_TCP 6
#define IPPROTO_UDP 17
#define DNS_PORT 53

static __always_inline void addr4(struct sp_addr *a, __u32 be)
{
	a->w[0] = 0;
	a->w[1] = 0;
	a->w[2] = SP_MAPPED;
	a->w[3] = be;
}

static __always_inline bool is4(const struct sp_addr *a)
{
	return a->w[0] == 0 && a->w[1] == 0 && a->w[2] == SP_MAPPED;
}

static __always_inline bool same(const struct sp_addr *a, const struct sp_addr *b)
{
	return a->w[0] == b->w[0] && a->w[1] == b->w[1] && a->w[2] == b->w[2] && a->w[3] == b->w[3];
}

static __always_inline bool at(const struct sp_endpoint *e, const struct sp_addr *a, __u16 port)
{
	return e->port && e->port == port && same(&e->addr, a);
}

static __always_inline bool unspecified(const struct sp_addr *a)
{
	if (a->w[0] || a->w[1] || a->w[3])
		return false;
	return a->w[2] == 0 || a->w[2] == SP_MAPPED;
}

/*
 * tuple_of fills the socket look-up tuple of one packet or target and gives its
 * size: the look-up helpers tell the families apart by it.
 */
static __always_inline __u32 tuple_of(struct bpf_sock_tuple *t, const struct sp_addr *src, __u16 sport,
				      const struct sp_addr *dst, __u16 dport)
{
	if (is4(dst)) {
		t->ipv4.saddr = src->w[3];
		t->ipv4.daddr = dst->w[3];
		t->ipv4.sport = htons(sport);
		t->ipv4.dport = htons(dport);
		return sizeof(t->ipv4);
	}
	for (int i = 0; i < 4; i++) {
		t->ipv6.saddr[i] = src->w[i];
		t->ipv6.daddr[i] = dst->w[i];
	}
	t->ipv6.sport = htons(sport);
	t->ipv6.dport = htons(dport);
	return sizeof(t->ipv6);
}

#endif

/* Socket options and ancillary data that could give a packet another way. */
#ifndef OPTIONS_H
#define OPTIONS_H

#include <linux/in6.h>
#include <netinet/tcp.h>
#include <netinet/udp.h>

#include "base.h"

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif
#ifndef IPV6_FLOWINFO_SEND
#define IPV6_FLOWINFO_SEND 33
#endif

/* segment_route is a routing header of type 4 (RFC 8754, 2) whose first hop is via. */
static size_t segment_route(unsigned char *h, const char *via)
{
	static const unsigned char head[8] = { 0, 4, 4, 1, 1, 0, 0, 0 };

	memset(h, 0, 40);
	memcpy(h, head, sizeof(head));
	inet_pton(AF_INET6, via, h + 24); /* the last segment is the kernel's to write */
	return 40;
}

/*
 * home_route is one of type 2 (RFC 6275, 6.4): of the types that lead somewhere
 * it is the one that Linux takes as ancillary data.
 */
static size_t home_route(unsigned char *h, const char *via)
{
	static const unsigned char head[8] = { 0, 2, 2, 1 };

	memcpy(h, head, sizeof(head));
	inet_pton(AF_INET6, via, h + 8);
	return 24;
}

/* source_route is the strict or loose source route of RFC 791, 3.1, over one hop. */
static size_t source_route(unsigned char *h, int type, const char *via)
{
	h[0] = 1; /* no operation: what follows begins at a multiple of 4 */
	h[1] = type;
	h[2] = 7;
	h[3] = 4;
	inet_pton(AF_INET, via, h + 4);
	return 8;
}

static void ancillary(int level, int type, const void *data, size_t len)
{
	struct msghdr m = { .msg_control = control, .msg_controllen = sizeof(control) };
	struct cmsghdr *c = CMSG_FIRSTHDR(&m);

	c->cmsg_level = level;
	c->cmsg_type = type;
	c->cmsg_len = CMSG_LEN(len);
	memcpy(CMSG_DATA(c), data, len);
	control_len = CMSG_SPACE(len);
}

static long set_ancillary(const char *what, const char *arg, const char *src)
{
	unsigned char header[40];

	memset(control, 0, sizeof(control));
	if (!strcmp(what, "none")) {
		control_len = 0;
	} else if (!strcmp(what, "rthdr")) {
		ancillary(IPPROTO_IPV6, IPV6_RTHDR, header, home_route(header, arg));
	} else if (!strcmp(what, "rthdr4")) {
		ancillary(IPPROTO_IPV6, IPV6_RTHDR, header, segment_route(header, arg));
	} else if (!strcmp(what, "oldrthdr")) {
		ancillary(IPPROTO_IPV6, IPV6_2292RTHDR, header, home_route(header, arg));
	} else if (!strcmp(what, "options")) {
		ancillary(IPPROTO_IP, IP_RETOPTS, header, source_route(header, 0x83, arg));
	} else if (family == AF_INET) {
		struct in_pktinfo p = { .ipi_ifindex = if_nametoindex(arg) };

		inet_pton(AF_INET, src, &p.ipi_spec_dst);
		ancillary(IPPROTO_IP, IP_PKTINFO, &p, sizeof(p));
	} else {
		struct in6_pktinfo p = { .ipi6_ifindex = if_nametoindex(arg) };

		inet_pton(AF_INET6, src, &p.ipi6_addr);
		ancillary(IPPROTO_IPV6, IPV6_PKTINFO, &p, sizeof(p));
	}
	return 0;
}

/* join_group has the kernel report a multicast group on an interface. */
static long join_group(char *group, const char *interface)
{
	struct group_req r = { .gr_interface = if_nametoindex(interface) };
	union address a;
	socklen_t len = address(&a, group, "0");

	memcpy(&r.gr_group, &a, len);
	return setsockopt(fd, a.any.sa_family == AF_INET ? IPPROTO_IP : IPPROTO_IPV6, MCAST_JOIN_GROUP, &r, sizeof(r));
}

/* number_option sets an option that takes a number. */
static long number_option(int level, int name, int value)
{
	return setsockopt(fd, level, name, &value, sizeof(value));
}

static long option(const char *name, char *arg, const char *more)
{
	int index = arg ? if_nametoindex(arg) : 0, number = arg ? atoi(arg) : 1;
	unsigned char header[40];

#define IS(what) (!strcmp(name, what))
	if (IS("device"))
		return setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, arg, strlen(arg) + 1);
	if (IS("ifindex"))
		return number_option(SOL_SOCKET, SO_BINDTOIFINDEX, index);
	if (IS("unicast"))
		return family == AF_INET ? number_option(IPPROTO_IP, IP_UNICAST_IF, htonl(index)) :
					   number_option(IPPROTO_IPV6, IPV6_UNICAST_IF, htonl(index));
	if (IS("multicast"))
		return family == AF_INET ?
			       setsockopt(fd, IPPROTO_IP, IP_MULTICAST_IF, &(struct ip_mreqn){ .imr_ifindex = index }, sizeof(struct ip_mreqn)) :
			       number_option(IPPROTO_IPV6, IPV6_MULTICAST_IF, index);
	if (IS("pktinfo")) {
		struct in6_pktinfo p = { .ipi6_ifindex = index };

		return setsockopt(fd, IPPROTO_IPV6, IPV6_PKTINFO, &p, sizeof(p));
	}
	if (IS("rthdr"))
		return setsockopt(fd, IPPROTO_IPV6, IPV6_RTHDR, header, segment_route(header, arg));
	if (IS("options") || IS("strict"))
		return setsockopt(fd, IPPROTO_IP, IP_OPTIONS, header, source_route(header, IS("options") ? 0x83 : 0x89, arg));
	if (IS("nexthop")) {
		union address a;

		return setsockopt(fd, IPPROTO_IPV6, IPV6_NEXTHOP, &a, address(&a, arg, "0"));
	}
	if (IS("noroute"))
		return number_option(SOL_SOCKET, SO_DONTROUTE, 1);
	if (IS("patience"))
		return give_up_after(number);
	if (IS("mark"))
		return number_option(SOL_SOCKET, SO_MARK, number);
	if (IS("transparent"))
		return family == AF_INET ? number_option(IPPROTO_IP, IP_TRANSPARENT, 1) :
					   number_option(IPPROTO_IPV6, IPV6_TRANSPARENT, 1);
	if (IS("freebind"))
		return family == AF_INET ? number_option(IPPROTO_IP, IP_FREEBIND, 1) :
					   number_option(IPPROTO_IPV6, IPV6_FREEBIND, 1);
	if (IS("broadcast"))
		return number_option(SOL_SOCKET, SO_BROADCAST, 1);
	if (IS("defer"))
		return number_option(IPPROTO_TCP, TCP_FASTOPEN_CONNECT, 1);
	if (IS("repair"))
		return number_option(IPPROTO_TCP, TCP_REPAIR, number);
	if (IS("ulp"))
		return setsockopt(fd, IPPROTO_TCP, TCP_ULP, arg, strlen(arg));
	if (IS("addrform"))
		return number_option(IPPROTO_IPV6, IPV6_ADDRFORM, AF_INET);
	if (IS("segments"))
		return number_option(IPPROTO_UDP, UDP_SEGMENT, number);
	if (IS("cork"))
		return number_option(IPPROTO_UDP, UDP_CORK, number);
	if (IS("flowinfo"))
		return number_option(IPPROTO_IPV6, IPV6_FLOWINFO_SEND, 1);
	if (IS("group"))
		return join_group(arg, more);
	if (IS("reuse")) {
		number_option(SOL_SOCKET, SO_REUSEADDR, 1);
		return number_option(SOL_SOCKET, SO_REUSEPORT, 1);
	}
#undef IS
	fprintf(stderr, "no such statement: %s\n", name);
	exit(98);
}

#endif

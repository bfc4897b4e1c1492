/* What every statement uses: the current socket, addresses, how a result is told. */
#ifndef BASE_H
#define BASE_H

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

static int fd = -1;
static int family = AF_INET;
static char control[256];
static size_t control_len;

union address {
	struct sockaddr any;
	struct sockaddr_in in4;
	struct sockaddr_in6 in6;
	unsigned char longer[32]; /* what L2TP over IPv6 has: in6 and a connection */
};

/* What is asked of addresses beyond sockaddr_in6's length. */
static socklen_t longer;

static const char *error_name(int e)
{
	static char number[16];
	const char *name = e ? strerrorname_np(e) : "ok";

	if (name)
		return name;
	snprintf(number, sizeof(number), "errno%d", e);
	return number;
}

static void say(const char *what, long result, const char *more)
{
	printf("%s %s%s%s\n", what, error_name(result < 0 ? errno : 0), *more ? " " : "", more);
	fflush(stdout);
}

/* fail_unless ends the program: what prepares an attack must not go wrong silently. */
static void fail_unless(int ok, const char *what)
{
	if (ok)
		return;
	fprintf(stderr, "%s: %s\n", what, error_name(errno));
	exit(99);
}

static socklen_t address(union address *a, char *host, const char *port)
{
	char *zone = strchr(host, '%');

	memset(a, 0, sizeof(*a));
	if (!strchr(host, ':')) {
		a->in4.sin_family = AF_INET;
		a->in4.sin_port = htons(atoi(port));
		inet_pton(AF_INET, host, &a->in4.sin_addr);
		return sizeof(a->in4);
	}
	if (zone) {
		*zone++ = 0;
		a->in6.sin6_scope_id = if_nametoindex(zone);
	}
	a->in6.sin6_family = AF_INET6;
	a->in6.sin6_port = htons(atoi(port));
	inet_pton(AF_INET6, host, &a->in6.sin6_addr);
	return sizeof(a->in6) + longer;
}

static const char *text(const union address *a)
{
	static char out[INET6_ADDRSTRLEN + 8];
	char host[INET6_ADDRSTRLEN] = "";
	int port = ntohs(a->in4.sin_port);

	if (a->any.sa_family == AF_INET)
		inet_ntop(AF_INET, &a->in4.sin_addr, host, sizeof(host));
	else
		inet_ntop(AF_INET6, &a->in6.sin6_addr, host, sizeof(host));
	snprintf(out, sizeof(out), "%s %d", host, port);
	return out;
}

/* slower is how many times longer than usual everything may take here. */
static int slower(void)
{
	const char *times = getenv("SALLYPORT_SLOWER");

	return times ? atoi(times) : 1;
}

static long give_up_after(int ms)
{
	ms *= slower();

	struct timeval t = { .tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000 };

	return setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &t, sizeof(t)) |
	       setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof(t));
}

static long hex_bytes(const char *hex, unsigned char *out)
{
	long n = 0;

	for (; hex[0] && hex[1]; hex += 2)
		sscanf(hex, "%2hhx", &out[n++]);
	return n;
}

static long write_file(const char *path, const char *content)
{
	int f = open(path, O_WRONLY | O_CLOEXEC);
	long n = f < 0 ? -1 : write(f, content, strlen(content));
	int saved = errno;

	if (f >= 0)
		close(f);
	errno = saved;
	return n;
}

#endif

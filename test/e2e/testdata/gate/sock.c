/*
 * sock makes the socket calls that its arguments name, one statement each, and
 * prints a line for each: the statement's first word, then "ok" or the error's
 * name, then what it learned. It goes on after an error; every socket gives up
 * after 250 ms, so that a packet that is dropped costs no more.
 *
 *	socket FAMILY TYPE PROTOCOL    inet inet6 packet, stream dgram raw seqpacket, a number
 *	bind|connect ADDR PORT         ADDR may be ADDR%IF
 *	unspec                         connect(2) to AF_UNSPEC
 *	fastopen ADDR PORT TEXT        sendto(2) with MSG_FASTOPEN
 *	uring ADDR PORT                connect by io_uring
 *	send TEXT | sendto ADDR PORT TEXT | sendhex HEX | sendhexto ADDR PORT HEX
 *	recv | recvhex                 recvhex tells the sender too
 *	cmsg pktinfo IF SRC | cmsg rthdr VIA    ancillary data of the sends that follow
 *	pktinfo IF | rthdr VIA | unicast IF | device IF | ifindex IF | noroute | mark N
 *	patience MS                    gives up after MS from now on
 *	reuse                          SO_REUSEADDR and SO_REUSEPORT
 *	listen | accept | peername | sockname | close | shut | reset
 *	fork                           goes on in a child, whose end is awaited
 *	unshare                        a user and a network namespace of its own
 *	join DIR                       enters the cgroup
 *	give PATH | take PATH          the socket, by SCM_RIGHTS
 *	steal PID FD                   pidfd_getfd(2)
 *	inherit FD                     goes on with a descriptor that was there
 *	exec                           executes itself with the rest: the socket is inherited
 *	packet IF HEX                  sends an IPv4 packet on a packet socket
 *	pid                            prints the process's number and the socket's
 *	pause                          prints "pause ok" and waits for a line on standard input
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_packet.h>
#include <linux/io_uring.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <sys/stat.h>
#include <unistd.h>

static int fd = -1;
static int family = AF_INET;
static char control[256];
static size_t control_len;

union address {
	struct sockaddr any;
	struct sockaddr_in in4;
	struct sockaddr_in6 in6;
};

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
	return sizeof(a->in6);
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

static long give_up_after(int ms)
{
	struct timeval t = { .tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000 };

	return setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &t, sizeof(t)) |
	       setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof(t));
}

static void give_up_soon(void)
{
	give_up_after(250);
}

static long new_socket(const char *f, const char *type, const char *protocol)
{
	int kind = !strcmp(type, "stream") ? SOCK_STREAM : !strcmp(type, "dgram") ? SOCK_DGRAM :
		   !strcmp(type, "raw") ? SOCK_RAW : SOCK_SEQPACKET;

	family = !strcmp(f, "inet") ? AF_INET : !strcmp(f, "inet6") ? AF_INET6 : AF_PACKET;
	if (fd > 2)
		close(fd);
	fd = socket(family, kind, family == AF_PACKET ? htons(atoi(protocol)) : atoi(protocol));
	if (fd >= 0)
		give_up_soon();
	return fd;
}

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
	if (!strcmp(what, "rthdr")) {
		ancillary(IPPROTO_IPV6, IPV6_RTHDR, header, home_route(header, arg));
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

static long send_bytes(const union address *to, socklen_t len, const void *data, size_t n, int flags)
{
	struct iovec v = { (void *)data, n };
	struct msghdr m = {
		.msg_name = (void *)to, .msg_namelen = len, .msg_iov = &v, .msg_iovlen = 1,
		.msg_control = control_len ? control : NULL, .msg_controllen = control_len,
	};

	return sendmsg(fd, &m, flags | MSG_NOSIGNAL);
}

static long option(const char *name, const char *arg)
{
	int one = 1, index = arg ? htonl(if_nametoindex(arg)) : 0;
	unsigned char header[40];

	if (!strcmp(name, "device"))
		return setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, arg, strlen(arg) + 1);
	if (!strcmp(name, "ifindex")) {
		index = if_nametoindex(arg);
		return setsockopt(fd, SOL_SOCKET, SO_BINDTOIFINDEX, &index, sizeof(index));
	}
	if (!strcmp(name, "unicast"))
		return family == AF_INET ? setsockopt(fd, IPPROTO_IP, IP_UNICAST_IF, &index, sizeof(index)) :
					   setsockopt(fd, IPPROTO_IPV6, IPV6_UNICAST_IF, &index, sizeof(index));
	if (!strcmp(name, "pktinfo")) {
		struct in6_pktinfo p = { .ipi6_ifindex = if_nametoindex(arg) };

		return setsockopt(fd, IPPROTO_IPV6, IPV6_PKTINFO, &p, sizeof(p));
	}
	if (!strcmp(name, "rthdr"))
		return setsockopt(fd, IPPROTO_IPV6, IPV6_RTHDR, header, segment_route(header, arg));
	if (!strcmp(name, "noroute"))
		return setsockopt(fd, SOL_SOCKET, SO_DONTROUTE, &one, sizeof(one));
	if (!strcmp(name, "patience"))
		return give_up_after(atoi(arg));
	if (!strcmp(name, "mark")) {
		one = atoi(arg);
		return setsockopt(fd, SOL_SOCKET, SO_MARK, &one, sizeof(one));
	}
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	return setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof(one));
}

/* uring_connect submits one IORING_OP_CONNECT and gives its result. */
static long uring_connect(union address *to, socklen_t len)
{
	struct io_uring_params p = {};
	int ring = syscall(SYS_io_uring_setup, 4, &p);
	unsigned *array, *tail, *head, mask;
	struct io_uring_sqe *sqes;
	struct io_uring_cqe *cqe;
	char *sq, *cq;

	if (ring < 0) {
		printf("uring_setup %s\n", error_name(errno));
		return -1;
	}
	sq = mmap(NULL, p.sq_off.array + p.sq_entries * 4, PROT_READ | PROT_WRITE, MAP_SHARED, ring, IORING_OFF_SQ_RING);
	cq = mmap(NULL, p.cq_off.cqes + p.cq_entries * sizeof(*cqe), PROT_READ | PROT_WRITE, MAP_SHARED, ring,
		  IORING_OFF_CQ_RING);
	sqes = mmap(NULL, p.sq_entries * sizeof(*sqes), PROT_READ | PROT_WRITE, MAP_SHARED, ring, IORING_OFF_SQES);
	memset(sqes, 0, sizeof(*sqes));
	sqes->opcode = IORING_OP_CONNECT;
	sqes->fd = fd;
	sqes->addr = (unsigned long)to;
	sqes->off = len;
	array = (unsigned *)(sq + p.sq_off.array);
	tail = (unsigned *)(sq + p.sq_off.tail);
	array[0] = 0;
	__atomic_store_n(tail, *tail + 1, __ATOMIC_RELEASE);
	/* A connect that no packet answers must not hold the test: ask without waiting. */
	if (syscall(SYS_io_uring_enter, ring, 1, 0, 0, NULL, 0) < 0)
		return -1;
	head = (unsigned *)(cq + p.cq_off.head);
	tail = (unsigned *)(cq + p.cq_off.tail);
	mask = *(unsigned *)(cq + p.cq_off.ring_mask);
	for (int i = 0; i < 250 && __atomic_load_n(tail, __ATOMIC_ACQUIRE) == *head; i++)
		usleep(1000);
	if (__atomic_load_n(tail, __ATOMIC_ACQUIRE) == *head) {
		errno = ETIMEDOUT;
		return -1;
	}
	cqe = (struct io_uring_cqe *)(cq + p.cq_off.cqes) + (*head & mask);
	errno = -cqe->res;
	return cqe->res;
}

static long unix_socket(const char *path, struct sockaddr_un *a)
{
	memset(a, 0, sizeof(*a));
	a->sun_family = AF_UNIX;
	strncpy(a->sun_path, path, sizeof(a->sun_path) - 1);
	return socket(AF_UNIX, SOCK_STREAM, 0);
}

static long give(const char *path)
{
	struct sockaddr_un a;
	int s = unix_socket(path, &a), c, passed = fd;

	unlink(path);
	if (bind(s, &a, sizeof(a)) || chmod(path, 0777) || listen(s, 1))
		return -1;
	say("give", 0, "");
	c = accept(s, NULL, NULL);
	control_len = 0;
	ancillary(SOL_SOCKET, SCM_RIGHTS, &passed, sizeof(passed));
	fd = c;
	if (send_bytes(NULL, 0, "x", 1, 0) < 0)
		return -1;
	control_len = 0;
	fd = passed;
	return 0;
}

static long take(const char *path)
{
	struct sockaddr_un a;
	char byte, room[CMSG_SPACE(sizeof(int))];
	struct iovec v = { &byte, 1 };
	struct msghdr m = { .msg_iov = &v, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof(room) };
	int s = unix_socket(path, &a);

	if (connect(s, &a, sizeof(a)) || recvmsg(s, &m, 0) < 0 || !CMSG_FIRSTHDR(&m))
		return -1;
	memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof(fd));
	return fd;
}

static long write_file(const char *path, const char *content)
{
	int f = open(path, O_WRONLY);
	long n = f < 0 ? -1 : write(f, content, strlen(content));

	close(f);
	return n;
}

static long unshare_network(void)
{
	char map[64];
	int uid = getuid(), gid = getgid();

	if (unshare(CLONE_NEWUSER | CLONE_NEWNET))
		return -1;
	write_file("/proc/self/setgroups", "deny");
	snprintf(map, sizeof(map), "0 %d 1", uid);
	write_file("/proc/self/uid_map", map);
	snprintf(map, sizeof(map), "0 %d 1", gid);
	write_file("/proc/self/gid_map", map);
	return system("ip link set lo up") ? -1 : 0;
}

static void go_on_in_child(void)
{
	int status;
	pid_t child = fork();

	if (!child)
		return;
	waitpid(child, &status, 0);
	exit(WEXITSTATUS(status));
}

static long hex_bytes(const char *hex, unsigned char *out)
{
	long n = 0;

	for (; hex[0] && hex[1]; hex += 2)
		sscanf(hex, "%2hhx", &out[n++]);
	return n;
}

static void statement(char *line)
{
	static unsigned char bytes[4096];
	static char shown[2 * sizeof(bytes) + 1];
	char *w[5] = { strtok(line, " ") };
	socklen_t len = sizeof(union address);
	union address a;
	long r = 0;

	for (int i = 1; i < 5; i++)
		w[i] = strtok(NULL, i == 4 ? "" : " ");
	shown[0] = 0;
#define IS(name) (!strcmp(w[0], name))
	if (IS("socket")) {
		r = new_socket(w[1], w[2], w[3]);
	} else if (IS("bind")) {
		len = address(&a, w[1], w[2]);
		r = bind(fd, &a.any, len);
	} else if (IS("connect")) {
		len = address(&a, w[1], w[2]);
		r = connect(fd, &a.any, len);
	} else if (IS("unspec")) {
		memset(&a, 0, sizeof(a));
		r = connect(fd, &a.any, sizeof(a.any));
	} else if (IS("uring")) {
		len = address(&a, w[1], w[2]);
		r = uring_connect(&a, len);
	} else if (IS("fastopen")) {
		len = address(&a, w[1], w[2]);
		r = send_bytes(&a, len, w[3], strlen(w[3]), MSG_FASTOPEN);
	} else if (IS("sendto")) {
		len = address(&a, w[1], w[2]);
		r = send_bytes(&a, len, w[3], strlen(w[3]), 0);
	} else if (IS("send")) {
		r = send_bytes(NULL, 0, w[1], strlen(w[1]), 0);
	} else if (IS("sendhex")) {
		r = send_bytes(NULL, 0, bytes, hex_bytes(w[1], bytes), 0);
	} else if (IS("sendhexto")) {
		len = address(&a, w[1], w[2]);
		r = send_bytes(&a, len, bytes, hex_bytes(w[3], bytes), 0);
	} else if (IS("packet")) {
		/* A whole frame's payload: an IPv4 UDP datagram as the caller wrote it. */
		struct sockaddr_ll to = { .sll_family = AF_PACKET, .sll_protocol = htons(0x0800),
					  .sll_ifindex = if_nametoindex(w[1]), .sll_halen = 6 };
		memset(to.sll_addr, 0xff, 6);
		r = sendto(fd, bytes, hex_bytes(w[2], bytes), 0, (struct sockaddr *)&to, sizeof(to));
	} else if (IS("recv") || IS("recvhex")) {
		r = recvfrom(fd, bytes, sizeof(bytes) - 64, 0, &a.any, &len);
		for (long i = 0; i < r; i++)
			sprintf(shown + (IS("recv") ? i : 2 * i), IS("recv") ? "%c" : "%02x", bytes[i]);
		if (r >= 0 && IS("recvhex"))
			strcat(strcat(shown, " "), text(&a));
	} else if (IS("cmsg")) {
		r = set_ancillary(w[1], w[2], w[3]);
	} else if (IS("listen")) {
		r = listen(fd, 8);
	} else if (IS("accept")) {
		give_up_after(1000);
		r = accept(fd, &a.any, &len);
		if (r >= 0) {
			fd = r;
			give_up_soon();
			strcpy(shown, text(&a));
		}
	} else if (IS("peername") || IS("sockname")) {
		r = IS("peername") ? getpeername(fd, &a.any, &len) : getsockname(fd, &a.any, &len);
		if (!r)
			strcpy(shown, text(&a));
	} else if (IS("close")) {
		r = close(fd);
	} else if (IS("reset")) {
		struct linger at_once = { .l_onoff = 1 };

		setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
		r = close(fd);
	} else if (IS("shut")) {
		r = shutdown(fd, SHUT_WR);
	} else if (IS("fork")) {
		go_on_in_child();
	} else if (IS("unshare")) {
		r = unshare_network();
	} else if (IS("join")) {
		strcat(strcpy(shown, w[1]), "/cgroup.procs");
		r = write_file(shown, "0");
		shown[0] = 0;
	} else if (IS("give")) {
		r = give(w[1]);
	} else if (IS("take")) {
		r = take(w[1]);
	} else if (IS("steal")) {
		int process = syscall(SYS_pidfd_open, atoi(w[1]), 0);

		r = fd = process < 0 ? -1 : syscall(SYS_pidfd_getfd, process, atoi(w[2]), 0);
	} else if (IS("inherit")) {
		fd = atoi(w[1]);
	} else if (IS("pause")) {
		say("pause", 0, "");
		if (!fgets(shown, sizeof(shown), stdin))
			exit(0);
		return;
	} else if (IS("pid")) {
		sprintf(shown, "%d %d", getpid(), fd);
	} else {
		r = option(w[0], w[1]);
	}
	say(w[0], r, shown);
}

int main(int argc, char **argv)
{
	static char inherited[32];

	for (int i = 1; i < argc; i++) {
		if (strcmp(argv[i], "exec")) {
			statement(argv[i]);
			continue;
		}
		snprintf(inherited, sizeof(inherited), "inherit %d", fd);
		argv[i] = inherited;
		argv[i - 1] = argv[0];
		execv("/proc/self/exe", argv + i - 1);
	}
	return 0;
}

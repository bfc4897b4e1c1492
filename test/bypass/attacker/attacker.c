/*
 * attacker makes the system calls that its arguments name, one statement each, and
 * prints a line for each: the statement's first word, then "ok" or the error's
 * name, then what it learned. It goes on after an error; every socket gives up
 * after 250 ms, so that a packet that is dropped costs no more. All times are multiplied
 * by SALLYPORT_SLOWER of the environment.
 *
 *	enter PID | in DIR | become UID | nnp   prepare: silent, and the end if they fail
 *
 *	socket FAMILY TYPE PROTOCOL    inet inet6 packet vsock smc, stream dgram raw seqpacket, or numbers
 *	bind|connect ADDR PORT         ADDR may be ADDR%IF
 *	unspec                         connect(2) to AF_UNSPEC
 *	fastopen ADDR PORT TEXT        sendto(2) with MSG_FASTOPEN
 *	uring ADDR PORT                connect by io_uring
 *	uringsend ADDR PORT TEXT       sendmsg by io_uring; port 0: to where the socket is connected
 *	uringfastopen ADDR PORT TEXT   the same with MSG_FASTOPEN
 *	uringsocket FAMILY TYPE PROTOCOL
 *	polled                         a thread of the kernel submits from now on
 *	send TEXT | sendto ADDR PORT TEXT | sendhex HEX | sendhexto ADDR PORT HEX
 *	sendmany ADDR PORT TEXT | zerocopy TEXT | splice TEXT | sendfile TEXT
 *	recv | recvhex                 recvhex tells the sender too
 *	cmsg pktinfo IF SRC | cmsg rthdr|rthdr4|oldrthdr|options VIA | cmsg none
 *	                               ancillary data of the sends that follow
 *	pktinfo IF | rthdr VIA | unicast IF | device IF | ifindex IF | multicast IF | noroute | mark N
 *	options VIA | strict VIA | nexthop ADDR | transparent | freebind | broadcast | defer | repair N
 *	ulp NAME | addrform | segments N | cork N | flowinfo | group ADDR IF
 *	patience MS                    gives up after MS from now on
 *	reuse                          SO_REUSEADDR and SO_REUSEPORT
 *	listen | accept | peername | sockname | close | shut | reset
 *	vsock CID PORT                 connects an AF_VSOCK socket
 *	unix PATH TEXT                 asks a unix socket; @PATH is an abstract one
 *	fork                           goes on in a child, whose end is awaited
 *	unshare | userns               a user namespace of its own, unshare: and a network
 *	join DIR                       enters the cgroup
 *	clone DIR                      goes on in a child that begins in the cgroup
 *	mkdir DIR | program DIR        makes a cgroup; attaches a BPF program to it
 *	give PATH | take PATH          the socket, by SCM_RIGHTS
 *	park | unpark                  leaves the socket in the queue of a unix socket; takes it
 *	lend PATH                      a process stays behind that gives the socket once; silent
 *	owner UID                      a process stays behind that keeps it; "owner" is its PID
 *	steal PID FD                   pidfd_getfd(2); the owner's socket is "its"
 *	trace PID | memory PID ADDR | copy PID ADDR | signal PID N    ADDR may be "here"
 *	families                       tells of which families sockets can be made
 *	requestkey NAME                request_key(2) of a name in DNS
 *	storm N ADDR ADDR PORT         connections one after the other
 *	inherit FD                     goes on with a descriptor that was there
 *	thread                         goes on in another thread, and the first one ends
 *	exec                           executes itself with the rest: the socket is inherited
 *	run PATH                       executes a program with the rest
 *	packet IF HEX                  sends an IPv4 packet on a packet socket
 *	pid                            prints the process's number, the socket's, and where a secret lies
 *	sleep MS
 *	pause                          prints "pause ok" and waits for a line on standard input
 *	serve                          reads lines of statements with tabs between, and makes each line's in a child
 */
#define _GNU_SOURCE
#include "base.h"
#include "options.h"
#include "pass.h"
#include "place.h"
#include "send.h"
#include "storm.h"
#include "uring.h"

#include <linux/if_packet.h>
#include <linux/vm_sockets.h>
#include <pthread.h>

static char *self;

static int family_number(const char *name)
{
	static const struct {
		const char *name;
		int number;
	} known[] = { { "inet", AF_INET }, { "inet6", AF_INET6 }, { "packet", AF_PACKET }, { "vsock", AF_VSOCK }, { "smc", 43 } };

	for (unsigned i = 0; i < sizeof(known) / sizeof(*known); i++)
		if (!strcmp(known[i].name, name))
			return known[i].number;
	return atoi(name);
}

static int type_number(const char *name)
{
	return !strcmp(name, "stream") ? SOCK_STREAM : !strcmp(name, "dgram") ? SOCK_DGRAM :
	       !strcmp(name, "raw") ? SOCK_RAW : !strcmp(name, "seqpacket") ? SOCK_SEQPACKET : atoi(name);
}

static long new_socket(const char *f, const char *type, const char *protocol, int by_ring)
{
	family = family_number(f);
	longer = family == AF_INET6 && !strcmp(protocol, "115") ? 4 : 0;
	if (fd > 2)
		close(fd);
	fd = by_ring ? uring_socket(family, type_number(type), atoi(protocol)) :
		       socket(family, type_number(type), family == AF_PACKET ? htons(atoi(protocol)) : atoi(protocol));
	if (fd >= 0)
		give_up_after(250);
	return fd;
}

static long packet(const char *interface, const char *hex)
{
	static unsigned char bytes[2048];
	struct sockaddr_ll to = { .sll_family = AF_PACKET, .sll_protocol = htons(0x0800),
				  .sll_ifindex = if_nametoindex(interface), .sll_halen = 6 };

	memset(to.sll_addr, 0xff, 6);
	return sendto(fd, bytes, hex_bytes(hex, bytes), 0, (struct sockaddr *)&to, sizeof(to));
}

static long vsock_connect(const char *cid, const char *port)
{
	struct sockaddr_vm to = { .svm_family = AF_VSOCK, .svm_cid = atoi(cid), .svm_port = atoi(port) };

	return connect(fd, (struct sockaddr *)&to, sizeof(to));
}

static void serve(void);

static void statement(char *line)
{
	static unsigned char bytes[8192];
	static char shown[2 * sizeof(bytes) + 1];
	char *next, *w[5] = { strtok_r(line, " ", &next) };
	socklen_t len = sizeof(union address);
	union address a;
	long r = 0;

	for (int i = 1; i < 5; i++)
		w[i] = w[i - 1] ? strtok_r(NULL, i == 4 ? "" : " ", &next) : NULL;
	shown[0] = 0;
	if (w[1] && !strcmp(w[1], "owner"))
		w[1] = owner;
	if (w[2] && !strcmp(w[2], "its"))
		w[2] = owned;
	if (w[2] && !strcmp(w[2], "here")) {
		sprintf(shown, "%lu", (unsigned long)secret);
		w[2] = strdup(shown);
		shown[0] = 0;
	}
#define IS(name) (!strcmp(w[0], name))
	if (IS("enter")) {
		return enter(w[1]);
	} else if (IS("in")) {
		return fail_unless(join(w[1]) > 0, w[1]);
	} else if (IS("become")) {
		return become(atoi(w[1]));
	} else if (IS("nnp")) {
		return fail_unless(!prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs");
	} else if (IS("serve")) {
		return serve();
	} else if (IS("socket") || IS("uringsocket")) {
		r = new_socket(w[1], w[2], w[3], IS("uringsocket"));
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
	} else if (IS("uringsend") || IS("uringfastopen")) {
		len = address(&a, w[1], w[2]);
		r = uring_send(&a, atoi(w[2]) ? len : 0, w[3], IS("uringfastopen") ? MSG_FASTOPEN : 0);
	} else if (IS("polled")) {
		polled = 1;
	} else if (IS("fastopen")) {
		len = address(&a, w[1], w[2]);
		r = send_bytes(&a, len, w[3], strlen(w[3]), MSG_FASTOPEN);
	} else if (IS("sendto")) {
		len = address(&a, w[1], w[2]);
		r = send_bytes(&a, len, w[3], strlen(w[3]), 0);
	} else if (IS("sendmany")) {
		len = address(&a, w[1], w[2]);
		r = send_many(&a, len, w[3]);
	} else if (IS("send")) {
		r = send_bytes(NULL, 0, w[1], strlen(w[1]), 0);
	} else if (IS("zerocopy")) {
		r = send_zerocopy(w[1]);
	} else if (IS("splice")) {
		r = send_spliced(w[1]);
	} else if (IS("sendfile")) {
		r = send_file(w[1]);
	} else if (IS("sendhex")) {
		r = send_bytes(NULL, 0, bytes, hex_bytes(w[1], bytes), 0);
	} else if (IS("sendhexto")) {
		len = address(&a, w[1], w[2]);
		r = send_bytes(&a, len, bytes, hex_bytes(w[3], bytes), 0);
	} else if (IS("packet")) {
		r = packet(w[1], w[2]);
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
			give_up_after(250);
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
	} else if (IS("vsock")) {
		r = vsock_connect(w[1], w[2]);
	} else if (IS("unix")) {
		r = ask_unix(w[1], w[2], shown, sizeof(shown));
	} else if (IS("fork")) {
		go_on_in_child();
	} else if (IS("unshare") || IS("userns")) {
		r = unshare_as(IS("unshare") ? CLONE_NEWNET : 0);
	} else if (IS("join")) {
		r = join(w[1]);
	} else if (IS("clone")) {
		r = clone_into(w[1]);
	} else if (IS("mkdir")) {
		r = mkdir(w[1], 0755);
	} else if (IS("program")) {
		r = attach_program(w[1]);
	} else if (IS("give")) {
		r = give(w[1]);
	} else if (IS("lend")) {
		return fail_unless(!leave_behind(w[1], 0), "lend");
	} else if (IS("owner")) {
		return fail_unless(!leave_behind(NULL, atoi(w[1])), "owner");
	} else if (IS("take")) {
		r = take(w[1]);
	} else if (IS("park")) {
		r = park();
	} else if (IS("unpark")) {
		r = unpark();
	} else if (IS("steal")) {
		r = fd = steal(atoi(w[1]), atoi(w[2]));
	} else if (IS("trace")) {
		r = trace(atoi(w[1]));
	} else if (IS("memory")) {
		r = read_memory(atoi(w[1]), strtoul(w[2], NULL, 0));
	} else if (IS("copy")) {
		r = copy_memory(atoi(w[1]), strtoul(w[2], NULL, 0));
	} else if (IS("signal")) {
		r = kill(atoi(w[1]), atoi(w[2]));
	} else if (IS("families")) {
		allowed_families(shown);
	} else if (IS("requestkey")) {
		r = syscall(SYS_request_key, "dns_resolver", w[1], "", -3 /* the session's keyring */);
	} else if (IS("storm")) {
		r = storm(atoi(w[1]), w[2], w[3], w[4], shown);
	} else if (IS("inherit")) {
		fd = atoi(w[1]);
	} else if (IS("sleep")) {
		usleep(1000 * atoi(w[1]) * slower());
	} else if (IS("pause")) {
		say("pause", 0, "");
		if (!fgets(shown, sizeof(shown), stdin))
			exit(0);
		return;
	} else if (IS("pid")) {
		sprintf(shown, "%d %d %lu", getpid(), fd, (unsigned long)secret);
	} else {
		r = option(w[0], w[1], w[2]);
	}
	say(w[0], r, shown);
}

static void statements(char **list);

/* go_on makes the rest once the first thread has ended. */
static void *go_on(void *list)
{
	usleep(50 * 1000);
	say("thread", 0, "");
	statements(list);
	exit(0);
}

/*
 * statements makes those of a vector; exec and run leave the rest to a new program,
 * thread to another thread.
 */
static void statements(char **list)
{
	pthread_t rest;

	static char inherited[32];

	for (; *list; list++) {
		if (!strncmp(*list, "run ", 4)) {
			char *path = *list + 4;

			*list = path;
			execv(path, list);
			say("run", -1, path);
			exit(1);
		}
		if (!strcmp(*list, "thread") && !pthread_create(&rest, NULL, go_on, list + 1))
			syscall(SYS_exit, 0);
		if (strcmp(*list, "exec")) {
			statement(*list);
			continue;
		}
		snprintf(inherited, sizeof(inherited), "inherit %d", fd);
		*list = inherited;
		list[-1] = self;
		execv("/proc/self/exe", list - 1);
	}
}

static void serve(void)
{
	static char line[1 << 16];
	static char *list[256];

	while (fgets(line, sizeof(line), stdin)) {
		int n = 1, status;
		char *next;

		line[strcspn(line, "\n")] = 0;
		list[0] = self;
		for (char *s = strtok_r(line, "\t", &next); s && n < 255; s = strtok_r(NULL, "\t", &next))
			list[n++] = s;
		list[n] = NULL;
		fflush(stdout);
		if (!fork()) {
			statements(list + 1);
			exit(0);
		}
		wait(&status);
		say("served", 0, "");
	}
}

int main(int argc, char **argv)
{
	(void)argc;
	self = argv[0];
	statements(argv + 1);
	return 0;
}

/*
 * keep MODE ADDR PORT DIR opens a socket outside of the cgroup DIR, enters it, and
 * keeps the socket in the way that MODE says. It prints "joined N", N its process's
 * number, waits for a line on standard input, sends "late", and prints "sent" or the
 * error's number.
 *
 *	plain      in the descriptor table
 *	thread     in the table of a thread of its own, the process's has it no more
 *	leader     the same table, whose first thread has ended
 *	chain      the same table, but each process of a chain forks the next and ends
 *	ring       registered with an io_uring, in no table
 *	dgram      connected UDP
 *	syn        connecting, and nobody answers
 *	listen     a listener on ADDR PORT, which then accepts instead of sending
 *	raw ping packet vsock    sockets of other kinds
 *	park-WHERE in a queue, see park.h
 *	queues     none: what it has in queues is its own
 *	shared     in a table of 19,000 that 21 processes share
 *	many       in 16 tables of 19,000
 * *	manager    a listener with close-on-exec; a child enters DIR and executes true
 *	           within half a second, as a service manager's would
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_packet.h>
#include <linux/io_uring.h>
#include <linux/vm_sockets.h>
#include <net/if.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *mode, *dir;
static int fd = -1, ring = -1;
static struct io_uring_params params;
static unsigned char *sq, *sqes;

static int is(const char *name) { return !strcmp(mode, name); }

static void fatal(const char *what)
{
	printf("%s: %s\n", what, strerror(errno));
	fflush(stdout);
	_exit(1);
}

static void join(void)
{
	char path[4096];
	FILE *f;

	snprintf(path, sizeof(path), "%s/cgroup.procs", dir);
	f = fopen(path, "w");
	if (!f || fprintf(f, "%d", getpid()) < 0 || fclose(f))
		fatal("join");
}

static void open_ring(void)
{
	memset(&params, 0, sizeof(params));
	ring = syscall(SYS_io_uring_setup, 4, &params);
	if (ring < 0)
		fatal("io_uring_setup");
	sq = mmap(0, params.sq_off.array + params.sq_entries * 4, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring, IORING_OFF_SQ_RING);
	sqes = mmap(0, params.sq_entries * sizeof(struct io_uring_sqe), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring, IORING_OFF_SQES);
	if (sq == MAP_FAILED || sqes == MAP_FAILED)
		fatal("mmap");
	if (syscall(SYS_io_uring_register, ring, IORING_REGISTER_FILES, &fd, 1) < 0)
		fatal("io_uring_register");
}

/* ring_send sends on the registered socket and gives what became of it. */
static int ring_send(const char *text)
{
	struct io_uring_sqe *e = (void *)sqes;
	unsigned tail = *(unsigned *)(sq + params.sq_off.tail);
	struct io_uring_cqe *c;
	unsigned char *cq;

	memset(e, 0, sizeof(*e));
	e->opcode = IORING_OP_SEND;
	e->flags = IOSQE_FIXED_FILE;
	e->msg_flags = MSG_NOSIGNAL;
	e->addr = (unsigned long)text;
	e->len = strlen(text);
	*(unsigned *)(sq + params.sq_off.array + (tail & 3) * 4) = 0;
	__atomic_store_n((unsigned *)(sq + params.sq_off.tail), tail + 1, __ATOMIC_RELEASE);
	if (syscall(SYS_io_uring_enter, ring, 1, 1, IORING_ENTER_GETEVENTS, 0, 0) < 0)
		return -errno;
	cq = mmap(0, params.cq_off.cqes + params.cq_entries * sizeof(*c), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring, IORING_OFF_CQ_RING);
	if (cq == MAP_FAILED)
		return -errno;
	c = (void *)(cq + params.cq_off.cqes);
	return c->res;
}

#include "park.h"

/* chain returns in a later process once there is something to read. */
static void chain(void)
{
	struct pollfd in = { .events = POLLIN };
	pid_t child;

	signal(SIGCHLD, SIG_IGN);
	while (!poll(&in, 1, 0)) {
		child = fork();
		if (child < 0)
			fatal("fork");
		if (child)
			_exit(0);
	}
}

static const char *parked(void) { return strncmp(mode, "park-", 5) ? 0 : mode + 5; }

static void *keep(void *own)
{
	char line[16];
	ssize_t n;

	if (own && unshare(CLONE_FILES))
		fatal("unshare");
	if (own)
		printf("apart\n"), fflush(stdout);
	if (is("chain"))
		chain();
	n = read(0, line, sizeof(line));
	if (n <= 0)
		_exit(0);
	if (parked())
		fd = unpark(parked());
	if (is("ring")) {
		n = ring_send("late");
		errno = n < 0 ? -n : 0;
	} else if (is("listen")) {
		n = accept(fd, 0, 0);
	} else {
		n = send(fd, "late", 4, MSG_NOSIGNAL);
	}
	if (n >= 0)
		printf("sent\n");
	else
		printf("error %d\n", errno);
	fflush(stdout);
	_exit(0);
}

static int idle(void *unused)
{
	(void)unused;
	prctl(PR_SET_PDEATHSIG, 9);
	for (;;)
		pause();
	return 0;
}

/* others fills the table and starts processes that share it, or have one like it. */
static void others(int n, int flags)
{
	static char stacks[20][4096];

	for (int i = 0; i < 19000; i++)
		if (dup(0) < 0)
			fatal("dup");
	for (int i = 0; i < n; i++)
		if (clone(idle, stacks[i] + sizeof(stacks[i]), CLONE_VM | SIGCHLD | flags, 0) < 0)
			fatal("clone");
}

static void manager(void)
{
	pid_t child = fork();
	char line[16];

	if (child < 0)
		fatal("fork");
	if (!child) {
		join();
		usleep(500 * 1000);
		execl("/bin/sleep", "sleep", "2", (char *)0);
		fatal("exec");
	}
	printf("joined %d\n", child);
	fflush(stdout);
	if (read(0, line, sizeof(line)) <= 0)
		_exit(0);
	kill(child, 9);
	waitpid(child, 0, 0);
	/* Still a listener? */
	int yes = 0;
	socklen_t size = sizeof(yes);
	getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &yes, &size);
	printf(yes ? "listens\n" : "closed\n");
	fflush(stdout);
	_exit(0);
}

int main(int argc, char **argv)
{
	struct sockaddr_in to = { .sin_family = AF_INET };
	pthread_t thread;

	if (argc != 5)
		return 2;
	mode = argv[1];
	dir = argv[4];
	inet_pton(AF_INET, argv[2], &to.sin_addr);
	to.sin_port = htons(atoi(argv[3]));
	if (is("queues")) {
		join();
		queues();
	} else if (is("packet")) {
		fd = socket(AF_PACKET, SOCK_DGRAM, htons(0x0800));
	} else if (is("vsock")) {
		fd = socket(AF_VSOCK, SOCK_STREAM, 0);
	} else if (is("raw")) {
		fd = socket(AF_INET, SOCK_RAW, 253);
	} else if (is("ping")) {
		fd = socket(AF_INET, SOCK_DGRAM, IPPROTO_ICMP);
	} else if (is("dgram")) {
		fd = socket(AF_INET, SOCK_DGRAM, 0);
	} else if (is("manager")) {
		fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	} else if (is("syn")) {
		fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
	} else {
		fd = socket(AF_INET, SOCK_STREAM, 0);
	}
	if (fd < 0)
		fatal("socket");
	if (is("listen") || is("manager")) {
		if (bind(fd, (void *)&to, sizeof(to)) || listen(fd, 4))
			fatal("listen");
		if (is("manager"))
			manager();
	} else if (is("syn")) {
		connect(fd, (void *)&to, sizeof(to));
	} else if (!is("packet") && !is("vsock")) {
		if (connect(fd, (void *)&to, sizeof(to)))
			fatal("connect");
		if (!is("raw") && !is("ping") && send(fd, "before", 6, 0) != 6)
			fatal("send");
	}
	if (is("ring")) {
		open_ring();
		close(fd);
		fd = -1;
	}
	if (is("thread")) {
		if (pthread_create(&thread, 0, keep, (void *)1))
			fatal("thread");
		sleep(1); /* it has a table of its own by now */
		close(fd);
	}
	if (is("leader")) {
		join();
		printf("joined %d\n", getpid());
		fflush(stdout);
		if (pthread_create(&thread, 0, keep, 0))
			fatal("thread");
		syscall(SYS_exit, 0);
	}
	join();
	if (is("shared"))
		others(20, CLONE_FILES);
	if (is("many"))
		others(15, 0);
	if (parked() && strcmp(parked(), "swapping"))
		park(parked(), fd);
	printf("joined %d\n", getpid());
	fflush(stdout);
	if (is("thread"))
		pthread_join(thread, 0);
	if (parked() && !strcmp(parked(), "swapping"))
		swap(fd);
	keep(0);
	return 0;
}

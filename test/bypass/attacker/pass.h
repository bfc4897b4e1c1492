/* Sockets that come from elsewhere, and what belongs to other processes. */
#ifndef PASS_H
#define PASS_H

#include <signal.h>
#include <stddef.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/un.h>

#include "place.h"
#include "send.h"

/* unix_address: a name that begins with @ is an abstract one. */
static socklen_t unix_address(const char *path, struct sockaddr_un *a)
{
	memset(a, 0, sizeof(*a));
	a->sun_family = AF_UNIX;
	strncpy(a->sun_path, path, sizeof(a->sun_path) - 1);
	if (*path != '@')
		return sizeof(*a);
	a->sun_path[0] = 0;
	return offsetof(struct sockaddr_un, sun_path) + strlen(path);
}

static long give(const char *path)
{
	struct sockaddr_un a;
	int s = socket(AF_UNIX, SOCK_STREAM, 0), c, passed = fd;

	unlink(path);
	if (bind(s, (struct sockaddr *)&a, unix_address(path, &a)) || chmod(path, 0777) || listen(s, 1))
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
	int s = socket(AF_UNIX, SOCK_STREAM, 0);

	if (connect(s, (struct sockaddr *)&a, unix_address(path, &a)) || recvmsg(s, &m, 0) < 0 || !CMSG_FIRSTHDR(&m))
		return -1;
	memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof(fd));
	return fd;
}

/* ask_unix sends text to a unix socket, of either type, and reads what it says. */
static long ask_unix(const char *path, const char *question, char *answer, size_t room)
{
	static const int types[] = { SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET };
	struct timeval patience = { .tv_sec = slower() / 2, .tv_usec = slower() % 2 * 500000 };
	struct sockaddr_un a;
	socklen_t len = unix_address(path, &a);
	long n = -1;

	for (int i = 0; i < 3; i++) {
		int s = socket(AF_UNIX, types[i], 0), saved;

		setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
		n = connect(s, (struct sockaddr *)&a, len) ? -1 : send(s, question, strlen(question), MSG_NOSIGNAL);
		if (n >= 0 && types[i] != SOCK_DGRAM)
			n = recv(s, answer, room - 1, 0);
		saved = errno;
		close(s);
		errno = saved;
		if (n >= 0 || errno != EPROTOTYPE)
			break;
	}
	answer[n > 0 ? n : 0] = 0;
	return n;
}

/* The process outside that owns a socket, for statements that say "owner". */
static char owner[16] = "0";
static char owned[16] = "0";

/*
 * leave_behind leaves a process where the program is now, with its current socket,
 * which the program itself closes: as PATH it gives the socket to who asks, as
 * an owner of that uid it keeps it.
 */
static long leave_behind(const char *path, int uid)
{
	int ready[2];
	char byte;
	pid_t child;

	if (pipe(ready))
		return -1;
	child = fork();
	if (!child) {
		close(ready[0]);
		if (path) {
			struct sockaddr_un a;
			int s = socket(AF_UNIX, SOCK_STREAM, 0);

			unlink(path);
			fail_unless(!bind(s, (struct sockaddr *)&a, unix_address(path, &a)) && !chmod(path, 0777) && !listen(s, 1), path);
			fail_unless(write(ready[1], "x", 1) == 1, "pipe");
			alarm(20);
			s = accept(s, NULL, NULL);
			ancillary(SOL_SOCKET, SCM_RIGHTS, &fd, sizeof(fd));
			fd = s;
			send_bytes(NULL, 0, "x", 1, 0);
			exit(0);
		}
		become(uid);
		prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY);
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		fail_unless(write(ready[1], "x", 1) == 1, "pipe");
		/* Nobody waits for its output. */
		close(1);
		close(2);
		sleep(20);
		exit(0);
	}
	snprintf(owner, sizeof(owner), "%d", child);
	snprintf(owned, sizeof(owned), "%d", fd);
	close(ready[1]);
	fail_unless(read(ready[0], &byte, 1) == 1, "the process left behind");
	close(ready[0]);
	return 0;
}

static long steal(int pid, int number)
{
	int process = syscall(SYS_pidfd_open, pid, 0);

	return process < 0 ? -1 : syscall(SYS_pidfd_getfd, process, number, 0);
}

/* A word of memory that other processes of this program have at the same place. */
static char secret[] = "unread";

/* read_memory reads a word of another process's memory by /proc. */
static long read_memory(int pid, unsigned long at)
{
	char path[64], word[8];
	long n;
	int f;

	snprintf(path, sizeof(path), "/proc/%d/mem", pid);
	f = open(path, O_RDWR | O_CLOEXEC);
	if (f < 0)
		return -1;
	n = pread(f, word, sizeof(word) - 1, at);
	close(f);
	return n;
}

static long copy_memory(int pid, unsigned long at)
{
	char word[8];
	struct iovec here = { word, sizeof(word) - 1 }, there = { (void *)at, sizeof(word) - 1 };

	return process_vm_readv(pid, &here, 1, &there, 1, 0);
}

static long trace(int pid)
{
	long r = ptrace(PTRACE_SEIZE, pid, NULL, NULL);

	if (!r)
		ptrace(PTRACE_DETACH, pid, NULL, NULL);
	return r;
}

/* The two ends of a unix socket that park keeps the current socket in. */
static int parked[2];

/* park leaves the socket in the queue of a unix socket, and in no table. */
static long park(void)
{
	int passed = fd;

	if (socketpair(AF_UNIX, SOCK_STREAM, 0, parked))
		return -1;
	control_len = 0;
	ancillary(SOL_SOCKET, SCM_RIGHTS, &passed, sizeof(passed));
	fd = parked[0];
	if (send_bytes(NULL, 0, "x", 1, 0) < 0)
		return -1;
	control_len = 0;
	return close(passed);
}

static long unpark(void)
{
	char byte, room[CMSG_SPACE(sizeof(int))];
	struct iovec v = { &byte, 1 };
	struct msghdr m = { .msg_iov = &v, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof(room) };

	if (recvmsg(parked[1], &m, MSG_DONTWAIT) < 0 || !CMSG_FIRSTHDR(&m))
		return -1;
	memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof(fd));
	return fd;
}

#endif

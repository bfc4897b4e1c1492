/*
 * Where a descriptor can be kept that is in no table: on its way over a unix socket.
 * park() puts one there and closes it, unpark() gives it back.
 *
 *	stream dgram seqpacket    alone in the queue
 *	behind     behind other messages, with and without descriptors
 *	empty      in the third of three empty datagrams
 *	nested     in the queue of a socket that is in the queue of another
 *	listener   on a connection that nobody has accepted yet
 *	offset     while SO_PEEK_OFF is set beyond it again and again
 *	swapping   taken out, used and put back every 20 ms
 */
#ifndef PARK_H
#define PARK_H

#include <signal.h>
#include <sys/stat.h>
#include <sys/un.h>

#ifndef SO_PEEK_OFF
#define SO_PEEK_OFF 42
#endif

static int pair[2], outer[2], listener = -1;

static void send_fd(int s, const void *data, size_t n, int passed)
{
	char room[CMSG_SPACE(sizeof(int))] = { 0 };
	struct iovec v = { (void *)data, n };
	struct msghdr m = { .msg_iov = &v, .msg_iovlen = 1 };

	if (passed >= 0) {
		m.msg_control = room;
		m.msg_controllen = sizeof(room);
		CMSG_FIRSTHDR(&m)->cmsg_level = SOL_SOCKET;
		CMSG_FIRSTHDR(&m)->cmsg_type = SCM_RIGHTS;
		CMSG_FIRSTHDR(&m)->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(CMSG_FIRSTHDR(&m)), &passed, sizeof(int));
	}
	if (sendmsg(s, &m, 0) != (ssize_t)n)
		fatal("sendmsg");
}

/* receive_fd gives the descriptor of the next message, -1 if it has none. */
static int receive_fd(int s, size_t n)
{
	static char data[1 << 16];
	char room[CMSG_SPACE(sizeof(int))] = { 0 };
	struct iovec v = { data, n };
	struct msghdr m = { .msg_iov = &v, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof(room) };
	int got = -1;

	if (recvmsg(s, &m, 0) < 0)
		fatal("recvmsg");
	if (CMSG_FIRSTHDR(&m))
		memcpy(&got, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof(got));
	return got;
}

static void *disturb(void *unused)
{
	int far = 1 << 30;

	for (;;)
		setsockopt(pair[1], SOL_SOCKET, SO_PEEK_OFF, &far, sizeof(far));
	return unused;
}

static void park(const char *where, int fd)
{
	static char filler[5000];
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	int type = SOCK_STREAM, size;
	pthread_t t;

	if (!strcmp(where, "dgram") || !strcmp(where, "empty"))
		type = SOCK_DGRAM;
	if (!strcmp(where, "seqpacket"))
		type = SOCK_SEQPACKET;
	if (!pair[0] && socketpair(AF_UNIX, type, 0, pair))
		fatal("socketpair");
	if (!strcmp(where, "behind")) {
		send_fd(pair[0], filler, sizeof(filler), -1);
		send_fd(pair[0], "1", 1, 0);
		send_fd(pair[0], filler, sizeof(filler), 1);
		send_fd(pair[0], filler, sizeof(filler), -1);
	}
	if (!strcmp(where, "offset"))
		send_fd(pair[0], "1", 1, 0);
	if (!strcmp(where, "empty")) {
		send_fd(pair[0], "", 0, 0);
		send_fd(pair[0], "", 0, 0);
		send_fd(pair[0], "", 0, fd);
	} else if (!strcmp(where, "listener")) {
		size = snprintf(a.sun_path + 1, sizeof(a.sun_path) - 1, "park-%d", getpid());
		size += offsetof(struct sockaddr_un, sun_path) + 1;
		listener = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
		if (bind(listener, (void *)&a, size) || listen(listener, 4) || connect(pair[0] = socket(AF_UNIX, SOCK_STREAM, 0), (void *)&a, size))
			fatal("listener");
		send_fd(pair[0], "x", 1, fd);
	} else {
		send_fd(pair[0], "x", 1, fd);
	}
	close(fd);
	if (!strcmp(where, "nested")) {
		if (socketpair(AF_UNIX, SOCK_STREAM, 0, outer))
			fatal("socketpair");
		send_fd(outer[0], "x", 1, pair[1]);
		close(pair[1]);
	}
	if (!strcmp(where, "offset") && pthread_create(&t, 0, disturb, 0))
		fatal("thread");
}

static int unpark(const char *where)
{
	if (!strcmp(where, "nested"))
		pair[1] = receive_fd(outer[1], 1);
	if (!strcmp(where, "listener")) {
		pair[1] = accept(listener, 0, 0);
		if (pair[1] < 0)
			return -1;
	}
	if (!strcmp(where, "behind")) {
		receive_fd(pair[1], 5000);
		receive_fd(pair[1], 1);
		receive_fd(pair[1], 5000);
		receive_fd(pair[1], 5000);
	}
	if (!strcmp(where, "offset"))
		receive_fd(pair[1], 1);
	if (!strcmp(where, "empty")) {
		receive_fd(pair[1], 1);
		receive_fd(pair[1], 1);
	}
	return receive_fd(pair[1], 1);
}

/* swap uses the descriptor now and then, and never for long. It ends with an error. */
static void swap(int fd)
{
	static char burst[1400];
	long long sent = 0;
	ssize_t n = 0;

	memset(burst, 's', sizeof(burst));
	for (int i = 0; i < 1000 && n >= 0; i++) {
		park("swapping", fd);
		usleep(20 * 1000);
		fd = unpark("swapping");
		n = send(fd, burst, sizeof(burst), MSG_NOSIGNAL | MSG_DONTWAIT);
		sent += n > 0 ? n : 0;
	}
	printf("swapped %lld %s\n", sent, n < 0 ? "error" : "sent");
	fflush(stdout);
	_exit(0);
}

/* number_of tells which file a descriptor leads to. */
static unsigned long number_of(int fd)
{
	struct stat st;

	if (fd < 0 || fstat(fd, &st))
		fatal("fstat");
	return st.st_ino;
}

/*
 * queues leaves descriptors in queues of its own, waits for a line, and says whether
 * they arrive as they were sent, and what it peeks at is where it left off.
 */
static void queues(void)
{
	static const int types[] = { SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET };
	int own[3] = { socket(AF_INET, SOCK_DGRAM, 0), socket(AF_UNIX, SOCK_STREAM, 0), open("/dev/null", O_RDONLY) };
	int pairs[3][2], offset = 1;
	char byte[8];

	for (int i = 0; i < 3; i++) {
		if (socketpair(AF_UNIX, types[i], 0, pairs[i]))
			fatal("socketpair");
		for (int j = 0; j < 3; j++)
			send_fd(pairs[i][0], &"abc"[j], 1, own[j]);
		if (setsockopt(pairs[i][1], SOL_SOCKET, SO_PEEK_OFF, &offset, sizeof(offset)))
			fatal("SO_PEEK_OFF");
	}
	printf("joined %d\n", getpid());
	fflush(stdout);
	if (read(0, byte, sizeof(byte)) <= 0)
		_exit(0);
	for (int i = 0; i < 3; i++) {
		/* While the gate reads a queue its offset is another. */
		for (int tries = 0; tries < 3; tries++) {
			if (recv(pairs[i][1], byte, 1, MSG_PEEK) == 1 && byte[0] == 'b')
				break;
			if (tries == 2)
				fatal("what was peeked at");
			usleep(50 * 1000);
		}
		for (int j = 0; j < 3; j++)
			if (number_of(receive_fd(pairs[i][1], 1)) != number_of(own[j]))
				fatal("what was received");
	}
	printf("as sent\n");
	fflush(stdout);
	_exit(0);
}

#endif

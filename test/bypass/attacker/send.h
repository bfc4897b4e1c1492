/* The ways to hand data to a socket. */
#ifndef SEND_H
#define SEND_H

#include <sys/mman.h>
#include <sys/sendfile.h>

#include "options.h"

#ifndef SO_ZEROCOPY
#define SO_ZEROCOPY 60
#define MSG_ZEROCOPY 0x4000000
#endif

static long send_bytes(const union address *to, socklen_t len, const void *data, size_t n, int flags)
{
	struct iovec v = { (void *)data, n };
	struct msghdr m = {
		.msg_name = (void *)to, .msg_namelen = len, .msg_iov = &v, .msg_iovlen = 1,
		.msg_control = control_len ? control : NULL, .msg_controllen = control_len,
	};

	return sendmsg(fd, &m, flags | MSG_NOSIGNAL);
}

static long send_many(const union address *to, socklen_t len, const char *data)
{
	struct iovec v = { (void *)data, strlen(data) };
	struct mmsghdr m[2] = {
		{ .msg_hdr = { .msg_name = (void *)to, .msg_namelen = len, .msg_iov = &v, .msg_iovlen = 1 } },
		{ .msg_hdr = { .msg_name = (void *)to, .msg_namelen = len, .msg_iov = &v, .msg_iovlen = 1 } },
	};

	return sendmmsg(fd, m, 2, MSG_NOSIGNAL);
}

static long send_zerocopy(const char *data)
{
	if (number_option(SOL_SOCKET, SO_ZEROCOPY, 1))
		return -1;
	return send(fd, data, strlen(data), MSG_NOSIGNAL | MSG_ZEROCOPY);
}

static long send_spliced(const char *data)
{
	int ends[2];

	if (pipe(ends) || write(ends[1], data, strlen(data)) < 0)
		return -1;
	return splice(ends[0], NULL, fd, NULL, strlen(data), 0);
}

static long send_file(const char *data)
{
	int file = memfd_create("data", 0);
	off_t begin = 0;

	if (file < 0 || write(file, data, strlen(data)) < 0)
		return -1;
	return sendfile(fd, file, &begin, strlen(data));
}

#endif

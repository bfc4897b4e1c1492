/* Very many connections, one after the other, with a word on each. */
#ifndef STORM_H
#define STORM_H

#include <poll.h>

#include "base.h"

/*
 * storm makes n connections to a port of both addresses in turn, each of which
 * sends a word as soon as it is connected, and tells how many were connected and
 * how many refused.
 */
static long storm(int n, char *first, char *second, const char *port, char *shown)
{
	union address to[2];
	socklen_t len[2] = { address(&to[0], first, port), address(&to[1], second, port) };
	struct linger at_once = { .l_onoff = 1 };
	int connected = 0, refused = 0;

	for (int i = 0; i < n; i++) {
		int s = socket(to[i & 1].any.sa_family, SOCK_STREAM | SOCK_NONBLOCK, 0), error = 0;
		socklen_t size = sizeof(error);
		struct pollfd p = { .fd = s, .events = POLLOUT };

		if (s < 0 || (connect(s, &to[i & 1].any, len[i & 1]) && errno != EINPROGRESS))
			error = errno;
		else if (poll(&p, 1, 100) != 1)
			error = ETIMEDOUT;
		else
			getsockopt(s, SOL_SOCKET, SO_ERROR, &error, &size);
		if (!error && send(s, "storm", 5, MSG_NOSIGNAL) == 5)
			connected++;
		else
			refused++;
		setsockopt(s, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
		close(s);
	}
	sprintf(shown, "%d %d", connected, refused);
	return 0;
}

#endif

/* ares prints its pid, and for each name the IPv4 addresses that c-ares gives. */
#include <ares.h>
#include <arpa/inet.h>
#include <netdb.h>
#include <stdio.h>
#include <sys/select.h>
#include <unistd.h>

static void found(void *name, int status, int timeouts, struct hostent *host)
{
	char text[INET6_ADDRSTRLEN];

	(void)timeouts;
	printf("%s", (char *)name);
	if (status != ARES_SUCCESS)
		printf(" %s", status == ARES_ENOTFOUND ? "no such name" : ares_strerror(status));
	for (int i = 0; status == ARES_SUCCESS && host->h_addr_list[i]; i++)
		printf(" %s", inet_ntop(host->h_addrtype, host->h_addr_list[i], text, sizeof(text)));
	printf("\n");
}

int main(int argc, char **argv)
{
	struct timeval t, *wait;
	ares_channel channel;
	fd_set r, w;
	int n;

	printf("pid %d\n", getpid());
	if (ares_library_init(ARES_LIB_INIT_ALL) || ares_init(&channel))
		return 1;
	for (int i = 1; i < argc; i++) {
		ares_gethostbyname(channel, argv[i], AF_INET, found, argv[i]);
		for (;;) {
			FD_ZERO(&r);
			FD_ZERO(&w);
			n = ares_fds(channel, &r, &w);
			if (!n)
				break;
			wait = ares_timeout(channel, NULL, &t);
			select(n, &r, &w, NULL, wait);
			ares_process(channel, &r, &w);
		}
	}
	ares_destroy(channel);
	return 0;
}

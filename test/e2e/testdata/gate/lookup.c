/* lookup prints its pid, and for each name the addresses that getaddrinfo(3) gives. */
#include <arpa/inet.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	printf("pid %d\n", getpid());
	for (int i = 1; i < argc; i++) {
		struct addrinfo hints = { .ai_socktype = SOCK_STREAM }, *list, *a;
		int err = getaddrinfo(argv[i], "443", &hints, &list);

		printf("%s", argv[i]);
		if (err) {
			printf(" %s\n", err == EAI_NONAME ? "no such name" : gai_strerror(err));
			continue;
		}
		for (a = list; a; a = a->ai_next) {
			char text[INET6_ADDRSTRLEN];
			const void *raw = a->ai_family == AF_INET ?
						  (void *)&((struct sockaddr_in *)a->ai_addr)->sin_addr :
						  (void *)&((struct sockaddr_in6 *)a->ai_addr)->sin6_addr;

			printf(" %s", inet_ntop(a->ai_family, raw, text, sizeof(text)));
		}
		printf("\n");
		freeaddrinfo(list);
	}
	return 0;
}

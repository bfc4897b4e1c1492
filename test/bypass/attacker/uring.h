/* Requests by io_uring: the kernel makes the call, not the program. */
#ifndef URING_H
#define URING_H

#include <linux/io_uring.h>

#include "send.h"

/* polled has a thread of the kernel submit what follows (IORING_SETUP_SQPOLL). */
static int polled;

/* Since Linux 5.19; older headers do not name it. */
#define OPERATION_SOCKET 45

/* uring makes one request and gives its result. It waits as long as a socket. */
static long uring(struct io_uring_sqe *request)
{
	struct io_uring_params p = { .flags = polled ? IORING_SETUP_SQPOLL : 0, .sq_thread_idle = 1000 };
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
	*sqes = *request;
	array = (unsigned *)(sq + p.sq_off.array);
	tail = (unsigned *)(sq + p.sq_off.tail);
	array[0] = 0;
	__atomic_store_n(tail, *tail + 1, __ATOMIC_RELEASE);
	/* A connect that no packet answers must not hold the test: ask without waiting. */
	if (syscall(SYS_io_uring_enter, ring, polled ? 0 : 1, 0, polled ? IORING_ENTER_SQ_WAKEUP : 0, NULL, 0) < 0)
		return -1;
	head = (unsigned *)(cq + p.cq_off.head);
	tail = (unsigned *)(cq + p.cq_off.tail);
	mask = *(unsigned *)(cq + p.cq_off.ring_mask);
	for (int i = 0; i < 250 * slower() && __atomic_load_n(tail, __ATOMIC_ACQUIRE) == *head; i++)
		usleep(1000);
	if (__atomic_load_n(tail, __ATOMIC_ACQUIRE) == *head) {
		errno = ETIMEDOUT;
		return -1;
	}
	cqe = (struct io_uring_cqe *)(cq + p.cq_off.cqes) + (*head & mask);
	errno = -cqe->res;
	return cqe->res;
}

static long uring_connect(union address *to, socklen_t len)
{
	return uring(&(struct io_uring_sqe){ .opcode = IORING_OP_CONNECT, .fd = fd, .addr = (unsigned long)to, .off = len });
}

static long uring_send(union address *to, socklen_t len, const char *data, int flags)
{
	struct iovec v = { (void *)data, strlen(data) };
	struct msghdr m = {
		.msg_name = len ? to : NULL, .msg_namelen = len, .msg_iov = &v, .msg_iovlen = 1,
		.msg_control = control_len ? control : NULL, .msg_controllen = control_len,
	};

	return uring(&(struct io_uring_sqe){ .opcode = IORING_OP_SENDMSG, .fd = fd, .addr = (unsigned long)&m, .len = 1,
					     .msg_flags = flags | MSG_NOSIGNAL });
}

static long uring_socket(int domain, int type, int protocol)
{
	return uring(&(struct io_uring_sqe){ .opcode = OPERATION_SOCKET, .fd = domain, .off = type, .len = protocol });
}

#endif

/* What the benchmarks need of POSIX and of Linux, on Windows: the tests' layer over
 * Winsock, and beside it the few calls that only they make. */
#ifndef PROA_BENCH_LIKE_POSIX_H
#define PROA_BENCH_LIKE_POSIX_H

#include "posix.h"

/* Ports for connections are chosen late anyway: to ask for it may fail. */
#define IP_BIND_ADDRESS_NO_PORT 0x7ffe

/* ---- files in memory ---- */

#define MFD_CLOEXEC 0
#define MAP_SHARED  8

void *bench_map(size_t length, int fd);
#undef mmap
#define mmap(at, n, access, flags, fd, offset) bench_map(n, fd)

/* ---- readiness ---- */

#define EPOLLIN       0x001u
#define EPOLLOUT      0x004u
#define EPOLLERR      0x008u
#define EPOLLHUP      0x010u
#define EPOLLRDHUP    0x2000u
#define EPOLLET       0x80000000u
#define EPOLL_CLOEXEC 0
#define EPOLL_CTL_ADD 1
#define EPOLL_CTL_MOD 3

struct epoll_event {
	uint32_t events;
	union {
		void *ptr;
		int fd;
	} data;
};

/* One set in a process. Word that a socket can be written to comes once, and again
 * after a send that could not be done: EPOLLET. All else is told as long as it is so. */
int epoll_create1(int flags);
int epoll_ctl(int set, int what, int fd, const struct epoll_event *event);
int epoll_wait(int set, struct epoll_event *out, int most, int ms);
ssize_t bench_send(int fd, const void *buffer, size_t length, int flags);
/* Takes it out of the set, too. */
int bench_close(int fd);
#undef send
#undef close
#define send(fd, buffer, n, flags) bench_send(fd, buffer, n, flags)
#define close(fd)                  bench_close(fd)

#define sched_yield() SwitchToThread()

/* ---- the system's name ---- */

struct utsname {
	char sysname[32], release[32];
};
int uname(struct utsname *out);

/* ---- limits ---- */

#define RLIMIT_NOFILE 7

struct rlimit {
	unsigned long rlim_cur, rlim_max;
};
static inline int getrlimit(int which, struct rlimit *out)
{
	(void)which;
	(void)out;
	return -1; /* there is none of handles */
}
static inline int setrlimit(int which, const struct rlimit *limit)
{
	(void)which;
	(void)limit;
	return -1;
}

#endif

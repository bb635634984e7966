/* epoll(7), edge-triggered: a descriptor is registered once for its life, and
 * for writing only when it first had to wait for that. */
#include "emu/reactor.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "engines/unix/unix.h"

_Static_assert(EPOLLIN == POLLIN && EPOLLOUT == POLLOUT && EPOLLPRI == POLLPRI &&
		       EPOLLHUP == POLLHUP && EPOLLERR == POLLERR && EPOLLRDHUP == POLLRDHUP,
	"epoll's bits are poll's");

/* The descriptor stands in the pointer's place. */
static int fd_of(void *world)
{
	return (int)(intptr_t)world - 1;
}

static int epoll_start(void **world, char *why, size_t size)
{
	int fd = epoll_create1(EPOLL_CLOEXEC), error;

	if (fd < 0) {
		error = unix_error(errno);
		snprintf(why, size, "epoll_create1: %s (%s)", proa_error_name(error),
			proa_error_text(error));
		return error;
	}
	*world = (void *)(intptr_t)(fd + 1);
	return 0;
}

static void epoll_stop(void *world)
{
	close(fd_of(world));
}

static int epoll_set(
	void *world, int fd, uint8_t generation, short before, short events, bool check)
{
	struct epoll_event event = {
		.events = (uint32_t)(uint16_t)events | EPOLLET,
		.data.u64 = (uint64_t)generation << 32 | (uint32_t)fd,
	};
	int how = events == 0 ? EPOLL_CTL_DEL : before == 0 ? EPOLL_CTL_ADD : EPOLL_CTL_MOD;

	if (epoll_ctl(fd_of(world), how, fd, &event) == 0)
		return 0;
	if (how == EPOLL_CTL_DEL)
		return 0; /* gone already */
	if (how == EPOLL_CTL_ADD && errno == EEXIST &&
		epoll_ctl(fd_of(world), EPOLL_CTL_MOD, fd, &event) == 0)
		return 0;
	if (how == EPOLL_CTL_MOD && errno == ENOENT && check &&
		epoll_ctl(fd_of(world), EPOLL_CTL_ADD, fd, &event) == 0)
		return 0;
	return unix_error(errno);
}

/* epoll_wait(2) knows milliseconds, and must not be early: it rounds up. The
 * exact call came with Linux 5.11. */
static int wait_exact(int fd, struct epoll_event *events, int64_t timeout)
{
#ifdef __NR_epoll_pwait2
	static atomic_bool missing;
	/* The kernel's own struct: libc's has 32 bits on some systems. */
	const int64_t limit[2] = { timeout / PROA_SECOND, timeout % PROA_SECOND };
	int n;

	if (!atomic_load_explicit(&missing, memory_order_relaxed)) {
		n = (int)syscall(__NR_epoll_pwait2, fd, events, REACTOR_EVENTS, limit, NULL, 0);
		if (n >= 0 || (errno != ENOSYS && errno != EPERM))
			return n;
		atomic_store(&missing, true);
	}
#endif
	timeout = (timeout + PROA_MILLISECOND - 1) / PROA_MILLISECOND;
	return epoll_wait(
		fd, events, REACTOR_EVENTS, timeout > INT32_MAX ? INT32_MAX : (int)timeout);
}

static int epoll_take(void *world, int64_t timeout, struct reactor_event *out)
{
	struct epoll_event events[REACTOR_EVENTS];
	int n;

	if (timeout == 0 || timeout == PROA_FOREVER)
		n = epoll_wait(fd_of(world), events, REACTOR_EVENTS, timeout == 0 ? 0 : -1);
	else
		n = wait_exact(fd_of(world), events, timeout);
	for (int i = 0; i < n; i++) {
		out[i].fd = (int)(uint32_t)events[i].data.u64;
		out[i].refused = 0;
		out[i].generation = (uint8_t)(events[i].data.u64 >> 32);
		out[i].events = (short)events[i].events;
	}
	if (n < 0)
		return errno == EINTR ? 0 : unix_error(errno);
	return n;
}

const struct reactor epoll_reactor = {
	.name = "epoll",
	.edge = true,
	.open = epoll_start,
	.close = epoll_stop,
	.set = epoll_set,
	.wait = epoll_take,
	.descriptor = fd_of,
};

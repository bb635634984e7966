/* Wake-ups from other threads and signal handlers, and the descriptor by which
 * a port sits in somebody else's loop. */
#include "engines/unix/unix.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

int unix_wake_open(int *read_end, int *write_end)
{
	int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);

	if (fd < 0)
		return unix_error(errno);
	*read_end = *write_end = fd;
	return 0;
}

void unix_wake(int write_end)
{
	const uint64_t one = 1;
	int saved = errno;

	/* Full (EAGAIN) is as good as written: it is readable. */
	while (write(write_end, &one, sizeof one) < 0 && errno == EINTR)
		;
	errno = saved;
}

void unix_wake_drain(int read_end)
{
	uint64_t count;

	while (read(read_end, &count, sizeof count) < 0 && errno == EINTR)
		;
}

void unix_wake_close(int read_end, int write_end)
{
	close(read_end);
	if (write_end != read_end)
		close(write_end);
}

void unix_ignore_sigpipe(void)
{
	struct sigaction action;

	/* Sockets can be told not to raise it; pipes and sendfile(2) can't. A
	 * program that has said what it wants of the signal is left alone. */
	if (sigaction(SIGPIPE, NULL, &action) == 0 && action.sa_handler == SIG_DFL) {
		action.sa_handler = SIG_IGN;
		sigaction(SIGPIPE, &action, NULL);
	}
}

int32_t unix_close(int fd)
{
	/* Linux and the BSDs have let the descriptor go even when this says
	 * EINTR: closing it again could hit another's. */
	return close(fd) == 0 || errno == EINTR ? 0 : unix_error(errno);
}

int unix_outer_open(struct proa_port *port, int inner)
{
	struct epoll_event event = { .events = EPOLLIN };
	int error;

	port->outer = epoll_create1(EPOLL_CLOEXEC);
	port->outer_timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
	if (port->outer >= 0 && port->outer_timer >= 0 &&
		epoll_ctl(port->outer, EPOLL_CTL_ADD, inner, &event) == 0 &&
		epoll_ctl(port->outer, EPOLL_CTL_ADD, port->wake_handle, &event) == 0 &&
		epoll_ctl(port->outer, EPOLL_CTL_ADD, port->outer_timer, &event) == 0)
		return 0;
	error = unix_error(errno);
	unix_outer_close(port);
	return error;
}

void unix_outer_arm(struct proa_port *port, int64_t when)
{
	struct itimerspec at = { .it_value = { 0, 0 } };

	if (when != PROA_FOREVER) {
		if (when <= 0)
			when = 1; /* 0 would disarm it */
		at.it_value.tv_sec = when / PROA_SECOND;
		at.it_value.tv_nsec = when % PROA_SECOND;
	}
	/* Setting it also takes back an expiration that was not read. */
	timerfd_settime(port->outer_timer, TFD_TIMER_ABSTIME, &at, NULL);
}

void unix_outer_close(struct proa_port *port)
{
	if (port->outer >= 0)
		close(port->outer);
	if (port->outer_timer >= 0)
		close(port->outer_timer);
	port->outer = port->outer_timer = -1;
}

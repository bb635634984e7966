/* Wake-ups from other threads and signal handlers, the descriptor by which a port
 * sits in somebody else's loop, and what little else lib/ asks of the process. */
#include "engines/unix/unix.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>
#ifdef PROA_HAVE_EVENTFD
#	include <sys/eventfd.h>
#endif
#ifdef PROA_HAVE_EPOLL
#	include <sys/epoll.h>
#	include <sys/timerfd.h>
#elif defined PROA_HAVE_KQUEUE
#	include <sys/types.h>
/* after it, on some systems */
#	include <sys/event.h>
#endif

int system_wake_open(int *read_end, int *write_end)
{
#ifdef PROA_HAVE_EVENTFD
	int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);

	if (fd < 0)
		return unix_error(errno);
	*read_end = *write_end = fd;
#else
	int ends[2], error = unix_pipe(ends);

	if (error < 0)
		return error;
	for (int i = 0; i < 2; i++)
		if (fcntl(ends[i], F_SETFL, O_NONBLOCK) < 0) {
			error = unix_error(errno);
			close(ends[0]);
			close(ends[1]);
			return error;
		}
	*read_end = ends[0];
	*write_end = ends[1];
#endif
	return 0;
}

void system_wake(int write_end)
{
	const uint64_t one = 1;
	int saved = errno;

	/* Full (EAGAIN) is as good as written: it is readable. */
	while (write(write_end, &one, sizeof one) < 0 && errno == EINTR)
		;
	errno = saved;
}

void system_wake_drain(int read_end)
{
	char bytes[256]; /* an eventfd gives 8, and is empty then */
	ssize_t n;

	do
		n = read(read_end, bytes, sizeof bytes);
	while (n == (ssize_t)sizeof bytes || (n < 0 && errno == EINTR));
}

void system_wake_close(int read_end, int write_end)
{
	close(read_end);
	if (write_end != read_end)
		close(write_end);
}

static void forked(void)
{
	process_generation++;
}

static void ignore_sigpipe(void)
{
	struct sigaction action;

	/* Sockets can be told not to raise it; pipes and sendfile(2) can't. A
	 * program that has said what it wants of the signal is left alone. */
	if (sigaction(SIGPIPE, NULL, &action) == 0 && action.sa_handler == SIG_DFL) {
		action.sa_handler = SIG_IGN;
		sigaction(SIGPIPE, &action, NULL);
	}
}

int system_prepare(void)
{
	ignore_sigpipe();
	return pthread_atfork(NULL, NULL, forked) == 0 ? 0 : PROA_ENOMEM;
}

int64_t clock_now(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * PROA_SECOND + now.tv_nsec;
}

void system_nap(int64_t ns)
{
	nanosleep(&(struct timespec) { .tv_nsec = (long)ns }, NULL);
}

const char *system_variable(const char *name)
{
#ifdef PROA_HAVE_SECURE_GETENV
	return secure_getenv(name);
#elif defined PROA_HAVE_ISSETUGID
	return issetugid() ? NULL : getenv(name);
#else
	return getuid() != geteuid() || getgid() != getegid() ? NULL : getenv(name);
#endif
}

bool system_is_open(proa_handle fd)
{
	return fcntl(fd, F_GETFD) >= 0;
}

int32_t system_close(proa_handle fd, enum handle_type type)
{
	(void)type;
	/* Linux (close(2)) and the BSDs (FreeBSD, sys/kern/kern_descrip.c, kern_close())
	 * have let the descriptor go even when this says EINTR: closing it again could
	 * hit another's. */
	return close(fd) == 0 || errno == EINTR ? 0 : unix_error(errno);
}

#ifdef PROA_HAVE_EPOLL
int system_outer_open(struct proa_port *port, int inner)
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
	system_outer_close(port);
	return error;
}

void system_outer_arm(struct proa_port *port, int64_t when)
{
	struct itimerspec at = { .it_value = { 0, 0 } };

	if (when != PROA_FOREVER) {
		if (when <= 0)
			when = 1; /* 0 would disarm it */
		at.it_value = unix_timespec(when);
	}
	/* Setting it also takes back an expiration that was not read. */
	timerfd_settime(port->outer_timer, TFD_TIMER_ABSTIME, &at, NULL);
}

void system_outer_close(struct proa_port *port)
{
	if (port->outer >= 0)
		close(port->outer);
	if (port->outer_timer >= 0)
		close(port->outer_timer);
	port->outer = port->outer_timer = -1;
}
#elif defined PROA_HAVE_KQUEUE
/* A kqueue around the engine's, with a timer of its own: EVFILT_TIMER, where it
 * is known in ns (NOTE_NSECONDS: macOS, FreeBSD, NetBSD and OpenBSD since their
 * sys/sys/event.h of October 2021 and August 2023), else in ms, rounded up. */
int system_outer_open(struct proa_port *port, int inner)
{
	struct kevent changes[2];
	int count = 1, error;

	EV_SET(&changes[0], (uintptr_t)inner, EVFILT_READ, EV_ADD, 0, 0, 0);
	if (port->wake_handle >= 0)
		EV_SET(&changes[count++], (uintptr_t)port->wake_handle, EVFILT_READ, EV_ADD, 0, 0,
			0);
	port->outer = kqueue();
	if (port->outer >= 0 && fcntl(port->outer, F_SETFD, FD_CLOEXEC) == 0 &&
		kevent(port->outer, changes, count, NULL, 0, NULL) == 0)
		return 0;
	error = unix_error(errno);
	system_outer_close(port);
	return error;
}

void system_outer_arm(struct proa_port *port, int64_t when)
{
	int64_t left = when == PROA_FOREVER ? 0 : when - clock_now();
	struct kevent change;
	unsigned unit = 0;

	if (port->outer < 0)
		return;
	/* Set again, one that has fired and was not taken out is taken back. */
	EV_SET(&change, 1, EVFILT_TIMER, EV_DELETE, 0, 0, 0);
	kevent(port->outer, &change, 1, NULL, 0, NULL);
	if (when == PROA_FOREVER)
		return;
	if (left < 1)
		left = 1; /* 0 is no time to some, and refused */
#	ifdef NOTE_NSECONDS
	unit = NOTE_NSECONDS;
#	else
	left = (left + PROA_MILLISECOND - 1) / PROA_MILLISECOND;
#	endif
	EV_SET(&change, 1, EVFILT_TIMER, EV_ADD | EV_ONESHOT, unit, left, 0);
	if (kevent(port->outer, &change, 1, NULL, 0, NULL) == 0)
		return;
	/* No memory: the other loop comes back at once, and it is tried again. */
	port_kick(port);
}

void system_outer_close(struct proa_port *port)
{
	/* A forked child has not inherited it. */
	if (port->outer >= 0 && port->fork_generation == process_generation)
		close(port->outer);
	port->outer = -1;
}
#else
int system_outer_open(struct proa_port *port, int inner)
{
	(void)port;
	(void)inner; /* there is no such descriptor: see poll_reactor.descriptor */
	return PROA_ENOSYS;
}

void system_outer_arm(struct proa_port *port, int64_t when)
{
	(void)port;
	(void)when;
}

void system_outer_close(struct proa_port *port)
{
	(void)port;
}
#endif

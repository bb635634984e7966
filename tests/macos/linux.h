/* Included before the tests' own text on macOS: the calls that they make by Linux's
 * names, in macOS's. What has no likeness there fails with ENOSYS, and the tests
 * that need it say that they are skipped. */
#ifndef PROA_TESTS_MACOS_LINUX_H
#define PROA_TESTS_MACOS_LINUX_H

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* ---- flags that are set at once with what they are for ---- */

#define SOCK_CLOEXEC  0x10000000
#define SOCK_NONBLOCK 0x20000000
#define MFD_CLOEXEC   O_CLOEXEC

static inline int linux_flags(int fd, int flags)
{
	if (fd >= 0 && (flags & (SOCK_CLOEXEC | O_CLOEXEC)))
		fcntl(fd, F_SETFD, FD_CLOEXEC);
	if (fd >= 0 && (flags & (SOCK_NONBLOCK | O_NONBLOCK)))
		fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
	return fd;
}

static inline int linux_socket(int family, int type, int protocol)
{
	return linux_flags(socket(family, type & ~(SOCK_CLOEXEC | SOCK_NONBLOCK), protocol), type);
}

static inline int linux_socketpair(int family, int type, int protocol, int ends[2])
{
	int code = socketpair(family, type & ~(SOCK_CLOEXEC | SOCK_NONBLOCK), protocol, ends);

	for (int i = 0; i < 2 && code == 0; i++)
		linux_flags(ends[i], type);
	return code;
}

/* Linux's does not hand the listener's O_NONBLOCK down. */
static inline int linux_accept(int listener, struct sockaddr *peer, socklen_t *length, int flags)
{
	int fd = accept(listener, peer, length);

	if (fd >= 0)
		fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK);
	return linux_flags(fd, flags);
}

static inline int linux_pipe(int ends[2], int flags)
{
	int code = pipe(ends);

	for (int i = 0; i < 2 && code == 0; i++)
		linux_flags(ends[i], flags);
	return code;
}

static inline int linux_dup(int from, int to, int flags)
{
	return linux_flags(dup2(from, to), flags);
}

/* A file without a name, in a folder. */
static inline int linux_nameless(const char *folder, int flags)
{
	char path[1024];
	int fd;

	snprintf(path, sizeof(path), "%s/proa-XXXXXX", folder);
	fd = mkstemp(path);
	if (fd >= 0)
		unlink(path);
	return linux_flags(fd, flags);
}

#define O_TMPFILE 0x8000000

static inline int linux_open(const char *path, int flags, ...)
{
	va_list more;
	int mode;

	if (flags & O_TMPFILE)
		return linux_nameless(path, flags);
	va_start(more, flags);
	mode = (flags & O_CREAT) ? va_arg(more, int) : 0;
	va_end(more);
	return open(path, flags, mode);
}

#define socket(family, type, protocol)           linux_socket(family, type, protocol)
#define socketpair(family, type, protocol, ends) linux_socketpair(family, type, protocol, ends)
#define accept(listener, peer, length)           linux_accept(listener, peer, length, 0)
#define accept4(listener, peer, length, flags)   linux_accept(listener, peer, length, flags)
#define pipe2(ends, flags)                       linux_pipe(ends, flags)
#define dup3(from, to, flags)                    linux_dup(from, to, flags)
#define memfd_create(name, flags)                linux_nameless("/tmp", flags)
#define open(...)                                linux_open(__VA_ARGS__)

/* A pipe's room can't be set; it is 16 KiB, and 64 KiB under load: xnu, sys_pipe.c. */
#define F_SETPIPE_SZ F_GETFD

/* ---- signals ---- */

/* There are no real-time ones: ordinary ones stand in. */
#define SIGRTMIN SIGUSR1
#define SIGRTMAX SIGUSR2

static inline int linux_sigtimedwait(
	const sigset_t *wanted, siginfo_t *info, const struct timespec *most)
{
	const struct timespec moment = { .tv_nsec = 2 * 1000 * 1000 };
	long left = most->tv_sec * 1000 + most->tv_nsec / 1000000;
	sigset_t pending;
	int number;

	(void)info;
	for (; left > 0; left -= 2) {
		sigpending(&pending);
		for (number = 1; number < NSIG; number++)
			if (sigismember(wanted, number) && sigismember(&pending, number))
				return sigwait(wanted, &number) == 0 ? number : -1;
		nanosleep(&moment, NULL);
	}
	errno = EAGAIN;
	return -1;
}

#define sigtimedwait(wanted, info, most) linux_sigtimedwait(wanted, info, most)

/* ---- what a mount namespace of one's own is for ---- */

#define CLONE_NEWNS 0
#define MS_REC      0
#define MS_PRIVATE  0
#define MS_BIND     0

static inline int linux_lacks(void)
{
	errno = ENOSYS;
	return -1;
}

#define unshare(what)                         linux_lacks()
#define mount(from, to, type, flags, options) ((void)(from), linux_lacks())
#define umount(at)                            linux_lacks()

/* ---- names ---- */

#define st_atim st_atimespec
#define st_ctim st_ctimespec
#define st_mtim st_mtimespec

#endif

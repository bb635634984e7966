/* The calls of the library that can fail, one by one: what each may plausibly
 * answer, and how it is made to be short. A fault comes in the call's place, so that
 * it has no effect; but a close that fails has closed all the same.
 *
 * Not plausible, and so not made: EAGAIN where the system would tell no more of what
 * is there (edges), and short reads of TCP with more behind them, which epoll(7)
 * rules out. */
#include "fault.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>
#ifdef PROA_HAVE_EPOLL
#	include <sys/epoll.h>
#endif
#if defined PROA_HAVE_EVENTFD || defined __linux__
#	include <sys/eventfd.h>
#endif
#ifdef PROA_HAVE_SENDFILE_LINUX
#	include <sys/sendfile.h>
#endif
#ifdef __linux__
#	include <sys/syscall.h>
#	include <sys/timerfd.h>
#endif
#ifdef PROA_HAVE_KQUEUE
#	include <sys/event.h>
#endif

/* One call. `adapt` runs when it is to be short; FAILED is what it then returns. */
#define CALL_OF(type, failure, name, parameters, arguments, adapt, ...) \
	type faulty_##name parameters;                                  \
	type faulty_##name parameters                                   \
	{                                                               \
		FAULT_SITE(site, #name, __VA_ARGS__);                   \
		int how = fault_here(&site);                            \
		if (how == FAULT_SHORT) {                               \
			adapt;                                          \
		} else if (how != 0) {                                  \
			errno = how;                                    \
			return failure;                                 \
		}                                                       \
		return name arguments;                                  \
	}
#define CALL(name, parameters, arguments, ...) \
	CALL_OF(int, -1, name, parameters, arguments, (void)0, __VA_ARGS__)
/* Those that make a descriptor which the library keeps to itself. */
#define CALL_KEPT(name, parameters, arguments, ...)       \
	int faulty_##name parameters;                     \
	int faulty_##name parameters                      \
	{                                                 \
		FAULT_SITE(site, #name, __VA_ARGS__);     \
		int how = fault_here(&site);              \
		if (how != 0) {                           \
			errno = how;                      \
			return -1;                        \
		}                                         \
		return faults_descriptor(name arguments); \
	}
#define CALL_LONG(name, parameters, arguments, adapt, ...) \
	CALL_OF(ssize_t, -1, name, parameters, arguments, adapt, __VA_ARGS__)
/* With slices, of which a short call gets a part of the first. */
#define CALL_SLICES(name, parameters, arguments, ...)               \
	ssize_t faulty_##name parameters;                           \
	ssize_t faulty_##name parameters                            \
	{                                                           \
		FAULT_SITE(site, #name, __VA_ARGS__);               \
		int how = fault_here(&site);                        \
		struct iovec first;                                 \
		if (how == FAULT_SHORT) {                           \
			slices = cut_slices(&site, slices, &first); \
			count = 1;                                  \
		} else if (how != 0) {                              \
			errno = how;                                \
			return -1;                                  \
		}                                                   \
		return name arguments;                              \
	}
/* Those that return an error number. */
#define CALL_CODE(name, parameters, arguments, ...)     \
	int faulty_##name parameters;                   \
	int faulty_##name parameters                    \
	{                                               \
		FAULT_SITE(site, #name, __VA_ARGS__);   \
		int how = fault_here(&site);            \
		return how != 0 ? how : name arguments; \
	}

/* ---- being short ------------------------------------------------------------------ */

static size_t cut(const struct fault_site *site, size_t length)
{
	return length < 2 ? length : 1 + fault_number(site, (unsigned)(length - 1));
}

static bool is_stream(int fd)
{
	int type = 0;
	socklen_t length = sizeof type;

	return getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &length) == 0 && type == SOCK_STREAM;
}

/* May a read stop short with more behind it? */
static bool may_stop(int fd)
{
	int family = 0;
	socklen_t length = sizeof family;

	return is_stream(fd) && getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &family, &length) == 0 &&
	       family == AF_UNIX;
}

static size_t cut_receive(const struct fault_site *site, int fd, size_t length)
{
	return may_stop(fd) ? cut(site, length) : length;
}

static size_t cut_send(const struct fault_site *site, int fd, size_t length)
{
	return is_stream(fd) ? cut(site, length) : length;
}

/* The first slice, and that cut; copied, for the caller's is constant. */
static const struct iovec *cut_slices(
	const struct fault_site *site, const struct iovec *from, struct iovec *room)
{
	*room = from[0];
	room->iov_len = cut(site, room->iov_len);
	return room;
}

/* ---- sockets ---------------------------------------------------------------------- */

CALL(socket, (int family, int type, int protocol), (family, type, protocol), EMFILE, ENFILE,
	ENOBUFS, ENOMEM, EACCES)
CALL(socketpair, (int family, int type, int protocol, int ends[2]), (family, type, protocol, ends),
	EMFILE, ENOMEM)
CALL(bind, (int fd, const struct sockaddr *to, socklen_t length), (fd, to, length), EADDRINUSE,
	ENOMEM)
CALL(listen, (int fd, int backlog), (fd, backlog), EADDRINUSE, ENOMEM)
CALL(shutdown, (int fd, int how_far), (fd, how_far), ENOTCONN, ENOBUFS)
CALL(setsockopt, (int fd, int level, int name, const void *value, socklen_t length),
	(fd, level, name, value, length), ENOMEM, ENOBUFS)
CALL(getsockopt, (int fd, int level, int name, void *value, socklen_t *length),
	(fd, level, name, value, length), ENOBUFS)
CALL(getsockname, (int fd, struct sockaddr *name, socklen_t *length), (fd, name, length), ENOBUFS)
CALL(getpeername, (int fd, struct sockaddr *name, socklen_t *length), (fd, name, length), ENOBUFS,
	ENOTCONN)
#ifdef PROA_HAVE_ACCEPT4
CALL(accept4, (int fd, struct sockaddr *from, socklen_t *length, int flags),
	(fd, from, length, flags), EMFILE, ENFILE, ENOMEM, ECONNABORTED, EINTR, EPERM)
#else
CALL(accept, (int fd, struct sockaddr *from, socklen_t *length), (fd, from, length), EMFILE, ENFILE,
	ENOMEM, ECONNABORTED, EINTR, EPERM)
#endif
CALL_LONG(recv, (int fd, void *to, size_t length, int flags), (fd, to, length, flags),
	length = cut_receive(&site, fd, length), FAULT_SHORT, EINTR, ECONNRESET, ENOMEM, ETIMEDOUT)
CALL_LONG(recvmsg, (int fd, struct msghdr *message, int flags), (fd, message, flags), (void)0,
	EINTR, ECONNRESET, ENOMEM)
CALL_LONG(send, (int fd, const void *from, size_t length, int flags), (fd, from, length, flags),
	length = cut_send(&site, fd, length), FAULT_SHORT, EINTR, ECONNRESET, ENOBUFS, EPIPE)

ssize_t faulty_sendmsg(int fd, const struct msghdr *message, int flags);
ssize_t faulty_sendmsg(int fd, const struct msghdr *message, int flags)
{
	FAULT_SITE(stream, "sendmsg", FAULT_SHORT, EINTR, ECONNRESET, ENOBUFS, EPIPE);
	/* A full queue, of which no event tells that it is full no more. */
	FAULT_SITE(datagram, "sendto", EINTR, ECONNREFUSED, EPERM, ENOBUFS);
	struct fault_site *site = is_stream(fd) ? &stream : &datagram;
	int how = fault_here(site);
	struct msghdr shorter = *message;
	struct iovec first;

	if (how == FAULT_SHORT && message->msg_iovlen > 0) {
		shorter.msg_iov =
			(struct iovec *)(uintptr_t)cut_slices(site, message->msg_iov, &first);
		shorter.msg_iovlen = 1;
	} else if (how > 0) {
		errno = how;
		return -1;
	}
	return sendmsg(fd, &shorter, flags);
}

/* Interrupted, it goes on all the same: connect(2). */
int faulty_connect(int fd, const struct sockaddr *to, socklen_t length);
int faulty_connect(int fd, const struct sockaddr *to, socklen_t length)
{
	FAULT_SITE(site, "connect", ECONNREFUSED, ENETUNREACH, ETIMEDOUT, ENOMEM, EAGAIN, EINTR);
	int family = to->sa_family, how = fault_here(&site), result;

	if (how == EAGAIN && family != AF_UNIX)
		how = ENOBUFS;
	if (how != 0 && how != EINTR) {
		errno = how;
		return -1;
	}
	result = connect(fd, to, length);
	if (how == EINTR && (result == 0 || errno == EINPROGRESS)) {
		errno = EINTR;
		result = -1;
	}
	return result;
}

/* ---- descriptors, pipes, files ---------------------------------------------------- */

CALL_SLICES(readv, (int fd, const struct iovec *slices, int count), (fd, slices, count),
	FAULT_SHORT, EINTR, EIO)
CALL_SLICES(writev, (int fd, const struct iovec *slices, int count), (fd, slices, count),
	FAULT_SHORT, EINTR, EIO, EPIPE, ENOSPC)
CALL_LONG(pread, (int fd, void *to, size_t length, off_t at), (fd, to, length, at),
	length = cut(&site, length), FAULT_SHORT, EINTR, EIO)
#ifdef PROA_HAVE_PREADV
CALL_SLICES(preadv, (int fd, const struct iovec *slices, int count, off_t at),
	(fd, slices, count, at), FAULT_SHORT, EINTR, EIO)
CALL_SLICES(pwritev, (int fd, const struct iovec *slices, int count, off_t at),
	(fd, slices, count, at), FAULT_SHORT, EINTR, EIO, ENOSPC, EDQUOT)
#else
CALL_LONG(pwrite, (int fd, const void *from, size_t length, off_t at), (fd, from, length, at),
	length = cut(&site, length), FAULT_SHORT, EINTR, EIO, ENOSPC)
#endif
#ifdef PROA_HAVE_RWF_NOWAIT
CALL_SLICES(preadv2, (int fd, const struct iovec *slices, int count, off_t at, int flags),
	(fd, slices, count, at, flags), FAULT_SHORT, EAGAIN, EOPNOTSUPP, EIO)
#endif
#ifdef PROA_HAVE_SENDFILE_LINUX
CALL_LONG(sendfile, (int to, int from, off_t *at, size_t length), (to, from, at, length),
	length = cut(&site, length), FAULT_SHORT, EINTR, EINVAL, EIO, ENOMEM, EPIPE)
#endif
CALL(fsync, (int fd), (fd), EINTR, EIO, ENOSPC)
CALL(fdatasync, (int fd), (fd), EINTR, EIO, ENOSPC)
CALL(ftruncate, (int fd, off_t length), (fd, length), EINTR, EIO)
CALL(rename, (const char *from, const char *to), (from, to), ENOSPC, EROFS)
CALL(unlink, (const char *path), (path), EIO, EROFS)
CALL(mkdir, (const char *path, mode_t mode), (path, mode), ENOSPC, EROFS)
CALL(stat, (const char *path, struct stat *out), (path, out), EIO, ENOMEM)
CALL(fstat, (int fd, struct stat *out), (fd, out), EIO, ENOMEM)
#ifdef PROA_HAVE_PIPE2
CALL(pipe2, (int ends[2], int flags), (ends, flags), EMFILE, ENFILE)
#else
CALL(pipe, (int ends[2]), (ends), EMFILE, ENFILE)
#endif
CALL(dup2, (int from, int to), (from, to), EMFILE, EBUSY)
CALL_OF(int, 0, isatty, (int fd), (fd), (void)0, EIO)

/* How much a socket has. */
int faulty_ioctl(int fd, unsigned long request, ...);
int faulty_ioctl(int fd, unsigned long request, ...)
{
	FAULT_SITE(site, "ioctl", ENOMEM);
	int how = fault_here(&site);
	va_list rest;
	void *argument;

	if (how > 0) {
		errno = how;
		return -1;
	}
	va_start(rest, request);
	argument = va_arg(rest, void *);
	va_end(rest);
	return ioctl(fd, request, argument);
}

/* A wake-up is written and read in these lengths, and can but be interrupted. */
#define WAKE_WRITTEN 8
#define WAKE_READ    256

ssize_t faulty_read(int fd, void *to, size_t length);
ssize_t faulty_read(int fd, void *to, size_t length)
{
	/* EIO is how a terminal tells that it has ended. */
	FAULT_SITE(site, "read", FAULT_SHORT, EINTR, ENOMEM);
	FAULT_SITE(drain, "read_wake", EINTR);
	int how = fault_here(length == WAKE_READ ? &drain : &site);

	if (how == FAULT_SHORT)
		length = cut(&site, length);
	if (how <= 0)
		return read(fd, to, length);
	errno = how;
	return -1;
}

ssize_t faulty_write(int fd, const void *from, size_t length);
ssize_t faulty_write(int fd, const void *from, size_t length)
{
	FAULT_SITE(site, "write", FAULT_SHORT, EINTR, EIO, EPIPE, ENOSPC);
	FAULT_SITE(wake, "write_wake", EINTR);
	int how = fault_here(length == WAKE_WRITTEN ? &wake : &site);

	if (how == FAULT_SHORT)
		length = cut(&site, length);
	if (how <= 0)
		return write(fd, from, length);
	errno = how;
	return -1;
}

/* What it says is of the file: the descriptor is gone (Linux, the BSDs). */
int faulty_close(int fd);
int faulty_close(int fd)
{
	FAULT_SITE(site, "close", EINTR, EIO);
	int how = fault_here(&site), result;

	faults_descriptor_gone(fd); /* before another thread has the number again */
	result = close(fd);
	if (how == 0 || result < 0)
		return result;
	errno = how;
	return -1;
}

int faulty_open(const char *path, int flags, ...);
int faulty_open(const char *path, int flags, ...)
{
	FAULT_SITE(site, "open", EINTR, EMFILE, ENFILE, EACCES, ENOMEM);
	int how = fault_here(&site);
	va_list rest;
	mode_t mode;

	if (how > 0) {
		errno = how;
		return -1;
	}
	va_start(rest, flags);
	mode = va_arg(rest, mode_t);
	va_end(rest);
	return open(path, flags, mode);
}

int faulty_fcntl(int fd, int command, ...);
int faulty_fcntl(int fd, int command, ...)
{
	FAULT_SITE(site, "fcntl", EIO);
	FAULT_SITE(copy, "dupfd", EMFILE);
	/* To ask whether one is open is to know it. */
	int how = command == F_GETFD ? 0 : fault_here(command == F_DUPFD_CLOEXEC ? &copy : &site);
	va_list rest;
	long argument;

	if (how > 0) {
		errno = how;
		return -1;
	}
	va_start(rest, command);
	argument = va_arg(rest, long);
	va_end(rest);
	return fcntl(fd, command, argument);
}

/* ---- readiness -------------------------------------------------------------------- */

CALL(poll, (struct pollfd * fds, nfds_t count, int timeout), (fds, count, timeout), EINTR, ENOMEM)
#if defined PROA_HAVE_PPOLL || defined __linux__ /* io_uring has it anyway */
CALL(ppoll,
	(struct pollfd * fds, nfds_t count, const struct timespec *timeout, const sigset_t *mask),
	(fds, count, timeout, mask), EINTR, ENOMEM)
#endif
#ifdef PROA_HAVE_EPOLL
CALL_KEPT(epoll_create1, (int flags), (flags), EMFILE, ENFILE, ENOMEM)
CALL(epoll_wait, (int fd, struct epoll_event *events, int most, int timeout),
	(fd, events, most, timeout), EINTR)

/* To take one out needs nothing. */
int faulty_epoll_ctl(int fd, int how_so, int what, struct epoll_event *event);
int faulty_epoll_ctl(int fd, int how_so, int what, struct epoll_event *event)
{
	FAULT_SITE(site, "epoll_ctl", ENOMEM, ENOSPC);
	int how = how_so == EPOLL_CTL_DEL ? 0 : fault_here(&site);

	if (how == 0)
		return epoll_ctl(fd, how_so, what, event);
	errno = how;
	return -1;
}
#endif
#if defined PROA_HAVE_EVENTFD || defined __linux__
CALL_KEPT(eventfd, (unsigned count, int flags), (count, flags), EMFILE, ENFILE, ENOMEM)
#endif
#ifdef __linux__
CALL_KEPT(timerfd_create, (int clock, int flags), (clock, flags), EMFILE, ENFILE, ENOMEM)

/* Raw ones, by number. */
static struct fault_site *raw_site(long number)
{
	FAULT_SITE(pidfd, "pidfd_open", ENOSYS, EPERM, EMFILE, ENOMEM);
	FAULT_SITE(range, "close_range", ENOSYS, EPERM);
	FAULT_SITE(list, "getdents64", EIO);
	FAULT_SITE(wait, "epoll_pwait2", EINTR, ENOSYS, EPERM);
	FAULT_SITE(select, "pselect6", EINTR, ENOMEM);

	switch (number) {
	case SYS_pidfd_open:
		return &pidfd;
	case SYS_close_range:
		return &range;
	case SYS_getdents64:
		return &list;
	case SYS_epoll_pwait2:
		return &wait;
	default:
		return &select;
	}
}

long faulty_syscall(long number, long a, long b, long c, long d, long e, long f);
long faulty_syscall(long number, long a, long b, long c, long d, long e, long f)
{
	int how = fault_here(raw_site(number));

	if (how == 0)
		return number == SYS_pidfd_open
			       ? faults_descriptor((int)syscall(number, a, b, c, d, e, f))
			       : syscall(number, a, b, c, d, e, f);
	errno = how;
	return -1;
}
#endif
#ifdef PROA_HAVE_KQUEUE
CALL_KEPT(kqueue, (void), (), EMFILE, ENFILE, ENOMEM)

#	define CHANGES_MOST 256

/* Interrupted while it waited, and the changes have been made: kevent(2), FreeBSD.
 * If one of them failed there is no wait. */
static int interrupted(int fd, const struct kevent *changes, int count, struct kevent *events)
{
	struct kevent copies[CHANGES_MOST], answers[CHANGES_MOST];
	const struct timespec at_once = { 0, 0 };
	int failures = 0;

	for (int i = 0; i < count; i++) {
		copies[i] = changes[i];
		copies[i].flags |= EV_RECEIPT;
	}
	count = kevent(fd, copies, count, answers, count, &at_once);
	for (int i = 0; i < count; i++)
		if (answers[i].data != 0)
			events[failures++] = answers[i];
	errno = EINTR;
	return failures > 0 ? failures : -1;
}

int faulty_kevent(int fd, const struct kevent *changes, int count, struct kevent *events, int room,
	const struct timespec *timeout);
int faulty_kevent(int fd, const struct kevent *changes, int count, struct kevent *events, int room,
	const struct timespec *timeout)
{
	FAULT_SITE(set, "kevent_set", ENOMEM);
	FAULT_SITE(wait, "kevent", EINTR);
	bool waits = room > 0 && (timeout == NULL || timeout->tv_sec > 0 || timeout->tv_nsec > 0);
	bool sets = count > 0 && (changes[0].flags & EV_ADD);
	int how = waits ? fault_here(&wait) : sets ? fault_here(&set) : 0;

	if (how == EINTR && count > 0 && count <= CHANGES_MOST)
		return interrupted(fd, changes, count, events);
	if (how == 0)
		return kevent(fd, changes, count, events, room, timeout);
	errno = how;
	return -1;
}
#endif

/* ---- processes and threads -------------------------------------------------------- */

CALL(execve, (const char *path, char *const *arguments, char *const *environment),
	(path, arguments, environment), EACCES, ENOMEM, ENOEXEC, ENOENT)
CALL(chdir, (const char *path), (path), EACCES, ENOMEM)
CALL(kill, (pid_t pid, int number), (pid, number), EPERM, ESRCH)
/* Files of 64 bits name it as they name calls for files. */
#undef getrlimit
CALL(getrlimit, (__rlimit_resource_t which, struct rlimit *out), (which, out), EINVAL)
/* Another may have reaped it. */
pid_t faulty_waitpid(pid_t pid, int *status, int options);
pid_t faulty_waitpid(pid_t pid, int *status, int options)
{
	FAULT_SITE(site, "waitpid", EINTR, ECHILD);
	int how = fault_here(&site);
	pid_t reaped = how == EINTR ? -1 : waitpid(pid, status, options);

	if (how == EINTR || (how == ECHILD && reaped > 0)) {
		errno = how;
		return -1;
	}
	return reaped;
}

CALL(waitid, (idtype_t type, id_t id, siginfo_t *info, int options), (type, id, info, options),
	EINTR)
CALL(sigaction, (int number, const struct sigaction *set, struct sigaction *before),
	(number, set, before), EINVAL)
CALL_CODE(pthread_create,
	(pthread_t * out, const pthread_attr_t *how_so, void *(*run)(void *), void *argument),
	(out, how_so, run, argument), EAGAIN, EPERM)
CALL_CODE(pthread_atfork, (void (*before)(void), void (*parent)(void), void (*child)(void)),
	(before, parent, child), ENOMEM)
CALL_CODE(pthread_attr_init, (pthread_attr_t * attributes), (attributes), ENOMEM)
CALL_CODE(pthread_mutex_init, (pthread_mutex_t * mutex, const pthread_mutexattr_t *how_so),
	(mutex, how_so), ENOMEM, EAGAIN)
CALL_CODE(pthread_cond_init, (pthread_cond_t * cond, const pthread_condattr_t *how_so),
	(cond, how_so), ENOMEM, EAGAIN)

/* It returns twice, so the second time there must be no frame of ours. Where the
 * jump is not written down a fork() does: its child tells by the pipe. */
int fault_of_vfork(void);
int fault_of_vfork(void)
{
	FAULT_SITE(site, "vfork", EAGAIN, ENOMEM);
	int how = fault_here(&site);

	if (how > 0)
		errno = how;
	return how;
}

#if defined(__x86_64__) && defined(__linux__) && !defined(__ILP32__)
__asm__(".text\n"
	".globl faulty_vfork\n"
	".type faulty_vfork, @function\n"
	"faulty_vfork:\n"
	"	subq $8, %rsp\n"
	"	call fault_of_vfork@PLT\n"
	"	addq $8, %rsp\n"
	"	testl %eax, %eax\n"
	"	jne 1f\n"
	"	jmp vfork@PLT\n"
	"1:	movl $-1, %eax\n"
	"	ret\n"
	".size faulty_vfork, . - faulty_vfork\n");
#else
pid_t faulty_vfork(void);
pid_t faulty_vfork(void)
{
	return fault_of_vfork() > 0 ? -1 : fork();
}
#endif

/* ---- memory ----------------------------------------------------------------------- */

void *faulty_malloc(size_t size);
void *faulty_malloc(size_t size)
{
	FAULT_SITE(site, "malloc", ENOMEM);
	void *block = fault_here(&site) != 0 ? NULL : malloc(size);

	if (block == NULL)
		errno = ENOMEM;
	else
		faults_block(1);
	return block;
}

void *faulty_calloc(size_t count, size_t size);
void *faulty_calloc(size_t count, size_t size)
{
	FAULT_SITE(site, "calloc", ENOMEM);
	void *block = fault_here(&site) != 0 ? NULL : calloc(count, size);

	if (block == NULL)
		errno = ENOMEM;
	else
		faults_block(1);
	return block;
}

void *faulty_realloc(void *from, size_t size);
void *faulty_realloc(void *from, size_t size)
{
	FAULT_SITE(site, "realloc", ENOMEM);
	void *block = fault_here(&site) != 0 ? NULL : realloc(from, size);

	if (block == NULL)
		errno = ENOMEM;
	else if (from == NULL)
		faults_block(1);
	return block;
}

void faulty_free(void *block);
void faulty_free(void *block)
{
	if (block != NULL)
		faults_block(-1);
	free(block);
}

void *faulty_mmap(void *at, size_t length, int access, int flags, int fd, off_t offset);
void *faulty_mmap(void *at, size_t length, int access, int flags, int fd, off_t offset)
{
	FAULT_SITE(site, "mmap", ENOMEM);
	void *map = MAP_FAILED;

	if (fault_here(&site) == 0)
		map = mmap(at, length, access, flags, fd, offset);
	else
		errno = ENOMEM;
	if (map != MAP_FAILED)
		faults_block(1);
	return map;
}

int faulty_munmap(void *at, size_t length);
int faulty_munmap(void *at, size_t length)
{
	faults_block(-1);
	return munmap(at, length);
}

#ifndef PROA_HAVE_RWF_NOWAIT
CALL(mincore, (void *at, size_t length, unsigned char *pages), (at, length, pages), EAGAIN, ENOMEM)
#endif
CALL(madvise, (void *at, size_t length, int advice), (at, length, advice), ENOMEM, EINVAL)
#ifdef PROA_HAVE_FADVISE
CALL_CODE(posix_fadvise, (int fd, off_t at, off_t length, int advice), (fd, at, length, advice),
	EINVAL)
#endif

/* Its codes are its own. */
int faulty_getaddrinfo(
	const char *host, const char *service, const struct addrinfo *hints, struct addrinfo **out);
int faulty_getaddrinfo(
	const char *host, const char *service, const struct addrinfo *hints, struct addrinfo **out)
{
	FAULT_SITE(site, "getaddrinfo", EAGAIN, ENOMEM, EIO);
	int how = fault_here(&site), code;

	if (how != 0) {
		errno = how;
		return how == EAGAIN ? EAI_AGAIN : how == ENOMEM ? EAI_MEMORY : EAI_SYSTEM;
	}
	code = getaddrinfo(host, service, hints, out);
	if (code == 0)
		faults_block(1);
	return code;
}

void faulty_freeaddrinfo(struct addrinfo *found);
void faulty_freeaddrinfo(struct addrinfo *found)
{
	faults_block(-1);
	freeaddrinfo(found);
}

/* Sockets and pipes as the library makes them, and what stands behind those
 * that it did not make. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#ifdef PROA_HAVE_EPOLL
#	include <sys/epoll.h>
#elif defined PROA_HAVE_KQUEUE
#	include <sys/types.h>
/* after it, on some systems */
#	include <sys/event.h>
#endif

#include "engines/unix/unix.h"

/* Where socket() takes no flags they are set behind it: another thread may
 * fork in between, which can't be helped there. */
#ifdef PROA_HAVE_SOCK_FLAGS
#	define SOCKET_FLAGS (SOCK_NONBLOCK | SOCK_CLOEXEC)
#else
#	define SOCKET_FLAGS 0
#endif

int unix_error(int system_errno)
{
	return proa_error_from_system((unsigned long)system_errno);
}

/* Closes what a set-up that failed had made; the code of its errno. */
static int close_failed(int fd)
{
	int code = unix_error(errno);

	close(fd);
	return code;
}

static int set_nonblocking(int fd)
{
	int flags = fcntl(fd, F_GETFL);

	return flags < 0 ? -1 : fcntl(fd, F_SETFL, flags | O_NONBLOCK);
}

static int set_option(int fd, int level, int option, int value)
{
	return setsockopt(fd, level, option, &value, sizeof value);
}

/* What SOCKET_FLAGS could not do, and what takes an option. */
static int socket_finish(int fd)
{
	if (SOCKET_FLAGS == 0 && (fcntl(fd, F_SETFD, FD_CLOEXEC) < 0 || set_nonblocking(fd) < 0))
		return -1;
#ifdef SO_NOSIGPIPE
	return set_option(fd, SOL_SOCKET, SO_NOSIGPIPE, 1);
#else
	return 0; /* MSG_NOSIGNAL with each send */
#endif
}

int unix_socket(int family, int type)
{
	int fd = socket(family, type | SOCKET_FLAGS, 0);

	if (fd < 0)
		return unix_error(errno);
	return socket_finish(fd) < 0 ? close_failed(fd) : fd;
}

/* Where accept(2) takes no flags (macOS) they are set behind it. On the BSDs and
 * macOS the accepted socket has the listener's O_NONBLOCK (accept(2): FreeBSD says so,
 * NetBSD and macOS "the same properties"), on Linux never (accept(2), Linux): it is set
 * in any case. */
int unix_accept(int listener, struct sockaddr *peer, socklen_t *length)
{
#ifdef PROA_HAVE_ACCEPT4
	int fd = accept4(listener, peer, length, SOCK_NONBLOCK | SOCK_CLOEXEC);
#else
	int fd = accept(listener, peer, length);

	if (fd >= 0 && (fcntl(fd, F_SETFD, FD_CLOEXEC) < 0 || set_nonblocking(fd) < 0)) {
		close_failed(fd);
		return -1;
	}
#endif
#ifdef SO_NOSIGPIPE
	/* EINVAL: the peer is gone already (xnu, bsd/kern/uipc_socket.c,
	 * sosetoptlock()). It will be told so. */
	if (fd >= 0)
		set_option(fd, SOL_SOCKET, SO_NOSIGPIPE, 1);
#endif
	return fd;
}

int unix_pipe(int ends[2])
{
#ifdef PROA_HAVE_PIPE2
	return pipe2(ends, O_CLOEXEC) < 0 ? unix_error(errno) : 0;
#else
	if (pipe(ends) < 0)
		return unix_error(errno);
	fcntl(ends[0], F_SETFD, FD_CLOEXEC);
	fcntl(ends[1], F_SETFD, FD_CLOEXEC);
	return 0;
#endif
}

/* Can it be waited for? Of character devices some can (terminals,
 * /dev/random), some are always ready (/dev/null, /dev/zero), and neither
 * fstat() nor poll() tells them apart: epoll does, with EPERM, and kqueue, which
 * refuses those whose driver knows nothing of it: EINVAL (xnu,
 * bsd/miscfs/specfs/spec_vnops.c, spec_kqfilter()), ENODEV (FreeBSD,
 * sys/kern/kern_conf.c, no_kqfilter), EOPNOTSUPP (OpenBSD, sys/kern/spec_vnops.c).
 * Elsewhere nothing does, but all readiness calls take any device. */
static bool can_be_polled(int fd)
{
#ifdef PROA_HAVE_EPOLL
	struct epoll_event event = { .events = 0 };
	int trial = epoll_create1(EPOLL_CLOEXEC);
	bool refused;

	if (trial < 0)
		return isatty(fd) != 0;
	refused = epoll_ctl(trial, EPOLL_CTL_ADD, fd, &event) < 0 && errno == EPERM;
	close(trial);
	return !refused;
#elif defined PROA_HAVE_KQUEUE
	struct kevent change;
	int trial = kqueue();
	bool refused;

	if (trial < 0)
		return isatty(fd) != 0;
	EV_SET(&change, (uintptr_t)fd, EVFILT_READ, EV_ADD, 0, 0, 0);
	refused = kevent(trial, &change, 1, NULL, 0, NULL) < 0 && errno != ENOMEM;
	close(trial);
	return !refused;
#else
	(void)fd;
	return true;
#endif
}

/* TCP tells by a short read that there is no more. */
enum handle_type system_stream_type(int family)
{
	return family == AF_INET || family == AF_INET6 ? HANDLE_TCP : HANDLE_STREAM;
}

/* 0 or an error: to take a stream for what keeps messages apart would tear it. */
static int socket_type(int fd, enum handle_type *out)
{
	int type = 0, value = 0;
	socklen_t length = sizeof type;

	if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &length) < 0)
		return unix_error(errno);
	/* SOCK_SEQPACKET connects as a stream does, but keeps messages apart. */
	*out = type == SOCK_STREAM ? HANDLE_STREAM : HANDLE_DATAGRAM;
	length = sizeof value;
#ifdef PROA_HAVE_SO_PROTOCOL
	if (type == SOCK_STREAM && getsockopt(fd, SOL_SOCKET, SO_PROTOCOL, &value, &length) == 0 &&
		value == IPPROTO_TCP)
		*out = HANDLE_TCP;
#else
	/* macOS, NetBSD, older OpenBSD (no SO_PROTOCOL in their <sys/socket.h>): who knows
	 * of an option of TCP's is TCP. */
	if (type == SOCK_STREAM && getsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &value, &length) == 0)
		*out = HANDLE_TCP;
#endif
	return 0;
}

int system_has_ended(proa_handle fd)
{
	struct pollfd p = { .fd = fd, .events = POLLRDHUP };
	int type = 0, waiting = 0, n;
	socklen_t length = sizeof type;

	if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &length) < 0)
		return unix_error(errno);
	if (type != SOCK_SEQPACKET)
		return 0;
	do
		n = poll(&p, 1, 0);
	while (n < 0 && errno == EINTR);
	/* What was sent before the end comes first. */
	if (n < 0 || ioctl(fd, FIONREAD, &waiting) < 0)
		return unix_error(errno);
	return (p.revents & (POLLRDHUP | POLLHUP)) != 0 && waiting == 0;
}

int system_classify(int fd, enum handle_type *type, bool *blocking)
{
	struct stat status;
	int flags = fcntl(fd, F_GETFL);

	if (flags < 0 || fstat(fd, &status) < 0)
		return unix_error(errno);
	*blocking = (flags & O_NONBLOCK) == 0;
	switch (status.st_mode & S_IFMT) {
	case S_IFSOCK:
		return socket_type(fd, type);
	case S_IFIFO:
		*type = HANDLE_PIPE;
		break;
	case S_IFREG:
	case S_IFDIR:
	case S_IFBLK:
	case S_IFLNK: /* opened with O_PATH */
		*type = HANDLE_FILE;
		break;
	default: /* a character device, or an eventfd, pidfd, ...: no type at all */
		*type = can_be_polled(fd) ? HANDLE_PIPE : HANDLE_FILE;
		break;
	}
	return 0;
}

/* What has to be said before bind(). */
static int listen_prepare(int fd, int family, const struct proa_listen_options *options)
{
	bool internet = family == AF_INET || family == AF_INET6;
	bool tcp = internet && options->type == PROA_STREAM;

	/* Without it the port stays taken while old connections are in TIME_WAIT.
	 * Datagram sockets would take the port from one another with it. */
	if (tcp && set_option(fd, SOL_SOCKET, SO_REUSEADDR, 1) < 0)
		return -1;
	/* Said in both cases: the default is the administrator's
	 * (net.ipv6.bindv6only). */
	if (family == AF_INET6 &&
		set_option(fd, IPPROTO_IPV6, IPV6_V6ONLY, options->only_v6 != 0) < 0)
		return -1;
	/* Paths can't be shared: some kernels say so, others keep quiet. */
	if (options->reuse_port && !internet) {
		errno = EOPNOTSUPP;
		return -1;
	}
	if (options->reuse_port && set_option(fd, SOL_SOCKET, SO_REUSEPORT, 1) < 0)
		return -1;
	/* Accepted sockets inherit it. */
	if (options->no_delay && tcp && set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1) < 0)
		return -1;
	return 0;
}

/* The kernel cuts it to its own limit (net.core.somaxconn), silently. */
static int backlog_of(const struct proa_listen_options *options)
{
	if (options->backlog == 0 || options->backlog > INT_MAX)
		return INT_MAX;
	return (int)options->backlog;
}

/* bind() made the file of a unix socket, and nothing has used it. A file that
 * was there before makes bind() fail: EADDRINUSE. */
static void remove_path(const struct proa_address *address)
{
	const struct sockaddr_un *at = (const struct sockaddr_un *)&address->to.storage;

	if (address->to.any.sa_family == AF_UNIX && at->sun_path[0] != '\0')
		unlink(at->sun_path);
}

static int listen_at(const struct proa_address *address, const struct proa_listen_options *options)
{
	int family = address->to.any.sa_family;
	int fd = unix_socket(family, options->type == PROA_STREAM ? SOCK_STREAM : SOCK_DGRAM);
	int code;

	if (fd < 0)
		return fd;
	if (listen_prepare(fd, family, options) < 0 ||
		bind(fd, &address->to.any, address->length) < 0)
		return close_failed(fd);
	if (options->type == PROA_DATAGRAM || listen(fd, backlog_of(options)) == 0)
		return fd;
	code = close_failed(fd);
	remove_path(address);
	return code;
}

static enum handle_type handle_type_of(
	enum proa_socket_type type, const struct proa_address *address)
{
	return type == PROA_STREAM ? system_stream_type(address->to.any.sa_family)
				   : HANDLE_DATAGRAM;
}

int proa_listen_sized(struct proa_port *port, const char *where,
	const struct proa_listen_options *theirs, size_t size, proa_handle *out)
{
	struct proa_listen_options options;
	struct proa_address address;
	int fd, code;

	if (!port_visit(port))
		return PROA_EINVAL;
	code = sized_copy(
		&options, sizeof options, _Alignof(struct proa_listen_options), theirs, size);
	if (code < 0)
		return code;
	if (options.type != PROA_STREAM && options.type != PROA_DATAGRAM)
		return PROA_EINVAL;
	code = proa_address_parse(&address, where);
	if (code < 0)
		return code;
	fd = listen_at(&address, &options);
	if (fd < 0)
		return fd;
	code = handle_adopt(port, fd, handle_type_of(options.type, &address), true);
	if (code < 0) {
		remove_path(&address);
		return code;
	}
	*out = fd;
	return 0;
}

int proa_socket(struct proa_port *port, const struct proa_address *like, enum proa_socket_type type,
	proa_handle *out)
{
	int fd, code;

	if (!port_visit(port) || (type != PROA_STREAM && type != PROA_DATAGRAM))
		return PROA_EINVAL;
	fd = unix_socket(like->to.any.sa_family, type == PROA_STREAM ? SOCK_STREAM : SOCK_DGRAM);
	if (fd < 0)
		return fd;
	code = handle_adopt(port, fd, handle_type_of(type, like), true);
	if (code == 0)
		*out = fd;
	return code;
}

int proa_pair(struct proa_port *port, proa_handle out[2])
{
	int ends[2], code;

	if (!port_visit(port))
		return PROA_EINVAL;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCKET_FLAGS, 0, ends) < 0)
		return unix_error(errno);
	if (socket_finish(ends[0]) < 0 || socket_finish(ends[1]) < 0) {
		code = close_failed(ends[0]);
		close(ends[1]);
		return code;
	}
	code = handle_adopt(port, ends[0], HANDLE_STREAM, true);
	if (code < 0) {
		close(ends[1]);
		return code;
	}
	code = handle_adopt(port, ends[1], HANDLE_STREAM, true);
	if (code < 0) {
		proa_discard(port, ends[0]);
		return code;
	}
	out[0] = ends[0];
	out[1] = ends[1];
	return 0;
}

int proa_pipe(struct proa_port *port, int reading, proa_handle *ours, proa_handle *theirs)
{
	int ends[2], code, mine, childs;

	if (!port_visit(port))
		return PROA_EINVAL;
	code = unix_pipe(ends);
	if (code < 0)
		return code;
	mine = reading ? ends[0] : ends[1];
	childs = reading ? ends[1] : ends[0];
	/* The two ends are open files of their own: O_NONBLOCK stays ours. */
	if (set_nonblocking(mine) < 0 || fcntl(childs, F_SETFD, 0) < 0) {
		code = close_failed(mine);
		close(childs);
		return code;
	}
	code = handle_adopt(port, mine, HANDLE_PIPE, true);
	if (code < 0) {
		close(childs);
		return code;
	}
	*ours = mine;
	*theirs = childs;
	return 0;
}

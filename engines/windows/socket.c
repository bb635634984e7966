/* Sockets as the library makes them, and what stands behind handles that it did
 * not make. */
#include "engines/windows/windows.h"

#include <string.h>

/* What has to be told of a datagram that nobody took: mswsock.h of some has it not. */
#ifndef SIO_UDP_CONNRESET
#	define SIO_UDP_CONNRESET _WSAIOW(IOC_VENDOR, 12)
#endif
#ifndef SIO_UDP_NETRESET
#	define SIO_UDP_NETRESET _WSAIOW(IOC_VENDOR, 15)
#endif

#define STRANGERS 100 /* let in by a pair's listener, before it gives up */

static int close_failed(int fd)
{
	int code = windows_socket_error();

	closesocket(windows_socket_of(fd));
	return code;
}

static int set_option(int fd, int level, int option, int value)
{
	return setsockopt(windows_socket_of(fd), level, option, (const char *)&value, sizeof value);
}

int windows_unblock(int fd)
{
	u_long on = 1;

	return ioctlsocket(windows_socket_of(fd), (long)FIONBIO, &on) == 0 ? 0
									   : windows_socket_error();
}

void windows_tell_refusals(int fd, bool tell)
{
	BOOL wanted = tell;
	DWORD ignored;

	WSAIoctl(windows_socket_of(fd), SIO_UDP_CONNRESET, &wanted, sizeof wanted, NULL, 0,
		&ignored, NULL, NULL);
	/* The same of those whose time to live ran out (WSAENETRESET). */
	WSAIoctl(windows_socket_of(fd), SIO_UDP_NETRESET, &wanted, sizeof wanted, NULL, 0, &ignored,
		NULL, NULL);
}

int windows_extension(int fd, const GUID *which, void **function)
{
	GUID guid = *which;
	DWORD ignored;

	*function = NULL;
	if (WSAIoctl(windows_socket_of(fd), SIO_GET_EXTENSION_FUNCTION_POINTER, &guid, sizeof guid,
		    function, sizeof *function, &ignored, NULL, NULL) == 0)
		return 0;
	return WSAGetLastError() == WSAENOBUFS ? PROA_ENOMEM : PROA_EOPNOTSUPP;
}

int windows_socket(int family, int type)
{
	SOCKET s;

	/* Windows 10 has such sockets, with parts left out, and wine 8 has none: what the
	 * engines made of them nothing could show. See windows.md. */
	if (family == AF_UNIX)
		return PROA_EAFNOSUPPORT;
	s = WSASocketW(family, type, 0, NULL, 0, WSA_FLAG_OVERLAPPED | WSA_FLAG_NO_HANDLE_INHERIT);
	if (s == INVALID_SOCKET)
		return windows_socket_error();
	if (windows_unblock(windows_fd(s)) < 0)
		return close_failed(windows_fd(s));
	if (type == SOCK_DGRAM)
		windows_tell_refusals(windows_fd(s), false);
	return windows_fd(s);
}

/* ---- handles -------------------------------------------------------------------- */

static int socket_kind(int fd, int *type)
{
	int length = sizeof *type;

	return getsockopt(windows_socket_of(fd), SOL_SOCKET, SO_TYPE, (char *)type, &length);
}

bool windows_is_socket(int fd)
{
	int type;

	return socket_kind(fd, &type) == 0;
}

enum handle_type system_stream_type(int family)
{
	return family == AF_INET || family == AF_INET6 ? HANDLE_TCP : HANDLE_STREAM;
}

static enum handle_type socket_type(int fd, int type)
{
	WSAPROTOCOL_INFOW info;
	int length = sizeof info;

	if (type != SOCK_STREAM)
		return HANDLE_DATAGRAM;
	if (getsockopt(windows_socket_of(fd), SOL_SOCKET, SO_PROTOCOL_INFOW, (char *)&info,
		    &length) != 0)
		return HANDLE_STREAM;
	return system_stream_type(info.iAddressFamily);
}

int system_classify(proa_handle handle, enum handle_type *type, bool *blocking)
{
	DWORD mode;
	int kind;

	*blocking = true; /* nothing tells: a try finds out */
	if (socket_kind((int)handle, &kind) == 0) {
		*type = socket_type((int)handle, kind);
		return 0;
	}
	if (WSAGetLastError() == WSAENOBUFS) /* it may be one all the same */
		return PROA_ENOMEM;
	SetLastError(NO_ERROR);
	switch (GetFileType((HANDLE)handle)) {
	case FILE_TYPE_DISK:
		*type = HANDLE_FILE;
		return 0;
	case FILE_TYPE_PIPE:
		*type = HANDLE_PIPE;
		return 0;
	case FILE_TYPE_CHAR: /* a console, or what is always ready: NUL */
		*type = GetConsoleMode((HANDLE)handle, &mode) ? HANDLE_PIPE : HANDLE_FILE;
		return 0;
	default:
		if (GetLastError() != NO_ERROR)
			return PROA_EBADF;
		*type = HANDLE_PIPE;
		return 0;
	}
}

bool system_is_open(proa_handle handle)
{
	DWORD flags;

	return handle >= 0 && GetHandleInformation((HANDLE)handle, &flags) != 0;
}

int32_t system_close(proa_handle handle, enum handle_type type)
{
	bool is_socket = type == HANDLE_TCP || type == HANDLE_STREAM || type == HANDLE_DATAGRAM;

	if (handle < 0)
		return PROA_EBADF; /* -1 stands for this process, -2 for this thread ... */
	if (type == HANDLE_UNKNOWN)
		is_socket = windows_is_socket((int)handle);
	if (is_socket)
		return closesocket((SOCKET)handle) == 0 ? 0 : PROA_EBADF;
	return CloseHandle((HANDLE)handle) ? 0 : PROA_EBADF;
}

/* ---- listening ------------------------------------------------------------------- */

/* What has to be said before bind(). 0 or an error. */
static int listen_prepare(int fd, int family, const struct proa_listen_options *options)
{
	bool stream = options->type == PROA_STREAM;

	/* SO_REUSEADDR is more than elsewhere: it lets anybody bind what is bound, and
	 * who of the two gets a connection is not said. A port in TIME_WAIT needs
	 * nothing; and so that nobody else steals ours: */
	if (options->reuse_port && stream)
		return PROA_EOPNOTSUPP;
	if (set_option(fd, SOL_SOCKET, options->reuse_port ? SO_REUSEADDR : SO_EXCLUSIVEADDRUSE,
		    1) != 0)
		return windows_socket_error();
	if (family == AF_INET6 &&
		set_option(fd, IPPROTO_IPV6, IPV6_V6ONLY, options->only_v6 != 0) != 0)
		return windows_socket_error();
	/* Accepted sockets inherit it. */
	if (options->no_delay && stream && set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1) != 0)
		return windows_socket_error();
	return 0;
}

/* Somebody has it for himself: that is how Winsock says "in use" then. */
static int bind_error(void)
{
	int code = windows_socket_error();

	return code == PROA_EACCES ? PROA_EADDRINUSE : code;
}

static int listen_at(const struct proa_address *address, const struct proa_listen_options *options)
{
	int family = address->to.any.sa_family;
	int fd = windows_socket(family, options->type == PROA_STREAM ? SOCK_STREAM : SOCK_DGRAM);
	int backlog, code;

	if (fd < 0)
		return fd;
	code = listen_prepare(fd, family, options);
	if (code == 0 && bind(windows_socket_of(fd), &address->to.any, (int)address->length) != 0)
		code = bind_error();
	if (code < 0) {
		closesocket(windows_socket_of(fd));
		return code;
	}
	backlog = options->backlog == 0 || options->backlog > INT32_MAX ? SOMAXCONN
									: (int)options->backlog;
	if (options->type == PROA_DATAGRAM || listen(windows_socket_of(fd), backlog) == 0)
		return fd;
	return close_failed(fd);
}

static enum handle_type handle_type_of(
	enum proa_socket_type type, const struct proa_address *address)
{
	return type == PROA_STREAM ? system_stream_type(address->to.any.sa_family)
				   : HANDLE_DATAGRAM;
}

int system_has_ended(proa_handle fd)
{
	(void)fd; /* there are no SOCK_SEQPACKET sockets */
	return 0;
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
	if (code == 0)
		*out = fd;
	return code;
}

int proa_socket(struct proa_port *port, const struct proa_address *like, enum proa_socket_type type,
	proa_handle *out)
{
	int fd, code;

	if (!port_visit(port) || (type != PROA_STREAM && type != PROA_DATAGRAM))
		return PROA_EINVAL;
	fd = windows_socket(like->to.any.sa_family, type == PROA_STREAM ? SOCK_STREAM : SOCK_DGRAM);
	if (fd < 0)
		return fd;
	code = handle_adopt(port, fd, handle_type_of(type, like), true);
	if (code == 0)
		*out = fd;
	return code;
}

/* ---- pairs ------------------------------------------------------------------------ */

static bool same_address(const struct sockaddr_in *a, const struct sockaddr_in *b)
{
	return a->sin_port == b->sin_port && a->sin_addr.s_addr == b->sin_addr.s_addr;
}

/* Waits until `s` is readable: a connection that was made is not always there at
 * once for accept(). 0 or an error. */
static int wait_readable(SOCKET s)
{
	struct timeval limit = { .tv_sec = 5 };
	fd_set set;

	FD_ZERO(&set);
	FD_SET(s, &set);
	switch (select(0, &set, NULL, NULL, &limit)) {
	case 1:
		return 0;
	case 0:
		return PROA_ETIMEDOUT;
	default:
		return windows_socket_error();
	}
}

/* Anybody on this machine may connect to a listener on loopback: only who comes
 * from our own other end is let in. */
static int accept_own(SOCKET listener, SOCKET other)
{
	struct sockaddr_in own, peer;
	int length, tries, error;
	SOCKET s;

	length = sizeof own;
	if (getsockname(other, (struct sockaddr *)&own, &length) != 0)
		return windows_socket_error();
	for (tries = 0; tries < STRANGERS; tries++) {
		error = wait_readable(listener);
		if (error < 0)
			return error;
		length = sizeof peer;
		s = accept(listener, (struct sockaddr *)&peer, &length);
		/* The second: a stranger who has gone again. */
		if (s == INVALID_SOCKET &&
			(WSAGetLastError() == WSAEWOULDBLOCK || WSAGetLastError() == WSAECONNRESET))
			continue;
		if (s == INVALID_SOCKET)
			return windows_socket_error();
		if (same_address(&own, &peer)) {
			SetHandleInformation((HANDLE)s, HANDLE_FLAG_INHERIT, 0);
			return windows_unblock(windows_fd(s)) < 0 ? close_failed(windows_fd(s))
								  : windows_fd(s);
		}
		closesocket(s);
	}
	return PROA_ECONNREFUSED;
}

/* To the listener, which takes it in without an accept(). */
static int connect_own(SOCKET listener)
{
	struct sockaddr_in there;
	int length = sizeof there, fd;
	u_long off = 0;

	if (getsockname(listener, (struct sockaddr *)&there, &length) != 0)
		return windows_socket_error();
	fd = windows_socket(AF_INET, SOCK_STREAM);
	if (fd < 0)
		return fd;
	if (ioctlsocket(windows_socket_of(fd), (long)FIONBIO, &off) != 0)
		return close_failed(fd);
	if (connect(windows_socket_of(fd), (struct sockaddr *)&there, sizeof there) != 0 ||
		windows_unblock(fd) < 0)
		return close_failed(fd);
	return fd;
}

static int listen_own(void)
{
	struct sockaddr_in here = { .sin_family = AF_INET };
	int fd = windows_socket(AF_INET, SOCK_STREAM);

	if (fd < 0)
		return fd;
	here.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	set_option(fd, SOL_SOCKET, SO_EXCLUSIVEADDRUSE, 1);
	if (bind(windows_socket_of(fd), (struct sockaddr *)&here, sizeof here) != 0 ||
		listen(windows_socket_of(fd), 8) != 0)
		return close_failed(fd);
	return fd;
}

int windows_pair(int ends[2])
{
	int listener = listen_own();

	if (listener < 0)
		return listener;
	ends[1] = connect_own(windows_socket_of(listener));
	ends[0] = ends[1] < 0 ? ends[1]
			      : accept_own(windows_socket_of(listener), windows_socket_of(ends[1]));
	closesocket(windows_socket_of(listener));
	if (ends[0] < 0) {
		if (ends[1] >= 0)
			closesocket(windows_socket_of(ends[1]));
		return ends[0];
	}
	/* socketpair(2)'s ends send at once. */
	set_option(ends[0], IPPROTO_TCP, TCP_NODELAY, 1);
	set_option(ends[1], IPPROTO_TCP, TCP_NODELAY, 1);
	return 0;
}

int proa_pair(struct proa_port *port, proa_handle out[2])
{
	int ends[2], code;

	if (!port_visit(port))
		return PROA_EINVAL;
	code = windows_pair(ends);
	if (code < 0)
		return code;
	code = handle_adopt(port, ends[0], HANDLE_TCP, true);
	if (code < 0) {
		closesocket(windows_socket_of(ends[1]));
		return code;
	}
	code = handle_adopt(port, ends[1], HANDLE_TCP, true);
	if (code < 0) {
		proa_discard(port, ends[0]);
		return code;
	}
	out[0] = ends[0];
	out[1] = ends[1];
	return 0;
}

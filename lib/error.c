/* Error codes: their names, their meaning in a phrase, the system's values as
 * ours; and what happens on misuse. */
#if !defined(_WIN32)
#	include <errno.h>
#endif
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#include <proa/proa.h>

/* Every code that the system has a value of errno for, and that means the same
 * there. ESHUTDOWN and ENONAME are ours alone. */
#define SYSTEM_ERRORS(X)                                        \
	X(EPERM, "operation not permitted")                     \
	X(ENOENT, "no such file or directory")                  \
	X(ESRCH, "no such process")                             \
	X(EINTR, "interrupted")                                 \
	X(EIO, "input or output failed")                        \
	X(ENXIO, "no such device or address")                   \
	X(E2BIG, "argument list too long")                      \
	X(ENOEXEC, "not a program that can be executed")        \
	X(EBADF, "not an open handle, or not open for this")    \
	X(ECHILD, "no such child process")                      \
	X(EAGAIN, "resource temporarily unavailable")           \
	X(ENOMEM, "not enough memory")                          \
	X(EACCES, "permission denied")                          \
	X(EFAULT, "bad memory address")                         \
	X(EBUSY, "busy")                                        \
	X(EEXIST, "exists already")                             \
	X(EXDEV, "not on the same file system")                 \
	X(ENODEV, "no such device")                             \
	X(ENOTDIR, "not a directory")                           \
	X(EISDIR, "is a directory")                             \
	X(EINVAL, "invalid argument")                           \
	X(EMFILE, "too many open handles")                      \
	X(ENOTTY, "request not known to this device")           \
	X(ETXTBSY, "program file is in use")                    \
	X(EFBIG, "file too large")                              \
	X(ENOSPC, "no space left on device")                    \
	X(ESPIPE, "has no position to seek")                    \
	X(EROFS, "read-only file system")                       \
	X(EMLINK, "too many links")                             \
	X(EPIPE, "the other end does not read any more")        \
	X(EDOM, "argument out of domain")                       \
	X(ERANGE, "out of range")                               \
	X(EDEADLK, "would be a deadlock")                       \
	X(ENAMETOOLONG, "name too long")                        \
	X(ENOLCK, "no locks available")                         \
	X(ENOSYS, "not available on this system")               \
	X(ENOTEMPTY, "directory not empty")                     \
	X(ELOOP, "too many symbolic links")                     \
	X(EPROTO, "protocol error")                             \
	X(EBADMSG, "bad message")                               \
	X(EOVERFLOW, "value too large for its type")            \
	X(EILSEQ, "invalid sequence of bytes")                  \
	X(ENOTSOCK, "not a socket")                             \
	X(EDESTADDRREQ, "destination address required")         \
	X(EMSGSIZE, "message too long")                         \
	X(EPROTOTYPE, "wrong protocol for this kind of socket") \
	X(ENOPROTOOPT, "protocol option not available")         \
	X(EPROTONOSUPPORT, "protocol not supported")            \
	X(ESOCKTNOSUPPORT, "kind of socket not supported")      \
	X(EOPNOTSUPP, "operation not supported")                \
	X(EPFNOSUPPORT, "protocol family not supported")        \
	X(EAFNOSUPPORT, "address family not supported")         \
	X(EADDRINUSE, "address already in use")                 \
	X(EADDRNOTAVAIL, "address not available here")          \
	X(ENETDOWN, "network is down")                          \
	X(ENETUNREACH, "network unreachable")                   \
	X(ENETRESET, "connection reset by the network")         \
	X(ECONNABORTED, "connection aborted")                   \
	X(ECONNRESET, "connection reset by the other end")      \
	X(EISCONN, "already connected")                         \
	X(ENOTCONN, "not connected")                            \
	X(ETIMEDOUT, "timed out")                               \
	X(ECONNREFUSED, "connection refused")                   \
	X(EHOSTDOWN, "host is down")                            \
	X(EHOSTUNREACH, "host unreachable")                     \
	X(EALREADY, "already under way")                        \
	X(EINPROGRESS, "now in progress")                       \
	X(ESTALE, "stale file handle")                          \
	X(EDQUOT, "disk quota exceeded")                        \
	X(ECANCELED, "canceled")

#define OWN_ERRORS(X)                          \
	X(ESHUTDOWN, "the port has been shut") \
	X(ENONAME, "the host or service name is not known")

const char *proa_error_name(int code)
{
#define NAME(name, text)  \
	case PROA_##name: \
		return #name;
	switch (code) {
		SYSTEM_ERRORS(NAME)
		OWN_ERRORS(NAME)
	}
#undef NAME
	return "unknown";
}

const char *proa_error_text(int code)
{
#define PHRASE(name, text) \
	case PROA_##name:  \
		return text;
	switch (code) {
		SYSTEM_ERRORS(PHRASE)
		OWN_ERRORS(PHRASE)
	}
#undef PHRASE
	return code >= 0 ? "no error" : "unknown error";
}

#if !defined(_WIN32) /* there: engines/windows/error.c */

/* Values that no code of ours stands for are PROA_EIO: an error all the same. */
int proa_error_from_system(unsigned long value)
{
#	define CODE(name, text) \
	case name:               \
		return PROA_##name;
	switch (value) {
		SYSTEM_ERRORS(CODE)
	case 0:
		return 0;
	case ENFILE: /* the whole system's limit, but the same to the program */
		return PROA_EMFILE;
	case ENOBUFS:
		return PROA_ENOMEM;
	case ESHUTDOWN: /* a socket's; our own number says that the port is shut */
		return PROA_EPIPE;
#	if EWOULDBLOCK != EAGAIN
	case EWOULDBLOCK:
		return PROA_EAGAIN;
#	endif
#	if ENOTSUP != EOPNOTSUPP
	case ENOTSUP:
		return PROA_EOPNOTSUPP;
#	endif
	}
#	undef CODE
	return PROA_EIO;
}

#endif

/* In the order of enum proa_kind. */
static const char *const kind_names[] = {
	"none",
	"accept",
	"accept_multi",
	"dial",
	"connect",
	"recv",
	"recv_lent",
	"recv_multi",
	"recvfrom",
	"recvmsg",
	"send",
	"sendv",
	"sendto",
	"sendmsg",
	"sendfile",
	"shutdown",
	"close",
	"poll",
	"poll_multi",
	"open",
	"read",
	"readv",
	"write",
	"writev",
	"sync",
	"stat",
	"fstat",
	"truncate",
	"rename",
	"unlink",
	"mkdir",
	"timer",
	"timer_at",
	"interval",
	"work",
	"resolve",
	"signal",
	"child",
};
_Static_assert(sizeof kind_names / sizeof kind_names[0] == PROA_OP_CHILD + 1, "a name a kind");

static void misuse_abort(const char *what, const struct proa_op *op)
{
	if (op == NULL) {
		fprintf(stderr, "proa: misuse: %s\n", what);
	} else {
		const char *kind = "unknown"; /* an op that was never readied holds anything */

		if (op->kind_ < sizeof kind_names / sizeof kind_names[0])
			kind = kind_names[op->kind_];
		fprintf(stderr, "proa: misuse: %s (op %p, kind %s)\n", what, (const void *)op,
			kind);
	}
	abort();
}

static _Atomic(proa_misuse_fn *) misuse_handler = misuse_abort;

void proa_on_misuse(proa_misuse_fn *handler)
{
	atomic_store(&misuse_handler, handler != NULL ? handler : misuse_abort);
}

/* Returns if the program's handler does: the callers have to stay sane then. */
void proa_misuse(const char *what, const struct proa_op *op)
{
	proa_misuse_fn *handler = atomic_load(&misuse_handler);

	handler(what, op);
}

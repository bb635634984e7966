/* What Unix systems do in the same way, whichever engine runs. */
#ifndef PROA_ENGINES_UNIX_H
#define PROA_ENGINES_UNIX_H

#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "engines/engine.h"

/* Linux and FreeBSD tell apart that the peer has ended its sending; elsewhere
 * POLLIN says it, too. */
#ifdef PROA_HAVE_POLLRDHUP
#	define UNIX_POLLRDHUP POLLRDHUP
#else
#	define UNIX_POLLRDHUP 0
#endif

/* socket.c: a new socket of a SOCK_* type, non-blocking, close-on-exec and,
 * where a socket option can do that, SIGPIPE-free. A descriptor or a PROA_E*
 * code. */
int unix_socket(int family, int type);
/* What a new stream socket of a family is. */
enum handle_type unix_stream_type(int family);
/* accept(2): a socket as of unix_socket(), or -1 with errno. */
int unix_accept(int listener, struct sockaddr *peer, socklen_t *length);
/* A blocking pipe, close-on-exec at both ends. 0 or an error. */
int unix_pipe(int ends[2]);
/* What stands behind `fd`, and whether its flags say that it blocks: 0 or
 * PROA_EBADF. Changes nothing. */
int unix_classify(int fd, enum handle_type *type, bool *blocking);
/* Our code for errno. */
int unix_error(int system_errno);
/* What every function named _sized does with its caller's struct of `size`
 * bytes (NULL: defaults): copies it into ours, which is older or newer. 0, or
 * PROA_EINVAL if the size is 0, or it asks for what we know nothing of. */
int sized_copy(void *ours, size_t our_size, const void *theirs, size_t size);

/* file.c: an operation on files, done here and now, for worker threads:
 * PROA_OP_OPEN .. PROA_OP_MKDIR, and RECV, SEND, SENDV, SENDFILE on what can't
 * be waited for (HANDLE_FILE: at the file's own position). The final result;
 * flight(op)->moved counts the bytes. Whole lengths, as the contract says.
 * A SENDFILE with PROA_WARM_ in its flags sends nothing: FILE_WARMED says that
 * the next part of its file has been read ahead, an error that it can't be. */
int32_t file_run(struct proa_op *op);
#define FILE_WARMED (INT32_MIN + 0x8000)
/* The same without waiting, where that can be known (reads of what is in the
 * page cache): a final result, or STEP_TO_WORKER. */
int32_t file_try(struct proa_op *op);
/* PROA_OPEN_* as the O_* flags of open(2), close-on-exec; PROA_EINVAL for a
 * combination that has no meaning. */
int file_open_flags(uint32_t how);
/* Reads a range into the page cache: blocks, so for worker threads. 0 (be the
 * file shorter, too) or an error. */
int file_warm(proa_handle file, uint64_t offset, size_t length);
/* Does the range seem to be there? It looks at a few places of it; where the
 * system can't tell, it says so. */
bool file_is_warm(proa_handle file, uint64_t offset, size_t length);
#ifdef __linux__
/* For a statx(2) that runs by itself: where in `out` it is to write (all of
 * `out`: the struct is larger than room_), and what makes a proa_stat of it. */
static inline struct statx *stat_statx(struct proa_stat *out)
{
	return (struct statx *)(void *)out;
}
void stat_fill_from_statx(struct proa_stat *out);
#endif

/* child.c: a descriptor that is readable when `process` has ended, or an error. */
int unix_child_open(proa_process process);
void unix_child_close(int watch);
/* Reaps: 0 with *out filled, PROA_EAGAIN if it runs, or an error. `watch`: its
 * descriptor. */
int unix_reap(proa_process process, struct proa_exit *out, int watch);

/* attempt.c: one try of a readiness-driven op that does not block: a result as
 * for op_stepped(), PROA_EAGAIN if it has to wait for attempt_events(),
 * STEP_TO_WORKER, STEP_NO_BUFFER, or STEP_LATER (nothing will tell when). `told` says that the system has just
 * reported the descriptor as ready. */
#define STEP_LATER (INT32_MIN + 3)
int32_t attempt(struct proa_port *port, struct proa_op *op, bool told, uint32_t *flags);
/* What attempt() does for RECV_LENT and RECV_MULTI. */
int32_t attempt_lent(struct proa_port *port, struct proa_op *op, const struct handle *handle,
	bool told, uint32_t *flags);
/* A plain send that is by itself in a socket's lane, not yet begun; what
 * attempt() does for one. */
static inline bool attempt_is_lone_send(const struct proa_op *op, const struct handle *handle)
{
	return flight(op)->next == op && flight(op)->moved == 0 && op->flags_ == 0 &&
	       (handle->type == HANDLE_TCP || handle->type == HANDLE_STREAM) && op->length_ > 0;
}
int32_t attempt_lone_send(struct proa_port *port, struct proa_op *op, struct handle *handle);
/* POLLIN, POLLOUT ...: what the op waits for; and on which descriptor. */
short attempt_events(const struct proa_op *op);
int attempt_descriptor(const struct proa_op *op);
/* Makes a dial's socket or a child's pidfd: 0 or an error. Done once. */
int attempt_prepare(struct proa_port *port, struct proa_op *op);
/* It has ended: a dial that failed, or a child's wait, closes what was made. */
void attempt_finish(struct proa_port *port, struct proa_op *op, int32_t result);
/* Where a dial or child keeps its own descriptor. */
static inline int attempt_private(const struct proa_op *op)
{
	return (int)op->length_ - 1;
}
/* Room for a completion's PROA_* bits out of poll(2)'s. */
int32_t attempt_poll_result(short revents);

/* wake.c: an eventfd, or a pipe where there is none. unix_wake() may be called
 * from signal handlers. */
int unix_wake_open(int *read_end, int *write_end);
void unix_wake(int write_end);
void unix_wake_drain(int read_end);
void unix_wake_close(int read_end, int write_end);
/* getenv(3), but NULL in set-uid programs. */
const char *unix_variable(const char *name);
/* SIGPIPE's default would end the process where EPIPE is the answer. */
void unix_ignore_sigpipe(void);
/* 0 or an error; the descriptor is gone either way. */
int32_t unix_close(int fd);
/* A descriptor for other loops, around the engine's. 0 or an error. */
int unix_outer_open(struct proa_port *port, int inner);
void unix_outer_arm(struct proa_port *port, int64_t when);
void unix_outer_close(struct proa_port *port);

#endif

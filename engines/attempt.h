/* Single tries of what readiness drives: what the emulation lives on, and native
 * engines use for what they lack. engines/unix/attempt.c and
 * engines/windows/attempt.c. */
#ifndef PROA_ENGINES_ATTEMPT_H
#define PROA_ENGINES_ATTEMPT_H

#ifdef _WIN32
#	include <winsock2.h>
#	define POLLRDHUP 0 /* reported as POLLHUP, which is not asked for */
#else
#	include <poll.h>
/* Linux and FreeBSD tell apart that the peer has ended its sending; elsewhere POLLIN
 * says it, too. */
#	ifndef PROA_HAVE_POLLRDHUP
#		undef POLLRDHUP
#		define POLLRDHUP 0
#	endif
#endif

#include "engines/engine.h"
#include "engines/system.h"

/* One try of a readiness-driven op that does not block: a result as for
 * op_stepped(), PROA_EAGAIN if it has to wait for attempt_events(),
 * STEP_TO_WORKER, STEP_NO_BUFFER, or STEP_LATER (nothing will tell when). `told`
 * says that the system has just reported the descriptor as ready. */
#define STEP_LATER (INT32_MIN + 3)
int32_t attempt(struct proa_port *port, struct proa_op *op, bool told, uint32_t *flags);
/* What attempt() does for RECV_LENT and RECV_MULTI. */
int32_t attempt_lent(struct proa_port *port, struct proa_op *op, struct handle *handle, bool told,
	uint32_t *flags);
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
/* Where a dial or child keeps its own descriptor. */
static inline int attempt_private(const struct proa_op *op)
{
	return (int)op->length_ - 1;
}
/* Room for a completion's PROA_* bits out of poll(2)'s. */
int32_t attempt_poll_result(short revents);

/* file.c: file_run() without waiting, where that can be known (reads of what is in
 * memory already): a final result, or STEP_TO_WORKER. */
int32_t file_try(struct proa_op *op);

#endif

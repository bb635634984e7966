/* An op's steps: each attempt's start, what its end means for the op, and the
 * op's own end. What is particular to streams is in lane.c, to pools in pool.c. */
#include "lib/port.h"

#include <limits.h>

#include "engines/engine.h"
#include "engines/system.h"
#include "lib/workers.h"

/* A paused accept looks again after this long, doubling up to the most. */
#define STARVED_FIRST (10 * PROA_MILLISECOND)
#define STARVED_MOST  PROA_SECOND
/* Some things give no event to wait for: a UNIX listener's full backlog is one. */
#define RETRY (2 * PROA_MILLISECOND)

/* ---- the end ---------------------------------------------------------------------- */

/* Has it done all that it was asked, so that its chain goes on? */
static bool op_fulfilled(const struct proa_op *op, const struct handle *handle, int32_t result)
{
	if (result < 0 || (op->options_ & OPT_BROKEN))
		return false;
	/* A datagram is all that can come, and one of no bytes ends nothing. */
	if (handle != NULL && handle->type == HANDLE_DATAGRAM)
		return true;
	switch (op->kind_) {
	case PROA_OP_RECV:
		return (op->flags_ & PROA_ALL) ? flight(op)->moved == op->length_ : result > 0;
	case PROA_OP_READ:
	case PROA_OP_READV:
		return flight(op)->moved == op_length(op);
	case PROA_OP_RECV_LENT:
	case PROA_OP_RECVFROM:
	case PROA_OP_RECVMSG:
		return result > 0;
	default:
		return true;
	}
}

void chain_on(struct proa_port *port, struct proa_op *next, bool fulfilled)
{
	(void)port;
	next->options_ |= fulfilled ? OPT_QUEUED : OPT_QUEUED | OPT_BROKEN;
	flight(next)->is.behind = NULL;
	*port->beginning_end = next;
	port->beginning_end = &flight(next)->is.behind;
}

void op_end(struct proa_port *port, struct proa_op *op, int32_t result, uint32_t flags)
{
	struct proa_op *next = op->next_;
	proa_handle fd = op->handle_;
	struct handle *handle = handle_find(port, fd);
	bool fulfilled = next != NULL && op_fulfilled(op, handle, result);
	struct proa_op **list = op_list_of(port, op, handle);

	assert(op->state_ != OP_IDLE && op->state_ != OP_READY);
	if (result == PROA_ECANCELED && (op->options_ & OPT_TIMED_OUT))
		result = PROA_ETIMEDOUT;
	if (op->timer_ != 0)
		timer_disarm(&port->timers, op);
	if (op->state_ == OP_TIMING || op_is_dated(op))
		flight(op)->moved = 0;
	if (op->options_ & OPT_STARVED)
		port->starved--;
	op_unlist(port, op, list);
	op->next_ = NULL;
	port_complete(port, op, result, flags);
	if (UNLIKELY(next != NULL))
		chain_on(port, next, fulfilled);
	if (handle == NULL)
		return;
	if (list == &handle->sends || list == &handle->recvs) {
		lane_pump(port, handle, list);
	} else if (handle->state & HANDLE_CLOSING) {
		if ((handle->state & HANDLE_FLUSHING) && result >= 0 && op_sends(op))
			flush_progress(port, handle);
		handle_settle(port, handle);
	}
}

/* ---- steps -------------------------------------------------------------------------- */

static bool step_recv(struct proa_port *port, struct proa_op *op, int32_t result)
{
	struct flight *f = flight(op);

	if (result > 0)
		f->moved += (uint32_t)result;
	if (result > 0 && (op->flags_ & (PROA_ALL | PROA_PEEK)) == PROA_ALL &&
		f->moved < op->length_) {
		if ((op->options_ & OPT_CANCEL) == 0) {
			if (op->timeout_ != PROA_FOREVER)
				op_limit(port, op);
			return true;
		}
		result = PROA_ECANCELED;
	}
	op_end(port, op, result < 0 ? result : (int32_t)f->moved, 0);
	return false;
}

/* Files at an offset, and the streams of what can't be waited for. */
static bool step_file(struct proa_port *port, struct proa_op *op, int32_t result)
{
	struct flight *f = flight(op);
	bool reads = op->kind_ == PROA_OP_READ || op->kind_ == PROA_OP_READV;

	if (result > 0)
		f->moved += (uint32_t)result;
	if (result > 0 && f->moved < op_length(op)) {
		if ((op->options_ & OPT_CANCEL) == 0)
			return true;
		result = PROA_ECANCELED;
	}
	if (result == 0 && !reads && f->moved < op_length(op))
		result = PROA_ENOSPC; /* a write that took nothing and gave no reason */
	op_end(port, op, result < 0 ? result : (int32_t)f->moved, 0);
	return false;
}

static bool is_want(int32_t error)
{
	return error == PROA_EMFILE || error == PROA_ENOMEM || error == -23 || error == -105;
}

/* Errors of a connection that is gone already, or of its network, which
 * accept(2) reports in the listener's place. */
static bool is_passing(int32_t error)
{
	static const int16_t passing[] = { PROA_ECONNABORTED, PROA_EINTR, PROA_EAGAIN, -71, -100,
		-92, -112, -64, PROA_EHOSTUNREACH, PROA_ENETUNREACH };

	for (size_t i = 0; i < sizeof passing / sizeof passing[0]; i++)
		if (error == passing[i])
			return true;
	return false;
}

static void accept_starve(struct proa_port *port, struct proa_op *op, int32_t error)
{
	if ((op->options_ & OPT_STARVED) == 0) {
		if (port_has_room(port)) {
			op->options_ |= OPT_STARVED;
			port->starved++;
			port_complete(port, op, error, PROA_MORE);
			flight(op)->moved = 0;
		}
		op->length_ = STARVED_FIRST / 2;
	}
	op->length_ = op->length_ * 2 > STARVED_MOST ? (size_t)STARVED_MOST : op->length_ * 2;
	op->state_ = OP_PAUSED;
	op->argument_ = (uint64_t)later(clock_now(), (int64_t)op->length_);
	if (op_limit(port, op) < 0)
		op_end(port, op, PROA_ENOMEM, 0);
}

static void accept_fed(struct proa_port *port, struct proa_op *op)
{
	if (op->options_ & OPT_STARVED) {
		op->options_ &= (uint16_t)~OPT_STARVED;
		port->starved--;
		op->length_ = 0;
		op->argument_ = 0;
	}
	op_progressed(port, op);
}

static int32_t accepted(struct proa_port *port, struct proa_op *op, int32_t fd)
{
	struct handle *handle;
	int error;

	if (op->flags_ & PROA_DETACHED) {
		/* The number may have been a handle of ours that was closed
		 * behind our back. */
		handle = handle_find(port, fd);
		if (handle != NULL && (handle->state & HANDLE_TIED))
			handle_forget(port, fd, handle);
		return fd;
	}
	handle = handle_find(port, op->handle_);
	error = handle_adopt(port, fd, (enum handle_type)handle->type, true);
	return error < 0 ? error : fd;
}

static bool step_accept(struct proa_port *port, struct proa_op *op, int32_t result, uint32_t flags)
{
	bool multi = op->kind_ == PROA_OP_ACCEPT_MULTI;

	if (result >= 0)
		result = accepted(port, op, result);
	if (result >= 0 && (op->options_ & OPT_NO_MORE)) {
		proa_discard(port, result);
		if (flags & PROA_MORE)
			return false;
		op_end(port, op, PROA_ECANCELED, 0);
		return false;
	}
	if (result >= 0 && multi) {
		accept_fed(port, op);
		port_complete(port, op, result, PROA_MORE);
		if ((flags & PROA_MORE) == 0 && (op->options_ & OPT_CANCEL)) {
			op_end(port, op, PROA_ECANCELED, 0);
			return false;
		}
		return (flags & PROA_MORE) == 0;
	}
	if (flags & PROA_MORE)
		return false;
	if (result < 0 && is_passing(result) && (op->options_ & OPT_CANCEL) == 0)
		return true;
	if (multi && is_want(result) && (op->options_ & OPT_CANCEL) == 0) {
		accept_starve(port, op,
			result == -23    ? PROA_EMFILE
			: result == -105 ? PROA_ENOMEM
					 : result);
		return false;
	}
	/* Whose end has been asked for ends neither by a want nor by what passes. */
	if ((is_want(result) && multi) || is_passing(result))
		result = PROA_ECANCELED;
	op_end(port, op, result, 0);
	return false;
}

void op_retry_later(struct proa_port *port, struct proa_op *op)
{
	op->state_ = OP_PAUSED;
	op->argument_ = (uint64_t)later(clock_now(), RETRY);
	if (op_limit(port, op) < 0) {
		op->argument_ = 0;
		op->state_ = OP_ACTIVE;
		op_stepped(port, op, PROA_ENOMEM, 0);
	}
}

static bool step_connect(struct proa_port *port, struct proa_op *op, int32_t result)
{
	struct handle *handle;

	if (result == PROA_EAGAIN && (op->options_ & OPT_CANCEL) == 0) {
		op_retry_later(port, op);
		return false;
	}
	if (result == PROA_EAGAIN)
		result = PROA_ECANCELED;
	op->argument_ = 0;
	if (op->kind_ == PROA_OP_CONNECT) {
		handle = handle_find(port, op->handle_);
		if (result < 0 && result != PROA_EBADF && result != -106 /* EISCONN */)
			handle->state |= HANDLE_DEAD;
	} else {
		int fd = (int)op->length_ - 1;

		attempt_finish(port, op, result);
		if (result == 0) {
			const struct proa_address *to = op->buffer_;

			result = handle_adopt(
				port, fd, system_stream_type(to->to.any.sa_family), true);
			if (result == 0)
				result = fd;
		}
	}
	op_end(port, op, result, 0);
	return false;
}

static bool step_poll(struct proa_port *port, struct proa_op *op, int32_t result, uint32_t flags)
{
	if (op->kind_ == PROA_OP_POLL_MULTI && result >= 0) {
		if ((op->options_ & OPT_NO_MORE) == 0 && port_has_room(port))
			port_complete(port, op, result, PROA_MORE);
		op_progressed(port, op);
		if (flags & PROA_MORE)
			return false;
		if ((op->options_ & OPT_CANCEL) == 0)
			return true;
		result = PROA_ECANCELED;
	}
	op_end(port, op, result, 0);
	return false;
}

/* A worker has waited for what a lent receive wants, or has read it into the buffer
 * that it was given. True: start it again. */
static bool step_lent(struct proa_port *port, struct proa_op *op, int32_t result)
{
	struct proa_buffer *buffer = (struct proa_buffer *)(uintptr_t)op->length_;
	uint32_t flags = 0;

	op->length_ = 0;
	op->state_ = OP_ACTIVE;
	if (result == FILE_READABLE && (op->options_ & OPT_CANCEL) == 0)
		return true;
	if (result == FILE_READABLE)
		result = PROA_ECANCELED;
	if (buffer != NULL && result > 0) {
		buffer->length = (uint32_t)result;
		flags = LENT_FLAGS(pool_id(buffer));
	} else if (buffer != NULL) {
		pool_put_free(op->buffer_, buffer);
	}
	return pool_stepped(port, op, result, flags);
}

/* Done by a worker, or in its manner: whole, and counted. */
static void step_final(struct proa_port *port, struct proa_op *op, int32_t result)
{
	struct handle *handle = handle_find(port, op->handle_);
	int error;

	if (op->kind_ == PROA_OP_SENDFILE && result == FILE_WARMED) {
		op->state_ = OP_WARMED;
		if ((op->options_ & OPT_CANCEL) == 0)
			return;
		result = PROA_ECANCELED;
	}
	if (op->kind_ == PROA_OP_OPEN && result >= 0) {
		error = handle_adopt(port, result, HANDLE_UNKNOWN, false);
		result = error < 0 ? error : result;
	}
	op->state_ = OP_ACTIVE;
	if (result < 0 && handle != NULL && op_list(port, op) == &handle->sends)
		lane_fail(port, handle, op, result);
	else
		op_end(port, op, result, 0);
}

/* What the end of one attempt means; true: try again. */
static bool op_step(struct proa_port *port, struct proa_op *op, int32_t result, uint32_t flags)
{
	struct handle *handle;

	if (UNLIKELY(flags & STEP_IS_FINAL)) {
		if (op_lends(op))
			return step_lent(port, op, result);
		step_final(port, op, result);
		return op->state_ == OP_WARMED;
	}
	switch (op->kind_) {
	case PROA_OP_RECV_LENT:
	case PROA_OP_RECV_MULTI:
		return pool_stepped(port, op, result, flags);
	case PROA_OP_RECV:
		handle = handle_find(port, op->handle_);
		if (handle->type != HANDLE_DATAGRAM)
			return step_recv(port, op, result);
		break;
	case PROA_OP_ACCEPT:
	case PROA_OP_ACCEPT_MULTI:
		return step_accept(port, op, result, flags);
	case PROA_OP_CONNECT:
	case PROA_OP_DIAL:
		return step_connect(port, op, result);
	case PROA_OP_POLL:
	case PROA_OP_POLL_MULTI:
		return step_poll(port, op, result, flags);
	case PROA_OP_SEND:
	case PROA_OP_SENDV:
	case PROA_OP_SENDMSG:
	case PROA_OP_SENDTO:
	case PROA_OP_SENDFILE:
	case PROA_OP_SHUTDOWN:
		handle = handle_find(port, op->handle_);
		if (handle->type != HANDLE_DATAGRAM) {
			lane_sent(port, handle, result);
			return false;
		}
		break;
	case PROA_OP_READ:
	case PROA_OP_READV:
	case PROA_OP_WRITE:
	case PROA_OP_WRITEV:
		return step_file(port, op, result);
	case PROA_OP_SIGNAL:
		if ((flags & PROA_MORE) == 0 || (op->options_ & OPT_NO_MORE))
			return false;
		if (port_has_room(port))
			port_complete(port, op, result, PROA_MORE);
		else /* it is told in a later turn */
			atomic_fetch_or(&port->signalled, UINT64_C(1) << (result - 1));
		return false;
	case PROA_OP_OPEN:
		step_final(port, op, result);
		return false;
	case PROA_OP_CHILD:
		if (!CHILD_IS_TOLD)
			attempt_finish(port, op, result);
		break;
	default:
		break;
	}
	/* Datagrams, and what is one step: the result is the result. */
	if (result > 0 && (op_kinds[op->kind_] & (K_SEND | K_RECV)))
		flight(op)->moved = (uint32_t)result;
	op_end(port, op, result, 0);
	return false;
}

void op_stepped(struct proa_port *port, struct proa_op *op, int32_t result, uint32_t flags)
{
	if ((flags & PROA_LENT) ? pool_stepped(port, op, result, flags)
				: op_step(port, op, result, flags))
		op_start(port, op);
}

void op_to_worker(struct proa_port *port, struct proa_op *op)
{
	int error;

	op->state_ = OP_WORKER;
	if (op->kind_ == PROA_OP_RECV && (op->flags_ & PROA_ALL))
		op->options_ |= OPT_WHOLE;
	error = workers_submit(port, op);
	if (error < 0)
		op_stepped(port, op, error, 0);
}

void op_start(struct proa_port *port, struct proa_op *op)
{
	int32_t result;
	uint32_t flags;

	do {
		flags = 0;
		op->state_ = OP_ACTIVE;
		/* What a multishot one gives at once needs a place. */
		result = (op_kinds[op->kind_] & K_MULTI) && !port_has_room(port)
				 ? STEP_FULL
				 : port->engine->start(port, op, &flags);
		if (result == STEP_STARTED)
			return;
		if (result == STEP_FULL) {
			op_backlog(port, op);
			return;
		}
		if (result == STEP_TO_WORKER) {
			op_to_worker(port, op);
			return;
		}
	} while (op_step(port, op, result, flags));
}

void op_resume(struct proa_port *port, struct proa_op *op)
{
	struct handle *handle;

	assert(op->state_ == OP_PAUSED);
	op->options_ &= (uint16_t) ~(OPT_SHARE | OPT_POOL);
	if (op_limited(op) || op->timer_ != 0) {
		op->state_ = OP_ACTIVE;
		op_limit(port, op);
	}
	if (op_is_retried(op) && op->kind_ != PROA_OP_ACCEPT_MULTI)
		op->argument_ = 0;
	handle = handle_find(port, op->handle_);
	if (handle != NULL && handle->recvs == op) {
		op->state_ = OP_WAITING;
		lane_pump(port, handle, &handle->recvs);
	} else if (!op_borrows(op) || pool_admits(port, op, handle)) {
		op_start(port, op);
	}
}

void op_backlog(struct proa_port *port, struct proa_op *op)
{
	op->state_ = OP_BACKLOG;
	flight(op)->is.behind = NULL;
	if (port->backlog == NULL)
		port->backlog = op;
	else
		flight(port->backlog_tail)->is.behind = op;
	port->backlog_tail = op;
	if (++port->stats.backlog > port->stats.backlog_peak)
		port->stats.backlog_peak = port->stats.backlog;
}

void backlog_remove(struct proa_port *port, struct proa_op *op)
{
	struct proa_op **at = &port->backlog, *before = NULL;

	while (*at != op) {
		before = *at;
		at = &flight(before)->is.behind;
	}
	*at = flight(op)->is.behind;
	if (port->backlog_tail == op)
		port->backlog_tail = before;
	port->stats.backlog--;
}

void port_drain_backlog(struct proa_port *port)
{
	uint64_t count = port->stats.backlog;
	struct proa_op *op;

	while (count-- > 0 && (op = port->backlog) != NULL) {
		backlog_remove(port, op);
		op_start(port, op);
		if (op->state_ == OP_BACKLOG)
			break; /* still full */
	}
}

static void resume_starved(struct proa_port *port, struct proa_op **list)
{
	struct proa_op *op = *list, *next, *last;

	if (op == NULL)
		return;
	for (last = flight(op)->prev;; op = next) {
		bool end = op == last;

		next = flight(op)->next;
		if (op->state_ == OP_PAUSED && (op->options_ & OPT_STARVED) && op->argument_ != 1) {
			/* Not from here: we may be deep inside of the engine. */
			op->argument_ = 1;
			timer_arm(&port->timers, op, 1);
		}
		if (end)
			return;
	}
}

void accepts_resume(struct proa_port *port)
{
	struct handle *handle;
	int fd;

	for (fd = handle_next(port, -1); fd >= 0; fd = handle_next(port, fd)) {
		handle = handle_find(port, fd);
		resume_starved(port, &handle->others);
	}
}

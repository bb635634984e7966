/* Operations: from submit to the end. Who serves which kind, limits in time,
 * cancelling, chains. What is particular to streams is in lane.c, to pools in
 * pool.c, to handles in handle.c. */
#include "lib/port.h"

#include <limits.h>

#include "engines/engine.h"
#include "engines/unix/unix.h"
#include "lib/workers.h"

#define MOST_BYTES 0x7ffff000u

/* A paused accept looks again after this long, doubling up to the most. */
#define STARVED_FIRST (10 * PROA_MILLISECOND)
#define STARVED_MOST  PROA_SECOND
/* Some things give no event to wait for: a UNIX listener's full backlog is one. */
#define RETRY (2 * PROA_MILLISECOND)

const uint8_t op_kinds[] = {
	[PROA_OP_ACCEPT] = K_HANDLE,
	[PROA_OP_ACCEPT_MULTI] = K_HANDLE | K_MULTI,
	[PROA_OP_CONNECT] = K_HANDLE,
	[PROA_OP_RECV] = K_HANDLE | K_RECV | K_BYTES,
	[PROA_OP_RECV_LENT] = K_HANDLE | K_RECV,
	[PROA_OP_RECV_MULTI] = K_HANDLE | K_RECV | K_MULTI,
	[PROA_OP_RECVFROM] = K_HANDLE | K_RECV | K_BYTES,
	[PROA_OP_RECVMSG] = K_HANDLE | K_RECV,
	[PROA_OP_SEND] = K_HANDLE | K_SEND | K_BYTES,
	[PROA_OP_SENDV] = K_HANDLE | K_SEND | K_SLICES,
	[PROA_OP_SENDTO] = K_HANDLE | K_SEND | K_BYTES,
	[PROA_OP_SENDMSG] = K_HANDLE | K_SEND,
	[PROA_OP_SENDFILE] = K_HANDLE | K_SEND,
	[PROA_OP_SHUTDOWN] = K_HANDLE | K_SEND,
	[PROA_OP_CLOSE] = K_HANDLE,
	[PROA_OP_POLL] = K_HANDLE | K_LOOSE,
	[PROA_OP_POLL_MULTI] = K_HANDLE | K_LOOSE | K_MULTI,
	[PROA_OP_READ] = K_HANDLE | K_BYTES,
	[PROA_OP_READV] = K_HANDLE | K_SLICES,
	[PROA_OP_WRITE] = K_HANDLE | K_BYTES,
	[PROA_OP_WRITEV] = K_HANDLE | K_SLICES,
	[PROA_OP_SYNC] = K_HANDLE,
	[PROA_OP_FSTAT] = K_HANDLE,
	[PROA_OP_TRUNCATE] = K_HANDLE,
	[PROA_OP_INTERVAL] = K_MULTI,
	[PROA_OP_SIGNAL] = K_MULTI,
	[PROA_OP_CHILD] = 0,
};

static uint64_t slices_length(const struct proa_slice *slices, size_t count)
{
	uint64_t bytes = 0;

	for (size_t i = 0; i < count; i++)
		bytes += slices[i].length;
	return bytes;
}

uint64_t op_length(const struct proa_op *op)
{
	const struct proa_message *message = op->buffer_;
	const struct proa_range *range = op->buffer_;

	switch (op->kind_) {
	case PROA_OP_SENDV:
	case PROA_OP_READV:
	case PROA_OP_WRITEV:
		return slices_length(op->buffer_, op->length_);
	case PROA_OP_SENDMSG:
	case PROA_OP_RECVMSG:
		return slices_length(message->slices, message->slice_count);
	case PROA_OP_SENDFILE:
		return range->length;
	case PROA_OP_SHUTDOWN:
		return 0;
	default:
		return op->length_;
	}
}

/* ---- lists -------------------------------------------------------------------- */

static void op_enlist(struct proa_port *port, struct proa_op *op)
{
	list_append(op_list(port, op), op);
}

static void op_unlist(struct proa_port *port, struct proa_op *op, struct proa_op **list)
{
	struct flight *f = flight(op);

	if (f->prev == NULL)
		return;
	for (struct cursor *at = port->cursors; at != NULL; at = at->outer) {
		if (at->next == op)
			at->next = op == at->last ? NULL : f->next;
		if (at->last == op)
			at->last = f->prev == op ? NULL : f->prev;
	}
	list_remove(list, op);
	f->prev = f->next = NULL;
}

/* ---- time ----------------------------------------------------------------------- */

static int64_t later(int64_t now, int64_t ns)
{
	if (ns < 0)
		ns = 0;
	return ns > PROA_FOREVER - 1 - now ? PROA_FOREVER - 1 : now + ns;
}

/* May it be paused for a while, so that argument_ says until when? */
static bool is_retried(const struct proa_op *op)
{
	return op->kind_ == PROA_OP_CONNECT || op->kind_ == PROA_OP_DIAL ||
	       op->kind_ == PROA_OP_ACCEPT_MULTI || op->kind_ == PROA_OP_POLL ||
	       op->kind_ == PROA_OP_POLL_MULTI || op->kind_ == PROA_OP_SENDFILE ||
	       op->kind_ == PROA_OP_SEND || op->kind_ == PROA_OP_SENDV ||
	       op->kind_ == PROA_OP_SENDMSG;
}

static bool is_connecting(const struct proa_op *op)
{
	return op->kind_ == PROA_OP_CONNECT || op->kind_ == PROA_OP_DIAL;
}

/* When a timer itself is due: it moves no bytes, so their count is free. */
static int64_t timer_own_due(const struct proa_op *op)
{
	return (int64_t)flight(op)->moved;
}

int op_limit(struct proa_port *port, struct proa_op *op)
{
	int64_t due = op->deadline_;

	if (op->state_ == OP_TIMING && timer_own_due(op) < due)
		due = timer_own_due(op);
	if (op->timeout_ != PROA_FOREVER) {
		int64_t at;

		/* A connect has no progress short of the end: its time counts
		 * from the start, however often the attempt is renewed. It moves
		 * no bytes, so their count is free to say when that was. */
		if (is_connecting(op) && flight(op)->moved == 0)
			flight(op)->moved = (uint64_t)clock_now();
		at = later(
			is_connecting(op) ? (int64_t)flight(op)->moved : clock_now(), op->timeout_);
		if ((op->options_ & (OPT_SHARE | OPT_POOL)) == 0 && at < due)
			due = at;
	}
	if (op->state_ == OP_PAUSED && op->argument_ != 0 && is_retried(op) &&
		(int64_t)op->argument_ < due)
		due = (int64_t)op->argument_;
	/* An op with a timer keeps its place in the heap, so that setting it
	 * again can't fail. */
	if (due == PROA_FOREVER && op->timer_ == 0)
		return 0;
	if (due == PROA_FOREVER)
		due--;
	/* Armed again it would lose its place among those due at the same time. */
	return op->timer_ != 0 && timer_due(&port->timers, op) == due
		       ? 0
		       : timer_arm(&port->timers, op, due);
}

void proa_op_timeout(struct proa_op *op, int64_t ns)
{
	if (op->state_ != OP_IDLE && !port_enter(op->port, op))
		return;
	op->timeout_ = ns;
	if (op->state_ != OP_IDLE && op->state_ != OP_LINKED && op->state_ != OP_READY &&
		op->state_ != OP_POSTED) {
		if (op_limit(op->port, op) < 0)
			op_cancel(op->port, op);
		if (op->port->external && !op->port->dispatching)
			port_kick(op->port);
	}
}

void proa_op_deadline(struct proa_op *op, int64_t when)
{
	int64_t timeout = op->timeout_;

	op->deadline_ = when;
	proa_op_timeout(op, timeout);
}

static bool is_timer(const struct proa_op *op)
{
	return op->kind_ == PROA_OP_TIMER || op->kind_ == PROA_OP_TIMER_AT ||
	       op->kind_ == PROA_OP_INTERVAL;
}

static void timer_begin(struct proa_port *port, struct proa_op *op)
{
	int64_t due;
	int error;

	if (op->kind_ == PROA_OP_INTERVAL && (int64_t)op->argument_ <= 0) {
		op_end(port, op, PROA_EINVAL, 0);
		return;
	}
	op->state_ = OP_TIMING;
	if (op->kind_ == PROA_OP_TIMER)
		due = later(clock_now(), (int64_t)op->argument_);
	else if (op->kind_ == PROA_OP_TIMER_AT)
		due = (int64_t)op->argument_;
	else
		due = later(clock_now(), (int64_t)op->length_);
	flight(op)->moved = (uint64_t)due;
	error = UNLIKELY(op_limited(op)) ? op_limit(port, op) : timer_arm(&port->timers, op, due);
	if (error < 0)
		op_end(port, op, PROA_ENOMEM, 0);
}

/* An interval's ticks are `due` and each period after it: no drift. */
static void interval_tick(struct proa_port *port, struct proa_op *op, int64_t due)
{
	int64_t period = (int64_t)op->argument_;
	int64_t ticks = 1 + (port->now - due) / period;
	bool room = port_has_room(port);

	if (room)
		flight(op)->moved = (uint64_t)later(due, period * ticks);
	/* Its place in the heap has just become free: this can't fail. */
	op_limit(port, op);
	if (room)
		port_complete(port, op, ticks > INT32_MAX ? INT32_MAX : (int32_t)ticks, PROA_MORE);
}

int proa_timer_move(struct proa_op *op, int64_t ns)
{
	if (op->state_ != OP_TIMING || !port_enter(op->port, op))
		return PROA_ENOENT;
	flight(op)->moved = (uint64_t)later(clock_now(), ns);
	op_limit(op->port, op);
	if (op->port->external && !op->port->dispatching)
		port_kick(op->port);
	return 0;
}

void op_timer(struct proa_port *port, struct proa_op *op, int64_t due)
{
	if (op->state_ == OP_TIMING && timer_own_due(op) <= port->now) {
		if (op->kind_ == PROA_OP_INTERVAL)
			interval_tick(port, op, timer_own_due(op));
		else
			op_end(port, op, 0, 0);
		return;
	}
	(void)due;
	if (op->state_ == OP_PAUSED && op->argument_ != 0 && (int64_t)op->argument_ <= port->now &&
		is_retried(op)) {
		op_resume(port, op);
		return;
	}
	op->options_ |= OPT_TIMED_OUT;
	op_cancel(port, op);
}

/* ---- the end ---------------------------------------------------------------------- */

/* Has it done all that it was asked, so that its chain goes on? */
static bool op_fulfilled(const struct proa_op *op, int32_t result)
{
	if (result < 0 || (op->options_ & OPT_BROKEN))
		return false;
	switch (op->kind_) {
	case PROA_OP_RECV:
		return (op->flags_ & PROA_ALL) ? flight(op)->moved == op->length_ : result > 0;
	case PROA_OP_READ:
	case PROA_OP_READV:
		return flight(op)->moved == op_length(op);
	case PROA_OP_RECV_LENT:
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
	bool fulfilled = next != NULL && op_fulfilled(op, result);
	struct handle *handle = handle_find(port, fd);
	struct proa_op **list = op_list_of(port, op, handle);

	assert(op->state_ != OP_IDLE && op->state_ != OP_READY);
	if (result == PROA_ECANCELED && (op->options_ & OPT_TIMED_OUT))
		result = PROA_ETIMEDOUT;
	if (op->timer_ != 0)
		timer_disarm(&port->timers, op);
	if (op->state_ == OP_TIMING || is_connecting(op))
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
	if (list == &handle->sends || list == &handle->recvs)
		lane_pump(port, handle, list);
	else if (handle->state & HANDLE_CLOSING)
		handle_settle(port, handle);
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
	if (op->timeout_ != PROA_FOREVER)
		op_limit(port, op);
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
	/* Whose end has been asked for does not end by a want. */
	if (is_want(result) && multi)
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
				port, fd, unix_stream_type(to->to.any.sa_family), true);
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
		if (op->timeout_ != PROA_FOREVER)
			op_limit(port, op);
		if (flags & PROA_MORE)
			return false;
		if ((op->options_ & OPT_CANCEL) == 0)
			return true;
		result = PROA_ECANCELED;
	}
	op_end(port, op, result, 0);
	return false;
}

/* Done by a worker, or in its manner: whole, and counted. */
static void step_final(struct proa_port *port, struct proa_op *op, int32_t result)
{
	struct handle *handle = handle_find(port, op->handle_);
	int error;

	if (op->kind_ == PROA_OP_SENDFILE && result == FILE_WARMED) {
		/* The worker's result took the flags' place; sendfile(2) has no
		 * use for them. */
		op->flags_ = 0;
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
		if ((flags & PROA_MORE) && (op->options_ & OPT_NO_MORE) == 0 && port_has_room(port))
			port_complete(port, op, result, PROA_MORE);
		return false;
	case PROA_OP_OPEN:
		step_final(port, op, result);
		return false;
	case PROA_OP_CHILD:
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
	error = workers_submit(port, op);
	if (error < 0)
		op_stepped(port, op, error, 0);
}

/* Attempts until the op has ended or is somebody else's. */
void op_start(struct proa_port *port, struct proa_op *op)
{
	int32_t result;
	uint32_t flags;

	do {
		flags = 0;
		op->state_ = OP_ACTIVE;
		result = port->engine->start(port, op, &flags);
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
	if (is_retried(op) && op->kind_ != PROA_OP_ACCEPT_MULTI)
		op->argument_ = 0;
	handle = handle_find(port, op->handle_);
	if (handle != NULL && handle->recvs == op) {
		op->state_ = OP_WAITING;
		lane_pump(port, handle, &handle->recvs);
	} else {
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

static void backlog_remove(struct proa_port *port, struct proa_op *op)
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

/* A descriptor has become free: paused accepts look again in this turn. */
void accepts_resume(struct proa_port *port)
{
	struct handle *handle;
	int fd;

	for (fd = handle_next(port, 0); fd >= 0; fd = handle_next(port, fd + 1)) {
		handle = handle_find(port, fd);
		resume_starved(port, &handle->others);
	}
}

/* ---- submit -------------------------------------------------------------------------- */

void op_begin(struct proa_port *port, struct proa_op *op)
{
	int error;

	switch (op->kind_) {
	case PROA_OP_TIMER:
	case PROA_OP_TIMER_AT:
	case PROA_OP_INTERVAL:
		timer_begin(port, op);
		return;
	case PROA_OP_WORK:
		op->state_ = OP_WORKER;
		error = workers_submit(port, op);
		break;
	case PROA_OP_RESOLVE:
		op->state_ = OP_WORKER;
		error = resolve_begin(port, op);
		break;
	case PROA_OP_SIGNAL:
		op->state_ = OP_LISTED;
		error = signal_begin(port, op);
		break;
	case PROA_OP_DIAL:
	case PROA_OP_CHILD:
		op->state_ = OP_ACTIVE;
		error = attempt_prepare(port, op);
		if (error == 0)
			op_start(port, op);
		break;
	default:
		op_start(port, op);
		return;
	}
	if (error < 0)
		op_end(port, op, error, 0);
}

/* What is wrong with a described op, seen before anything is done. */
static int op_check(struct proa_port *port, struct proa_op *op, const struct handle *handle)
{
	unsigned kind = op_kinds[op->kind_];
	bool datagram = handle != NULL && handle->type == HANDLE_DATAGRAM;

	(void)port;
	if ((kind & K_BYTES) && op->length_ > MOST_BYTES)
		return PROA_EINVAL;
	if (kind & K_SLICES || op->kind_ == PROA_OP_SENDMSG || op->kind_ == PROA_OP_RECVMSG)
		if (op_length(op) > MOST_BYTES)
			return PROA_EINVAL;
	if (op->kind_ == PROA_OP_RECV && op->length_ == 0 && !datagram)
		return PROA_EINVAL; /* 0 would read as the end of the stream */
	if (op->kind_ == PROA_OP_RECV && (op->flags_ & PROA_PEEK) &&
		(handle->type == HANDLE_PIPE || handle->type == HANDLE_FILE))
		return PROA_EINVAL; /* what is read there is gone */
	if ((op->kind_ == PROA_OP_RECV_LENT || op->kind_ == PROA_OP_RECV_MULTI) &&
		op->buffer_ == NULL)
		return PROA_EINVAL;
	if (op->kind_ >= PROA_OP_READ && op->kind_ <= PROA_OP_WRITEV && handle->type != HANDLE_FILE)
		return PROA_ESPIPE; /* no place has an offset there */
	if (handle != NULL && (handle->state & HANDLE_DEAD) && (kind & K_HANDLE))
		return PROA_ENOTCONN;
	return 0;
}

/* The handle that it acts on, or belongs to. 0 or an error. */
static int op_find_handle(struct proa_port *port, struct proa_op *op, struct handle **handle)
{
	unsigned kind = op_kinds[op->kind_];
	int error;

	*handle = NULL;
	if ((kind & K_HANDLE) == 0) {
		if (op->handle_ < 0)
			return 0;
		error = handle_tie(port, op->handle_, handle);
	} else if (kind & K_LOOSE) {
		enum handle_type type;
		bool blocking;

		error = handle_get(port, op->handle_, handle);
		if (error == 0 && ((*handle)->state & HANDLE_TIED) == 0)
			error = unix_classify(op->handle_, &type, &blocking);
	} else {
		error = handle_tie(port, op->handle_, handle);
		if (error == 0 && (*handle)->type == HANDLE_UNKNOWN)
			error = handle_reclassify(op->handle_, *handle);
	}
	if (error == 0 && ((*handle)->state & HANDLE_CLOSING))
		error = PROA_EBADF;
	return error;
}

/* From here on the op is on a list, or has ended. */
static void op_launch(struct proa_port *port, struct proa_op *op)
{
	struct handle *handle;
	struct proa_op **list;
	int error = op_find_handle(port, op, &handle);

	if (error < 0) {
		if (error == PROA_EBADF && handle != NULL && (handle->state & HANDLE_CLOSING))
			handle->undelivered++; /* the close comes after it: see handle_close_take() */
		op->handle_ = PROA_NO_HANDLE;
		op_end(port, op, error, 0);
		if (handle != NULL && (handle->state & HANDLE_CLOSING))
			handle_settle(port, handle); /* which may have waited for this one's turn */
		return;
	}
	if (op->kind_ != PROA_OP_CLOSE) {
		error = atomic_load_explicit(&port->shut_asked, memory_order_relaxed) ||
					(op->options_ & OPT_CANCEL)
				? PROA_ECANCELED
			: port->max_inflight != 0 && port->in_flight > port->max_inflight
				? PROA_EAGAIN
				: op_check(port, op, handle);
	}
	list = op_list_of(port, op, handle);
	list_append(list, op);
	if (error == 0 && op_limited(op) && !is_timer(op))
		error = op_limit(port, op);
	if (error < 0) {
		op_end(port, op, error, 0);
		return;
	}
	if (op->kind_ == PROA_OP_CLOSE) {
		handle_close_begin(port, op);
		return;
	}
	if (handle != NULL && list != &handle->others) {
		if (list == &handle->sends && handle->tears > 0)
			op_end(port, op, PROA_ECANCELED, 0);
		else if (*list == op)
			lane_pump(port, handle, list);
	} else {
		op_begin(port, op);
	}
}

void port_begin_next(struct proa_port *port)
{
	struct proa_op *op;

	while ((op = port->beginning) != NULL) {
		port->beginning = flight(op)->is.behind;
		if (port->beginning == NULL)
			port->beginning_end = &port->beginning;
		op_unlist(port, op, op_list(port, op));
		op->state_ = OP_WAITING;
		op->options_ &= (uint16_t)~OPT_QUEUED;
		if ((op->options_ & OPT_BROKEN) && op->kind_ != PROA_OP_CLOSE)
			op_end(port, op, PROA_ECANCELED, 0);
		else
			op_launch(port, op);
	}
}

static uint64_t op_admit(struct proa_port *port, struct proa_op *op, enum op_state state)
{
	op->lane_ = ++port->serial;
	op->state_ = (uint8_t)state;
	flight(op)->prev = flight(op)->next = NULL;
	flight(op)->moved = 0;
	port->in_flight++;
	port->stats.submitted++;
	if (op->options_ & PROA_OPTION_BACKGROUND) {
		op->options_ |= OPT_COUNTED;
		port->background++;
	}
	return port->serial;
}

/* The rest of a chain is in flight too, and waits. */
static void chain_admit(struct proa_port *port, struct proa_op *op)
{
	struct proa_op *next;
	struct handle *handle;

	for (; (next = op->next_) != NULL; op = next) {
		if (next->state_ != OP_IDLE || next->port != port) {
			proa_misuse("a linked op is in flight already, or another port's", next);
			op->next_ = NULL;
			return;
		}
		op_admit(port, next, OP_LINKED);
		flight(next)->is.before = op;
		/* What is behind a close need not hold it up: it fails when its
		 * turn comes. */
		if (next->handle_ < 0 || (handle_get(port, next->handle_, &handle) == 0 &&
						 (handle->state & HANDLE_CLOSING) == 0))
			op_enlist(port, next);
	}
}

/* Tickets: the serial number, and where to look for the op. */
#define TICKET_HANDLE_BITS 24
#define TICKET_HANDLE_MASK ((UINT64_C(1) << TICKET_HANDLE_BITS) - 1)

static uint64_t ticket_of(const struct proa_op *op, uint64_t serial)
{
	return serial << TICKET_HANDLE_BITS | (((uint64_t)op->handle_ + 1) & TICKET_HANDLE_MASK);
}

/* Most of all that is submitted: a plain send to a stream on which no other is
 * under way. What op_launch() would come to, without the questions. */
static bool send_is_simple(const struct proa_port *port, const struct proa_op *op)
{
	const struct handle *handle;

	if (op->kind_ != PROA_OP_SEND || op->flags_ != 0 || op->next_ != NULL || op_limited(op) ||
		op->length_ - 1 >= MOST_BYTES || port->max_inflight != 0 ||
		atomic_load_explicit(&port->shut_asked, memory_order_relaxed))
		return false;
	handle = handle_find(port, op->handle_);
	return handle != NULL && handle->sends == NULL &&
	       (handle->state & (HANDLE_TIED | HANDLE_CLOSING | HANDLE_DEAD | HANDLE_PRIVATE)) ==
		       HANDLE_TIED &&
	       (handle->type == HANDLE_TCP || handle->type == HANDLE_STREAM) &&
	       handle->tears == 0 && !handle->pumping_sends;
}

static void send_simply(struct proa_port *port, struct proa_op *op)
{
	struct handle *handle = handle_find(port, op->handle_);
	struct flight *f = flight(op);
	uint32_t flags = 0;
	int32_t result;

	handle->sends = f->prev = f->next = op;
	op->state_ = OP_ACTIVE;
	result = port->engine->start(port, op, &flags);
	if (LIKELY(result == (int32_t)op->length_)) {
		f->moved = op->length_;
		f->prev = f->next = NULL;
		handle->sends = NULL;
		port_complete(port, op, result, 0);
	} else if (result == STEP_FULL) {
		op_backlog(port, op);
	} else if (result != STEP_STARTED) {
		lane_sent(port, handle, result);
	}
}

uint64_t proa_submit(struct proa_op *op, proa_done_fn *done)
{
	struct proa_port *port = op->port;
	uint64_t ticket;

	if (UNLIKELY(port == NULL)) {
		proa_misuse("an op was submitted that has not been readied", op);
		return 0;
	}
	if (UNLIKELY(!port_enter(port, op)))
		return 0;
	if (UNLIKELY(op->state_ != OP_IDLE || op->kind_ == PROA_OP_NONE)) {
		proa_misuse(op->state_ != OP_IDLE
				    ? "an op was submitted while in flight"
				    : "an op was submitted that has not been prepared",
			op);
		return 0;
	}
	op->done_ = done;
	ticket = ticket_of(op, op_admit(port, op, OP_WAITING));
	if (send_is_simple(port, op)) {
		send_simply(port, op);
	} else {
		if (UNLIKELY(op->next_ != NULL))
			chain_admit(port, op);
		op_launch(port, op);
	}
	if (UNLIKELY(port->beginning != NULL))
		port_begin_next(port);
	if (UNLIKELY(port->external) && !port->dispatching)
		port_kick(port);
	return ticket;
}

void proa_link(struct proa_op *op, struct proa_op *next, proa_done_fn *next_done)
{
	if (op->state_ != OP_IDLE || next->state_ != OP_IDLE) {
		proa_misuse("an op was linked while in flight", op->state_ != OP_IDLE ? op : next);
		return;
	}
	op->next_ = next;
	next->done_ = next_done;
}

void proa_op_strand(struct proa_op *op, struct proa_strand *strand)
{
	/* One thread hands over a local port's completions: they are in order. */
	(void)op;
	(void)strand;
}

uint64_t proa_op_count(const struct proa_op *op)
{
	return flight(op)->moved;
}

/* ---- cancel --------------------------------------------------------------------------- */

static void close_cancel(struct proa_port *port, struct proa_op *close)
{
	struct handle *handle = handle_find(port, close->handle_);

	if (close->state_ == OP_LINKED && (close->options_ & OPT_QUEUED))
		return; /* it finds out when it starts */
	if (close->state_ == OP_LINKED && (handle->state & HANDLE_CLOSING)) {
		/* Another close of the handle has come before it. */
		flight(close)->is.before->next_ = NULL;
		op_end(port, close, PROA_EBADF, 0);
	} else if (close->state_ == OP_CLOSING && (handle->state & HANDLE_FLUSHING)) {
		handle->state &= (uint8_t)~HANDLE_FLUSHING;
		op_cancel_list(port, &handle->sends, OPT_NO_MORE);
	}
}

static void worker_cancel(struct proa_port *port, struct proa_op *op)
{
	if (op->kind_ == PROA_OP_RESOLVE ? resolve_abandon(op) : workers_withdraw(port, op))
		op_stepped(port, op, PROA_ECANCELED, 0);
}

void op_cancel(struct proa_port *port, struct proa_op *op)
{
	struct handle *handle;

	if (op->kind_ == PROA_OP_CLOSE) {
		if (op->state_ == OP_LINKED || op->state_ == OP_CLOSING)
			close_cancel(port, op);
		return;
	}
	op->options_ |= OPT_CANCEL;
	switch (op->state_) {
	case OP_LINKED:
		/* Its chain ends in order: when the one before it is to end, it
		 * takes this one along. */
		if (port->cancelling_all || (op->options_ & OPT_QUEUED) ||
			(flight(op)->is.before->options_ & OPT_CANCEL))
			break;
		flight(op)->is.before->next_ = NULL;
		op_end(port, op, PROA_ECANCELED, 0);
		break;
	case OP_WAITING:
		handle = handle_find(port, op->handle_);
		if (handle != NULL && flight(op)->prev != NULL)
			lane_fail(port, handle, op, PROA_ECANCELED);
		break;
	case OP_ACTIVE:
		if ((op->options_ & OPT_GATHERED) == 0) {
			port->engine->cancel(port, op);
		} else {
			/* Its bytes are in the head's hands: stop those, and see
			 * how far they came. */
			handle = handle_find(port, op->handle_);
			port->engine->cancel(port, handle->sends);
		}
		break;
	case OP_BACKLOG:
		backlog_remove(port, op);
		op->state_ = OP_ACTIVE;
		op_stepped(port, op, PROA_ECANCELED, 0);
		break;
	case OP_PAUSED:
		if (op->options_ & OPT_POOL)
			pool_forget(op);
		op_stepped(port, op, PROA_ECANCELED, 0);
		break;
	case OP_WORKER:
		worker_cancel(port, op);
		break;
	case OP_TIMING:
		op_end(port, op, PROA_ECANCELED, 0);
		break;
	case OP_LISTED:
		signal_end(port, op); /* tells what came and was not told yet */
		op_end(port, op, PROA_ECANCELED, 0);
		break;
	default: /* ended, or not begun */
		break;
	}
}

/* Cancels all ops of a list; `mark` goes on each. */
void op_cancel_list(struct proa_port *port, struct proa_op **list, unsigned mark)
{
	struct cursor at = { .next = *list, .outer = port->cursors };
	struct proa_op *op;
	struct handle *handle;
	bool last;

	if (at.next == NULL)
		return;
	at.last = flight(at.next)->prev;
	handle = handle_find(port, at.next->handle_);
	if (handle != NULL && (list == &handle->sends || list == &handle->recvs)) {
		/* A lane ends from its head, in order: see lane_pump(). */
		for (op = *list;; op = flight(op)->next) {
			op->options_ |= (uint16_t)(OPT_CANCEL | mark);
			if (op == at.last)
				break;
		}
		if ((*list)->state_ == OP_WAITING)
			lane_pump(port, handle, list);
		else
			op_cancel(port, *list);
		return;
	}
	port->cursors = &at;
	while ((op = at.next) != NULL) {
		last = op == at.last;
		at.next = last ? NULL : flight(op)->next;
		if (op->kind_ != PROA_OP_CLOSE)
			op->options_ |= (uint16_t)mark;
		op_cancel(port, op);
		if (last)
			break;
	}
	port->cursors = at.outer;
}

static void cancelled(struct proa_port *port)
{
	if (port->beginning != NULL)
		port_begin_next(port);
	if (port->external && !port->dispatching)
		port_kick(port);
}

void proa_cancel(struct proa_op *op)
{
	struct proa_port *port = op->port;

	if (op->state_ == OP_IDLE || op->state_ == OP_READY || op->state_ == OP_POSTED ||
		!port_enter(port, op))
		return;
	op_cancel(port, op);
	cancelled(port);
}

static struct proa_op *find_ticket(struct proa_op *list, uint64_t serial)
{
	struct proa_op *op = list;

	if (op == NULL)
		return NULL;
	do {
		if (op->lane_ == serial)
			return op;
		op = flight(op)->next;
	} while (op != list);
	return NULL;
}

void proa_cancel_ticket(struct proa_port *port, uint64_t ticket)
{
	uint64_t serial = ticket >> TICKET_HANDLE_BITS;
	proa_handle fd = (proa_handle)(ticket & TICKET_HANDLE_MASK) - 1;
	struct handle *handle = handle_find(port, fd);
	struct proa_op *op;

	if (!port_enter(port, NULL))
		return;
	if (handle == NULL) {
		op = find_ticket(port->loose[serial % LOOSE_LISTS], serial);
	} else {
		op = (handle->state & HANDLE_PRIVATE) ? NULL : find_ticket(handle->sends, serial);
		if (op == NULL)
			op = find_ticket(handle->recvs, serial);
		if (op == NULL)
			op = find_ticket(handle->others, serial);
	}
	if (op != NULL)
		proa_cancel(op);
}

void proa_cancel_handle(struct proa_port *port, proa_handle fd)
{
	struct handle *handle = handle_find(port, fd);

	if (!port_enter(port, NULL) || handle == NULL)
		return;
	op_cancel_list(port, &handle->recvs, 0);
	op_cancel_list(port, &handle->others, 0);
	if ((handle->state & HANDLE_PRIVATE) == 0)
		op_cancel_list(port, &handle->sends, 0);
	cancelled(port);
}

void port_cancel_all(struct proa_port *port)
{
	struct handle *handle;
	int fd;

	port->cancelling_all = true;
	for (fd = handle_next(port, 0); fd >= 0; fd = handle_next(port, fd + 1)) {
		handle = handle_find(port, fd);
		op_cancel_list(port, &handle->recvs, 0);
		op_cancel_list(port, &handle->others, 0);
		if ((handle->state & HANDLE_PRIVATE) == 0)
			op_cancel_list(port, &handle->sends, 0);
	}
	for (int i = 0; i < LOOSE_LISTS; i++)
		op_cancel_list(port, &port->loose[i], 0);
	port->cancelling_all = false;
}

void proa_cancel_all(struct proa_port *port)
{
	if (!port_enter(port, NULL))
		return;
	port_cancel_all(port);
	cancelled(port);
}

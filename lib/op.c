/* Operations: their kinds, and the way from submit to the first step: checks,
 * lists, tickets, chains. What happens then is in step.c. */
#include "lib/port.h"

#include "engines/engine.h"
#include "engines/system.h"
#include "lib/workers.h"

#define MOST_BYTES 0x7ffff000u

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

/* Too much is too much: the sum must not begin again at 0. */
static uint64_t slices_length(const struct proa_slice *slices, size_t count)
{
	uint64_t bytes = 0;

	for (size_t i = 0; i < count; i++) {
		if (slices[i].length > UINT64_MAX - bytes)
			return UINT64_MAX;
		bytes += slices[i].length;
	}
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

void op_unlist(struct proa_port *port, struct proa_op *op, struct proa_op **list)
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
	case PROA_OP_CHILD:
		if (CHILD_IS_TOLD) {
			op->state_ = OP_WORKER;
			error = child_begin(port, op);
			break;
		}
		/* fall through */
	case PROA_OP_DIAL:
		op->state_ = OP_ACTIVE;
		error = attempt_prepare(port, op);
		if (error == 0)
			op_start(port, op);
		break;
	case PROA_OP_RECV_LENT: /* of datagrams: a stream's begin in lane_pump() */
	case PROA_OP_RECV_MULTI:
		if (!pool_admits(port, op, handle_find(port, op->handle_)))
			return;
		/* fall through */
	default:
		op_start(port, op);
		return;
	}
	if (error < 0)
		op_end(port, op, error, 0);
}

/* Has the socket had its connect, or is one under way? */
static bool has_connect(const struct handle *handle)
{
	const struct proa_op *op = handle->others;

	if (handle->state & HANDLE_DEAD)
		return true;
	if (op == NULL)
		return false;
	do {
		if (op->kind_ == PROA_OP_CONNECT && op->state_ != OP_LINKED)
			return true;
		op = flight(op)->next;
	} while (op != handle->others);
	return false;
}

/* What the handle, which it acts on, is not good for. */
static int op_check_handle(const struct proa_op *op, const struct handle *handle)
{
	/* The system's answer to a second one depends on how far the first has come. */
	if (op->kind_ == PROA_OP_CONNECT && handle->type != HANDLE_DATAGRAM && has_connect(handle))
		return PROA_EISCONN;
	if (handle->type == HANDLE_DATAGRAM && op->kind_ == PROA_OP_SENDFILE)
		return PROA_EINVAL; /* a datagram has no parts */
	if ((op->kind_ == PROA_OP_RECV || op->kind_ == PROA_OP_RECVFROM ||
		    op->kind_ == PROA_OP_RECVMSG) &&
		handle->type != HANDLE_DATAGRAM && op_length(op) == 0)
		return PROA_EINVAL; /* 0 would read as the end of the stream */
	if (op->kind_ == PROA_OP_RECV && (op->flags_ & PROA_PEEK) &&
		(handle->type == HANDLE_PIPE || handle->type == HANDLE_FILE))
		return PROA_EINVAL; /* what is read there is gone */
	if (op->kind_ >= PROA_OP_READ && op->kind_ <= PROA_OP_WRITEV) {
		if (handle->type != HANDLE_FILE)
			return PROA_ESPIPE; /* no place has an offset there */
		/* To some systems an offset of -1 is the file's own position. */
		if (op->argument_ > INT64_MAX - MOST_BYTES)
			return PROA_EINVAL;
	}
	return (handle->state & HANDLE_DEAD) ? PROA_ENOTCONN : 0;
}

/* What is wrong with a described op, seen before anything is done. */
static int op_check(const struct proa_op *op, const struct handle *handle)
{
	unsigned kind = op_kinds[op->kind_];

	if ((kind & K_BYTES) && op->length_ > MOST_BYTES)
		return PROA_EINVAL;
	if ((kind & K_SLICES) || op->kind_ == PROA_OP_SENDMSG || op->kind_ == PROA_OP_RECVMSG)
		if (op_length(op) > MOST_BYTES)
			return PROA_EINVAL;
	if (op_borrows(op) && (op->flags_ & (PROA_ALL | PROA_PEEK)))
		return PROA_EINVAL; /* what is lent is taken, as much as came */
	if ((op->kind_ == PROA_OP_RECVFROM || op->kind_ == PROA_OP_RECVMSG) &&
		(op->flags_ & PROA_ALL))
		return PROA_EINVAL; /* they receive once: a second time has another sender */
	if (op->kind_ == PROA_OP_RECV && (op->flags_ & PROA_ALL) && (op->flags_ & PROA_PEEK))
		return PROA_EINVAL; /* what is left there is looked at once */
	if (op_borrows(op) && op->buffer_ == NULL)
		return PROA_EINVAL;
	return handle != NULL && (kind & K_HANDLE) ? op_check_handle(op, handle) : 0;
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
			error = system_classify(op->handle_, &type, &blocking);
	} else {
		error = handle_tie(port, op->handle_, handle);
		if (error == 0 && (*handle)->type == HANDLE_UNKNOWN)
			error = handle_reclassify(op->handle_, *handle);
	}
	if (error == 0 && ((*handle)->state & HANDLE_CLOSING))
		error = PROA_EBADF;
	return error;
}

/* Ends an op that can't be put on a list. */
static void op_unplaced(
	struct proa_port *port, struct proa_op *op, struct handle *handle, int32_t error)
{
	bool closing = handle != NULL && (handle->state & HANDLE_CLOSING);
	proa_handle fd = op->handle_;

	/* A close closes in any case, but what is another port's. */
	if (op->kind_ == PROA_OP_CLOSE && error != PROA_EBADF && error != PROA_EINVAL)
		error = handle_close(port, fd, HANDLE_UNKNOWN);
	if (error == PROA_EBADF && closing)
		handle_defers_close(handle);
	op->handle_ = PROA_NO_HANDLE;
	op_end(port, op, error, 0);
	if (op_sends(op) && error != PROA_EBADF) {
		/* Its stream, if there is one, is torn for those who send before they are
		 * told; there was no place to say so: see handle_tie(). */
		op->options_ |= OPT_TORE;
		op->handle_ = (int32_t)fd;
		port->strays = true;
	}
	if (closing)
		handle_settle(port, handle); /* which may have waited for this one's turn */
}

/* From here on the op is on a list, or has ended. */
static void op_launch(struct proa_port *port, struct proa_op *op)
{
	struct handle *handle;
	struct proa_op **list;
	int error = op_find_handle(port, op, &handle);

	if (error < 0) {
		op_unplaced(port, op, handle, error);
		return;
	}
	if (op->kind_ != PROA_OP_CLOSE) {
		error = atomic_load_explicit(&port->shut_asked, memory_order_relaxed) ||
					(op->options_ & OPT_CANCEL)
				? PROA_ECANCELED
			: port->max_inflight != 0 && port->in_flight > port->max_inflight
				? PROA_EAGAIN
				: op_check(op, handle);
	}
	list = op_list_of(port, op, handle);
	list_append(list, op);
	if (error == 0 && op_limited(op) && !op_is_timer(op))
		error = op_limit(port, op);
	if (error < 0 && op->kind_ != PROA_OP_CLOSE) {
		if (handle != NULL)
			lane_fail(port, handle, op, error);
		else
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

static uint64_t ticket_of(const struct proa_op *op, uint64_t serial)
{
	return serial << TICKET_HANDLE_BITS |
	       (((uint64_t)handle_index(op->handle_) + 1) & TICKET_HANDLE_MASK);
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
	port_touched(port);
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
	/* Of what moves no bytes it is a time, as long as it is in flight. */
	if (op->state_ != OP_IDLE && (op_is_dated(op) || op_is_timer(op)))
		return 0;
	return flight(op)->moved;
}

/* The io_uring engine: completions as the kernel gives them, turned into steps. */
#include "engines/uring/uring.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* Completions taken in by one turn: what is over stays in the kernel's ring. */
#define TURN_MOST 4096

#define UNHEARD_FIRST (10 * PROA_MILLISECOND)
#define UNHEARD_MOST  PROA_SECOND

/* Does somebody wait for its request to end: whoever cancels it, or (without
 * OPT_CANCEL) a send that it gathered, or a pause? It is not to be put off then,
 * for the kernel has been asked already and is not asked again. */
static bool is_to_end(const struct proa_op *op)
{
	return (op->options_ & (OPT_CANCEL | U_CANCELLED)) != 0;
}

static bool is_waited_for(const struct proa_op *op)
{
	return op_sends(op) || op_receives(op) || op->kind_ == PROA_OP_ACCEPT ||
	       op->kind_ == PROA_OP_ACCEPT_MULTI;
}

static bool is_of_files(const struct proa_op *op)
{
	return op->kind_ >= PROA_OP_OPEN && op->kind_ <= PROA_OP_MKDIR;
}

/* A datagram that there is no room for, in a device's queue or in memory: send(2). */
static bool is_crowded(struct proa_port *port, const struct proa_op *op, int32_t result)
{
	return result == -ENOBUFS && op_sends(op) &&
	       handle_find(port, op->handle_)->type == HANDLE_DATAGRAM;
}

/* Results that are none: the request is made again, in one way or another. True if
 * so; else *result may have become ECANCELED. */
static bool put_off(struct proa_port *port, struct proa_op *op, int32_t *result)
{
	/* A thread of the kernel's was interrupted, by a cancel or otherwise. */
	bool interrupted = *result == -EINTR || *result == -512 /* ERESTARTSYS */;
	bool crowded = is_crowded(port, op, *result);

	if (!interrupted && !crowded &&
		(*result != -EAGAIN || (!is_waited_for(op) && !is_of_files(op))))
		return false;
	if (is_to_end(op)) {
		/* As if cancelled while it waited: a request that was woken, and
		 * found its chance gone when the cancel came, tells it so. */
		*result = -ECANCELED;
		return false;
	}
	if (interrupted) {
		op_start(port, op);
	} else if (crowded) {
		if (uring_nap(port, op) == STEP_FULL)
			op_backlog(port, op);
	} else if (is_of_files(op)) {
		/* It was not to wait: for a lease to be given up (an open), or for
		 * the disk, on older kernels. A worker may. */
		op_to_worker(port, op);
	} else {
		/* Non-blocking descriptors are not polled by every kernel's every
		 * request: then we do. */
		op->options_ |= U_DIRECT;
		if (uring_poll(port, op) == STEP_FULL)
			op_backlog(port, op);
	}
	return true;
}

/* ---- receives ------------------------------------------------------------------- */

/* What an envelope tells when it comes back: the result, its message cut or not. */
static int32_t open_envelope(struct proa_port *port, struct proa_op *op, int32_t result)
{
	struct envelope *envelope = flight(op)->is.engine;
	struct msghdr *m = &envelope->message;
	bool cut = result >= 0 && (m->msg_flags & MSG_TRUNC);

	if (result >= 0 && op->kind_ == PROA_OP_RECVFROM && op->argument_ != 0)
		((struct proa_address *)(uintptr_t)op->argument_)->length = m->msg_namelen;
	if (result >= 0 && op->kind_ == PROA_OP_RECVMSG) {
		struct proa_message *message = op->buffer_;

		message->peer.length = m->msg_namelen;
		message->control_length = m->msg_controllen;
	}
	if (result >= 0)
		flight(op)->moved = (uint64_t)result;
	envelope_put(uring_of(port), envelope);
	return cut ? PROA_EMSGSIZE : result;
}

static void keep_sender(struct proa_buffer *buffer, const struct envelope *envelope)
{
	memcpy(buffer->data - POOL_ADDRESS_ROOM, &envelope->sender, sizeof envelope->sender);
	pool_set_sender(buffer, envelope->message.msg_namelen);
}

/* For a datagram without bytes the kernel takes no buffer; but who sent it is to
 * be known. */
static void empty_datagram(struct proa_port *port, struct proa_op *op)
{
	struct envelope *envelope = flight(op)->is.engine;
	struct proa_buffer *buffer = pool_take_free(op->buffer_);

	if (buffer != NULL)
		keep_sender(buffer, envelope);
	envelope_put(uring_of(port), envelope);
	/* Without any it is as if it had not come: datagrams may be lost. (A pool
	 * with room for more than a thousand is used up: see start_lent().) */
	if (buffer == NULL)
		op_stepped(port, op, STEP_NO_BUFFER, 0);
	else
		op_stepped(port, op, 0, LENT_FLAGS(pool_id(buffer)));
}

static void lent_filled(struct proa_port *port, struct proa_op *op, const struct handle *handle,
	int32_t result, unsigned cqe_flags)
{
	struct proa_pool *pool = op->buffer_;
	struct proa_buffer *buffer = pool_buffer(pool, cqe_flags >> IORING_CQE_BUFFER_SHIFT);
	uint32_t flags =
		LENT_FLAGS(pool_id(buffer)) | ((cqe_flags & IORING_CQE_F_MORE) ? PROA_MORE : 0);
	bool datagram = handle->type == HANDLE_DATAGRAM;
	struct envelope *envelope;

	buffers_used(port, pool);
	if (result < 0 || (result == 0 && !datagram)) {
		pool_put_free(pool, buffer);
		buffers_refill(port, pool);
		if (datagram)
			envelope_put(uring_of(port), flight(op)->is.engine);
		op_stepped(port, op, result < 0 ? unix_error(-result) : 0, flags & PROA_MORE);
		return;
	}
	buffer->length = (uint32_t)result;
	if (datagram) {
		envelope = flight(op)->is.engine;
		keep_sender(buffer, envelope);
		if (envelope->message.msg_flags & MSG_TRUNC)
			result = PROA_EMSGSIZE;
		envelope_put(uring_of(port), envelope);
	}
	/* A later "no buffer" may be of a look for data that is not there. */
	op->options_ &= (uint16_t)~U_FIRST;
	op_stepped(port, op, result, flags);
}

/* True if it was dealt with here. */
static bool lent_refused(
	struct proa_port *port, struct proa_op *op, const struct handle *handle, int32_t result)
{
	int32_t started;

	if (handle->type == HANDLE_DATAGRAM && (op->options_ & U_DIRECT) == 0 && result < 0)
		envelope_put(uring_of(port), flight(op)->is.engine);
	if (result != -ENOBUFS || (op->options_ & (OPT_CANCEL | OPT_SHARE)))
		return false;
	if (op->options_ & U_FIRST)
		return false; /* data is there, and no buffer */
	if (buffers_ring(port, op->buffer_) == NULL) {
		op_start(port, op); /* the ring was lost: by readiness */
		return true;
	}
	/* Perhaps there was no data to want one for: look first. */
	started = uring_arm_lent(port, op, true);
	if (started == STEP_FULL)
		op_backlog(port, op);
	else if (started != STEP_STARTED)
		op_stepped(port, op, started, 0);
	return true;
}

static void lent_completed(
	struct proa_port *port, struct proa_op *op, int32_t result, unsigned cqe_flags)
{
	const struct handle *handle = handle_find(port, op->handle_);

	if (cqe_flags & IORING_CQE_F_BUFFER) {
		lent_filled(port, op, handle, result, cqe_flags);
		return;
	}
	if (result == 0 && handle->type == HANDLE_DATAGRAM && (op->options_ & U_DIRECT) == 0) {
		empty_datagram(port, op);
		return;
	}
	if (lent_refused(port, op, handle, result))
		return;
	if (UNLIKELY(result < 0) && put_off(port, op, &result))
		return;
	if (result == -ENOBUFS)
		op_stepped(port, op, STEP_NO_BUFFER, 0);
	else
		op_stepped(port, op, result < 0 ? unix_error(-result) : result, 0);
}

/* ---- everything else --------------------------------------------------------------- */

static void op_completed(
	struct proa_port *port, struct proa_op *op, int32_t result, unsigned cqe_flags)
{
	const struct handle *handle;

	switch (op->kind_) {
	case PROA_OP_RECV_LENT:
	case PROA_OP_RECV_MULTI:
		lent_completed(port, op, result, cqe_flags);
		return;
	case PROA_OP_RECVFROM:
	case PROA_OP_RECVMSG:
		result = open_envelope(port, op, result);
		break;
	case PROA_OP_RECV:
		handle = handle_find(port, op->handle_);
		if (handle->type == HANDLE_DATAGRAM && result > (int64_t)op->length_) {
			flight(op)->moved = op->length_;
			result = PROA_EMSGSIZE;
		}
		break;
	case PROA_OP_OPEN:
		/* A lease on the file, which its holder has to give up first. */
		if (result == -EAGAIN && !is_to_end(op)) {
			op_to_worker(port, op);
			return;
		}
		/* Only the opening was not to block: reads of a file that is not
		 * in memory would fail. */
		if (result >= 0)
			fcntl(result, F_SETFL,
				file_open_flags(op->flags_) &
					~(O_CLOEXEC | O_CREAT | O_EXCL | O_TRUNC));
		break;
	case PROA_OP_STAT:
	case PROA_OP_FSTAT:
		if (result == 0)
			stat_fill_from_statx(op->kind_ == PROA_OP_STAT
						     ? (struct proa_stat *)(uintptr_t)op->argument_
						     : op->buffer_);
		break;
	default:
		break;
	}
	if (UNLIKELY(result < 0) && put_off(port, op, &result))
		return;
	op_stepped(port, op, result < 0 ? unix_error(-result) : result,
		(cqe_flags & IORING_CQE_F_MORE) ? PROA_MORE : 0);
}

static void poll_completed(struct proa_port *port, struct proa_op *op, int32_t result)
{
	uint32_t flags = 0;
	bool unasked;

	op->options_ &= (uint16_t)~U_POLLING;
	if (result == -ETIME && !is_to_end(op)) {
		op_start(port, op); /* from a nap */
		return;
	}
	if (result == -ETIME)
		result = -ECANCELED;
	/* The kernel adds POLLRDHUP to what is asked for, and that alone may be
	 * what it reports, at once and again and again. */
	unasked =
		result >= 0 && (result & (attempt_events(op) | POLLHUP | POLLERR | POLLNVAL)) == 0;
	if (result >= 0)
		result &= attempt_events(op) | POLLHUP | POLLERR | POLLNVAL;
	if (unasked && !is_to_end(op)) {
		op_retry_later(port, op);
		return;
	}
	if (unasked || (op->options_ & (U_CANCELLED | OPT_CANCEL)) == U_CANCELLED)
		result = -ECANCELED;
	if (op->kind_ == PROA_OP_POLL || op->kind_ == PROA_OP_POLL_MULTI) {
		/* Level-triggered: asked again, the kernel answers at once if it
		 * is still so. */
		op_stepped(port, op,
			result < 0 ? unix_error(-result) : attempt_poll_result((short)result), 0);
		return;
	}
	if (result >= 0 && !is_to_end(op) && (op->options_ & U_DIRECT) == 0) {
		op_start(port, op); /* a receive that polls by itself can't, here */
		return;
	}
	if (result >= 0) {
		result = attempt(port, op, true, &flags);
		if (result == STEP_TO_WORKER) {
			op_to_worker(port, op);
			return;
		}
		if (result == PROA_EAGAIN || result == STEP_LATER) {
			int32_t (*wait)(struct proa_port *, struct proa_op *) =
				result == PROA_EAGAIN ? uring_poll : uring_nap;

			if (!is_to_end(op)) {
				if (wait(port, op) == STEP_FULL)
					op_backlog(port, op);
				return;
			}
			result = PROA_ECANCELED;
		}
	} else {
		result = unix_error(-result);
	}
	op_stepped(port, op, result, flags);
}

static void woken(struct proa_port *port, unsigned cqe_flags)
{
	/* Each write reports; an eventfd's count need not be read. */
	if (cqe_flags & IORING_CQE_F_MORE) {
		if (port->wake_write != port->wake_handle)
			port_wake_drain(port);
		return;
	}
	port_wake_drain(port);
	ring_watch(port, uring_of(port));
}

/* ---- cancels once more --------------------------------------------------------- */

static struct proa_op *find_in(struct proa_port *port, struct proa_op *list,
	bool (*is)(struct proa_port *, struct proa_op *))
{
	struct proa_op *op = list;

	if (op == NULL)
		return NULL;
	do {
		if (op->state_ == OP_ACTIVE && is(port, op))
			return op;
		op = flight(op)->next;
	} while (op != list);
	return NULL;
}

struct proa_op *uring_find(
	struct proa_port *port, bool (*is)(struct proa_port *port, struct proa_op *op))
{
	struct proa_op *op = NULL;
	struct handle *handle;
	int fd;

	for (fd = handle_next(port, -1); fd >= 0 && op == NULL; fd = handle_next(port, fd)) {
		handle = handle_find(port, fd);
		if ((handle->state & HANDLE_PRIVATE) == 0)
			op = find_in(port, handle->sends, is);
		if (op == NULL)
			op = find_in(port, handle->recvs, is);
		if (op == NULL)
			op = find_in(port, handle->others, is);
	}
	for (int i = 0; i < LOOSE_LISTS && op == NULL; i++)
		op = find_in(port, port->loose[i], is);
	return op;
}

/* One that the kernel had, and was to stop. */
static bool is_stopped(struct proa_port *port, struct proa_op *op)
{
	(void)port;
	return (op->options_ & U_CANCELLED) != 0;
}

static bool cancel_again(struct proa_port *port, struct proa_op *op)
{
	if (is_stopped(port, op))
		uring_send_cancel(port, op);
	return false;
}

/* Sends all cancels once more. */
static bool recancel(struct proa_port *port)
{
	uring_find(port, cancel_again);
	return uring_find(port, is_stopped) != NULL;
}

/* A request may be with one of the kernel's threads (io-wq), which is told to
 * stop and may overhear it if it is just about to begin; on Linux 6.18 a send
 * that then blocks stays for ever. The cancel gives EALREADY in that case, or
 * ENOENT, for other places are searched after that one; and ENOENT, too, when the
 * request's own completion is on its way. So it is told again, ever less often,
 * until none is left to be told. */
static void unheard(struct proa_port *port, struct uring *uring)
{
	if (port->turn_due != PROA_FOREVER)
		return;
	uring->unheard = uring->unheard == 0                 ? UNHEARD_FIRST
			 : uring->unheard * 2 > UNHEARD_MOST ? UNHEARD_MOST
							     : uring->unheard * 2;
	port->turn_due = later(clock_now(), uring->unheard);
}

/* ---- all completions ------------------------------------------------------------ */

void uring_completed(struct proa_port *port, const struct io_uring_cqe *cqe)
{
	struct proa_op *op = (struct proa_op *)(uintptr_t)(cqe->user_data & ~(uint64_t)TAG_MASK);

	switch (cqe->user_data & TAG_MASK) {
	case TAG_OP:
		op_completed(port, op, cqe->res, cqe->flags);
		break;
	case TAG_POLL:
		poll_completed(port, op, cqe->res);
		break;
	case TAG_WAKE:
		woken(port, cqe->flags);
		break;
	default:
		if (UNLIKELY(cqe->res == -EALREADY || cqe->res == -ENOENT))
			unheard(port, uring_of(port));
		break;
	}
}

/* ---- the turn ------------------------------------------------------------------------ */

static void reap(struct proa_port *port, struct uring *uring)
{
	struct io_uring_cq *cq = &uring->ring.cq;
	unsigned head = *cq->khead, tail = __atomic_load_n(cq->ktail, __ATOMIC_ACQUIRE),
		 most = TURN_MOST;
	struct io_uring_cqe cqe;

	while (head != tail && most-- > 0 && port_has_room(port)) {
		cqe = cq->cqes[head & cq->ring_mask];
		/* Given back one by one: what is done with this one may enter
		 * the kernel, which needs the room. */
		__atomic_store_n(cq->khead, ++head, __ATOMIC_RELEASE);
		uring_completed(port, &cqe);
	}
}

/* Requests whose thread has ended: the kernel does not touch their buffers any more, for
 * it does so on that thread or on helpers that end with it. But it may never tell. */
static void drop_stopped(struct proa_port *port, struct uring *uring)
{
	struct proa_op *op;

	while ((op = uring_find(port, is_stopped)) != NULL) {
		struct io_uring_cqe cqe = { .res = -ECANCELED,
			.user_data = tagged(op, (op->options_ & U_POLLING) ? TAG_POLL : TAG_OP) };

		uring->dropped = true;
		uring_completed(port, &cqe);
	}
}

void uring_untake(struct proa_port *port, struct uring *uring, int error)
{
	struct io_uring_sq *sq = &uring->ring.sq;
	unsigned tag;

	for (unsigned head = *sq->khead; head != uring->tail; head++) {
		struct io_uring_cqe cqe = { .user_data = sq->sqes[head & sq->ring_mask].user_data,
			.res = -error };

		sq->sqes[head & sq->ring_mask].user_data = TAG_CANCEL;
		tag = cqe.user_data & TAG_MASK;
		if (tag == TAG_OP || tag == TAG_POLL)
			uring_completed(port, &cqe);
	}
	uring->tail = *sq->khead;
	__atomic_store_n(sq->ktail, uring->tail, __ATOMIC_RELEASE);
	uring->scratch_count = 0;
}

/* The port is closed by another thread than its own, which has ended: the kernel
 * takes nothing from this one, not even a cancel. What was told before is told. */
static void turn_of_another(struct proa_port *port, struct uring *uring, int64_t timeout)
{
	struct pollfd p = { .fd = uring->ring.ring_fd, .events = POLLIN };

	uring_untake(port, uring, ECANCELED);
	/* What it tells of those that were dropped comes too late: they are the
	 * program's, or gone. */
	if (!uring->dropped)
		reap(port, uring);
	if (uring->dropped || uring_cq_empty(uring))
		drop_stopped(port, uring);
	if (timeout > 0 && ready_empty(&port->ready))
		poll(&p, 1, 1);
}

static void uring_turn(struct proa_port *port, int64_t timeout)
{
	struct uring *uring = uring_of(port);
	bool entered = true;
	unsigned state;

	if (UNLIKELY(uring->owner != thread_self())) {
		if (uring->owner != NULL && (uring->can & CAN_DEFER)) {
			turn_of_another(port, uring, timeout);
			return;
		}
		uring->can &= ~(uring->owner != NULL ? CAN_REGISTER : 0u);
		if (uring->owner == NULL)
			ring_enable(port, uring);
		else {
			uring->ring.enter_ring_fd = uring->ring.ring_fd;
			uring->owner = thread_self();
		}
	}
	if (UNLIKELY(uring->unwatched))
		ring_watch(port, uring);
	if (UNLIKELY(uring->recancel)) {
		if (uring->refused != 0) {
			refused_turn(port, uring, timeout);
			return;
		}
		uring->recancel = false;
		recancel(port);
	}
	if (UNLIKELY(port->turn_due != PROA_FOREVER) && port->turn_due <= clock_now()) {
		port->turn_due = PROA_FOREVER;
		if (!recancel(port))
			uring->unheard = 0;
	}
	if (timeout > 0 && !uring_cq_empty(uring))
		timeout = 0;
	state = __atomic_load_n(uring->ring.sq.kflags, __ATOMIC_RELAXED);
	if (uring->event >= 0)
		system_wake_drain(
			uring->event); /* before the look: what comes later writes again */
	if (timeout > 0 || ring_has_requests(uring) ||
		(state & (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW)) || uring->event >= 0)
		entered = ring_enter(port, uring, timeout);
	reap(port, uring);
	/* In another loop's hands: nothing would tell it that the kernel is to be
	 * asked again. */
	if (UNLIKELY(port->external) &&
		(!entered || ring_has_requests(uring) || !uring_cq_empty(uring)))
		port_kick(port);
}

/* ---- life ------------------------------------------------------------------------------ */

static int uring_open(
	struct proa_port *port, const struct proa_port_options *options, char *why, size_t size)
{
	struct uring *uring = calloc(1, sizeof *uring);
	int error;

	if (uring == NULL) {
		snprintf(why, size, "no memory");
		return PROA_ENOMEM;
	}
	uring->event = -1;
	error = ring_open(port, uring, options, why, size);
	if (error < 0) {
		free(uring);
		return error;
	}
	port->world = uring;
	port->features = ((uring->can & CAN_FILES) ? 1u << PROA_NATIVE_FILES : 0) |
			 ((uring->can & CAN_MULTI) ? 1u << PROA_NATIVE_ACCEPT_MULTI |
							     1u << PROA_NATIVE_RECV_MULTI
						   : 0);
	return 0;
}

static void uring_close(struct proa_port *port)
{
	struct uring *uring = uring_of(port);

	ring_close(uring);
	if (uring->event >= 0)
		close(uring->event);
	envelopes_free(uring);
	free(uring);
	port->world = NULL;
}

static void uring_abandon(struct proa_port *port)
{
	struct uring *uring = uring_of(port);

	/* The child has no mapping of the ring (MADV_DONTFORK), just its
	 * descriptor. */
	close(uring->ring.ring_fd);
	if (uring->event >= 0)
		close(uring->event);
	envelopes_free(uring);
	free(uring);
	port->world = NULL;
}

static void uring_forget(struct proa_port *port, proa_handle fd, struct handle *handle)
{
	(void)port; /* the kernel holds nothing of a handle but requests */
	(void)fd;
	(void)handle;
}

/* The ring's own descriptor would not do: one of DEFER_TASKRUN does not wake
 * those that poll it when there is work which its thread has yet to run. A
 * registered eventfd is written to then as well. */
static int uring_descriptor(struct proa_port *port)
{
	struct uring *uring = uring_of(port);

	if (uring->event >= 0)
		return uring->event;
	if (uring->owner == NULL)
		ring_enable(port, uring);
	uring->event = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (uring->event < 0)
		return -1;
	if (io_uring_register_eventfd(&uring->ring, uring->event) == 0)
		return uring->event;
	close(uring->event);
	uring->event = -1;
	return -1;
}

const struct engine uring_engine = {
	.name = "io_uring",
	.open = uring_open,
	.close = uring_close,
	.abandon = uring_abandon,
	.start = uring_start,
	.cancel = uring_cancel,
	.forget = uring_forget,
	.turn = uring_turn,
	.descriptor = uring_descriptor,
	.pool_close = buffers_close,
	.pool_refill = buffers_refill,
	.pool_reclaim = buffers_reclaim,
};

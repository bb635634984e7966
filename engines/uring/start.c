/* From op to request: one function a kind of request. What the kernel has no
 * request for, or none that keeps the contract, goes by readiness (a poll, then
 * a try) or to the workers. */
#include "engines/uring/uring.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>

/* ---- envelopes ----------------------------------------------------------------- */

#define ENVELOPES 64

struct envelope_block {
	struct envelope envelopes[ENVELOPES];
	struct envelope_block *next;
};

struct envelope *envelope_take(struct uring *uring)
{
	struct envelope *envelope = uring->envelopes;
	struct envelope_block *block;

	if (envelope == NULL) {
		block = calloc(1, sizeof *block);
		if (block == NULL)
			return NULL;
		block->next = uring->blocks;
		uring->blocks = block;
		for (int i = 0; i < ENVELOPES; i++)
			envelope_put(uring, &block->envelopes[i]);
		envelope = uring->envelopes;
	}
	uring->envelopes = envelope->next;
	return envelope;
}

void envelope_put(struct uring *uring, struct envelope *envelope)
{
	envelope->next = uring->envelopes;
	uring->envelopes = envelope;
}

void envelopes_free(struct uring *uring)
{
	struct envelope_block *block, *next;

	for (block = uring->blocks; block != NULL; block = next) {
		next = block->next;
		free(block);
	}
}

/* ---- by readiness ---------------------------------------------------------------- */

int32_t uring_poll(struct proa_port *port, struct proa_op *op)
{
	struct io_uring_sqe *sqe = ring_request(port, uring_of(port));

	if (sqe == NULL)
		return STEP_FULL;
	sqe->opcode = IORING_OP_POLL_ADD;
	sqe->fd = attempt_descriptor(op);
	sqe->poll32_events = (unsigned short)attempt_events(op);
	sqe->user_data = tagged(op, TAG_POLL);
	op->options_ |= U_POLLING;
	return STEP_STARTED;
}

/* Nothing will tell when it can go on: it is begun anew when a request for no more than
 * a while has ended (poll_completed(): ETIME). */
int32_t uring_nap(struct proa_port *port, struct proa_op *op)
{
	static const struct __kernel_timespec nap = { .tv_nsec = 4 * PROA_MILLISECOND };
	struct io_uring_sqe *sqe = ring_request(port, uring_of(port));

	if (sqe == NULL)
		return STEP_FULL;
	sqe->opcode = IORING_OP_TIMEOUT;
	sqe->fd = -1;
	sqe->addr = (uint64_t)(uintptr_t)&nap;
	sqe->len = 1;
	sqe->user_data = tagged(op, TAG_POLL);
	op->options_ |= U_POLLING;
	return STEP_STARTED;
}

static int32_t start_direct(struct proa_port *port, struct proa_op *op, uint32_t *flags)
{
	int32_t result;

	op->options_ |= U_DIRECT;
	result = attempt(port, op, false, flags);
	if (result == STEP_LATER)
		return op_sends(op) ? uring_nap(port, op) : PROA_EAGAIN;
	if (result == PROA_EAGAIN && op_borrows(op))
		pool_unwanted(op->buffer_);
	/* There may be some that can't be had now: see buffers_reclaim(). */
	if (result == STEP_NO_BUFFER && cq_has_overflown(uring_of(port)))
		return STEP_FULL;
	return result == PROA_EAGAIN ? uring_poll(port, op) : result;
}

/* ---- sockets ------------------------------------------------------------------------ */

static int32_t start_recv(struct proa_port *port, struct proa_op *op, const struct handle *handle)
{
	size_t moved = (size_t)flight(op)->moved;
	struct io_uring_sqe *sqe = ring_request(port, uring_of(port));

	if (sqe == NULL)
		return STEP_FULL;
	sqe->opcode = IORING_OP_RECV;
	sqe->fd = op->handle_;
	sqe->addr = (uint64_t)(uintptr_t)op->buffer_ + moved;
	sqe->len = (uint32_t)(op->length_ - moved);
	sqe->msg_flags = (op->flags_ & PROA_PEEK) ? MSG_PEEK : 0;
	if (handle->type == HANDLE_DATAGRAM)
		sqe->msg_flags |= MSG_TRUNC; /* tells the whole length of one that is cut */
	sqe->user_data = tagged(op, TAG_OP);
	return STEP_STARTED;
}

static int32_t start_envelope(
	struct proa_port *port, struct proa_op *op, struct envelope *envelope, int flags)
{
	struct io_uring_sqe *sqe = ring_request(port, uring_of(port));

	if (sqe == NULL) {
		envelope_put(uring_of(port), envelope);
		return STEP_FULL;
	}
	sqe->opcode = IORING_OP_RECVMSG;
	sqe->fd = op->handle_;
	sqe->addr = (uint64_t)(uintptr_t)&envelope->message;
	sqe->len = 1;
	sqe->msg_flags = (uint32_t)flags;
	sqe->user_data = tagged(op, TAG_OP);
	flight(op)->is.engine = envelope;
	return STEP_STARTED;
}

static int32_t start_recvmsg(struct proa_port *port, struct proa_op *op)
{
	struct envelope *envelope = envelope_take(uring_of(port));
	struct msghdr *m;

	if (envelope == NULL)
		return PROA_ENOMEM;
	m = &envelope->message;
	*m = (struct msghdr) { .msg_iov = &envelope->slice, .msg_iovlen = 1 };
	if (op->kind_ == PROA_OP_RECVFROM) {
		struct proa_address *from = (struct proa_address *)(uintptr_t)op->argument_;

		envelope->slice.iov_base = op->buffer_;
		envelope->slice.iov_len = op->length_;
		if (from != NULL) {
			m->msg_name = &from->to;
			m->msg_namelen = sizeof from->to;
		}
	} else {
		struct proa_message *message = op->buffer_;

		m->msg_name = &message->peer.to;
		m->msg_namelen = sizeof message->peer.to;
		m->msg_iov = (struct iovec *)message->slices;
		m->msg_iovlen = message->slice_count;
		m->msg_control = message->control;
		m->msg_controllen = message->control_length;
	}
	return start_envelope(
		port, op, envelope, MSG_CMSG_CLOEXEC | ((op->flags_ & PROA_PEEK) ? MSG_PEEK : 0));
}

/* One datagram into a buffer that the kernel picks when it is there. */
static int32_t arm_datagram(
	struct proa_port *port, struct proa_op *op, const struct ring_pool *ring, bool first)
{
	struct envelope *envelope = envelope_take(uring_of(port));
	struct uring *uring = uring_of(port);
	struct io_uring_sqe *sqe;
	int32_t result;

	if (envelope == NULL)
		return PROA_ENOMEM;
	envelope->message = (struct msghdr) { .msg_iov = &envelope->slice, .msg_iovlen = 1 };
	envelope->slice =
		(struct iovec) { .iov_base = NULL, .iov_len = pool_buffer_size(op->buffer_) };
	envelope->message.msg_name = &envelope->sender;
	envelope->message.msg_namelen = sizeof envelope->sender;
	result = start_envelope(port, op, envelope, 0);
	if (result == STEP_STARTED) {
		sqe = &uring->ring.sq.sqes[(uring->tail - 1) & uring->ring.sq.ring_mask];
		sqe->flags = IOSQE_BUFFER_SELECT;
		sqe->buf_group = ring->group;
		sqe->ioprio = first ? IORING_RECVSEND_POLL_FIRST : 0;
	}
	return result;
}

int32_t uring_arm_lent(struct proa_port *port, struct proa_op *op, bool first)
{
	struct uring *uring = uring_of(port);
	const struct handle *handle = handle_find(port, op->handle_);
	struct ring_pool *ring = buffers_ring(port, op->buffer_);
	bool multi = op->kind_ == PROA_OP_RECV_MULTI && (uring->can & CAN_MULTI) &&
		     pool_is_ample(op->buffer_);
	struct io_uring_sqe *sqe;

	/* On an empty ring the kernel would give up at once, data or not. */
	if (ring->provided == 0)
		first = true;
	if (first)
		op->options_ |= U_FIRST;
	if (handle->type == HANDLE_DATAGRAM)
		return arm_datagram(port, op, ring, first);
	sqe = ring_request(port, uring);
	if (sqe == NULL)
		return STEP_FULL;
	sqe->opcode = IORING_OP_RECV;
	sqe->fd = op->handle_;
	sqe->flags = IOSQE_BUFFER_SELECT;
	sqe->buf_group = ring->group;
	sqe->len = multi ? 0 : pool_buffer_size(op->buffer_);
	sqe->ioprio = (uint16_t)((multi ? IORING_RECV_MULTISHOT : 0) |
				 (first ? IORING_RECVSEND_POLL_FIRST : 0));
	sqe->user_data = tagged(op, TAG_OP);
	return STEP_STARTED;
}

static int32_t start_lent(struct proa_port *port, struct proa_op *op, uint32_t *flags)
{
	/* For an empty datagram the kernel takes no buffer from the ring; a small
	 * pool may have none left by the time that we hear of it. */
	if (handle_find(port, op->handle_)->type == HANDLE_DATAGRAM && !pool_is_ample(op->buffer_))
		return start_direct(port, op, flags);
	if (buffers_ring(port, op->buffer_) == NULL)
		return start_direct(port, op, flags);
	return uring_arm_lent(port, op, false);
}

/* A stream's sends: the head of the lane and those behind, in one request. */
static int32_t start_send(struct proa_port *port, struct proa_op *op)
{
	struct uring *uring = uring_of(port);
	struct scratch *scratch;
	struct io_uring_sqe *sqe = ring_request_with(port, uring, &scratch);
	size_t bytes;
	bool more;
	int count;

	if (sqe == NULL)
		return STEP_FULL;
	count = lane_gather(
		port, op, (struct proa_slice *)scratch->slices, SCRATCH_SLICES, &bytes, &more);
	sqe->fd = op->handle_;
	/* Without MSG_WAITALL, though all of it is to go out: the bytes of a part
	 * are progress, which limits in time are counted from. */
	sqe->msg_flags = MSG_NOSIGNAL | (more ? MSG_MORE : 0);
	sqe->user_data = tagged(op, TAG_OP);
	if (count == 1 && op->kind_ != PROA_OP_SENDMSG) {
		uring->scratch_count--;
		sqe->opcode = IORING_OP_SEND;
		sqe->addr = (uint64_t)(uintptr_t)scratch->slices[0].iov_base;
		sqe->len = (uint32_t)bytes;
		return STEP_STARTED;
	}
	scratch->message =
		(struct msghdr) { .msg_iov = scratch->slices, .msg_iovlen = (size_t)count };
	if (op->kind_ == PROA_OP_SENDMSG) {
		struct proa_message *message = op->buffer_;

		if (message->peer.length > 0) { /* UNIX streams refuse it: EISCONN */
			scratch->message.msg_name = &message->peer.to;
			scratch->message.msg_namelen = message->peer.length;
		}
		if (flight(op)->moved == 0) {
			scratch->message.msg_control = message->control;
			scratch->message.msg_controllen = message->control_length;
		}
	}
	sqe->opcode = IORING_OP_SENDMSG;
	sqe->addr = (uint64_t)(uintptr_t)&scratch->message;
	sqe->len = 1;
	return STEP_STARTED;
}

static int32_t start_datagram(struct proa_port *port, struct proa_op *op)
{
	struct uring *uring = uring_of(port);
	struct scratch *scratch;
	struct io_uring_sqe *sqe = ring_request_with(port, uring, &scratch);
	struct msghdr *m;

	if (sqe == NULL)
		return STEP_FULL;
	m = &scratch->message;
	*m = (struct msghdr) { .msg_iov = scratch->slices, .msg_iovlen = 1 };
	if (op->kind_ == PROA_OP_SENDMSG) {
		struct proa_message *message = op->buffer_;

		m->msg_iov = (struct iovec *)message->slices;
		m->msg_iovlen = message->slice_count;
		m->msg_control = message->control;
		m->msg_controllen = message->control_length;
		if (message->peer.length > 0) {
			m->msg_name = &message->peer.to;
			m->msg_namelen = message->peer.length;
		}
	} else if (op->kind_ == PROA_OP_SENDV) {
		m->msg_iov = op->buffer_;
		m->msg_iovlen = op->length_;
	} else {
		const struct proa_address *to =
			(const struct proa_address *)(uintptr_t)op->argument_;

		scratch->slices[0].iov_base = op->buffer_;
		scratch->slices[0].iov_len = op->length_;
		if (op->kind_ == PROA_OP_SENDTO && to != NULL) {
			m->msg_name = (void *)(uintptr_t)&to->to;
			m->msg_namelen = to->length;
		}
	}
	sqe->opcode = IORING_OP_SENDMSG;
	sqe->fd = op->handle_;
	sqe->addr = (uint64_t)(uintptr_t)m;
	sqe->len = 1;
	sqe->msg_flags = MSG_NOSIGNAL;
	sqe->user_data = tagged(op, TAG_OP);
	return STEP_STARTED;
}

static int32_t start_accept(struct proa_port *port, struct proa_op *op)
{
	struct uring *uring = uring_of(port);
	struct proa_address *peer = op->kind_ == PROA_OP_ACCEPT ? op->buffer_ : NULL;
	struct io_uring_sqe *sqe = ring_request(port, uring);

	if (sqe == NULL)
		return STEP_FULL;
	sqe->opcode = IORING_OP_ACCEPT;
	sqe->fd = op->handle_;
	sqe->accept_flags = SOCK_NONBLOCK | SOCK_CLOEXEC;
	if (op->kind_ == PROA_OP_ACCEPT_MULTI && (uring->can & CAN_MULTI))
		sqe->ioprio = IORING_ACCEPT_MULTISHOT;
	if (peer != NULL) {
		peer->length = sizeof peer->to;
		sqe->addr = (uint64_t)(uintptr_t)&peer->to;
		sqe->addr2 = (uint64_t)(uintptr_t)&peer->length;
	}
	sqe->user_data = tagged(op, TAG_OP);
	return STEP_STARTED;
}

static int32_t start_connect(struct proa_port *port, struct proa_op *op)
{
	const struct proa_address *to = op->buffer_;
	struct io_uring_sqe *sqe = ring_request(port, uring_of(port));

	if (sqe == NULL)
		return STEP_FULL;
	sqe->opcode = IORING_OP_CONNECT;
	sqe->fd = attempt_descriptor(op);
	sqe->addr = (uint64_t)(uintptr_t)&to->to;
	sqe->off = to->length;
	sqe->user_data = tagged(op, TAG_OP);
	return STEP_STARTED;
}

/* ---- files ------------------------------------------------------------------------------ */

static const uint8_t file_requests[] = {
	[PROA_OP_READ] = IORING_OP_READ,
	[PROA_OP_READV] = IORING_OP_READV,
	[PROA_OP_WRITE] = IORING_OP_WRITE,
	[PROA_OP_WRITEV] = IORING_OP_WRITEV,
	[PROA_OP_SYNC] = IORING_OP_FSYNC,
	[PROA_OP_STAT] = IORING_OP_STATX,
	[PROA_OP_FSTAT] = IORING_OP_STATX,
	[PROA_OP_TRUNCATE] = KERNEL_OP_FTRUNCATE,
	[PROA_OP_RENAME] = IORING_OP_RENAMEAT,
	[PROA_OP_UNLINK] = IORING_OP_UNLINKAT,
	[PROA_OP_MKDIR] = IORING_OP_MKDIRAT,
};

static int32_t start_slices(struct proa_port *port, struct proa_op *op, unsigned opcode)
{
	struct uring *uring = uring_of(port);
	struct scratch *scratch;
	struct io_uring_sqe *sqe = ring_request_with(port, uring, &scratch);
	size_t bytes;
	bool more;
	int count;

	if (sqe == NULL)
		return STEP_FULL;
	count = lane_gather(
		port, op, (struct proa_slice *)scratch->slices, SCRATCH_SLICES, &bytes, &more);
	sqe->opcode = (uint8_t)opcode;
	sqe->fd = op->handle_;
	sqe->addr = (uint64_t)(uintptr_t)scratch->slices;
	sqe->len = (uint32_t)count;
	sqe->off = op->argument_ + flight(op)->moved;
	sqe->user_data = tagged(op, TAG_OP);
	return STEP_STARTED;
}

static void describe_file(struct proa_op *op, struct io_uring_sqe *sqe)
{
	uint64_t moved = flight(op)->moved;
	struct proa_stat *out;

	sqe->fd = op->handle_;
	switch (op->kind_) {
	case PROA_OP_READ:
	case PROA_OP_WRITE:
		sqe->addr = (uint64_t)(uintptr_t)op->buffer_ + moved;
		sqe->len = (uint32_t)(op->length_ - moved);
		sqe->off = op->argument_ + moved;
		break;
	case PROA_OP_SYNC:
		sqe->fsync_flags = (op->flags_ & PROA_DATA_ONLY) ? IORING_FSYNC_DATASYNC : 0;
		break;
	case PROA_OP_STAT:
	case PROA_OP_FSTAT:
		out = op->kind_ == PROA_OP_STAT ? (struct proa_stat *)(uintptr_t)op->argument_
						: op->buffer_;
		sqe->fd = op->kind_ == PROA_OP_STAT ? AT_FDCWD : op->handle_;
		sqe->addr = (uint64_t)(uintptr_t)(op->kind_ == PROA_OP_STAT ? op->buffer_ : "");
		sqe->len = 0x7ff; /* STATX_BASIC_STATS */
		sqe->off = (uint64_t)(uintptr_t)stat_statx(out);
		sqe->statx_flags = op->kind_ == PROA_OP_FSTAT ? AT_EMPTY_PATH : 0;
		break;
	case PROA_OP_TRUNCATE:
		sqe->off = op->argument_;
		break;
	case PROA_OP_RENAME:
		sqe->fd = AT_FDCWD;
		sqe->addr = (uint64_t)(uintptr_t)op->buffer_;
		sqe->len = (uint32_t)AT_FDCWD;
		sqe->addr2 = op->argument_;
		break;
	default: /* unlink, mkdir */
		sqe->fd = AT_FDCWD;
		sqe->addr = (uint64_t)(uintptr_t)op->buffer_;
		sqe->len = op->kind_ == PROA_OP_MKDIR ? (uint32_t)op->argument_ : 0;
		break;
	}
}

static int32_t start_file(struct proa_port *port, struct proa_op *op, uint32_t *flags)
{
	struct uring *uring = uring_of(port);
	unsigned opcode = op->kind_ == PROA_OP_OPEN ? IORING_OP_OPENAT : file_requests[op->kind_];
	struct io_uring_sqe *sqe;

	if ((uring->can & CAN_FILES) == 0 || (uring->supported >> opcode & 1) == 0) {
		*flags = STEP_IS_FINAL;
		return file_try(op);
	}
	if ((op->kind_ == PROA_OP_READ || op->kind_ == PROA_OP_WRITE) && op->length_ == 0)
		return 0;
	if (op->kind_ == PROA_OP_READV || op->kind_ == PROA_OP_WRITEV)
		return op_length(op) == 0 ? 0 : start_slices(port, op, opcode);
	if (op->kind_ == PROA_OP_OPEN && file_open_flags(op->flags_) < 0)
		return PROA_EINVAL;
	sqe = ring_request(port, uring);
	if (sqe == NULL)
		return STEP_FULL;
	sqe->opcode = (uint8_t)opcode;
	sqe->user_data = tagged(op, TAG_OP);
	if (op->kind_ == PROA_OP_OPEN) {
		sqe->fd = AT_FDCWD;
		sqe->addr = (uint64_t)(uintptr_t)op->buffer_;
		sqe->len = (uint32_t)op->argument_;
		/* A FIFO without a writer must not hold a kernel thread. */
		sqe->open_flags = (uint32_t)file_open_flags(op->flags_) | O_NONBLOCK;
	} else {
		describe_file(op, sqe);
	}
	return STEP_STARTED;
}

/* ---- what the seam calls ------------------------------------------------------------------ */

static bool is_empty_send(const struct proa_op *op, const struct handle *handle)
{
	return handle->type != HANDLE_DATAGRAM && op->kind_ != PROA_OP_SHUTDOWN &&
	       op_length(op) == flight(op)->moved;
}

static int32_t start_socket(
	struct proa_port *port, struct proa_op *op, const struct handle *handle, uint32_t *flags)
{
	bool datagram = handle->type == HANDLE_DATAGRAM;

	switch (op->kind_) {
	case PROA_OP_RECV:
		return start_recv(port, op, handle);
	case PROA_OP_RECVFROM:
	case PROA_OP_RECVMSG:
		return start_recvmsg(port, op);
	case PROA_OP_RECV_LENT:
	case PROA_OP_RECV_MULTI:
		return start_lent(port, op, flags);
	case PROA_OP_SEND:
	case PROA_OP_SENDV:
	case PROA_OP_SENDTO:
	case PROA_OP_SENDMSG:
		if (is_empty_send(op, handle))
			return 0;
		return datagram ? start_datagram(port, op) : start_send(port, op);
	case PROA_OP_ACCEPT:
	case PROA_OP_ACCEPT_MULTI:
		return start_accept(port, op);
	default: /* shutdown, sendfile: a call of our own is cheaper */
		return start_direct(port, op, flags);
	}
}

int32_t uring_start(struct proa_port *port, struct proa_op *op, uint32_t *flags)
{
	const struct handle *handle;

	op->options_ &= (uint16_t) ~(U_POLLING | U_FIRST | U_CANCELLED);
	if (op->kind_ >= PROA_OP_OPEN && op->kind_ <= PROA_OP_MKDIR)
		return start_file(port, op, flags);
	if (op->kind_ == PROA_OP_CONNECT || op->kind_ == PROA_OP_DIAL)
		return start_connect(port, op);
	if (op->kind_ == PROA_OP_POLL || op->kind_ == PROA_OP_POLL_MULTI)
		return uring_poll(port, op);
	if (op->kind_ == PROA_OP_CHILD)
		return start_direct(port, op, flags);
	handle = handle_find(port, op->handle_);
	if (handle->type == HANDLE_FILE && (op_sends(op) || op_receives(op)) &&
		op->kind_ != PROA_OP_SHUTDOWN) {
		*flags = STEP_IS_FINAL;
		return file_try(op);
	}
	if (handle->type == HANDLE_PIPE || (op->options_ & U_DIRECT))
		return start_direct(port, op, flags);
	return start_socket(port, op, handle, flags);
}

void uring_send_cancel(struct proa_port *port, struct proa_op *op)
{
	struct uring *uring = uring_of(port);
	struct io_uring_sqe *sqe = ring_request(port, uring);

	if (sqe == NULL) {
		uring->recancel = true;
		return;
	}
	sqe->opcode = IORING_OP_ASYNC_CANCEL;
	sqe->fd = -1;
	sqe->addr = tagged(op, (op->options_ & U_POLLING) ? TAG_POLL : TAG_OP);
	sqe->user_data = TAG_CANCEL;
}

void uring_cancel(struct proa_port *port, struct proa_op *op)
{
	if (op->options_ & U_CANCELLED)
		return;
	op->options_ |= U_CANCELLED;
	uring_send_cancel(port, op);
}

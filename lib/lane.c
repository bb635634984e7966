/* Lanes: the order of a stream's sends and of its receives. The engine has the
 * head of a lane and no other, but sends that wait are gathered into the head's
 * system call. */
#include "lib/port.h"

#include <limits.h>

#include "engines/engine.h"

#define GATHER_BYTES (1u << 20)

void lane_pump(struct proa_port *port, struct handle *handle, struct proa_op **lane)
{
	bool sends = lane == &handle->sends;
	struct proa_op *op;

	if (sends ? handle->pumping_sends : handle->pumping_recvs)
		return;
	if (sends)
		handle->pumping_sends = 1;
	else
		handle->pumping_recvs = 1;
	/* What starts may end at once, and the next is the head then. */
	while ((op = *lane) != NULL && op->state_ == OP_WAITING) {
		if (UNLIKELY(op->options_ & OPT_CANCEL))
			lane_fail(port, handle, op, PROA_ECANCELED);
		else if (!op_borrows(op) ||
			 pool_admits(port, op, handle)) /* else paused, or ended */
			op_start(port, op);
	}
	if (sends)
		handle->pumping_sends = 0;
	else
		handle->pumping_recvs = 0;
	if (UNLIKELY(handle->state & HANDLE_CLOSING))
		handle_settle(port, handle);
}

/* The head may be with the engine: then it, and what it gathered, go their own way. */
void lane_fail(struct proa_port *port, struct handle *handle, struct proa_op *op, int32_t result)
{
	struct proa_op *before, *behind, *end;
	bool outer = handle->pumping_sends;

	if (op_list(port, op) != &handle->sends) {
		op_end(port, op, result, 0);
		return;
	}
	/* Until the program has been told, what it sends on would go out on a
	 * stream that it does not know to be torn. */
	if ((handle->state & HANDLE_CLOSING) == 0) {
		if (handle->tears < TEARS_MOST)
			handle->tears++;
		op->options_ |= OPT_TORE;
	}
	before = op == handle->sends ? NULL : flight(op)->prev;
	handle->pumping_sends = 1;
	op_end(port, op, result, 0);
	end = before == NULL ? NULL : handle->sends;
	while ((behind = before == NULL ? handle->sends : flight(before)->next) != end) {
		behind->options_ |= OPT_CANCEL;
		op_end(port, behind, PROA_ECANCELED, 0);
	}
	handle->pumping_sends = outer;
	lane_pump(port, handle, &handle->sends);
}

/* Adds the slices of one send, from its first `skip` bytes on. False: no room
 * for all of them. */
static bool gather_slices(const struct proa_slice *from, size_t count, uint64_t skip,
	struct proa_slice *slices, int room, int *used, size_t *bytes)
{
	for (size_t i = 0; i < count; i++) {
		if (skip >= from[i].length) {
			skip -= from[i].length;
			continue;
		}
		if (*used == room)
			return false;
		slices[*used].data = (char *)from[i].data + skip;
		slices[*used].length = from[i].length - (slice_length)skip;
		*bytes += slices[*used].length;
		++*used;
		skip = 0;
	}
	return true;
}

static bool gather_one(
	const struct proa_op *op, struct proa_slice *slices, int room, int *used, size_t *bytes)
{
	const struct proa_message *message = op->buffer_;
	struct proa_slice whole;

	switch (op->kind_) {
	case PROA_OP_SENDV:
	case PROA_OP_READV:
	case PROA_OP_WRITEV:
		return gather_slices(
			op->buffer_, op->length_, flight(op)->moved, slices, room, used, bytes);
	case PROA_OP_SENDMSG:
	case PROA_OP_RECVMSG:
		return gather_slices(message->slices, message->slice_count, flight(op)->moved,
			slices, room, used, bytes);
	default:
		whole.data = op->buffer_;
		whole.length = (slice_length)op->length_;
		return gather_slices(&whole, 1, flight(op)->moved, slices, room, used, bytes);
	}
}

/* May its bytes go out with those before it? What has flags, control data or
 * bytes of a file goes alone. */
static bool is_plain(const struct proa_op *op)
{
	return (op->kind_ == PROA_OP_SEND || op->kind_ == PROA_OP_SENDV) &&
	       (op->flags_ & PROA_SOME) == 0 && (op->options_ & OPT_CANCEL) == 0;
}

int lane_gather(struct proa_port *port, struct proa_op *head, struct proa_slice *slices, int room,
	size_t *bytes, bool *more)
{
	struct handle *handle = handle_find(port, head->handle_);
	struct proa_op *op = head;
	int used = 0;
	bool whole;

	if (LIKELY(head->kind_ == PROA_OP_SEND && flight(head)->next == head)) {
		*more = (head->flags_ & PROA_CORK) != 0;
		*bytes = head->length_ - (size_t)flight(head)->moved;
		slices->data = (char *)head->buffer_ + flight(head)->moved;
		slices->length = (slice_length)*bytes;
		return *bytes > 0;
	}
	*bytes = 0;
	whole = gather_one(head, slices, room, &used, bytes);
	*more = !whole || (head->flags_ & PROA_CORK) != 0;
	if (!whole || !is_plain(head) || handle->sends != head)
		return used;
	while ((op = flight(op)->next) != head && is_plain(op) && used < room &&
		*bytes < GATHER_BYTES &&
		(op->state_ == OP_WAITING || (op->options_ & OPT_GATHERED))) {
		whole = gather_one(op, slices, room, &used, bytes);
		*more = !whole || (op->flags_ & PROA_CORK) != 0;
		op->state_ = OP_ACTIVE;
		op->options_ |= OPT_GATHERED;
		if (!whole)
			break;
	}
	return used;
}

void flush_progress(struct proa_port *port, struct handle *handle)
{
	struct proa_op *close = flight(handle->others)->prev;

	if (close->timeout_ != PROA_FOREVER)
		op_limit(port, close);
}

/* Gives `bytes` to the sends at the head of the lane that took them; ends those
 * that have all. */
static void lane_credit(struct proa_port *port, struct handle *handle, uint64_t bytes)
{
	struct proa_op *op;
	uint64_t left;
	bool some;

	if (bytes > 0 && (handle->state & HANDLE_FLUSHING))
		flush_progress(port, handle);
	do {
		op = handle->sends;
		left = op_length(op) - flight(op)->moved;
		some = (op->flags_ & PROA_SOME) && bytes > 0;
		if (left > bytes && !some) {
			flight(op)->moved += bytes;
			/* The head, or one of those that were gathered behind it. */
			if (bytes > 0 && op->timeout_ != PROA_FOREVER)
				op_limit(port, op);
			return;
		}
		if (left > bytes)
			left = bytes;
		flight(op)->moved += left;
		bytes -= left;
		left = flight(op)->moved;
		op->options_ &= (uint16_t)~OPT_GATHERED; /* the same bit as OPT_TORE */
		op_end(port, op, left > INT32_MAX ? INT32_MAX : (int32_t)left, 0);
	} while (handle->sends != NULL && (handle->sends->options_ & OPT_GATHERED));
}

/* What was gathered and not sent waits again. The first of it whose end was
 * asked for while it was out, for now it is known how far it came; or NULL. */
static struct proa_op *lane_scatter(struct handle *handle)
{
	struct proa_op *op = handle->sends, *torn = NULL;

	while (op != NULL) {
		if (op->state_ == OP_ACTIVE)
			op->state_ = OP_WAITING;
		op->options_ &= (uint16_t)~OPT_GATHERED;
		if (torn == NULL && (op->options_ & OPT_CANCEL))
			torn = op;
		op = flight(op)->next;
		if (op == handle->sends || (op->options_ & OPT_GATHERED) == 0)
			break;
	}
	return torn;
}

void lane_sent(struct proa_port *port, struct handle *handle, int32_t result)
{
	struct proa_op *head = handle->sends, *torn;
	bool outer = handle->pumping_sends, stopped;

	/* Most of them: all of it went out, and nothing waits behind it. */
	if (LIKELY(result > 0 && head->kind_ == PROA_OP_SEND && flight(head)->next == head &&
		    head->length_ - flight(head)->moved == (uint32_t)result)) {
		flight(head)->moved = head->length_;
		if (UNLIKELY(handle->state & HANDLE_FLUSHING))
			flush_progress(port, handle);
		op_end(port, head, (int32_t)head->length_, 0);
		return;
	}
	/* Stopped for the sake of one that it had gathered. */
	stopped = result == PROA_ECANCELED && (head->options_ & OPT_CANCEL) == 0;
	if (stopped)
		result = 0;
	handle->pumping_sends = 1;
	if (result >= 0 && !stopped) {
		lane_credit(port, handle, (uint32_t)result);
		if (result == 0 && head == handle->sends && flight(head)->moved < op_length(head))
			result = PROA_EIO; /* it took nothing and gave no reason */
	}
	torn = lane_scatter(handle);
	handle->pumping_sends = outer;
	if (result < 0) {
		lane_fail(port, handle, head, result);
		return;
	}
	if (torn != NULL) {
		lane_fail(port, handle, torn, PROA_ECANCELED);
		return;
	}
	lane_pump(port, handle, &handle->sends);
}

/* Cancelling: of an op, a ticket, a handle, all. What asks for an op's end does
 * not end it where somebody has it: see op_cancel(). */
#include "lib/port.h"

#include "engines/engine.h"
#include "engines/system.h"
#include "lib/workers.h"

static void close_cancel(struct proa_port *port, struct proa_op *close)
{
	struct handle *handle = handle_find(port, close->handle_);

	if (handle == NULL || (close->state_ == OP_LINKED && (close->options_ & OPT_QUEUED)))
		return; /* it finds out when it starts */
	if (close->state_ == OP_LINKED && (handle->state & HANDLE_CLOSING)) {
		/* Another close of the handle has come before it: that one closes. */
		flight(close)->is.before->next_ = NULL;
		op_unlist(port, close, &handle->others);
		handle_defers_close(handle);
		close->handle_ = PROA_NO_HANDLE;
		op_end(port, close, PROA_EBADF, 0);
	} else if (close->state_ == OP_CLOSING && (handle->state & HANDLE_FLUSHING)) {
		handle->state &= (uint8_t)~HANDLE_FLUSHING;
		op_cancel_list(port, &handle->sends, OPT_NO_MORE);
		op_cancel_list(port, &handle->others, OPT_NO_MORE);
	}
}

static void worker_cancel(struct proa_port *port, struct proa_op *op)
{
	bool withdrawn = op->kind_ == PROA_OP_RESOLVE                  ? resolve_abandon(op)
			 : CHILD_IS_TOLD && op->kind_ == PROA_OP_CHILD ? child_abandon(op)
								       : workers_withdraw(port, op);

	if (withdrawn) /* a lent receive may have a buffer, as if a worker had had it */
		op_stepped(port, op, PROA_ECANCELED, op_lends(op) ? STEP_IS_FINAL : 0);
	else if (op->handle_ != PROA_NO_HANDLE)
		file_interrupt(op);
}

/* Its bytes are in the head's hands: stops those, and lane_sent() sees how far they came. */
static void gathered_cancel(struct proa_port *port, struct proa_op *head)
{
	switch (head->state_) {
	case OP_BACKLOG:
		backlog_remove(port, head);
		break;
	case OP_PAUSED:
		head->argument_ = 0;
		break;
	default:
		port->engine->cancel(port, head);
		return;
	}
	head->state_ = OP_ACTIVE;
	if (head->timer_ != 0)
		op_limit(port, head);
	op_stepped(port, head, PROA_ECANCELED, 0);
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
		if ((op->options_ & OPT_GATHERED) == 0)
			port->engine->cancel(port, op);
		else
			gathered_cancel(port, handle_find(port, op->handle_)->sends);
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
		/* A flush waits for it: what ends the flush is its close, the last. */
		if (handle == NULL || (handle->state & HANDLE_FLUSHING) == 0 ||
			!op_is_flushed(op)) {
			if (op->kind_ != PROA_OP_CLOSE)
				op->options_ |= (uint16_t)mark;
			op_cancel(port, op);
		}
		if (last)
			break;
	}
	port->cursors = at.outer;
}

static void cancelled(struct proa_port *port)
{
	if (port->beginning != NULL)
		port_begin_next(port);
	port_touched(port);
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
		if ((op->lane_ ^ serial) << TICKET_HANDLE_BITS == 0) /* what a ticket has of it */
			return op;
		op = flight(op)->next;
	} while (op != list);
	return NULL;
}

void proa_cancel_ticket(struct proa_port *port, uint64_t ticket)
{
	uint64_t serial = ticket >> TICKET_HANDLE_BITS;
	proa_handle fd = handle_numbered((int)(ticket & TICKET_HANDLE_MASK) - 1);
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
	for (fd = handle_next(port, -1); fd >= 0; fd = handle_next(port, fd)) {
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

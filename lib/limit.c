/* Time: timers and intervals, and the limits that any op may have. Both use the
 * op's one place in the port's heap. */
#include "lib/port.h"

/* Until a tick that there was no room for is tried again. */
#define NO_ROOM PROA_MILLISECOND

int64_t later(int64_t now, int64_t ns)
{
	if (ns < 0)
		ns = 0;
	return ns > PROA_FOREVER - 1 - now ? PROA_FOREVER - 1 : now + ns;
}

bool op_is_retried(const struct proa_op *op)
{
	return op->kind_ == PROA_OP_CONNECT || op->kind_ == PROA_OP_DIAL ||
	       op->kind_ == PROA_OP_ACCEPT_MULTI || op->kind_ == PROA_OP_POLL ||
	       op->kind_ == PROA_OP_POLL_MULTI || op->kind_ == PROA_OP_SENDFILE ||
	       op->kind_ == PROA_OP_SEND || op->kind_ == PROA_OP_SENDV ||
	       op->kind_ == PROA_OP_SENDMSG;
}

/* Moves no bytes, so that their count is free to say when its time began: to be
 * tried anew is no progress. */
bool op_is_dated(const struct proa_op *op)
{
	return op_connects(op) || op->kind_ == PROA_OP_ACCEPT_MULTI || op->kind_ == PROA_OP_POLL ||
	       op->kind_ == PROA_OP_POLL_MULTI;
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

		if (op_is_dated(op) && flight(op)->moved == 0)
			flight(op)->moved = (uint64_t)clock_now();
		at = later(
			op_is_dated(op) ? (int64_t)flight(op)->moved : clock_now(), op->timeout_);
		if ((op->options_ & (OPT_SHARE | OPT_POOL)) == 0 && at < due)
			due = at;
	}
	if (op->state_ == OP_PAUSED && op->argument_ != 0 && op_is_retried(op) &&
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

void op_progressed(struct proa_port *port, struct proa_op *op)
{
	if (op->timeout_ == PROA_FOREVER)
		return;
	if (op_is_dated(op))
		flight(op)->moved = 0;
	op_limit(port, op);
}

static void limit_changed(struct proa_op *op)
{
	if (op->state_ != OP_IDLE && op->state_ != OP_LINKED && op->state_ != OP_READY &&
		op->state_ != OP_POSTED) {
		if (op_limit(op->port, op) < 0)
			op_cancel(op->port, op);
		port_touched(op->port);
	}
}

void proa_op_timeout(struct proa_op *op, int64_t ns)
{
	if (op->state_ != OP_IDLE && !port_enter(op->port, op))
		return;
	op->timeout_ = ns;
	/* A connect has no progress short of its end: its time counts from the start. */
	if (op->state_ != OP_IDLE && op_is_dated(op) && !op_connects(op))
		flight(op)->moved = 0;
	limit_changed(op);
}

void proa_op_deadline(struct proa_op *op, int64_t when)
{
	struct proa_port *port = op->port;
	int64_t before = op->deadline_, due;

	if (op->state_ != OP_IDLE && !port_enter(port, op))
		return;
	op->deadline_ = when;
	/* Its place in the heap says when all else is due, if that is before the
	 * former deadline: a timeout must not begin again. */
	due = op->state_ == OP_IDLE || op->state_ == OP_READY ? PROA_FOREVER
							      : timer_due(&port->timers, op);
	if (due >= before) {
		limit_changed(op);
	} else if (when < due) {
		timer_arm(&port->timers, op, when); /* it has a place: this can't fail */
		port_touched(port);
	}
}

bool op_is_timer(const struct proa_op *op)
{
	return op->kind_ == PROA_OP_TIMER || op->kind_ == PROA_OP_TIMER_AT ||
	       op->kind_ == PROA_OP_INTERVAL;
}

void timer_begin(struct proa_port *port, struct proa_op *op)
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
		due = later(
			clock_now(), (int64_t)((uint64_t)op->flags_ << 32 | (uint32_t)op->length_));
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

	/* Without room it is told of this tick with a later one. Due at once it would
	 * come up again and again before anything could make room. */
	if (!port_has_room(port)) {
		timer_arm(&port->timers, op, later(port->now, NO_ROOM));
		return;
	}
	flight(op)->moved = (uint64_t)later(due, period * ticks);
	/* Its place in the heap has just become free: this can't fail. */
	op_limit(port, op);
	port_complete(port, op, ticks > INT32_MAX ? INT32_MAX : (int32_t)ticks, PROA_MORE);
}

int proa_timer_move(struct proa_op *op, int64_t ns)
{
	if (op->state_ != OP_TIMING || !port_enter(op->port, op))
		return PROA_ENOENT;
	flight(op)->moved = (uint64_t)later(clock_now(), ns);
	op_limit(op->port, op);
	port_touched(op->port);
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
		op_is_retried(op)) {
		op_resume(port, op);
		return;
	}
	op->options_ |= OPT_TIMED_OUT;
	op_cancel(port, op);
}

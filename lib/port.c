/* Ports: opened, waited on, run, shut and closed. The turn of the loop, and
 * what reaches a port from other threads. */
#include "lib/port.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engines/engine.h"
#include "engines/system.h"
#include "lib/thread.h"
#include "lib/workers.h"

unsigned process_generation;
#ifndef _WIN32
_Thread_local const void *thread_mark;

const void *thread_self_first(void)
{
	static atomic_uintptr_t threads;

	thread_mark = (const void *)(atomic_fetch_add(&threads, 1) + 1);
	return thread_mark;
}
#endif

static thread_preparation process_preparation = THREAD_PREPARATION;

bool port_enter_slow(struct proa_port *port, const struct proa_op *op)
{
	if (port->fork_generation != process_generation) {
		proa_misuse("a port of the parent process was used in a forked child", op);
		return false;
	}
	if (port->owner == NULL) {
		port->owner = thread_self();
		pools_owned(port);
		return true;
	}
	if (port->owner == thread_self())
		return true;
	proa_misuse("a local port was used by a thread that is not its own", op);
	return false;
}

/* ---- completions ---------------------------------------------------------- */

static void take_back(struct proa_port *port, struct proa_op *op, int32_t result, uint32_t flags)
{
	if (flags & PROA_LENT)
		pool_revoke(port, op, flags);
	else
		proa_discard(port, result);
}

void ready_purge(struct proa_port *port, proa_handle fd)
{
	struct ready *ready = &port->ready;
	struct handle *handle = handle_find(port, fd);
	struct proa_completion *c, taken;
	uint32_t at;

	/* What is taken back may let others go on, and the ring grow: places are
	 * counted from its head. What is spilt carries nothing that its final
	 * completion does not hand over. */
	for (at = 0; handle->undelivered > 0 && at != ready->tail - ready->head; at++) {
		c = &ready->ring[(ready->head + at) & ready->mask];
		if (c->op == NULL || c->op->handle_ != fd || !is_valued(c->op, c->result, c->flags))
			continue;
		taken = *c;
		if (c->flags & PROA_MORE) {
			port->stats.completed--;
			c->op = NULL;
		} else {
			c->result = PROA_ECANCELED;
			c->flags = 0;
		}
		handle->undelivered--;
		take_back(port, taken.op, taken.result, taken.flags);
	}
}

void ready_disown(struct ready *ready, proa_handle fd)
{
	struct proa_op *op;

	for (uint32_t at = ready->head; at != ready->tail; at++) {
		op = ready->ring[at & ready->mask].op;
		if (op != NULL && op->handle_ == fd)
			op->handle_ = PROA_NO_HANDLE;
	}
	for (op = ready->spilt; op != NULL; op = flight(op)->is.behind)
		if (op->handle_ == fd)
			op->handle_ = PROA_NO_HANDLE;
}

unsigned ready_tears(const struct ready *ready, proa_handle fd)
{
	const struct proa_op *op;
	unsigned count = 0;

	for (uint32_t at = ready->head; at != ready->tail; at++) {
		op = ready->ring[at & ready->mask].op;
		count += op != NULL && op->handle_ == fd && (op->options_ & OPT_TORE);
	}
	for (op = ready->spilt; op != NULL; op = flight(op)->is.behind)
		count += op->handle_ == fd && (op->options_ & OPT_TORE);
	return count;
}

/* The program learns that a send failed: once it knows of all that did, what it
 * sends is new. (A send in the middle of its lane may have failed first.) */
static void mend(struct proa_port *port, const struct proa_op *op)
{
	struct handle *handle = handle_find(port, op->handle_);

	if (handle == NULL || handle->tears == 0)
		return;
	if (handle->tears < TEARS_MOST)
		handle->tears--;
	else if (ready_tears(&port->ready, op->handle_) == 0)
		handle->tears = 0; /* the count was lost at the most there is */
}

/* From a close's submit on its handle's other ops have final completions alone: what
 * carries something was taken back by ready_purge(), the rest is passed over. */
static bool is_overtaken(struct proa_port *port, const struct proa_completion *c)
{
	const struct handle *handle;

	if (c->op == NULL)
		return true; /* taken back */
	if (LIKELY((c->flags & PROA_MORE) == 0))
		return false;
	handle = handle_find(port, c->op->handle_);
	if (handle == NULL || LIKELY((handle->state & HANDLE_CLOSING) == 0) ||
		is_valued(c->op, c->result, c->flags))
		return false;
	port->stats.completed--;
	return true;
}

/* The next completion that is to be handed over. The op of a final one is the
 * caller's from here on. */
static bool port_take(struct proa_port *port, struct proa_completion *c)
{
	struct handle *handle;
	struct proa_op *op;

	do {
		if (!ready_pop(&port->ready, c))
			return false;
	} while (UNLIKELY(is_overtaken(port, c)));
	op = c->op;
	if (UNLIKELY(op->kind_ == PROA_OP_CLOSE && op->handle_ >= 0) && !handle_close_take(port, c))
		return port_take(port, c);
	if (is_valued(op, c->result, c->flags)) {
		handle = handle_find(port, op->handle_);
		if (LIKELY(handle != NULL)) /* else disowned */
			handle->undelivered--;
	}
	if ((c->flags & PROA_MORE) == 0) {
		port->in_flight--;
		if (op->options_ & OPT_COUNTED)
			port->background--;
		if (UNLIKELY(op->options_ & OPT_TORE))
			mend(port, op);
		op->options_ &= (uint16_t)~OPT_IN_FLIGHT;
		op->state_ = OP_IDLE;
	}
	return true;
}

void proa_dispatch(const struct proa_completion *c)
{
	struct proa_port *port = c->op->port;
	bool outer;

	if (c->op->done_ == NULL)
		return;
	outer = port->dispatching;
	port->dispatching = true;
	c->op->done_(c->op, c);
	port->dispatching = outer;
	port_touched(port); /* for what it did, if no run is about to look */
}

/* A handle that only the result tells of. */
static bool is_opened(const struct proa_op *op, int32_t result)
{
	return (op->kind_ == PROA_OP_DIAL || op->kind_ == PROA_OP_OPEN) && result >= 0;
}

/* Hands over what is ready now, and no more: what callbacks add waits until the
 * system has been looked at. */
static int port_dispatch(struct proa_port *port)
{
	uint32_t count = port->ready.tail - port->ready.head + port->ready.spilt_count;
	struct proa_completion c;
	int n = 0;

	port->dispatching = true;
	while (count-- > 0 && port_take(port, &c)) {
		n++;
		if (c.op->done_ != NULL)
			c.op->done_(c.op, &c);
		else if (is_valued(c.op, c.result, c.flags) || is_opened(c.op, c.result))
			take_back(port, c.op, c.result, c.flags); /* nobody else will */
		if (UNLIKELY(atomic_load_explicit(&port->stopped, memory_order_relaxed)))
			break;
	}
	port->dispatching = false;
	return n;
}

/* ---- from other threads --------------------------------------------------- */

static void wake(struct proa_port *port)
{
	if (port->engine->wake != NULL)
		port->engine->wake(port);
	else
		system_wake(port->wake_write);
}

static void wake_close(struct proa_port *port)
{
	if (port->wake_handle >= 0)
		system_wake_close(port->wake_handle, port->wake_write);
}

void port_notify(struct proa_port *port)
{
	/* Pairs with the fence in port_sleep(): either it sees what we have
	 * queued, or we see that it sleeps. */
	atomic_thread_fence(memory_order_seq_cst);
	if (atomic_load_explicit(&port->asleep, memory_order_relaxed) &&
		atomic_exchange(&port->asleep, false))
		wake(port);
}

void port_wake_drain(struct proa_port *port)
{
	if (port->wake_handle >= 0)
		system_wake_drain(port->wake_handle);
}

void proa_wake(struct proa_port *port)
{
	atomic_store(&port->woken, true);
	port_notify(port);
}

void proa_stop(struct proa_port *port)
{
	atomic_store(&port->stopped, true);
	port_notify(port);
}

void proa_port_shut(struct proa_port *port)
{
	atomic_store(&port->shut_asked, true);
	port_notify(port);
}

static void push(_Atomic(struct proa_op *) *stack, struct proa_op *op)
{
	struct proa_op *top = atomic_load_explicit(stack, memory_order_relaxed);

	do {
		flight(op)->is.behind = top;
	} while (!atomic_compare_exchange_weak_explicit(
		stack, &top, op, memory_order_release, memory_order_relaxed));
}

/* Empties a stack; the oldest first. */
static struct proa_op *take_all(_Atomic(struct proa_op *) *stack)
{
	struct proa_op *op, *next, *list = NULL;

	if (atomic_load_explicit(stack, memory_order_relaxed) == NULL)
		return NULL;
	for (op = atomic_exchange_explicit(stack, NULL, memory_order_acquire); op != NULL;
		op = next) {
		next = flight(op)->is.behind;
		flight(op)->is.behind = list;
		list = op;
	}
	return list;
}

void port_finished(struct proa_port *port, struct proa_op *op)
{
	push(&port->finished, op);
	port_notify(port);
}

void proa_post(struct proa_port *port, struct proa_op *op, int32_t result, proa_done_fn *done)
{
	if (op->state_ != OP_IDLE) {
		proa_misuse("an op was posted while in flight", op);
		return;
	}
	op->port = port;
	op->done_ = done;
	op->kind_ = PROA_OP_NONE;
	op->handle_ = PROA_NO_HANDLE;
	op->options_ = 0;
	op->next_ = NULL;
	op->timeout_ = op->deadline_ = PROA_FOREVER;
	op->state_ = OP_POSTED;
	flight(op)->moved = (uint64_t)(int64_t)result;
	atomic_fetch_add_explicit(&port->posts_pending, 1, memory_order_relaxed);
	push(&port->posted, op);
	port_notify(port);
}

static void take_posts(struct proa_port *port)
{
	struct proa_op *op, *next;

	for (op = take_all(&port->posted); op != NULL; op = next) {
		int32_t result = (int32_t)(int64_t)flight(op)->moved;

		next = flight(op)->is.behind;
		flight(op)->moved = 0;
		port->in_flight++;
		port->stats.posts++;
		atomic_fetch_sub_explicit(&port->posts_pending, 1, memory_order_relaxed);
		port_complete(port, op, port->shut ? PROA_ECANCELED : result, 0);
	}
}

static void take_finished(struct proa_port *port)
{
	struct proa_op *op, *next;
	int32_t result;

	for (op = take_all(&port->finished); op != NULL; op = next) {
		next = flight(op)->is.behind;
		result = op->kind_ == PROA_OP_RESOLVE                  ? resolve_finish(op)
			 : CHILD_IS_TOLD && op->kind_ == PROA_OP_CHILD ? child_finish(op)
								       : (int32_t)op->flags_;
		/* The result took the flags' place; its chain asks for one of them. */
		op->flags_ = (op->options_ & OPT_WHOLE) ? PROA_ALL : 0;
		op->options_ &= (uint16_t)~OPT_WHOLE; /* the same bit as OPT_ENDED */
		op_stepped(port, op, result, STEP_IS_FINAL);
	}
}

/* `stoppable`: of those who wait, is it one whom proa_stop() means? */
static bool outside_waits(struct proa_port *port, bool stoppable)
{
	return atomic_load_explicit(&port->posted, memory_order_relaxed) != NULL ||
	       atomic_load_explicit(&port->finished, memory_order_relaxed) != NULL ||
	       atomic_load_explicit(&port->signalled, memory_order_relaxed) != 0 ||
	       atomic_load_explicit(&port->returns, memory_order_relaxed) ||
	       atomic_load_explicit(&port->woken, memory_order_relaxed) ||
	       (stoppable && atomic_load_explicit(&port->stopped, memory_order_relaxed)) ||
	       (atomic_load_explicit(&port->shut_asked, memory_order_relaxed) && !port->shut);
}

static void take_outside(struct proa_port *port)
{
	if (atomic_load_explicit(&port->shut_asked, memory_order_relaxed) && !port->shut) {
		port->shut = true;
		port_cancel_all(port);
	}
	if (atomic_load_explicit(&port->signalled, memory_order_relaxed) != 0)
		signals_deliver(port, atomic_exchange(&port->signalled, 0));
	if (atomic_load_explicit(&port->returns, memory_order_relaxed)) {
		atomic_store(&port->returns, false);
		pool_drain_returns(port);
	}
	take_finished(port);
	take_posts(port);
	port_begin_next(port);
}

/* ---- the turn ------------------------------------------------------------- */

static void fire_timers(struct proa_port *port)
{
	struct proa_op *op;
	int64_t due;

	while ((op = timer_take(&port->timers, port->now, &due)) != NULL)
		op_timer(port, op, due);
}

static bool port_drained(struct proa_port *port)
{
	return port->in_flight == 0 && atomic_load(&port->posts_pending) == 0;
}

/* When there is something to do, whatever the system reports. */
static int64_t port_due(const struct proa_port *port)
{
	int64_t first = timer_next(&port->timers);

	return first < port->turn_due ? first : port->turn_due;
}

/* How long the engine may wait: until `until`, or the first timer. */
static int64_t port_patience(struct proa_port *port, int64_t until)
{
	int64_t first = port_due(port);

	if (!ready_empty(&port->ready) || until == 0 || port->backlog != NULL ||
		(port->shut && port_drained(port)))
		return 0;
	if (first < until)
		until = first;
	if (until == PROA_FOREVER)
		return PROA_FOREVER;
	port->now = clock_now();
	return until > port->now ? until - port->now : 0;
}

/* One look at the system, sleeping until `until` (0: not at all) if nothing is
 * ready. */
static void port_turn(struct proa_port *port, int64_t until, bool stoppable)
{
	int64_t patience;

	take_outside(port);
	if (port->backlog != NULL)
		port_drain_backlog(port);
	patience = port_patience(port, until);
	if (patience > 0) {
		atomic_store_explicit(&port->asleep, true, memory_order_relaxed);
		atomic_thread_fence(memory_order_seq_cst);
		if (outside_waits(port, stoppable))
			patience = 0;
	}
	port->engine->turn(port, patience);
	atomic_store_explicit(&port->asleep, false, memory_order_relaxed);
	port->now = clock_now();
	/* First, so that a timer whose chain has come to it has its place. */
	port_begin_next(port);
	if (timer_next(&port->timers) <= port->now)
		fire_timers(port);
	if (outside_waits(port, stoppable))
		take_outside(port);
	port_begin_next(port);
}

void port_wait_quietly(struct proa_port *port)
{
	port->engine->turn(port, PROA_MILLISECOND);
	port->now = clock_now();
	take_outside(port);
	if (port->backlog != NULL)
		port_drain_backlog(port);
}

/* Before control goes back to another loop: everything is with the system, and
 * its descriptor says whether there is more to do. */
static void port_settle(struct proa_port *port)
{
	int64_t first;

	/* Before the look: who comes later writes again. */
	port_wake_drain(port);
	port->kicked = false;
	port_begin_next(port); /* what was linked behind a close that has been handed over */
	port->engine->turn(port, 0);
	first = port_due(port);
	system_outer_arm(port, first);
	atomic_store_explicit(&port->asleep, true, memory_order_relaxed);
	atomic_thread_fence(memory_order_seq_cst);
	if (!ready_empty(&port->ready) || port->backlog != NULL || outside_waits(port, true))
		port_kick(port);
}

void port_kick(struct proa_port *port)
{
	if (port->kicked)
		return;
	port->kicked = true;
	wake(port);
}

static int64_t until_when(int64_t timeout)
{
	int64_t now;

	if (timeout <= 0)
		return 0;
	if (timeout == PROA_FOREVER)
		return PROA_FOREVER;
	now = clock_now();
	return timeout > PROA_FOREVER - now ? PROA_FOREVER : now + timeout;
}

/* Waits for completions: 1 when there are any, 0 if time is up or somebody woke
 * (or, if that counts here, stopped) us, or PROA_ESHUTDOWN. */
static int port_await(struct proa_port *port, int64_t until, bool stoppable)
{
	for (;;) {
		if (port->shut && port_drained(port))
			return PROA_ESHUTDOWN;
		port_turn(port, until, stoppable);
		if (!ready_empty(&port->ready))
			return 1;
		if (atomic_load_explicit(&port->woken, memory_order_relaxed) &&
			atomic_exchange(&port->woken, false))
			return 0;
		if (stoppable && atomic_load_explicit(&port->stopped, memory_order_relaxed))
			return 0;
		if (port->shut && port_drained(port))
			return PROA_ESHUTDOWN;
		if (until != PROA_FOREVER && (until == 0 || clock_now() >= until))
			return 0;
	}
}

int proa_wait(struct proa_port *port, struct proa_completion *out, int max, int64_t timeout)
{
	int64_t until = until_when(timeout);
	int n, ready;

	if (max <= 0 || !port_enter(port, NULL))
		return PROA_EINVAL;
	for (n = 0; n == 0;) {
		ready = port_await(port, until, false);
		if (ready <= 0) {
			n = ready;
			break;
		}
		while (n < max && port_take(port, &out[n]))
			n++;
	}
	if (port->external)
		port_settle(port);
	return n;
}

int proa_run_once(struct proa_port *port, int64_t timeout)
{
	int n;

	if (!port_enter(port, NULL))
		return PROA_EINVAL;
	if (port->dispatching)
		return PROA_EBUSY;
	if (atomic_exchange(&port->stopped, false))
		return PROA_ECANCELED;
	n = port_await(port, until_when(timeout), true);
	if (n > 0)
		n = port_dispatch(port);
	if (atomic_load_explicit(&port->stopped, memory_order_relaxed) && n == 0)
		n = atomic_exchange(&port->stopped, false) ? PROA_ECANCELED : 0;
	if (port->external)
		port_settle(port);
	return n;
}

int proa_run(struct proa_port *port)
{
	int n;

	if (!port_enter(port, NULL))
		return PROA_EINVAL;
	if (port->dispatching)
		return PROA_EBUSY;
	for (;;) {
		if (atomic_exchange(&port->stopped, false)) {
			n = PROA_ECANCELED;
			break;
		}
		if (!port->shut && !atomic_load(&port->shut_asked) &&
			port->in_flight == port->background &&
			atomic_load(&port->posts_pending) == 0) {
			n = 0;
			break;
		}
		n = port_await(port, PROA_FOREVER, true);
		if (n < 0)
			break;
		if (n > 0)
			port_dispatch(port);
	}
	if (port->external)
		port_settle(port);
	return n;
}

/* ---- life ----------------------------------------------------------------- */

static THREAD_LOCAL char open_why[512];

const char *proa_port_open_why(void)
{
	return open_why;
}

int sized_copy(void *ours, size_t our_size, size_t unit, const void *theirs, size_t size)
{
	memset(ours, 0, our_size);
	if (size == 0 || size % unit != 0)
		return PROA_EINVAL;
	if (theirs == NULL)
		return 0;
	for (size_t i = our_size; i < size; i++)
		if (((const unsigned char *)theirs)[i] != 0)
			return PROA_EINVAL;
	memcpy(ours, theirs, size < our_size ? size : our_size);
	return 0;
}

void sized_fill(void *theirs, size_t size, const void *ours, size_t our_size)
{
	size_t whole = size - size % sizeof(uint64_t);

	memset(theirs, 0, size);
	memcpy(theirs, ours, whole < our_size ? whole : our_size);
}

#define ENTRIES_MOST 32768u

static void port_prepare(struct proa_port *port, const struct proa_port_options *options)
{
	memset(port, 0, sizeof *port);
	port->fork_generation = process_generation;
	port->max_inflight = options->max_inflight;
	port->worker_limit = options->workers == 0 ? 4 : options->workers;
	port->outer = port->outer_timer = -1;
	port->wake_handle = port->wake_write = -1;
	port->beginning_end = &port->beginning;
	port->now = clock_now();
	port->turn_due = PROA_FOREVER;
}

int proa_port_open_sized(const struct proa_port_options *given, size_t size, struct proa_port **out)
{
	struct proa_port_options options;
	struct proa_port *port;
	int error;

	*out = NULL;
	open_why[0] = '\0';
	error = thread_prepare(&process_preparation, system_prepare);
	if (error < 0) {
		snprintf(open_why, sizeof open_why, "the process could not be prepared: %s",
			proa_error_text(error));
		return error;
	}
	if (sized_copy(&options, sizeof options, _Alignof(struct proa_port_options), given, size) <
		0) {
		snprintf(open_why, sizeof open_why,
			size <= sizeof options
				? "the options are %zu bytes, and no version (this one: %zu bytes) has such"
				: "the options are %zu bytes, and use members that this version (%zu bytes) does not have",
			size, sizeof options);
		return PROA_EINVAL;
	}
	if (options.entries > ENTRIES_MOST) {
		snprintf(open_why, sizeof open_why, "%u entries are asked for, and %u are the most",
			options.entries, ENTRIES_MOST);
		return PROA_EINVAL;
	}
	if (options.mode != PROA_LOCAL) {
		snprintf(open_why, sizeof open_why,
			"shared ports are not available in this version");
		return options.mode == PROA_SHARED ? PROA_ENOSYS : PROA_EINVAL;
	}
	port = malloc(sizeof *port);
	if (port == NULL) {
		snprintf(open_why, sizeof open_why, "no memory for a port");
		return PROA_ENOMEM;
	}
	port_prepare(port, &options);
	if (ready_reserve(&port->ready)) {
		error = engine_choose(port, &options, open_why, sizeof open_why);
	} else {
		snprintf(open_why, sizeof open_why, "no memory for completions");
		error = PROA_ENOMEM;
	}
	if (error < 0) {
		wake_close(port);
		ready_free(&port->ready);
		free(port);
		return error;
	}
	*out = port;
	return 0;
}

static void port_free(struct proa_port *port)
{
	handles_free(port);
	timers_free(&port->timers);
	ready_free(&port->ready);
	free(port);
}

int proa_port_close(struct proa_port *port)
{
	if (port == NULL)
		return 0;
	if (port->dispatching)
		return PROA_EBUSY;
	if (port->fork_generation != process_generation) {
		proa_misuse("a port of the parent process was closed in a forked child", NULL);
		return PROA_EINVAL;
	}
	port->owner = thread_self();
	pools_owned(port);
	proa_port_shut(port);
	while (port_await(port, PROA_FOREVER, false) != PROA_ESHUTDOWN) {
		atomic_store(&port->stopped, false);
		port_dispatch(port);
	}
	workers_free(port->workers);
	signals_forget(port);
	pools_detach(port);
	port->engine->close(port);
	system_outer_close(port);
	wake_close(port);
	port_free(port);
	return 0;
}

int64_t proa_now(const struct proa_port *port)
{
	return port->now;
}

size_t proa_in_flight(const struct proa_port *port)
{
	return port->in_flight + atomic_load(&((struct proa_port *)(uintptr_t)port)->posts_pending);
}

proa_handle proa_port_descriptor(struct proa_port *port)
{
	int inner;

	if (!port_enter(port, NULL))
		return PROA_NO_HANDLE;
	if (port->external)
		return port->outer;
	inner = port->engine->descriptor(port);
	if (inner < 0 || system_outer_open(port, inner) < 0)
		return PROA_NO_HANDLE;
	port->external = true;
	port_settle(port);
	return port->outer;
}

const char *proa_engine_name(const struct proa_port *port)
{
	return port->engine->name;
}

const char *proa_engine_why(const struct proa_port *port)
{
	return port->why;
}

int proa_supports(const struct proa_port *port, enum proa_feature what)
{
	return (unsigned)what < 32 && (port->features >> what & 1u) != 0;
}

void proa_port_stats_sized(const struct proa_port *port, struct proa_port_stats *out, size_t size)
{
	struct proa_port_stats stats = port->stats;

	stats.lent = pools_lent(port);
	sized_fill(out, size, &stats, sizeof stats);
}

void proa_blocking_begin(struct proa_port *port)
{
	(void)port; /* a local port has no other thread to let in */
}

void proa_blocking_end(struct proa_port *port)
{
	(void)port;
}

/* ---- fork ----------------------------------------------------------------- */

typedef void told_fn(struct proa_op *op, void *data);

/* Ops that have become idle: the program is told of them when all have, for it may
 * free them then. */
struct idle {
	struct proa_op *first, **end;
};

static void make_idle(struct proa_op *op, struct idle *idle)
{
	struct proa_op *next;

	for (; op != NULL; op = next) {
		/* What is linked behind a close is on no list: see chain_admit(). */
		next = op->next_;
		if (next != NULL && flight(next)->prev != NULL)
			next = NULL;
		op->state_ = OP_IDLE;
		op->options_ &= (uint16_t)~OPT_IN_FLIGHT;
		op->timer_ = 0;
		op->next_ = NULL;
		flight(op)->is.behind = NULL;
		*idle->end = op;
		idle->end = &flight(op)->is.behind;
	}
}

static void idle_list(struct proa_op **list, struct idle *idle)
{
	struct proa_op *op;

	while ((op = *list) != NULL) {
		list_remove(list, op);
		make_idle(op, idle);
	}
}

/* Completions that nobody will see: what they carry is taken back. */
static void idle_ready(struct proa_port *port, struct idle *idle)
{
	struct proa_completion c;

	while (ready_pop(&port->ready, &c)) {
		if (c.op == NULL)
			continue;
		if (c.flags & PROA_LENT)
			pool_unlend(c.op, c.flags);
		else if (is_valued(c.op, c.result, c.flags) || is_opened(c.op, c.result))
			system_close(c.result, HANDLE_UNKNOWN);
		/* A close is on its handle's list until it is handed over. */
		if ((c.flags & PROA_MORE) == 0 &&
			!(c.op->kind_ == PROA_OP_CLOSE && c.op->handle_ >= 0))
			make_idle(c.op, idle);
	}
}

/* Every op in flight becomes idle, wherever it is. */
static void idle_all(struct proa_port *port, told_fn *each, void *data)
{
	struct idle idle = { NULL, &idle.first };
	struct handle *handle;
	struct proa_op *op, *next;
	int fd;

	for (op = port->beginning; op != NULL; op = next) {
		next = flight(op)->is.behind;
		if (flight(op)->prev == NULL)
			make_idle(op, &idle); /* on no list: as above */
	}
	/* Before the lists: what is spilt is linked where those are that are idle. */
	idle_ready(port, &idle);
	for (fd = handle_next(port, -1); fd >= 0; fd = handle_next(port, fd)) {
		handle = handle_find(port, fd);
		if (handle->state & HANDLE_PRIVATE) { /* its op is on another list as well */
			if (handle->sends != NULL && handle->sends->kind_ == PROA_OP_DIAL)
				system_close(fd, HANDLE_UNKNOWN); /* the parent's alone */
			handle->sends = NULL;
		}
		idle_list(&handle->sends, &idle);
		idle_list(&handle->recvs, &idle);
		idle_list(&handle->others, &idle);
	}
	for (int i = 0; i < LOOSE_LISTS; i++)
		idle_list(&port->loose[i], &idle);
	for (op = take_all(&port->posted); op != NULL; op = next) {
		next = flight(op)->is.behind;
		make_idle(op, &idle);
	}
	for (op = idle.first; op != NULL && each != NULL; op = next) {
		next = flight(op)->is.behind;
		each(op, data);
	}
}

/* What a forked child can let go of without touching what it shares. Of a port that
 * could not start afresh nothing is left but the pools. */
static void port_strip(struct proa_port *port, told_fn *each, void *data)
{
	idle_all(port, each, data);
	if (port->world != NULL)
		port->engine->abandon(port);
	workers_abandon(port->workers);
	port->workers = NULL;
	pools_detach(port);
	system_outer_close(port);
	wake_close(port);
	handles_free(port);
	timers_free(&port->timers);
	ready_free(&port->ready);
}

void proa_port_abandon(struct proa_port *port)
{
	if (port->fork_generation == process_generation) {
		proa_misuse("a port was abandoned outside of a forked child", NULL);
		return;
	}
	port_strip(port, NULL, NULL);
	free(port);
}

int proa_port_after_fork(struct proa_port *port, told_fn *each, void *data)
{
	struct proa_port_options options = { .engine = port->engine->name };
	struct proa_pool *pools = port->pools;
	const struct engine *engine = port->engine;
	unsigned generation = port->fork_generation;
	uint64_t passed_over = port->stats.passed_over;
	char why[sizeof port->why];
	int error;

	if (generation == process_generation)
		return PROA_EINVAL;
	port_strip(port, each, data);
	options.max_inflight = port->max_inflight;
	options.workers = port->worker_limit;
	memcpy(why, port->why, sizeof why);
	port_prepare(port, &options);
	port->owner = thread_self();
	error = ready_reserve(&port->ready)
			? engine_choose(port, &options, open_why, sizeof open_why)
			: PROA_ENOMEM;
	memcpy(port->why, why, sizeof why);
	port->stats.passed_over = passed_over;
	if (error == 0) {
		pools_adopt(port, pools);
		return 0;
	}
	/* It is as it was, but that it has let go: to try once more, or to abandon. */
	wake_close(port);
	port->wake_handle = port->wake_write = -1;
	ready_free(&port->ready);
	port->engine = engine;
	port->pools = pools;
	port->fork_generation = generation;
	return error;
}

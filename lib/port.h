/* What the rooms of lib/ share: the port, a handle's entry, an op in flight.
 *
 * Thread rule of everything here: the port's own thread, unless it says
 * otherwise. Nothing here calls a program's code but port_dispatch(). */
#ifndef PROA_LIB_PORT_H
#define PROA_LIB_PORT_H

#include <assert.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <proa/proa.h>

#include "lib/timer.h"

struct engine;
struct workers;

/* Compiled into a likely or unlikely branch. */
#define LIKELY(x)   __builtin_expect(!!(x), 1)
#define UNLIKELY(x) __builtin_expect(!!(x), 0)

/* Where an op is. proa_op_pending() is "not IDLE". */
enum op_state {
	OP_IDLE = 0,
	OP_LINKED,  /* follows another op of its chain, which has not ended */
	OP_WAITING, /* in its handle's lane, behind another */
	OP_ACTIVE,  /* the engine has it */
	OP_BACKLOG, /* the engine is full: in port->backlog */
	OP_PAUSED,  /* wants a buffer, a share or a descriptor: nobody has it */
	OP_WORKER,  /* in the workers' queue, or with one of them */
	OP_TIMING,  /* a timer */
	OP_LISTED,  /* a signal: waits to be told */
	OP_CLOSING, /* a close that waits for the handle's other ops */
	OP_READY,   /* its final completion is in port->ready */
	OP_POSTED,  /* on its way by proa_post() */
};

/* Bits of op->options_; PROA_OPTION_BACKGROUND is bit 0. Those of
 * OPT_IN_FLIGHT are cleared when the op ends. */
#define OPT_CANCEL     0x0002u /* its end has been asked for */
#define OPT_TIMED_OUT  0x0004u /* by its own deadline or timeout */
#define OPT_NO_MORE    0x0008u /* its handle closes: a final completion alone */
#define OPT_BROKEN     0x0010u /* its chain broke before it: so does the rest */
#define OPT_SHARE      0x0020u /* paused: its handle holds its share of the pool */
#define OPT_POOL       0x0040u /* paused: in its pool's queue */
#define OPT_STARVED    0x0080u /* paused accept: the want has been reported */
#define OPT_GATHERED   0x0100u /* its bytes are part of the lane head's send */
#define OPT_COUNTED    0x0200u /* counts among port->background */
#define OPT_ENGINE     0xfc00u /* the engine's own, six bits */
#define OPT_IN_FLIGHT  (0xffffu & ~PROA_OPTION_BACKGROUND)

/* An op in flight: what lies in room_. */
struct flight {
	struct proa_op *prev, *next; /* its handle's or the port's list */
	uint64_t moved;              /* bytes so far; stays after the end */
	union {
		void *engine;           /* ACTIVE: the engine's word */
		struct proa_op *behind; /* BACKLOG, WORKER, POSTED, spilt READY */
		struct proa_op *before; /* LINKED: whose next_ we are */
	} is;
};
_Static_assert(sizeof(struct flight) <= sizeof(((struct proa_op *)0)->room_), "flight fits room_");
_Static_assert(sizeof(struct proa_op) <= 128, "an op is 128 bytes at most");

static inline struct flight *flight(const struct proa_op *op)
{
	return (struct flight *)(void *)(uintptr_t)op->room_;
}

/* Circular lists of ops in flight through flight()->prev and next; the head
 * is the oldest. */
static inline void list_append(struct proa_op **list, struct proa_op *op)
{
	struct proa_op *head = *list, *tail;

	if (head == NULL) {
		flight(op)->prev = flight(op)->next = op;
		*list = op;
		return;
	}
	tail = flight(head)->prev;
	flight(op)->prev = tail;
	flight(op)->next = head;
	flight(tail)->next = op;
	flight(head)->prev = op;
}

static inline void list_remove(struct proa_op **list, struct proa_op *op)
{
	struct proa_op *prev = flight(op)->prev, *next = flight(op)->next;

	if (next == op) {
		assert(*list == op);
		*list = NULL;
		return;
	}
	flight(prev)->next = next;
	flight(next)->prev = prev;
	if (*list == op)
		*list = next;
}

/* What stands behind a handle, found when its first op comes. */
enum handle_type {
	HANDLE_UNKNOWN = 0,
	HANDLE_STREAM,   /* a connected or connectable stream socket, or a listener */
	HANDLE_DATAGRAM, /* a socket that keeps messages apart */
	HANDLE_PIPE,     /* pipe, terminal, or another pollable thing that is no socket */
	HANDLE_FILE,     /* regular file, directory, block device: always ready */
};

/* Bits of handle->state. */
#define HANDLE_TIED     0x01u /* belongs to this port */
#define HANDLE_OURS     0x02u /* made by the library: non-blocking, and ours to close */
#define HANDLE_CLOSING  0x04u /* its close has been submitted */
#define HANDLE_FLUSHING 0x08u /* ... and lets the sends go first */
#define HANDLE_DEAD     0x10u /* its connect failed: good for close alone */
#define HANDLE_PRIVATE  0x20u /* engine's: `sends` is the op (dial, child) that it serves */
#define HANDLE_BLOCKING 0x40u /* the file's own flags say that it blocks */

/* One descriptor of a port. `sends` and `recvs` are lanes, in order, of which
 * the engine has the head alone; `others` has no order. */
struct handle {
	struct proa_op *sends, *recvs, *others;
	uint8_t type, state;
	uint16_t lent;        /* buffers of pools held by the program */
	uint16_t undelivered; /* completions in `ready` that carry something of value */
	uint8_t engine;       /* the engine's own bits */
	uint8_t generation;   /* counts the descriptor's lives, for the engine */
};

/* Table of handles: two levels, so that an entry never moves. */
#define HANDLE_CHUNK 1024
struct handle_table {
	struct handle **chunks;
	size_t count; /* chunks there are places for */
};

/* Completions on their way to the program, in order: a ring that grows; where
 * memory fails, final ones are chained through their ops instead. */
struct ready {
	struct proa_completion *ring;
	uint32_t mask, head, tail;
	struct proa_op *spilt, **spilt_end;
	uint32_t spilt_count;
};

#define LOOSE_LISTS 64

struct proa_port {
	/* hot: every op */
	const struct engine *engine;
	void *ring; /* the engine's own */
	const void *owner; /* thread_self() of the port's thread; NULL: none yet */
	unsigned fork_generation;
	bool shut, dispatching, shutdown_told;
	uint64_t serial; /* of the last submission */
	size_t in_flight, background;
	int64_t now;
	struct handle_table handles;
	struct ready ready;
	struct timers timers;

	/* started when there is room again */
	struct proa_op *backlog, *backlog_tail;
	struct proa_op *loose[LOOSE_LISTS]; /* ops without a handle, by serial */
	struct proa_op *signals;            /* OP_SIGNAL in flight */
	struct proa_pool *pools;
	unsigned starved; /* accepts that are paused for want of descriptors */
	uint32_t max_inflight;
	bool external; /* proa_port_descriptor() was asked for */
	bool kicked;   /* ... and has been made readable */
	int outer, outer_timer; /* its epoll and timerfd */

	/* from other threads */
	_Atomic(struct proa_op *) posted;   /* newest first */
	_Atomic(struct proa_op *) finished; /* by workers, newest first */
	_Atomic(uint64_t) signalled;        /* bit n: signal n came */
	atomic_size_t posts_pending;
	atomic_bool asleep; /* a poster has to wake us */
	atomic_bool woken;  /* proa_wake() */
	atomic_bool stopped;
	atomic_bool shut_asked;
	atomic_bool returns; /* some pool has foreign give-backs */
	int wake_handle;    /* eventfd or the read end of a pipe */
	int wake_write;     /* the same eventfd, or the write end */

	struct workers *workers;
	struct resolver *resolver;
	uint32_t worker_limit;
	struct proa_port_stats stats;
	char why[256]; /* proa_engine_why() */
	struct proa_port *next_port; /* all ports of the process, for fork */
};

/* The calling thread: an address that no other living thread has. */
static inline const void *thread_self(void)
{
	static _Thread_local char self;

	return &self;
}

extern unsigned process_generation; /* counts forks, in the child */

/* port.c */
int64_t clock_now(void);
/* Queues a completion. For a final one (no PROA_MORE) the op must be off every
 * list and timer; it becomes READY. */
void port_complete(struct proa_port *port, struct proa_op *op, int32_t result, uint32_t flags);
/* Is there room for one more completion that is not final? */
bool port_has_room(struct proa_port *port);
/* From any thread: makes the wait return soon. */
void port_notify(struct proa_port *port);
/* From a worker's or resolver's thread: `op` has run. Touch it no more. */
void port_finished(struct proa_port *port, struct proa_op *op);
/* Unread completions that carry something for a handle which now closes. */
void ready_purge(struct proa_port *port, proa_handle fd);
/* Misuse unless the calling thread is the port's; makes it so the first time. */
void port_enter(struct proa_port *port, const struct proa_op *op);

/* handle.c */
struct handle *handle_find(const struct proa_port *port, proa_handle fd); /* NULL: no entry */
int handle_get(struct proa_port *port, proa_handle fd, struct handle **out); /* makes one */
int handle_tie(struct proa_port *port, proa_handle fd, struct handle **out); /* ... and ties it */
/* A handle that the library has just made: a fresh, tied entry. On failure the
 * handle is closed. */
int handle_adopt(struct proa_port *port, proa_handle fd, enum handle_type type, bool nonblocking);
/* The number is free again. */
void handle_forget(struct proa_port *port, proa_handle fd, struct handle *handle);
void handle_close_ready(struct proa_port *port, proa_handle fd, struct handle *handle);
void handle_cancel_all(struct proa_port *port, struct handle *handle, unsigned mark);
bool handle_idle(const struct handle *handle);
int handle_next_used(const struct proa_port *port, int fd); /* first entry >= fd in use; -1 */
void handles_free(struct proa_port *port);

/* op.c */
/* Hands a prepared, listed op to whoever serves its kind. */
void op_begin(struct proa_port *port, struct proa_op *op);
/* The engine, a worker or a timer ended one attempt at `op`. `flags` has
 * PROA_MORE if the engine keeps at it, and a lent buffer's bits. */
void op_stepped(struct proa_port *port, struct proa_op *op, int32_t result, uint32_t flags);
/* Ends an op: takes it off its lists and timer, queues the completion, and
 * sees to its chain and its handle. */
void op_end(struct proa_port *port, struct proa_op *op, int32_t result, uint32_t flags);
void op_cancel(struct proa_port *port, struct proa_op *op);
/* Its timer fired. */
void op_timer(struct proa_port *port, struct proa_op *op, int64_t due);
void op_progress(struct proa_port *port, struct proa_op *op);
void op_rearm(struct proa_port *port, struct proa_op *op);
/* A paused op goes on. */
void op_resume(struct proa_port *port, struct proa_op *op);
void op_backlog(struct proa_port *port, struct proa_op *op);
void port_drain_backlog(struct proa_port *port);
void accepts_resume(struct proa_port *port);
struct proa_op **op_list(struct proa_port *port, struct proa_op *op);

/* lane.c: streams */
bool op_is_send(const struct proa_op *op);
void lane_pump(struct proa_port *port, struct handle *handle, struct proa_op **lane);
void lane_sent(struct proa_port *port, struct handle *handle, int32_t result);

/* pool.c */
struct proa_buffer *pool_buffer(const struct proa_pool *pool, uint32_t id);
/* Lends buffer `id`, filled with `length` bytes, to `op`'s handle. */
void pool_return(struct proa_pool *pool, struct proa_buffer *buffer);
void pool_drain_returns(struct proa_port *port);
void pools_detach(struct proa_port *port);

/* task.c and friends */
int signal_begin(struct proa_port *port, struct proa_op *op);
void signal_end(struct proa_port *port, struct proa_op *op);
void signals_deliver(struct proa_port *port, uint64_t which);
void signals_forget(struct proa_port *port); /* the port ends */

#endif

/* What the rooms of lib/ share: the port, a handle's entry, an op in flight.
 *
 * Thread rule of everything here: the port's own thread, unless it says
 * otherwise. Nothing here calls a program's code but port_dispatch(). */
#ifndef PROA_LIB_PORT_H
#define PROA_LIB_PORT_H

#include <assert.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <proa/proa.h>
#ifdef _WIN32
#	include <windows.h>
#endif

#include "lib/timer.h"

struct engine;
struct workers;

/* Compiled into a likely or unlikely branch. */
#ifdef __GNUC__
#	define LIKELY(x)   __builtin_expect(!!(x), 1)
#	define UNLIKELY(x) __builtin_expect(!!(x), 0)
#else
#	define LIKELY(x)   (!!(x))
#	define UNLIKELY(x) (!!(x))
#endif

#ifdef _MSC_VER
#	define THREAD_LOCAL __declspec(thread)
#else
#	define THREAD_LOCAL _Thread_local
#endif

/* What a proa_slice counts its bytes in. */
#ifdef _WIN32
typedef uint32_t slice_length;
#else
typedef size_t slice_length;
#endif

/* Where an op is. proa_op_pending() is "not IDLE". */
enum op_state {
	OP_IDLE = 0,
	OP_LINKED, /* follows another op of its chain, which has not ended */
	OP_WAITING, /* in its handle's lane, behind another */
	OP_ACTIVE, /* the engine has it */
	OP_BACKLOG, /* the engine is full: in port->backlog */
	OP_PAUSED, /* wants a buffer, a share or a descriptor: nobody has it */
	OP_WORKER, /* in the workers' queue, or with one of them */
	OP_TIMING, /* a timer */
	OP_LISTED, /* a signal: waits to be told */
	OP_CLOSING, /* a close that waits for the handle's other ops */
	OP_WARMED, /* a sendfile whose file a worker has read: goes on at once */
	OP_READY, /* its final completion is in port->ready */
	OP_POSTED, /* on its way by proa_post() */
};

/* Bits of op->options_; PROA_OPTION_BACKGROUND is bit 0. Those of
 * OPT_IN_FLIGHT are cleared when the op ends. */
#define OPT_CANCEL    0x0002u /* its end has been asked for */
#define OPT_TIMED_OUT 0x0004u /* by its own deadline or timeout */
#define OPT_NO_MORE   0x0008u /* its handle closes: a final completion alone */
#define OPT_BROKEN    0x0010u /* its chain broke before it: so does the rest */
#define OPT_SHARE     0x0020u /* paused: its handle holds its share of the pool */
#define OPT_POOL      0x0040u /* paused: in its pool's queue */
#define OPT_STARVED   0x0080u /* paused accept: the want has been reported */
#define OPT_GATHERED  0x0100u /* its bytes are part of the lane head's send */
#define OPT_QUEUED    0x0020u /* LINKED: its turn has come, it is in port->beginning */
#define OPT_TORE      0x0100u /* READY: it is the one that tore its lane */
#define OPT_COUNTED   0x0200u /* counts among port->background */
#define OPT_ENDED     0x0400u /* the engine is done with it; received buffers wait */
#define OPT_WHOLE     0x0400u /* WORKER: a receive with PROA_ALL */
#define OPT_ENGINE    0xf800u /* the engine's own, five bits */
#define OPT_IN_FLIGHT (0xffffu & ~PROA_OPTION_BACKGROUND)

/* An op in flight: what lies in room_. */
struct flight {
	struct proa_op *prev, *next; /* its handle's or the port's list */
	uint64_t moved; /* bytes so far; stays after the end */
	union {
		void *engine; /* ACTIVE: the engine's word */
		struct proa_op *behind; /* BACKLOG, WORKER, LISTED, POSTED, spilt READY */
		struct proa_op *before; /* LINKED: whose next_ we are */
	} is;
};
_Static_assert(sizeof(struct flight) <= sizeof(((struct proa_op *)0)->room_), "flight fits room_");
_Static_assert(sizeof(struct proa_op) <= 128, "an op is 128 bytes at most");

static inline struct flight *flight(const struct proa_op *op)
{
	return (struct flight *)(void *)(uintptr_t)op->room_;
}

/* In op->flags_, above the public flags: a worker is to read the file ahead, not
 * to send it. */
#define PROA_WARM_      0x8000u
#define PROA_WARM_BYTES (256u * 1024)

/* With op_stepped(): the op is done, and flight()->moved counts its bytes. */
#define STEP_IS_FINAL 0x04u

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
	HANDLE_STREAM, /* a connected or connectable stream socket, or a listener */
	HANDLE_DATAGRAM, /* a socket that keeps messages apart */
	HANDLE_PIPE, /* pipe, terminal, or another pollable thing that is no socket */
	HANDLE_TCP, /* a stream whose short read means that it is drained */
	HANDLE_FILE, /* regular file, directory, block device: always ready */
};

/* Bits of handle->state. */
#define HANDLE_TIED     0x01u /* belongs to this port */
#define HANDLE_OURS     0x02u /* made by the library: non-blocking, and ours to close */
#define HANDLE_CLOSING  0x04u /* its close has been submitted */
#define HANDLE_FLUSHING 0x08u /* ... and lets the sends go first */
#define HANDLE_DEAD     0x10u /* its connect failed: good for close alone */
#define HANDLE_PRIVATE  0x20u /* engine's: `sends` is the op (dial, child) that it serves */
#define HANDLE_BLOCKING 0x40u /* the file's own flags say that it blocks */

#define TEARS_MOST 7u /* or more */

/* One descriptor of a port. `sends` and `recvs` are lanes, in order, of which
 * the engine has the head alone; `others` has no order. */
struct handle {
	struct proa_op *sends, *recvs, *others;
	uint8_t type : 3; /* enum handle_type */
	uint8_t pumping_sends : 1; /* lane_pump() is at work further up the stack */
	uint8_t pumping_recvs : 1;
	uint8_t tears : 3; /* sends that failed, and the program is still to be told of */
	uint8_t state;
	uint16_t lent; /* buffers of pools held by the program */
	/* Completions in `ready` that carry something of value; while it closes,
	 * those of ops that were submitted behind the close. */
	uint16_t undelivered;
	uint8_t engine; /* the engine's own bits */
	uint8_t generation; /* counts the descriptor's lives, for the engine */
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

/* A walk along a list whose ops may end meanwhile: op_unlist() moves it on. */
struct cursor {
	struct proa_op *next, *last;
	struct cursor *outer;
};

struct proa_port {
	/* hot: every op */
	const struct engine *engine;
	void *world; /* the engine's own */
	const void *owner; /* thread_self() of the port's thread; NULL: none yet */
	unsigned fork_generation;
	bool shut, dispatching;
	uint64_t serial; /* of the last submission */
	size_t in_flight, background;
	int64_t now;
	int64_t turn_due; /* the engine wants a turn then, or PROA_FOREVER */
	struct handle_table handles;
	struct ready ready;
	struct timers timers;

	/* started when there is room again */
	struct proa_op *backlog, *backlog_tail;
	struct proa_op *loose[LOOSE_LISTS]; /* ops without a handle, by serial */
	/* Chains' next ops, by is.behind: LINKED and on their lists until they
	 * start, so that their handle's close waits for them. */
	struct proa_op *beginning, **beginning_end;
	struct cursor *cursors;
	struct proa_pool *pools;
	unsigned starved; /* accepts that are paused for want of descriptors */
	uint32_t max_inflight;
	unsigned features; /* bits 1u << enum proa_feature */
	bool external; /* proa_port_descriptor() was asked for */
	bool kicked; /* ... and has been made readable */
	bool cancelling_all;
	bool strays; /* a send has failed that no handle could be found for */
	int outer, outer_timer; /* its epoll and timerfd */

	/* from other threads */
	_Atomic(struct proa_op *) posted; /* newest first */
	_Atomic(struct proa_op *) finished; /* by workers, newest first */
	_Atomic(uint64_t) signalled; /* bit n: signal n + 1 came */
	atomic_size_t posts_pending;
	atomic_bool asleep; /* a poster has to wake us */
	atomic_bool woken; /* proa_wake() */
	atomic_bool stopped;
	atomic_bool shut_asked;
	atomic_bool returns; /* some pool has foreign give-backs */
	/* What system_wake_open() gave; -1 where the engine has a wake() of its own. */
	int wake_handle, wake_write;

	struct workers *workers;
	struct resolver *resolver;
	uint32_t worker_limit;
	struct proa_port_stats stats;
	char why[256]; /* proa_engine_why() */
};

/* The calling thread: on Unix a number that no other has or had (the address of a
 * thread that has ended may be a new one's, which the kernel tells apart), given out when
 * it is first asked for. A word of static TLS, which a shared library may have, makes it
 * a single load. */
#ifdef _WIN32
static inline const void *thread_self(void)
{
#	if defined(__GNUC__) && defined(__x86_64__)
	const void *block; /* as NtCurrentTeb(), of which gcc 12 warns */

	__asm__("movq %%gs:0x30, %0" : "=r"(block));
	return block;
#	else
	return NtCurrentTeb();
#	endif
}
#else
#	ifdef __ELF__
extern _Thread_local const void *thread_mark __attribute__((tls_model("initial-exec")));
#	else
extern _Thread_local const void *thread_mark;
#	endif
const void *thread_self_first(void);
static inline const void *thread_self(void)
{
	return LIKELY(thread_mark != NULL) ? thread_mark : thread_self_first();
}
#endif

extern unsigned process_generation; /* counts forks, in the child */

/* ready.c */
bool ready_push(struct ready *ready, struct proa_op *op, int32_t result, uint32_t flags);
bool ready_pop_spilt(struct ready *ready, struct proa_completion *out);
static inline bool ready_pop(struct ready *ready, struct proa_completion *out)
{
	if (UNLIKELY(ready->head == ready->tail))
		return ready_pop_spilt(ready, out);
	*out = ready->ring[ready->head++ & ready->mask];
	return true;
}
bool ready_reserve(struct ready *ready);
static inline bool ready_empty(const struct ready *ready)
{
	return ready->head == ready->tail && ready->spilt == NULL;
}
void ready_free(struct ready *ready);

/* Monotonic time in ns, never early, never backwards: engines/.../wake.c. */
int64_t clock_now(void);

/* port.c */
/* What every function named _sized does with its caller's struct of `size`
 * bytes (NULL: defaults): copies it into ours, which is older or newer. 0, or
 * PROA_EINVAL if no struct of its kind has that size, which is a multiple of `unit`,
 * or it asks for what we know nothing of. */
int sized_copy(void *ours, size_t our_size, size_t unit, const void *theirs, size_t size);
/* The other way round, for counters: whole ones, and zeros behind them. */
void sized_fill(void *theirs, size_t size, const void *ours, size_t our_size);
/* Waits for the system without handing anything over. */
void port_wait_quietly(struct proa_port *port);
/* How many sends of a handle have failed, and the program has not been told of. */
unsigned ready_tears(const struct ready *ready, proa_handle fd);
/* Its number will be another's: what is queued is that one's in nothing. */
void ready_disown(struct ready *ready, proa_handle fd);
/* A handle closes: takes back what completions not yet handed over carry. */
void ready_purge(struct proa_port *port, proa_handle fd);
/* Is there room for one more completion that is not final? */
static inline bool port_has_room(struct proa_port *port)
{
	return LIKELY(port->ready.tail - port->ready.head <= port->ready.mask &&
		       port->ready.spilt == NULL) ||
	       ready_reserve(&port->ready);
}
/* From any thread: makes the wait return soon. */
void port_notify(struct proa_port *port);
/* From a worker's or resolver's thread: `op` has run. Touch it no more. */
void port_finished(struct proa_port *port, struct proa_op *op);
/* Misuse unless the calling thread is the port's; makes it so the first time. */
bool port_enter_slow(struct proa_port *port, const struct proa_op *op);
static inline bool port_enter(struct proa_port *port, const struct proa_op *op)
{
	return LIKELY(port->owner == thread_self() &&
		       port->fork_generation == process_generation) ||
	       port_enter_slow(port, op);
}
/* The same for calls that set things up, as a thread may do before the port's own
 * begins: it is none's yet, and stays so. */
static inline bool port_visit(struct proa_port *port)
{
	return (port->owner == NULL && port->fork_generation == process_generation) ||
	       port_enter(port, NULL);
}
/* In another loop's hands: makes its descriptor readable. */
void port_kick(struct proa_port *port);
/* Something has begun or ended that a turn has to see to. Inside of a run one comes, and
 * another loop is to make one. */
static inline void port_touched(struct proa_port *port)
{
	if (UNLIKELY(port->external) && !port->dispatching)
		port_kick(port);
}
/* What the engine does when port->wake_handle is readable. */
void port_wake_drain(struct proa_port *port);

/* handle.c */
/* Handles count 0, 1, 2 ... on Unix, and 4, 8, 12 ... on Windows: their place in
 * tables, and the handle of a place. -1 is -1. */
static inline int handle_index(proa_handle fd)
{
#ifdef _WIN32
	return (int)fd >> 2;
#else
	return fd;
#endif
}
static inline int handle_numbered(int index)
{
#ifdef _WIN32
	return index < 0 ? -1 : (int)((unsigned)index << 2);
#else
	return index;
#endif
}
static inline struct handle *handle_find(
	const struct proa_port *port, proa_handle fd) /* NULL: no entry */
{
	size_t at = (size_t)(unsigned)handle_index(fd), chunk = at / HANDLE_CHUNK;

	if (UNLIKELY(fd < 0 || chunk >= port->handles.count || port->handles.chunks[chunk] == NULL))
		return NULL;
	return &port->handles.chunks[chunk][at % HANDLE_CHUNK];
}
int handle_get(struct proa_port *port, proa_handle fd, struct handle **out); /* makes one */
int handle_tie(struct proa_port *port, proa_handle fd, struct handle **out); /* ... and ties it */
/* An opened file's type, which is looked for when it matters. */
int handle_reclassify(proa_handle fd, struct handle *handle);
/* A handle that the library has just made: a fresh, tied entry. On failure the
 * handle is closed. */
int handle_adopt(struct proa_port *port, proa_handle fd, enum handle_type type, bool nonblocking);
/* The system's own close, which counts as any other call. 0 or an error. */
int32_t handle_close(struct proa_port *port, proa_handle fd, enum handle_type type);
/* Its number is free, or another's, from here on. */
void handle_forget(struct proa_port *port, proa_handle fd, struct handle *handle);
/* Completes its close if it is closing and nothing else is left on it. */
void handle_settle(struct proa_port *port, struct handle *handle);
/* A completion of one that is behind the handle's close goes before that: see
 * handle_close_take(), which asks no more than whether there are any. */
static inline void handle_defers_close(struct handle *handle)
{
	if (handle->undelivered < UINT16_MAX)
		handle->undelivered++;
}
bool handle_close_take(struct proa_port *port, struct proa_completion *c);
void handle_close_begin(struct proa_port *port, struct proa_op *close);
/* The first entry behind fd (-1: of all) that has ops or is tied; -1: none. */
int handle_next(const struct proa_port *port, int fd);
void handles_free(struct proa_port *port);

static inline bool handle_idle(const struct handle *handle)
{
	return handle->sends == NULL && handle->recvs == NULL && handle->others == NULL;
}

/* ---- completions ---------------------------------------------------------- */

/* Does it carry something that must be taken back if it is not handed over? */
static inline bool is_valued(const struct proa_op *op, int32_t result, uint32_t flags)
{
	return (flags & PROA_LENT) != 0 ||
	       ((op->kind_ == PROA_OP_ACCEPT || op->kind_ == PROA_OP_ACCEPT_MULTI) && result >= 0);
}

/* Queues a completion. For a final one (no PROA_MORE) the op must be off every
 * list and timer; it becomes READY. */
static inline void port_complete(
	struct proa_port *port, struct proa_op *op, int32_t result, uint32_t flags)
{
	struct handle *handle;

	if ((flags & PROA_MORE) == 0)
		op->state_ = OP_READY;
	port->stats.completed++;
	if (is_valued(op, result, flags)) {
		handle = handle_find(port, op->handle_);
		handle->undelivered++;
	}
	if (LIKELY(port->ready.tail - port->ready.head <= port->ready.mask &&
		    port->ready.spilt == NULL && port->ready.ring != NULL))
		port->ready.ring[port->ready.tail++ & port->ready.mask] =
			(struct proa_completion) { op, result, flags };
	else
		ready_push(&port->ready, op, result, flags);
}

/* What is so of a kind. */
#define K_HANDLE 0x01u /* acts on a handle: one that is needed */
#define K_LOOSE  0x02u /* ties nothing */
#define K_SEND   0x04u
#define K_RECV   0x08u
#define K_BYTES  0x10u /* length_ is a count of bytes */
#define K_SLICES 0x20u /* length_ is a count of slices */
#define K_MULTI  0x40u

extern const uint8_t op_kinds[];

static inline bool op_connects(const struct proa_op *op)
{
	return op->kind_ == PROA_OP_CONNECT || op->kind_ == PROA_OP_DIAL;
}
static inline bool op_sends(const struct proa_op *op)
{
	return (op_kinds[op->kind_] & K_SEND) != 0;
}
static inline bool op_receives(const struct proa_op *op)
{
	return (op_kinds[op->kind_] & K_RECV) != 0;
}
static inline bool op_borrows(const struct proa_op *op)
{
	return op->kind_ == PROA_OP_RECV_LENT || op->kind_ == PROA_OP_RECV_MULTI;
}

static inline bool op_lends(const struct proa_op *op)
{
	return op->kind_ == PROA_OP_RECV_LENT || op->kind_ == PROA_OP_RECV_MULTI;
}

/* op.c */
/* Tickets: the serial number, and where to look for the op. */
#define TICKET_HANDLE_BITS 24
#define TICKET_HANDLE_MASK ((UINT64_C(1) << TICKET_HANDLE_BITS) - 1)

/* The list that an op in flight is on. */
static inline struct proa_op **op_list_of(
	struct proa_port *port, const struct proa_op *op, struct handle *handle)
{
	if (handle == NULL)
		return &port->loose[op->lane_ % LOOSE_LISTS];
	if (op->state_ == OP_LINKED || handle->type == HANDLE_DATAGRAM ||
		handle->type == HANDLE_UNKNOWN)
		return &handle->others;
	if (op_sends(op))
		return &handle->sends;
	return op_receives(op) ? &handle->recvs : &handle->others;
}
static inline struct proa_op **op_list(struct proa_port *port, const struct proa_op *op)
{
	return op_list_of(port, op, handle_find(port, op->handle_));
}
/* Of a handle's `others`: a datagram that is on its way. */
static inline bool op_is_flushed(const struct proa_op *op)
{
	return op_sends(op) && op->state_ != OP_LINKED;
}
static inline bool op_limited(const struct proa_op *op)
{
	return op->timeout_ != PROA_FOREVER || op->deadline_ != PROA_FOREVER;
}
/* Takes it off its list, if it is on one; walks along the list go on. */
void op_unlist(struct proa_port *port, struct proa_op *op, struct proa_op **list);
/* Starts a listed op: whoever serves its kind gets it. */
void op_begin(struct proa_port *port, struct proa_op *op);
/* Starts the ops whose chains have come to them. Called where nothing else is
 * in the middle of changing lists: at the end of API calls and turns. */
void port_begin_next(struct proa_port *port);
/* Bytes that an op was asked to move. */
uint64_t op_length(const struct proa_op *op);

/* step.c */
/* Attempts until the op has ended or is somebody else's. */
void op_start(struct proa_port *port, struct proa_op *op);
/* The engine, a worker or a signal ended one attempt at `op`, or (PROA_MORE)
 * goes on with it. `flags` may carry a lent buffer. */
void op_stepped(struct proa_port *port, struct proa_op *op, int32_t result, uint32_t flags);
/* An attempt found that it needs a worker. */
void op_to_worker(struct proa_port *port, struct proa_op *op);
/* Nothing will tell when it can go on: it is tried again after a while. */
void op_retry_later(struct proa_port *port, struct proa_op *op);
/* A paused op goes on. */
void op_resume(struct proa_port *port, struct proa_op *op);
/* Ends an op: off its list and timer, its completion queued, its chain and its
 * handle seen to. */
void op_end(struct proa_port *port, struct proa_op *op, int32_t result, uint32_t flags);
/* The next op of a chain whose last one has ended. */
void chain_on(struct proa_port *port, struct proa_op *next, bool fulfilled);
/* The engine is full: ops that wait for room in it. */
void op_backlog(struct proa_port *port, struct proa_op *op);
void backlog_remove(struct proa_port *port, struct proa_op *op);
void port_drain_backlog(struct proa_port *port);
/* A descriptor has become free: paused accepts look again in this turn. */
void accepts_resume(struct proa_port *port);

/* limit.c */
int64_t later(int64_t now, int64_t ns); /* ... but never PROA_FOREVER */
bool op_is_timer(const struct proa_op *op);
void timer_begin(struct proa_port *port, struct proa_op *op);
/* May it be paused for a while, so that argument_ says until when? */
bool op_is_retried(const struct proa_op *op);
bool op_is_dated(const struct proa_op *op);
/* Completions are progress: its time begins again. */
void op_progressed(struct proa_port *port, struct proa_op *op);
/* Sets the timer to what limits the op in time, counted from now. */
int op_limit(struct proa_port *port, struct proa_op *op);
/* Its place in the heap has come up. */
void op_timer(struct proa_port *port, struct proa_op *op, int64_t due);

/* cancel.c */
void op_cancel(struct proa_port *port, struct proa_op *op);
/* All ops of a list; `mark` goes on each. */
void op_cancel_list(struct proa_port *port, struct proa_op **list, unsigned mark);
void port_cancel_all(struct proa_port *port);

/* lane.c */
/* Starts the head of a lane, and those that follow while they end at once. */
void lane_pump(struct proa_port *port, struct handle *handle, struct proa_op **lane);
/* The attempt at the head of the send lane, and what it gathered, gave
 * `result`: ends those that are done, and starts what is next. */
void lane_sent(struct proa_port *port, struct handle *handle, int32_t result);
/* Sends go out that a close waits for: its time begins again. */
void flush_progress(struct proa_port *port, struct handle *handle);
/* Ends `op` with `result` and, in a send lane, all behind it with ECANCELED. */
void lane_fail(struct proa_port *port, struct handle *handle, struct proa_op *op, int32_t result);

/* pool.c */
#define LENT_ID(flags)    ((flags) >> 8)
#define LENT_FLAGS(id)    ((uint32_t)(id) << 8 | PROA_LENT)
#define POOL_ADDRESS_ROOM 128 /* before each buffer's bytes: a datagram's sender */
/* A result that stands for "its pool had no buffer": ENOBUFS. */
#define STEP_NO_BUFFER (-105)
/* A free buffer, growing the pool if it may; NULL: none. */
struct proa_buffer *pool_take_free(struct proa_pool *pool);
void pool_put_free(struct proa_pool *pool, struct proa_buffer *buffer);
/* May a receive run ahead of the program? */
bool pool_is_ample(const struct proa_pool *pool);
bool pool_is_empty(const struct proa_pool *pool);
/* A receive that starts found no data, and goes on without a claim to a buffer. */
void pool_unwanted(struct proa_pool *pool);
/* The engine took free buffers for the kernel, or got some back. */
void pool_provided(struct proa_pool *pool, int more);
/* A datagram's sender is in the room before the buffer's bytes: its length. */
void pool_set_sender(struct proa_buffer *buffer, size_t length);
uint32_t pool_id(const struct proa_buffer *buffer);
struct proa_buffer *pool_buffer(const struct proa_pool *pool, uint32_t id);
/* What RECV_LENT and RECV_MULTI do when an attempt has ended: true, go on. */
bool pool_stepped(struct proa_port *port, struct proa_op *op, int32_t result, uint32_t flags);
/* May `op` start? Else it is paused. */
bool pool_admits(struct proa_port *port, struct proa_op *op, struct handle *handle);
/* A paused receive is to end: takes it off the pool's queue. */
void pool_forget(struct proa_op *op);
/* Takes back the buffer of a completion that is not handed over. */
void pool_revoke(struct proa_port *port, const struct proa_op *op, uint32_t flags);
/* The same in a forked child, whose pools are filled anew. */
void pool_unlend(const struct proa_op *op, uint32_t flags);
void pool_drain_returns(struct proa_port *port);
void pools_owned(struct proa_port *port);
uint64_t pools_lent(const struct proa_port *port); /* by those that are open */
void pools_detach(struct proa_port *port);
/* After a fork: the pools that were detached come back. */
void pools_adopt(struct proa_port *port, struct proa_pool *first);
void *pool_engine(const struct proa_pool *pool);
void pool_set_engine(struct proa_pool *pool, void *engine);
uint32_t pool_buffer_size(const struct proa_pool *pool);
/* How many buffers a ring of the engine's should hold. */
uint32_t pool_ring_size(const struct proa_pool *pool);

/* engine.c: picks and opens one. 0 or an error, with a sentence in `why`. */
int engine_choose(
	struct proa_port *port, const struct proa_port_options *options, char *why, size_t size);

#endif

/* The seam between lib/ and what talks to the system.
 *
 * lib/ keeps the contract: lanes, chains, limits in time, pools' bookkeeping,
 * order of completions. An engine makes single attempts: start() begins one,
 * and it ends with one op_stepped() (a multishot one with several, all but the
 * last marked PROA_MORE). An engine never calls a program's code, and calls
 * op_stepped() only from turn(), cancel() and release(). */
#ifndef PROA_ENGINES_ENGINE_H
#define PROA_ENGINES_ENGINE_H

#include "lib/port.h"

/* What start() gives besides a result of the attempt. */
#define STEP_STARTED   INT32_MIN /* op_stepped() will follow */
#define STEP_TO_WORKER (INT32_MIN + 1) /* not here: a worker thread has to do it */
#define STEP_FULL      (INT32_MIN + 2) /* no room now: ask again after a turn */

struct engine {
	const char *name;

	/* Sets port->world and port->features up. 0 or an error, with a sentence in `why`. */
	int (*open)(struct proa_port *port, const struct proa_port_options *options, char *why,
		size_t size);
	void (*close)(struct proa_port *port);
	/* In a forked child: frees what is the child's, touches nothing shared. */
	void (*abandon)(struct proa_port *port);

	/* One attempt at an op from flight(op)->moved on. For the head of a send
	 * lane it takes as many of the sends behind as it likes (lane_gather()).
	 * A result at once, with *flags as for op_stepped(), or one of STEP_*. */
	int32_t (*start)(struct proa_port *port, struct proa_op *op, uint32_t *flags);
	/* Asks for the end of an attempt that start() began; op_stepped() follows,
	 * at once or in a turn, with PROA_ECANCELED or what really happened. */
	void (*cancel)(struct proa_port *port, struct proa_op *op);
	/* A handle is no longer ours, or is about to be closed: drop every
	 * registration. */
	void (*forget)(struct proa_port *port, proa_handle fd, struct handle *handle);

	/* Hands over what was started, waits up to `timeout` ns (0: not at all)
	 * for something to happen, and takes in a bounded share of it. */
	void (*turn)(struct proa_port *port, int64_t timeout);

	/* From any thread and from signal handlers: makes turn() return soon. NULL:
	 * port->wake_handle is open, turn() waits for it, and calls
	 * port_wake_drain() when it is readable. */
	void (*wake)(struct proa_port *port);

	/* A descriptor that is readable when turn() has work; -1: none. */
	int (*descriptor)(struct proa_port *port);

	/* Pools, for engines that hand buffers to the kernel; may be NULL. */
	int (*pool_open)(struct proa_port *port, struct proa_pool *pool);
	void (*pool_close)(struct proa_port *port, struct proa_pool *pool);
	/* Buffers have become free; the engine may pool_take_free() some. */
	void (*pool_refill)(struct proa_port *port, struct proa_pool *pool);
	/* A buffer is wanted, and the engine has the last free ones. */
	void (*pool_reclaim)(struct proa_port *port, struct proa_pool *pool);
};

extern const struct engine iocp_engine, uring_engine, epoll_engine, kqueue_engine, poll_engine,
	select_engine;

/* lib/lane.c, for start(): the bytes of the lane's head and of the sends behind
 * it, as far as `room` slices go; marks those ops OPT_GATHERED. The number of
 * slices; *bytes is their sum, *more whether the last one said PROA_CORK. */
int lane_gather(struct proa_port *port, struct proa_op *head, struct proa_slice *slices, int room,
	size_t *bytes, bool *more);

#endif

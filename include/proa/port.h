/* Completion ports: where operations are submitted and completions taken. */
#ifndef PROA_PORT_H
#define PROA_PORT_H

#include <proa/base.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Local: one thread, no lock (the default). Shared: any number of threads. */
enum proa_port_mode { PROA_LOCAL = 0, PROA_SHARED = 1 };

/* Zeroed means defaults. Grows at its end alone. */
struct proa_port_options {
	const char *engine;    /* NULL: PROA_ENGINE, else the best that works */
	enum proa_port_mode mode;
	uint32_t entries;      /* size of the rings, a hint */
	uint32_t max_inflight; /* 0: no limit; past it ops complete with EAGAIN */
	uint32_t workers;      /* most worker threads; 0: 4 */
	uint32_t concurrency;  /* shared: threads that run at once; 0: one a CPU */
};

/* Opens a port. `options` may be NULL. 0 or an error; the caller owns *out. */
PROA_API int proa_port_open_sized(const struct proa_port_options *options,
	size_t size, struct proa_port **out);
static inline int proa_port_open(const struct proa_port_options *options,
	struct proa_port **out)
{
	return proa_port_open_sized(options, sizeof(struct proa_port_options), out);
}

/* Shuts the port, hands each final completion to its `done` (ops without one
 * are dropped), and frees it. No other thread may be in it; call it from the
 * port's own thread, or from any once that one has ended. Handles that are
 * still open stay open and are detached. NULL is allowed. 0, or PROA_EBUSY
 * inside one of the port's own callbacks: nothing has happened then. */
PROA_API int proa_port_close(struct proa_port *port);

/* From any thread: cancels every op in flight, and every op submitted from now
 * on but closes. Completions go on being handed over; after the last one every
 * run and wait, of every thread, returns PROA_ESHUTDOWN. */
PROA_API void proa_port_shut(struct proa_port *port);

/* Dispatches completions until no op is in flight but background ones (0), proa_stop()
 * (PROA_ECANCELED) or a shut port is empty (PROA_ESHUTDOWN). An op becomes
 * the caller's just before its own callback, not before. */
PROA_API int proa_run(struct proa_port *port);

/* Dispatches one batch, waiting up to `timeout` for it even if nothing is in
 * flight. The number dispatched (0: time is up, or woken), or as proa_run(). */
PROA_API int proa_run_once(struct proa_port *port, int64_t timeout);

/* Takes up to `max` completions. Their number (0: time is up, or woken), or
 * PROA_ESHUTDOWN. All ops with a final completion in the batch are the
 * caller's from here on: do not free what a later entry names. */
PROA_API int proa_wait(struct proa_port *port, struct proa_completion *out,
	int max, int64_t timeout);

/* Calls c->op's `done`, as proa_run() does; nothing if it has none. */
PROA_API void proa_dispatch(const struct proa_completion *c);

/* Makes the current proa_run() return, or the next one if none is running. */
PROA_API void proa_stop(struct proa_port *port);

/* Makes one waiter return with 0. From any thread and from signal handlers. */
PROA_API void proa_wake(struct proa_port *port);

/* Completes `op`, which is idle, through `port`, to which it belongs from here
 * on, with `result`, in order of posting. From any thread; on a port that has
 * been shut with PROA_ECANCELED. From its own thread it means "later". */
PROA_API void proa_post(struct proa_port *port, struct proa_op *op,
	int32_t result, proa_done_fn *done);

/* Monotonic time as of this batch of completions. */
PROA_API int64_t proa_now(const struct proa_port *port);

/* How many ops are in flight, posts included. */
PROA_API size_t proa_in_flight(const struct proa_port *port);

/* Makes a foreign handle usable here: non-blocking, associated. Handles that
 * the library makes are attached already. 0 or an error. */
PROA_API int proa_attach(struct proa_port *port, proa_handle handle);

/* Undoes it, for another port or another owner. PROA_EBUSY with ops in
 * flight; PROA_ENOSYS on Windows, where a socket has one port for life. */
PROA_API int proa_detach(struct proa_port *port, proa_handle handle);

/* Closes at once a handle that has nothing in flight (PROA_EBUSY if it has):
 * for the error path before the first op. Else see proa_prep_close(). */
PROA_API int proa_discard(struct proa_port *port, proa_handle handle);

/* Cancels what is in flight on the handle and returns when the kernel holds
 * nothing of it (final completions follow): for those who must close it
 * themselves. From the port's thread. 0 or an error. */
PROA_API int proa_release(struct proa_port *port, proa_handle handle);

/* A descriptor that is readable when proa_run_once(port, 0) has work: to sit in
 * another loop. PROA_NO_HANDLE where there is none. */
PROA_API proa_handle proa_port_descriptor(struct proa_port *port);

/* "io_uring", "epoll", "iocp", ...; and why the better ones were passed over
 * ("" if none was). Both belong to the port. */
PROA_API const char *proa_engine_name(const struct proa_port *port);
PROA_API const char *proa_engine_why(const struct proa_port *port);

/* Why the last proa_port_open() of this thread failed, in a sentence. */
PROA_API const char *proa_port_open_why(void);

/* What the engine does natively (the rest is emulated, and works as well). */
enum proa_feature {
	PROA_NATIVE_FILES = 1, PROA_NATIVE_ACCEPT_MULTI = 2,
	PROA_NATIVE_RECV_MULTI = 3, PROA_NATIVE_SENDFILE = 4
};
PROA_API int proa_supports(const struct proa_port *port, enum proa_feature what);

/* Counters since the port was opened. Grows at its end alone. */
struct proa_port_stats {
	uint64_t submitted, completed, system_calls, posts;
	uint64_t backlog, backlog_peak, lent;
};
PROA_API void proa_port_stats_sized(const struct proa_port *port,
	struct proa_port_stats *out, size_t size);
static inline void proa_port_stats(const struct proa_port *port,
	struct proa_port_stats *out)
{
	proa_port_stats_sized(port, out, sizeof(struct proa_port_stats));
}

/* Shared ports: this thread is about to block, or has done; another is let in
 * for it meanwhile. */
PROA_API void proa_blocking_begin(struct proa_port *port);
PROA_API void proa_blocking_end(struct proa_port *port);

/* In a forked child, the only calls allowed: start afresh (all ops that were
 * in flight become idle, without a completion; `each`, if not NULL, is told of
 * every one), or free the memory. */
PROA_API int proa_port_after_fork(struct proa_port *port,
	void (*each)(struct proa_op *op, void *data), void *data);
PROA_API void proa_port_abandon(struct proa_port *port);

#ifdef __cplusplus
}
#endif
#endif

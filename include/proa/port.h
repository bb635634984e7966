/* Completion ports: where operations are submitted and completions taken. What says
 * nothing of threads here is called from the port's threads. */
#ifndef PROA_PORT_H
#define PROA_PORT_H

#include <proa/base.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Who may use a port. */
enum proa_port_mode {
	PROA_LOCAL = 0, /* one thread, the first to submit or wait; no lock */
	PROA_SHARED = 1 /* any number of threads; PROA_ENOSYS in this version */
};

/* Zeroed means defaults. Grows at its end alone. */
struct proa_port_options {
	const char *engine; /* NULL: PROA_ENGINE, else the best that works */
	enum proa_port_mode mode; /* PROA_LOCAL unless said */
	uint32_t entries; /* size of the rings, a hint; 0: 1,024; at most 32,768 */
	uint32_t max_inflight; /* 0: no limit; past it ops complete with EAGAIN */
	uint32_t workers; /* most worker threads; 0: 4 */
	uint32_t concurrency; /* shared: threads that run at once; 0: one a CPU */
	uint32_t accepts; /* iocp: AcceptEx() calls that a multishot accept has in flight
	                   * at the least; 0: PROA_ACCEPTS, or 4; at most 64. Other
	                   * engines post none ahead, and ignore it */
};

/* What proa_port_open() calls: `size` is that of the caller's struct, which may be
 * older or newer than the library's. */
PROA_API int proa_port_open_sized(
	const struct proa_port_options *options, size_t size, struct proa_port **out);

/* Opens a port. `options` may be NULL. 0 or an error, which proa_port_open_why()
 * explains; the caller owns *out. Any thread; it ties the port to none. */
static inline int proa_port_open(const struct proa_port_options *options, struct proa_port **out)
{
	return proa_port_open_sized(options, sizeof(struct proa_port_options), out);
}

/* Shuts the port, hands each final completion to its `done` (ops without one are
 * dropped), and frees it. What has begun on worker threads is waited for. No other
 * thread may be in it; call it from the port's own thread, or from any once that one
 * has ended. Handles that are still open stay open and are detached. NULL is
 * allowed. 0, or PROA_EBUSY inside one of the port's own callbacks: nothing has
 * happened then. */
PROA_API int proa_port_close(struct proa_port *port);

/* Cancels every op in flight, and every op submitted from now on, but closes.
 * Completions go on being handed over; after the last one every run and wait, of
 * every thread, returns PROA_ESHUTDOWN. From any thread. */
PROA_API void proa_port_shut(struct proa_port *port);

/* Dispatches completions until no op is in flight but background ones (0),
 * proa_stop() (PROA_ECANCELED) or a shut port is empty (PROA_ESHUTDOWN). An op
 * becomes the caller's just before its own callback, not before. PROA_EBUSY inside
 * one of the port's callbacks. From the port's thread. */
PROA_API int proa_run(struct proa_port *port);

/* Dispatches one batch, waiting up to `timeout` ns for it even if nothing is in
 * flight. The number dispatched (0: time is up, or woken), or as proa_run(). */
PROA_API int proa_run_once(struct proa_port *port, int64_t timeout);

/* Takes up to `max` completions, waiting up to `timeout` ns for the first. Their
 * number (0: time is up, or woken), PROA_ESHUTDOWN, or PROA_EINVAL for a `max` below
 * 1; never PROA_EINTR, and proa_stop() does not end it. All ops
 * with a final completion in the batch are the caller's from here on: do not free
 * what a later entry names. From the port's threads. */
PROA_API int proa_wait(
	struct proa_port *port, struct proa_completion *out, int max, int64_t timeout);

/* Calls the `done` of c->op, as proa_run() does; nothing if it has none. For loops
 * of proa_wait() that serve callbacks too. */
PROA_API void proa_dispatch(const struct proa_completion *c);

/* Makes the current proa_run() return with PROA_ECANCELED, or the next one if none
 * is running. Nothing in flight is cancelled. From any thread. */
PROA_API void proa_stop(struct proa_port *port);

/* Makes one proa_wait() or proa_run_once() return with 0, now or the next time. From
 * any thread and from signal handlers. */
PROA_API void proa_wake(struct proa_port *port);

/* Completes `op`, which is readied and idle (misuse), through `port`, to which it
 * belongs from here on, with `result`, in order of posting; on a port that has been
 * shut with PROA_ECANCELED. Allocates nothing. From any thread; from the port's own
 * it means "later". */
PROA_API void proa_post(
	struct proa_port *port, struct proa_op *op, int32_t result, proa_done_fn *done);

/* Monotonic time in ns, as of this batch of completions. From the port's threads. */
PROA_API int64_t proa_now(const struct proa_port *port);

/* How many ops are in flight, posts included. From the port's threads. */
PROA_API size_t proa_in_flight(const struct proa_port *port);

/* Ties a foreign handle to this port, as its first op would; changes no flag that
 * other processes share. Handles that the library makes are tied already. 0, or
 * PROA_EINVAL if it is another port's, or another error. One that is tied is closed by
 * proa_prep_close() or proa_discard(), or else detached first: its number would be
 * taken for the same handle again. From the port's thread. */
PROA_API int proa_attach(struct proa_port *port, proa_handle handle);

/* Undoes it, for another port or another owner. PROA_EBUSY with ops in flight;
 * PROA_EBADF if it is not tied to this port; PROA_ENOSYS on Windows, where a socket
 * has one port for life (CreateIoCompletionPort). From the port's thread. */
PROA_API int proa_detach(struct proa_port *port, proa_handle handle);

/* Closes at once a handle that has nothing in flight (PROA_EBUSY if it has): for the
 * error path before the first op. Else see proa_prep_close(). 0, PROA_EBUSY or
 * PROA_EBADF. From the port's thread. */
PROA_API int proa_discard(struct proa_port *port, proa_handle handle);

/* Cancels what is in flight on the handle and returns when the kernel holds nothing
 * of it (final completions follow): for those who must close it themselves. From the
 * port's thread. 0, PROA_EBADF if it is not this port's, PROA_EBUSY if it is being
 * closed, or a chain in flight is to close it. */
PROA_API int proa_release(struct proa_port *port, proa_handle handle);

/* A descriptor that is readable when proa_run_once(port, 0) has work: to sit in
 * another loop. The port's own, until its end; PROA_NO_HANDLE where there is none.
 * From the port's thread. */
PROA_API proa_handle proa_port_descriptor(struct proa_port *port);

/* "io_uring", "iocp", "epoll", "kqueue", "poll" or "select". It belongs to the port. */
PROA_API const char *proa_engine_name(const struct proa_port *port);

/* Why better engines were passed over ("" if none was). It belongs to the port. */
PROA_API const char *proa_engine_why(const struct proa_port *port);

/* Why the last proa_port_open() of this thread failed, in a sentence ("" if it did
 * not). Valid until the thread's next one. */
PROA_API const char *proa_port_open_why(void);

/* What an engine may do natively; the rest is emulated, and keeps the same rules. */
enum proa_feature {
	PROA_NATIVE_FILES = 1, /* no worker thread */
	PROA_NATIVE_ACCEPT_MULTI = 2, /* one request for many connections */
	PROA_NATIVE_RECV_MULTI = 3, /* one request for many buffers */
	PROA_NATIVE_SENDFILE = 4 /* no copy through the program */
};

/* Whether the port's engine does `what` natively: 1 or 0. */
PROA_API int proa_supports(const struct proa_port *port, enum proa_feature what);

/* Counters since the port was opened. Grows at its end alone. */
struct proa_port_stats {
	uint64_t submitted; /* ops */
	uint64_t completed; /* completions, those with PROA_MORE included */
	uint64_t system_calls; /* made by the port's thread for the engine, closes included */
	uint64_t posts; /* taken in */
	uint64_t backlog; /* ops that wait for room in the engine now */
	uint64_t backlog_peak; /* the most that there were */
	uint64_t lent; /* buffers of its pools lent now */
	uint64_t passed_over; /* better engines that were tried in vain: proa_engine_why() */
};

/* What proa_port_stats() calls: `size` is that of the caller's struct. */
PROA_API void proa_port_stats_sized(
	const struct proa_port *port, struct proa_port_stats *out, size_t size);

#if defined(__GNUC__) && defined(__cplusplus)
#	pragma GCC diagnostic push /* a function and a struct of one name are well-formed */
#	pragma GCC diagnostic ignored "-Wshadow"
#endif
/* Fills *out. From the port's threads. */
static inline void proa_port_stats(const struct proa_port *port, struct proa_port_stats *out)
{
	proa_port_stats_sized(port, out, sizeof(struct proa_port_stats));
}
#if defined(__GNUC__) && defined(__cplusplus)
#	pragma GCC diagnostic pop
#endif

/* Shared ports: this thread is about to block; another is let in for it meanwhile.
 * On a local port nothing happens. */
PROA_API void proa_blocking_begin(struct proa_port *port);

/* It has done so. */
PROA_API void proa_blocking_end(struct proa_port *port);

/* In a forked child this or proa_port_abandon() is the only call allowed: starts
 * afresh with an engine of the same kind. All ops that were in flight become idle,
 * without a completion; `each`, if not NULL, is told of every one. 0 or an error,
 * after which it may be called again, or the port be abandoned; PROA_EINVAL in the
 * parent. */
PROA_API int proa_port_after_fork(
	struct proa_port *port, void (*each)(struct proa_op *op, void *data), void *data);

/* In a forked child: frees the port's memory, and touches nothing that the parent
 * shares. Misuse in the parent. */
PROA_API void proa_port_abandon(struct proa_port *port);

#ifdef __cplusplus
}
#endif
#endif

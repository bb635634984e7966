/* Operations: submit, cancel, limits in time, links, strands.
 *
 * What touches nothing but ops that are not in flight (proa_op_init(), each prep
 * function, proa_op_with(), proa_op_background(), proa_op_strand(), proa_link(),
 * proa_op_count()) may be called by whoever owns them, on any thread. */
#ifndef PROA_OP_H
#define PROA_OP_H

#include <proa/base.h>
#include <proa/error.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Readies an op: once, before its first prep, and never in flight. It belongs to
 * `port` from here on; `data` is what its callbacks find the caller's struct by. */
static inline void proa_op_init(struct proa_op *op, struct proa_port *port, void *data)
{
	static const struct proa_op zero = { NULL, NULL, NULL, 0, 0, 0, 0, NULL, 0, 0, 0, 0, 0,
		NULL, -1, 0, { 0, 0, 0, 0 } };
	*op = zero;
	op->port = port;
	op->data = data;
}

/* Starts an op on its port; it has been prepared for this very submission. From here
 * to its final completion the op and all that it names are the library's. `done`
 * NULL: taken by proa_wait(), or nobody wants to know. Nothing to check: failures are
 * completions, and none comes before this has returned. The ticket, never 0 and never
 * reused, is for proa_cancel_ticket(). From the port's threads. */
PROA_API uint64_t proa_submit(struct proa_op *op, proa_done_fn *done);

/* Asks that an op in flight end early; it then reports what really happened, in its
 * own completion: PROA_ECANCELED, or its result if that was first. Idempotent;
 * nothing happens if it is not in flight, or is a close. The op's memory must be
 * live. From the port's threads. */
PROA_API void proa_cancel(struct proa_op *op);

/* The same for one submission, without touching the op: even if the op has ended
 * and been freed meanwhile. From the port's threads. */
PROA_API void proa_cancel_ticket(struct proa_port *port, uint64_t ticket);

/* The same for all ops on a handle; a close goes on. From the port's threads. */
PROA_API void proa_cancel_handle(struct proa_port *port, proa_handle handle);

/* The same for all ops of a port; closes go on. From the port's threads. */
PROA_API void proa_cancel_all(struct proa_port *port);

/* True from submit until just before the final callback (proa_run()), or until
 * proa_wait() returns with the final completion in its batch. From the port's
 * threads. */
static inline int proa_op_pending(const struct proa_op *op)
{
	return op->state_ != 0;
}

/* How many bytes the op moved, in 64 bits: also when it failed part-way.
 * Valid from the final completion until the next prep. */
PROA_API uint64_t proa_op_count(const struct proa_op *op);

/* Ends the op with PROA_ETIMEDOUT after `ns` in which it made no progress: no byte,
 * no completion. Counts from its start, again from each multishot completion, and
 * stands still while a receive waits for the program to give buffers back. After
 * prep, or in flight; PROA_FOREVER: none. From the port's threads. */
PROA_API void proa_op_timeout(struct proa_op *op, int64_t ns);

/* The same at an instant of proa_now()'s clock, progress or not. Both may be set.
 * After prep, or in flight: a deadline that was the nearer of the two limits and is put
 * off begins the time without progress again. From the port's threads. */
PROA_API void proa_op_deadline(struct proa_op *op, int64_t when);

/* When `op` is submitted `next` goes with it, and starts when `op` has done all that
 * it was asked; else it, and what is linked to it, completes with PROA_ECANCELED. A
 * close that is `next` runs in either case. Both are prepared and idle (misuse);
 * not for multishot ops. */
PROA_API void proa_link(struct proa_op *op, struct proa_op *next, proa_done_fn *next_done);

/* Makes a prepared op that has no handle (timer, work, resolve, dial, child, ...)
 * one of `handle`'s: its close cancels it and completes after it. */
static inline void proa_op_with(struct proa_op *op, proa_handle handle)
{
	op->handle_ = (int32_t)handle;
}

/* What proa_op_background() sets. */
#define PROA_OPTION_BACKGROUND 0x1u

/* proa_run() returns when only such ops are left (they stay in flight): for signals,
 * housekeeping timers, grace periods. After prep, before submit. */
static inline void proa_op_background(struct proa_op *op)
{
	op->options_ |= PROA_OPTION_BACKGROUND;
}

/* A serial lane on a shared port. All zero is ready for use. It must outlive its
 * ops. */
struct proa_strand {
	uint64_t room_[6];
};

/* Completions of a strand's ops run one at a time, in order. After prep, before
 * submit. On a local port, whose one thread gives that anyway, it changes
 * nothing. */
PROA_API void proa_op_strand(struct proa_op *op, struct proa_strand *strand);

/* What an op is: one for each proa_prep function. For engines and traces; programs
 * need not care. */
enum proa_kind {
	PROA_OP_NONE,
	PROA_OP_ACCEPT,
	PROA_OP_ACCEPT_MULTI,
	PROA_OP_DIAL,
	PROA_OP_CONNECT,
	PROA_OP_RECV,
	PROA_OP_RECV_LENT,
	PROA_OP_RECV_MULTI,
	PROA_OP_RECVFROM,
	PROA_OP_RECVMSG,
	PROA_OP_SEND,
	PROA_OP_SENDV,
	PROA_OP_SENDTO,
	PROA_OP_SENDMSG,
	PROA_OP_SENDFILE,
	PROA_OP_SHUTDOWN,
	PROA_OP_CLOSE,
	PROA_OP_POLL,
	PROA_OP_POLL_MULTI,
	PROA_OP_OPEN,
	PROA_OP_READ,
	PROA_OP_READV,
	PROA_OP_WRITE,
	PROA_OP_WRITEV,
	PROA_OP_SYNC,
	PROA_OP_STAT,
	PROA_OP_FSTAT,
	PROA_OP_TRUNCATE,
	PROA_OP_RENAME,
	PROA_OP_UNLINK,
	PROA_OP_MKDIR,
	PROA_OP_TIMER,
	PROA_OP_TIMER_AT,
	PROA_OP_INTERVAL,
	PROA_OP_WORK,
	PROA_OP_RESOLVE,
	PROA_OP_SIGNAL,
	PROA_OP_CHILD
};

/* Fills an op: what every prep function comes down to. Clears the options (times,
 * link, strand, ...), keeps port and data. Misuse if the op is in flight. */
static inline void proa_prep_(struct proa_op *op, enum proa_kind kind, proa_handle handle,
	const void *buffer, size_t length, uint64_t argument, uint32_t flags)
{
	if (op->state_ != 0) {
		proa_misuse("an op was prepared while in flight", op);
		return; /* the library has it */
	}
	op->kind_ = (uint8_t)kind;
	op->options_ = 0;
	op->flags_ = flags;
	op->handle_ = (int32_t)handle;
	op->buffer_ = (void *)(uintptr_t)buffer;
	op->length_ = length;
	op->argument_ = argument;
	op->timeout_ = PROA_FOREVER;
	op->deadline_ = PROA_FOREVER;
	op->lane_ = 0;
	op->next_ = NULL;
}

#ifdef __cplusplus
}
#endif
#endif

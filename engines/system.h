/* The second seam: what lib/ needs of the operating system, whichever engine
 * runs. engines/unix and engines/windows implement it.
 *
 * Handles are ints here and in all engines: on Windows too they have 32
 * significant bits (a HANDLE or SOCKET is sign-extended), and so have results. */
#ifndef PROA_ENGINES_SYSTEM_H
#define PROA_ENGINES_SYSTEM_H

#include "lib/port.h"

/* ---- the process -------------------------------------------------------------- */

/* Once, before the first port: signals, forks, the sockets' library. 0 or an error. */
int system_prepare(void);
/* Our code for errno, GetLastError() or WSAGetLastError(). */
static inline int system_code(unsigned long value)
{
	return proa_error_from_system(value);
}
/* Also the system's: clock_now(), in lib/port.h; and threads, in lib/thread.h. */
/* Sleeps for some `ns`, less than a second; a signal may end it. */
void system_nap(int64_t ns);
/* A variable of the environment, NULL in programs of raised privilege. */
const char *system_variable(const char *name);

/* ---- handles ------------------------------------------------------------------- */

/* What stands behind it, and whether it may block (where that can't be told:
 * true). 0 or an error. Changes nothing. */
int system_classify(proa_handle handle, enum handle_type *type, bool *blocking);
/* What a new stream socket of a family is. */
enum handle_type system_stream_type(int family);
/* `type` as the table has it, HANDLE_UNKNOWN where it does not know. 0 or an
 * error; the handle is gone either way. */
int32_t system_close(proa_handle handle, enum handle_type type);
/* A receive from a socket that keeps messages apart gave no bytes: is it that its
 * connection (SOCK_SEQPACKET) has ended? 1, 0, or an error if there is no knowing. */
int system_has_ended(proa_handle fd);
bool system_is_open(proa_handle handle);

/* ---- wake-ups ------------------------------------------------------------------- */

/* What other threads wake a port by, for engines without a way of their own
 * (engine->wake): an eventfd, a pipe, a pair of sockets. 0 or an error.
 * system_wake() may be called from signal handlers. */
int system_wake_open(int *read_end, int *write_end);
void system_wake(int write_end);
void system_wake_drain(int read_end);
void system_wake_close(int read_end, int write_end);

/* A descriptor for other loops, around the engine's: PROA_ENOSYS where there is no
 * such thing. It is readable from `when` on, too. */
int system_outer_open(struct proa_port *port, int inner);
void system_outer_arm(struct proa_port *port, int64_t when);
void system_outer_close(struct proa_port *port);

/* ---- ops that are the system's, not the engine's --------------------------------- */

/* An operation on files, done here and now, for worker threads: PROA_OP_OPEN ..
 * PROA_OP_MKDIR, and RECV, SEND, SENDV, SENDFILE on what can't be waited for
 * (HANDLE_FILE: at the file's own position). The final result; flight(op)->moved
 * counts the bytes. Whole lengths, as the contract says. A SENDFILE with
 * PROA_WARM_ in its flags sends nothing: FILE_WARMED says that the next part of
 * its file has been read ahead, an error that it can't be. */
int32_t file_run(struct proa_op *op);
#define FILE_WARMED (INT32_MIN + 0x8000)
/* RECV_LENT and RECV_MULTI come with a buffer in op->length_, into which file_run()
 * reads; or with 0: it waits then until there is something to read, and says so by
 * FILE_READABLE. */
#define FILE_READABLE (INT32_MIN + 0x8001)
#ifdef _WIN32
/* Port's thread: `op` is to end, and a worker has begun it. A call of its that waits
 * for a peer, on a pipe or a console, returns with PROA_ECANCELED. */
void file_interrupt(const struct proa_op *op);
#else
static inline void file_interrupt(const struct proa_op *op)
{
	(void)op; /* what waits for a peer is left to readiness */
}
#endif

/* Makes a dial's socket, or what tells of a child's end: 0 or an error. Once. */
int attempt_prepare(struct proa_port *port, struct proa_op *op);
/* It has ended: a dial that failed, or a child's wait, closes what was made. */
void attempt_finish(struct proa_port *port, struct proa_op *op, int32_t result);

#ifdef _WIN32
/* A child's end is told by a thread of the system's: the op is OP_WORKER, and
 * port_finished(port, op) is called there, once, if begin() gave 0. */
#	define CHILD_IS_TOLD 1
#else
/* ... by a descriptor, which the engine waits for. */
#	define CHILD_IS_TOLD 0
#endif
int child_begin(struct proa_port *port, struct proa_op *op);
/* True: port_finished() will not be called any more. False: it has been, or is
 * being, called. */
bool child_abandon(struct proa_op *op);
/* Port's thread, after port_finished(): frees, fills the op's proa_exit; the result. */
int32_t child_finish(struct proa_op *op);

/* Signals. begin(): 0 or an error, the op is OP_LISTED; the system sets bits of
 * port->signalled (bit n: signal n + 1) and calls port_notify(). end(): tells by
 * op_stepped(.., PROA_MORE) what came and was not told yet. deliver(): steps every
 * op of the port that is for one of `which`. forget(): the port ends. */
int signal_begin(struct proa_port *port, struct proa_op *op);
void signal_end(struct proa_port *port, struct proa_op *op);
void signals_deliver(struct proa_port *port, uint64_t which);
void signals_forget(struct proa_port *port);

#endif

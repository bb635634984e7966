/* What Unix systems do in the same way, whichever engine runs. */
#ifndef PROA_ENGINES_UNIX_H
#define PROA_ENGINES_UNIX_H

#include "engines/engine.h"

/* socket.c: a new socket, non-blocking, close-on-exec, SIGPIPE-free. A
 * descriptor or a PROA_E* code. */
int unix_socket(int family, int type);
/* What stands behind `fd`, and whether its flags say that it blocks: 0 or
 * PROA_EBADF. Changes nothing. */
int unix_classify(int fd, enum handle_type *type, bool *blocking);
/* Our code for errno. */
int unix_error(int system_errno);

/* file.c: an operation on files, done here and now, for worker threads:
 * PROA_OP_OPEN .. PROA_OP_MKDIR, and RECV, SEND, SENDV, SENDFILE on what can't
 * be waited for (HANDLE_FILE: at the file's own position). The final result;
 * flight(op)->moved counts the bytes. Whole lengths, as the contract says. */
int32_t file_run(struct proa_op *op);
/* The same without waiting, where that can be known (reads of what is in the
 * page cache): a final result, or STEP_TO_WORKER. */
int32_t file_try(struct proa_op *op);

/* child.c: a descriptor that is readable when `process` has ended (pidfd), or
 * PROA_ENOSYS. */
int unix_pidfd(proa_process process);
/* Reaps: 0 with *out filled, PROA_EAGAIN if it runs, or an error. */
int unix_reap(proa_process process, struct proa_exit *out);

/* attempt.c: one try of a readiness-driven op that does not block: a result as
 * for op_stepped(), PROA_EAGAIN if it has to wait for attempt_events(). */
int32_t attempt(struct proa_port *port, struct proa_op *op, uint32_t *flags);
/* POLLIN, POLLOUT ...: what the op waits for; and on which descriptor. */
short attempt_events(const struct proa_op *op);
int attempt_descriptor(const struct proa_op *op);
/* Before the first attempt (makes a dial's socket, a child's pidfd): 0 or an
 * error; and after the last. */
int attempt_prepare(struct proa_port *port, struct proa_op *op);
void attempt_finish(struct proa_port *port, struct proa_op *op, int32_t result);

#endif

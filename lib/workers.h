/* Worker threads: for jobs and for what the system has no completion for. A
 * bounded pool a port, its threads made when first needed. */
#ifndef PROA_LIB_WORKERS_H
#define PROA_LIB_WORKERS_H

#include <stdbool.h>
#include <stdint.h>

#include <proa/base.h>

struct proa_port;
struct workers;

/* Queues `op` (state OP_WORKER, flight(op)->is.behind is the queue's) on
 * port->workers, made when NULL, with port->worker_limit threads at most.
 * A worker runs it (PROA_OP_WORK: the program's function; all else:
 * file_run()), stores the result in op->flags_, which has no other use by then,
 * and calls port_finished(port, op). 0 or PROA_ENOMEM / PROA_EAGAIN when no
 * thread at all could be made. The threads block all signals. */
int workers_submit(struct proa_port *port, struct proa_op *op);
/* Takes an op that no worker has begun out of the queue: true if so. */
bool workers_withdraw(struct proa_port *port, struct proa_op *op);
/* A worker of the port's is about to wait for what may never come (a pipe's peer), or
 * has done so: meanwhile it does not count, and another thread may be in its place. */
void workers_wait(struct proa_port *port, bool begins);
/* Joins the threads and frees. The queue is empty. NULL is allowed. */
void workers_free(struct workers *workers);
/* In a forked child: the threads are gone; frees the memory alone. */
void workers_abandon(struct workers *workers);

/* Look-ups, on threads of their own (RESOLVER_THREADS at most in the process),
 * on copies, so that they can be abandoned. No port waits for them to end. */
#define RESOLVER_THREADS 8

/* Starts op's query (op->buffer_ is a struct proa_query). The op is OP_WORKER;
 * op->argument_ holds the look-up. When done, and not abandoned, the result is
 * kept in the look-up and port_finished(port, op) is called on the resolver's
 * thread. 0 or an error (nothing started). */
int resolve_begin(struct proa_port *port, struct proa_op *op);
/* Port's thread, after port_finished(): copies the addresses found into the
 * query, frees the look-up; the result. */
int32_t resolve_finish(struct proa_op *op);
/* Forgets the look-up: true; port_finished() will not be called any more. False
 * if it has been, or is being, called. */
bool resolve_abandon(struct proa_op *op);

/* getaddrinfo(3); tests put a slow or failing one in its place. What it gives
 * goes to freeaddrinfo(3). */
struct addrinfo;
extern int (*resolve_system)(
	const char *host, const char *service, const struct addrinfo *hints, struct addrinfo **out);

#endif

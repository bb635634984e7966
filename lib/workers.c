/* Worker threads of a port. One lock over a queue: what comes here takes long
 * enough that the lock does not matter. A thread is made when there is more in
 * the queue than there are idle threads, up to the limit, and lives as long as
 * the port. */
#include "lib/workers.h"

#include <stdlib.h>

#include "engines/system.h"
#include "lib/thread.h"

struct worker {
	thread_id thread;
	struct worker *next;
};

struct workers {
	thread_mutex lock;
	thread_cond news; /* work is queued, or the end has come */
	struct proa_port *port;
	struct proa_op *queue, **queue_end; /* through flight()->is.behind */
	uint32_t queued, idle, count;
	uint32_t waiting; /* of the threads: see workers_wait() */
	struct worker *threads;
	bool ending;
};

static int32_t run(struct proa_op *op)
{
	proa_work_fn *job;

	if (op->kind_ != PROA_OP_WORK)
		return file_run(op);
	job = (proa_work_fn *)(uintptr_t)op->argument_;
	return job(op->buffer_);
}

/* Takes the op that `link` points to out of the queue. The lock is held. */
static struct proa_op *unqueue(struct workers *workers, struct proa_op **link)
{
	struct proa_op *op = *link;

	*link = flight(op)->is.behind;
	if (*link == NULL)
		workers->queue_end = link;
	workers->queued--;
	return op;
}

/* Threads that were made while others waited have nothing to do when those are back.
 * The lock is held. */
static bool is_surplus(const struct workers *workers)
{
	return workers->count - workers->idle - workers->waiting > workers->port->worker_limit;
}

static THREAD_RETURN worker_main(void *argument)
{
	struct workers *workers = argument;
	struct proa_op *op;

	mutex_lock(&workers->lock);
	for (;;) {
		while ((workers->queue == NULL || is_surplus(workers)) && !workers->ending) {
			workers->idle++;
			cond_wait(&workers->news, &workers->lock);
			workers->idle--;
		}
		if (workers->queue == NULL)
			break;
		op = unqueue(workers, &workers->queue);
		mutex_unlock(&workers->lock);
		op->flags_ = (uint32_t)run(op);
		/* The port outlives this call: its end joins us. */
		port_finished(workers->port, op);
		mutex_lock(&workers->lock);
	}
	mutex_unlock(&workers->lock);
	return THREAD_DONE;
}

/* One more thread. The lock is held. 0 or an error. */
static int worker_add(struct workers *workers)
{
	struct worker *worker = malloc(sizeof *worker);
	int error;

	if (worker == NULL)
		return PROA_ENOMEM;
	error = thread_start(&worker->thread, worker_main, workers);
	if (error < 0) {
		free(worker);
		return error;
	}
	worker->next = workers->threads;
	workers->threads = worker;
	workers->count++;
	return 0;
}

static struct workers *workers_make(struct proa_port *port)
{
	struct workers *workers = calloc(1, sizeof *workers);

	if (workers == NULL)
		return NULL;
	if (mutex_init(&workers->lock) < 0) {
		free(workers);
		return NULL;
	}
	if (cond_init(&workers->news) < 0) {
		mutex_destroy(&workers->lock);
		free(workers);
		return NULL;
	}
	workers->port = port;
	workers->queue_end = &workers->queue;
	return workers;
}

/* The lock is held. */
static bool wants_thread(const struct workers *workers)
{
	return workers->queued > workers->idle &&
	       workers->count - workers->waiting < workers->port->worker_limit;
}

void workers_wait(struct proa_port *port, bool begins)
{
	struct workers *workers = port->workers;

	mutex_lock(&workers->lock);
	workers->waiting += begins ? 1 : (uint32_t)-1;
	if (wants_thread(workers))
		worker_add(workers); /* or those that there are come to it, in time */
	else if (workers->queue != NULL)
		cond_signal(&workers->news);
	mutex_unlock(&workers->lock);
}

int workers_submit(struct proa_port *port, struct proa_op *op)
{
	struct workers *workers = port->workers;
	struct proa_op **link;
	int error = 0;

	if (workers == NULL) {
		workers = port->workers = workers_make(port);
		if (workers == NULL)
			return PROA_ENOMEM;
	}
	mutex_lock(&workers->lock);
	link = workers->queue_end;
	flight(op)->is.behind = NULL;
	*link = op;
	workers->queue_end = &flight(op)->is.behind;
	workers->queued++;
	/* An idle thread that has been called counts as idle until it comes. */
	if (wants_thread(workers))
		error = worker_add(workers);
	else
		cond_signal(&workers->news);
	if (error < 0 && workers->count > 0)
		error = 0; /* those that there are will come to it */
	if (error < 0)
		unqueue(workers, link);
	mutex_unlock(&workers->lock);
	return error;
}

bool workers_withdraw(struct proa_port *port, struct proa_op *op)
{
	struct workers *workers = port->workers;
	struct proa_op **link;
	bool found;

	if (workers == NULL)
		return false;
	mutex_lock(&workers->lock);
	for (link = &workers->queue; *link != NULL && *link != op;)
		link = &flight(*link)->is.behind;
	found = *link == op;
	if (found)
		unqueue(workers, link);
	mutex_unlock(&workers->lock);
	return found;
}

static void threads_free(struct worker *worker, bool join)
{
	struct worker *next;

	for (; worker != NULL; worker = next) {
		next = worker->next;
		if (join)
			thread_join(worker->thread);
		free(worker);
	}
}

void workers_free(struct workers *workers)
{
	if (workers == NULL)
		return;
	mutex_lock(&workers->lock);
	assert(workers->queue == NULL);
	workers->ending = true;
	cond_broadcast(&workers->news);
	mutex_unlock(&workers->lock);
	threads_free(workers->threads, true);
	cond_destroy(&workers->news);
	mutex_destroy(&workers->lock);
	free(workers);
}

void workers_abandon(struct workers *workers)
{
	if (workers == NULL)
		return;
	/* The lock stands as it stood at the fork, held or not: left alone. */
	threads_free(workers->threads, false);
	free(workers);
}

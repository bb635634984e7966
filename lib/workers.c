/* Worker threads of a port. One lock over a queue: what comes here takes long
 * enough that the lock does not matter. A thread is made when there is more in
 * the queue than there are idle threads, up to the limit, and lives as long as
 * the port. */
#include "lib/workers.h"

#include <signal.h>
#include <stdlib.h>

#include "engines/unix/unix.h"

struct worker {
	pthread_t thread;
	struct worker *next;
};

struct workers {
	pthread_mutex_t lock;
	pthread_cond_t news; /* work is queued, or the end has come */
	struct proa_port *port;
	struct proa_op *queue, **queue_end; /* through flight()->is.behind */
	uint32_t queued, idle, count;
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

static void *worker_main(void *argument)
{
	struct workers *workers = argument;
	struct proa_op *op;

	pthread_mutex_lock(&workers->lock);
	for (;;) {
		while (workers->queue == NULL && !workers->ending) {
			workers->idle++;
			pthread_cond_wait(&workers->news, &workers->lock);
			workers->idle--;
		}
		if (workers->queue == NULL)
			break;
		op = unqueue(workers, &workers->queue);
		pthread_mutex_unlock(&workers->lock);
		op->flags_ = (uint32_t)run(op);
		/* The port outlives this call: its end joins us. */
		port_finished(workers->port, op);
		pthread_mutex_lock(&workers->lock);
	}
	pthread_mutex_unlock(&workers->lock);
	return NULL;
}

/* One more thread, all signals blocked: they are for the program's threads.
 * The lock is held. 0 or an error. */
static int worker_add(struct workers *workers)
{
	struct worker *worker = malloc(sizeof *worker);
	sigset_t all, before;
	int code;

	if (worker == NULL)
		return PROA_ENOMEM;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	code = pthread_create(&worker->thread, NULL, worker_main, workers);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (code != 0) {
		free(worker);
		return PROA_EAGAIN;
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
	if (pthread_mutex_init(&workers->lock, NULL) != 0) {
		free(workers);
		return NULL;
	}
	if (pthread_cond_init(&workers->news, NULL) != 0) {
		pthread_mutex_destroy(&workers->lock);
		free(workers);
		return NULL;
	}
	workers->port = port;
	workers->queue_end = &workers->queue;
	return workers;
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
	pthread_mutex_lock(&workers->lock);
	link = workers->queue_end;
	flight(op)->is.behind = NULL;
	*link = op;
	workers->queue_end = &flight(op)->is.behind;
	workers->queued++;
	/* An idle thread that has been called counts as idle until it comes. */
	if (workers->queued > workers->idle && workers->count < port->worker_limit)
		error = worker_add(workers);
	else
		pthread_cond_signal(&workers->news);
	if (error < 0 && workers->count > 0)
		error = 0; /* those that there are will come to it */
	if (error < 0)
		unqueue(workers, link);
	pthread_mutex_unlock(&workers->lock);
	return error;
}

bool workers_withdraw(struct proa_port *port, struct proa_op *op)
{
	struct workers *workers = port->workers;
	struct proa_op **link;
	bool found;

	if (workers == NULL)
		return false;
	pthread_mutex_lock(&workers->lock);
	for (link = &workers->queue; *link != NULL && *link != op;)
		link = &flight(*link)->is.behind;
	found = *link == op;
	if (found)
		unqueue(workers, link);
	pthread_mutex_unlock(&workers->lock);
	return found;
}

static void threads_free(struct worker *worker, bool join)
{
	struct worker *next;

	for (; worker != NULL; worker = next) {
		next = worker->next;
		if (join)
			pthread_join(worker->thread, NULL);
		free(worker);
	}
}

void workers_free(struct workers *workers)
{
	if (workers == NULL)
		return;
	pthread_mutex_lock(&workers->lock);
	assert(workers->queue == NULL);
	workers->ending = true;
	pthread_cond_broadcast(&workers->news);
	pthread_mutex_unlock(&workers->lock);
	threads_free(workers->threads, true);
	pthread_cond_destroy(&workers->news);
	pthread_mutex_destroy(&workers->lock);
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

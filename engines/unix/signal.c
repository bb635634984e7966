/* Signals as completions. One table for the process: for each number, the ops
 * that wait for it, of all ports. The handler walks that list, marks the ports
 * and wakes them; there is no thread and no pipe between.
 *
 * A handler takes no lock (it may have interrupted whoever holds it), so what it
 * walks is changed by single stores, and an op that has been taken out stays
 * whole until no handler runs that could still see it: `handlers` counts those
 * that run. sigaction(2) gives the order that matters: the old disposition is
 * restored after the op is out of the list, so that every signal that came to
 * our handler is told to some op.
 *
 * EVFILT_SIGNAL is left alone on purpose: "only signals sent to the process, not to a
 * particular thread" trigger it (kqueue(2), macOS), and rule 28 promises the others, too. */
#include <errno.h>
#include <signal.h>
#include <time.h>

#include "engines/unix/unix.h"
#include "lib/thread.h"

/* port->signalled has a bit for each, from bit 0 for signal 1. */
#define SIGNAL_LAST 64

struct watch {
	struct proa_op *first; /* through flight()->is.behind, in order of submission */
	struct sigaction previous;
};

static struct watch watches[SIGNAL_LAST + 1];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* changes of the table */
static atomic_uint handlers; /* that run */
static sigset_t mask_before_fork;

/* Links are read by handlers while they are changed. */
static inline struct proa_op *link_load(struct proa_op **link)
{
	return __atomic_load_n(link, __ATOMIC_SEQ_CST);
}

static inline void link_store(struct proa_op **link, struct proa_op *op)
{
	__atomic_store_n(link, op, __ATOMIC_SEQ_CST);
}

/* ---- the handler --------------------------------------------------------------- */

/* Did the thread's own instruction cause it? Then to return is to run into it
 * again, for ever. */
static bool is_fault(int number, const siginfo_t *info)
{
	if (number != SIGSEGV && number != SIGBUS && number != SIGFPE && number != SIGILL)
		return false;
	return info->si_code > 0 && info->si_code != SI_USER && info->si_code != SI_QUEUE;
}

static void on_signal(int number, siginfo_t *info, void *context)
{
	struct watch *watch = &watches[number];
	struct proa_op *op;
	int saved = errno;

	(void)context;
	atomic_fetch_add(&handlers, 1);
	if (is_fault(number, info))
		sigaction(number, &watch->previous, NULL);
	else
		for (op = link_load(&watch->first); op != NULL;
			op = link_load(&flight(op)->is.behind)) {
			atomic_fetch_or(&op->port->signalled, UINT64_C(1) << (number - 1));
			port_notify(op->port);
		}
	atomic_fetch_sub(&handlers, 1);
	errno = saved;
}

/* Returns when each handler that may have seen the table as it was has ended.
 * Sleeps: a handler may run on a thread of lower priority. */
static void handlers_wait(void)
{
	const struct timespec moment = { .tv_nsec = 20000 };

	while (atomic_load(&handlers) != 0)
		nanosleep(&moment, NULL);
}

/* ---- the table ----------------------------------------------------------------- */

static int watch_install(struct watch *watch, int number)
{
	struct sigaction ours = { .sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_RESTART };

	/* No handler within ours: it is short, and they would pile up. */
	sigfillset(&ours.sa_mask);
	return sigaction(number, &ours, &watch->previous) < 0 ? unix_error(errno) : 0;
}

/* If the program has put another handler in the place of ours, it stays. */
static void watch_restore(const struct watch *watch, int number)
{
	struct sigaction now;

	if (sigaction(number, NULL, &now) == 0 && (now.sa_flags & SA_SIGINFO) != 0 &&
		now.sa_sigaction == on_signal)
		sigaction(number, &watch->previous, NULL);
}

/* Is there an op of the port's? The lock is held. */
static bool watch_has(const struct watch *watch, const struct proa_port *port)
{
	const struct proa_op *op = watch->first;

	while (op != NULL && op->port != port)
		op = flight(op)->is.behind;
	return op != NULL;
}

/* ---- fork ---------------------------------------------------------------------- */

/* Signals wait until parent and child are of one piece again: what the child is
 * sent is not for the parent's ops. */
static void before_fork(void)
{
	sigset_t all, before;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	pthread_mutex_lock(&lock);
	mask_before_fork = before;
}

static void parent_after_fork(void)
{
	sigset_t before = mask_before_fork;

	pthread_mutex_unlock(&lock);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
}

/* The ops are the parent's; the dispositions are as they were before them. */
static void child_after_fork(void)
{
	for (int number = 1; number <= SIGNAL_LAST; number++) {
		if (watches[number].first == NULL)
			continue;
		watches[number].first = NULL;
		watch_restore(&watches[number], number);
	}
	atomic_store(&handlers, 0); /* of threads that are not here */
	parent_after_fork();
}

static thread_preparation fork_preparation = THREAD_PREPARATION;

static int watch_forks(void)
{
	return pthread_atfork(before_fork, parent_after_fork, child_after_fork) == 0 ? 0
										     : PROA_ENOMEM;
}

/* ---- ops ----------------------------------------------------------------------- */

int signal_begin(struct proa_port *port, struct proa_op *op)
{
	struct watch *watch;
	struct proa_op **link;
	int number, error = 0;

	(void)port;
	if (op->argument_ < 1 || op->argument_ > SIGNAL_LAST)
		return PROA_EINVAL;
	number = (int)op->argument_;
	if (number == SIGKILL || number == SIGSTOP)
		return PROA_EINVAL;
	error = thread_prepare(&fork_preparation, watch_forks);
	if (error < 0)
		return error;
	pthread_mutex_lock(&lock);
	watch = &watches[number];
	flight(op)->is.behind = NULL;
	for (link = &watch->first; *link != NULL;)
		link = &flight(*link)->is.behind;
	link_store(link, op); /* first of all: what the handler takes must be told */
	if (watch->first == op)
		error = watch_install(watch, number);
	if (error < 0)
		link_store(link, NULL);
	pthread_mutex_unlock(&lock);
	return error;
}

/* Takes out the op that `link` points to. True if a signal has come for it that
 * has not been told yet. The lock is held. */
static bool watch_remove(struct watch *watch, int number, struct proa_op **link)
{
	struct proa_op *op = *link;
	struct proa_port *port = op->port;
	uint64_t bit = UINT64_C(1) << (number - 1);
	bool untold;

	link_store(link, flight(op)->is.behind);
	if (watch->first == NULL)
		watch_restore(watch, number);
	handlers_wait();
	untold = (atomic_load(&port->signalled) & bit) != 0;
	if (!watch_has(watch, port)) /* no op is left that the bit is meant for */
		atomic_fetch_and(&port->signalled, ~bit);
	return untold;
}

void signal_end(struct proa_port *port, struct proa_op *op)
{
	int number = (int)op->argument_;
	struct proa_op **link;
	bool untold = false;

	pthread_mutex_lock(&lock);
	for (link = &watches[number].first; *link != NULL && *link != op;)
		link = &flight(*link)->is.behind;
	if (*link != NULL)
		untold = watch_remove(&watches[number], number, link);
	pthread_mutex_unlock(&lock);
	/* What has come is told before the end: no signal is swallowed. */
	if (untold)
		op_stepped(port, op, number, PROA_MORE);
}

void signals_deliver(struct proa_port *port, uint64_t which)
{
	struct proa_op *op;
	int number;

	/* The lock keeps other ports' ops where they are; op_stepped() queues
	 * completions, and ends none. */
	pthread_mutex_lock(&lock);
	for (; which != 0; which &= which - 1) {
		number = __builtin_ctzll(which) + 1;
		for (op = watches[number].first; op != NULL; op = flight(op)->is.behind)
			if (op->port == port)
				op_stepped(port, op, number, PROA_MORE);
	}
	pthread_mutex_unlock(&lock);
}

void signals_forget(struct proa_port *port)
{
	struct proa_op **link;

	pthread_mutex_lock(&lock);
	for (int number = 1; number <= SIGNAL_LAST; number++)
		for (link = &watches[number].first; *link != NULL;)
			if ((*link)->port == port)
				watch_remove(&watches[number], number, link);
			else
				link = &flight(*link)->is.behind;
	pthread_mutex_unlock(&lock);
}

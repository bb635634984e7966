/* Signals as completions. The handler notes the number and writes to a pipe; a
 * thread of the library's, the one place that may take locks, tells every port
 * that has an op for it. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include "engines/unix/unix.h"

#define SIGNALS 64

/* The whole process's. A forked child begins anew: the thread is not there. */
static struct {
	pthread_mutex_t lock;
	unsigned count[SIGNALS]; /* ops for each */
	struct sigaction before[SIGNALS];
	struct proa_port *ports; /* those with ops, by next_signalled */
	unsigned generation;
	bool running;
} signals = { .lock = PTHREAD_MUTEX_INITIALIZER };

static int signal_pipe[2] = { -1, -1 };

static void handler(int number)
{
	unsigned char byte = (unsigned char)number;
	int saved = errno;

	/* A full pipe has a byte for it already, or the thread is far behind:
	 * the kernel would have coalesced as well. */
	while (write(signal_pipe[1], &byte, 1) < 0 && errno == EINTR)
		;
	errno = saved;
}

static bool port_wants(const struct proa_port *port, int number)
{
	return (port->signals_wanted >> number & 1) != 0;
}

static void *teller(void *unused)
{
	unsigned char numbers[256];
	struct proa_port *port;
	ssize_t n, i;

	(void)unused;
	for (;;) {
		n = read(signal_pipe[0], numbers, sizeof numbers);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return NULL;
		pthread_mutex_lock(&signals.lock);
		for (i = 0; i < n; i++)
			for (port = signals.ports; port != NULL; port = port->next_signalled)
				if (port_wants(port, numbers[i])) {
					atomic_fetch_or(&port->signalled, UINT64_C(1) << numbers[i]);
					port_notify(port);
				}
		pthread_mutex_unlock(&signals.lock);
	}
}

static int teller_start(void)
{
	sigset_t all, before;
	pthread_t thread;
	int error;

	if (signals.running)
		return 0;
	if (pipe2(signal_pipe, O_CLOEXEC) < 0)
		return unix_error(errno);
	fcntl(signal_pipe[1], F_SETFL, O_NONBLOCK);
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	error = pthread_create(&thread, NULL, teller, NULL);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (error != 0) {
		close(signal_pipe[0]);
		close(signal_pipe[1]);
		return unix_error(error);
	}
	pthread_detach(thread);
	signals.running = true;
	return 0;
}

/* With nobody left to tell the thread ends, and its pipe with it. */
static void begin_anew(void)
{
	pthread_mutex_init(&signals.lock, NULL);
	for (int number = 1; number < SIGNALS; number++) {
		if (signals.count[number] > 0)
			sigaction(number, &signals.before[number], NULL);
		signals.count[number] = 0;
	}
	if (signals.running) {
		close(signal_pipe[0]);
		close(signal_pipe[1]);
	}
	signals.ports = NULL;
	signals.running = false;
	signals.generation = process_generation;
}

static int watch(int number)
{
	struct sigaction action = { .sa_handler = handler, .sa_flags = SA_RESTART };
	int error;

	if (signals.count[number] == 0) {
		error = teller_start();
		if (error < 0)
			return error;
		sigfillset(&action.sa_mask);
		if (sigaction(number, &action, &signals.before[number]) < 0)
			return unix_error(errno);
	}
	signals.count[number]++;
	return 0;
}

int signal_begin(struct proa_port *port, struct proa_op *op)
{
	int64_t number = (int64_t)op->argument_;
	int error;

	if (number < 1 || number >= SIGNALS || number == SIGKILL || number == SIGSTOP)
		return PROA_EINVAL;
	if (signals.generation != process_generation)
		begin_anew();
	pthread_mutex_lock(&signals.lock);
	error = watch((int)number);
	if (error == 0) {
		if (port->signals == NULL) {
			port->next_signalled = signals.ports;
			signals.ports = port;
		}
		port->signals_wanted |= UINT64_C(1) << number;
	}
	pthread_mutex_unlock(&signals.lock);
	if (error < 0)
		return error;
	flight(op)->is.behind = port->signals;
	port->signals = op;
	return 0;
}

static void leave(struct proa_port *port)
{
	struct proa_port **at;

	for (at = &signals.ports; *at != NULL; at = &(*at)->next_signalled)
		if (*at == port) {
			*at = port->next_signalled;
			return;
		}
}

void signal_end(struct proa_port *port, struct proa_op *op)
{
	unsigned number = (unsigned)op->argument_;
	struct proa_op **at;
	bool others = false;

	for (at = &port->signals; *at != op; at = &flight(*at)->is.behind)
		;
	*at = flight(op)->is.behind;
	for (struct proa_op *other = port->signals; other != NULL; other = flight(other)->is.behind)
		others |= other->argument_ == number;
	pthread_mutex_lock(&signals.lock);
	if (!others)
		port->signals_wanted &= ~(UINT64_C(1) << number);
	if (port->signals == NULL)
		leave(port);
	if (--signals.count[number] == 0)
		sigaction((int)number, &signals.before[number], NULL);
	pthread_mutex_unlock(&signals.lock);
}

void signals_deliver(struct proa_port *port, uint64_t which)
{
	struct proa_op *op, *next;

	for (op = port->signals; op != NULL; op = next) {
		next = flight(op)->is.behind;
		if (which >> op->argument_ & 1)
			op_stepped(port, op, (int32_t)op->argument_, PROA_MORE);
	}
}

void signals_forget(struct proa_port *port)
{
	if (signals.generation != process_generation)
		return;
	pthread_mutex_lock(&signals.lock);
	leave(port);
	pthread_mutex_unlock(&signals.lock);
}

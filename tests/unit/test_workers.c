/* lib/workers.c and lib/resolve.c: threads that work for a port. The port here
 * is a bare struct of which they need the stack of finished ops alone. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#if defined(_WIN32)
#	include <winsock2.h>
#	include <ws2tcpip.h>
#else
#	include <dlfcn.h>
#	include <netdb.h>
#	include <netinet/in.h>
#	include <pthread.h>
#	include <signal.h>
#	include <sys/wait.h>
#	include <time.h>
#	include <unistd.h>
#endif

#include <cmocka.h>

#include <proa/proa.h>

#include "lib/port.h"
#include "lib/thread.h"
#include "lib/workers.h"

/* Which sanitizer is at work: gcc and clang have different ways to tell. */
#if defined(__has_feature)
#	if __has_feature(address_sanitizer) || __has_feature(memory_sanitizer)
#		define SANITIZED 1
#	endif
#	if __has_feature(thread_sanitizer)
#		define SANITIZED      1
#		define SANITIZED_FORK 1
#	endif
#elif defined(__SANITIZE_ADDRESS__)
#	define SANITIZED 1
#elif defined(__SANITIZE_THREAD__)
#	define SANITIZED      1
#	define SANITIZED_FORK 1
#endif

/* ---- tools --------------------------------------------------------------------- */

/* Threads can be made to run out. Sanitizers need the name for themselves; on Windows
 * it is the C runtime's, which is a library of its own. */
static atomic_int threads_allowed = INT32_MAX;

#if defined(_WIN32)
#	define THREADS_ARE_OURS 0
#elif defined(SANITIZED)
#	define THREADS_ARE_OURS 0
#else
#	define THREADS_ARE_OURS 1

#	ifdef STATIC_PROGRAM /* the linker wraps it: there is no next library */
#		define CREATE __wrap_pthread_create
int __real_pthread_create(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
int __wrap_pthread_create(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
#	else
#		define CREATE pthread_create
#	endif

int CREATE(pthread_t *restrict thread, const pthread_attr_t *restrict attributes,
	void *(*run)(void *), void *restrict argument)
{
	static int (*real)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);

#	ifdef STATIC_PROGRAM
	real = __real_pthread_create;
#	else
	if (real == NULL)
		*(void **)&real = dlsym(RTLD_NEXT, "pthread_create");
#	endif
	if (atomic_fetch_sub(&threads_allowed, 1) <= 0) {
		atomic_store(&threads_allowed, 0);
		return EAGAIN;
	}
	return real(thread, attributes, run, argument);
}
#endif

#if defined(_WIN32)

static void pause_ms(long ms)
{
	Sleep((DWORD)ms);
}

/* The calling thread, while it lives. */
static uintptr_t this_thread(void)
{
	return GetCurrentThreadId();
}

#else

static void pause_ms(long ms)
{
	struct timespec time = { .tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000 };

	while (nanosleep(&time, &time) < 0)
		;
}

/* The calling thread, while it lives. */
static uintptr_t this_thread(void)
{
	return (uintptr_t)pthread_self();
}

#endif

/* What a test is let through, one at a time or all. */
struct gate {
	thread_mutex lock;
	thread_cond news;
	int waiting, most_waiting, tickets;
};
#define GATE                                       \
	{                                          \
		THREAD_MUTEX, THREAD_COND, 0, 0, 0 \
	}

static void gate_pass(struct gate *gate)
{
	mutex_lock(&gate->lock);
	if (++gate->waiting > gate->most_waiting)
		gate->most_waiting = gate->waiting;
	cond_broadcast(&gate->news);
	while (gate->tickets == 0)
		cond_wait(&gate->news, &gate->lock);
	gate->tickets--;
	gate->waiting--;
	mutex_unlock(&gate->lock);
}

static void gate_open(struct gate *gate, int tickets)
{
	mutex_lock(&gate->lock);
	gate->tickets = tickets;
	cond_broadcast(&gate->news);
	mutex_unlock(&gate->lock);
}

static void gate_await(struct gate *gate, int waiting)
{
	mutex_lock(&gate->lock);
	while (gate->waiting < waiting)
		cond_wait(&gate->news, &gate->lock);
	mutex_unlock(&gate->lock);
}

/* The ops that have been handed back, oldest first, once there are `count`. */
static void take_finished(struct proa_port *port, struct proa_op **out, size_t count)
{
	struct proa_op *op, *batch[1024];
	size_t taken = 0, n;

	while (taken < count) {
		n = 0;
		for (op = atomic_exchange(&port->finished, NULL); op != NULL;
			op = flight(op)->is.behind)
			batch[n++] = op;
		while (n > 0)
			out[taken++] = batch[--n];
		if (taken < count)
			pause_ms(1);
	}
	assert_int_equal(taken, count);
}

static struct proa_port *make_port(uint32_t workers)
{
	struct proa_port *port = calloc(1, sizeof *port);

	assert_non_null(port);
	port->worker_limit = workers;
	return port;
}

static void free_port(struct proa_port *port)
{
	assert_null(atomic_load(&port->finished));
	workers_free(port->workers);
	free(port);
}

static void prepare_work(
	struct proa_port *port, struct proa_op *op, proa_work_fn *run, void *argument)
{
	proa_op_init(op, port, NULL);
	proa_prep_work(op, run, argument);
	op->state_ = OP_WORKER;
}

/* ---- jobs ---------------------------------------------------------------------- */

static uintptr_t job_thread;

static int32_t note_thread(void *argument)
{
	job_thread = this_thread();
	return *(int32_t *)argument;
}

static void a_job(void **state)
{
	struct proa_port *port = make_port(4);
	struct proa_op op, *finished;
	int32_t value = -12345;
	uintptr_t first;

	(void)state;
	assert_null(port->workers);
	prepare_work(port, &op, note_thread, &value);
	assert_int_equal(workers_submit(port, &op), 0);
	assert_non_null(port->workers);
	take_finished(port, &finished, 1);
	assert_ptr_equal(finished, &op);
	assert_int_equal((int32_t)op.flags_, -12345);
	assert_true(job_thread != this_thread());
	first = job_thread;
	/* One after the other needs one thread alone. */
	for (value = 1; value < 50; value++) {
		pause_ms(value == 1 ? 50 : 1); /* let it become idle */
		prepare_work(port, &op, note_thread, &value);
		assert_int_equal(workers_submit(port, &op), 0);
		take_finished(port, &finished, 1);
		assert_int_equal((int32_t)op.flags_, value);
		if (value == 1)
			assert_true(job_thread == first);
	}
	free_port(port);
	workers_free(NULL);
	workers_abandon(NULL);
}

static void a_file(void **state)
{
	struct proa_port *port = make_port(1);
	struct proa_op op, *finished;
	struct proa_stat out;

	(void)state;
	memset(&out, 0, sizeof out);
	proa_op_init(&op, port, NULL);
	proa_prep_stat(&op, "/", &out);
	op.state_ = OP_WORKER;
	assert_int_equal(workers_submit(port, &op), 0);
	take_finished(port, &finished, 1);
	assert_int_equal(op.flags_, 0);
	assert_int_equal(out.mode & 0170000, 0040000);
	free_port(port);
}

#if !defined(_WIN32)

static int32_t count_blocked(void *argument)
{
	sigset_t mask;
	int32_t blocked = 0;

	(void)argument;
	pthread_sigmask(SIG_SETMASK, NULL, &mask);
	for (int number = 1; number < 32; number++)
		blocked +=
			number != SIGKILL && number != SIGSTOP && sigismember(&mask, number) == 1;
	return blocked;
}

static void signals_blocked(void **state)
{
	struct proa_port *port = make_port(1);
	struct proa_op op, *finished;
	sigset_t before, after;

	(void)state;
	pthread_sigmask(SIG_SETMASK, NULL, &before);
	prepare_work(port, &op, count_blocked, NULL);
	assert_int_equal(workers_submit(port, &op), 0);
	take_finished(port, &finished, 1);
	assert_int_equal(op.flags_, 29);
	pthread_sigmask(SIG_SETMASK, NULL, &after);
	for (int number = 1; number < 32; number++)
		assert_int_equal(sigismember(&before, number), sigismember(&after, number));
	free_port(port);
}

#endif

static int32_t pass(void *gate)
{
	gate_pass(gate);
	return 1;
}

/* Never more threads than the limit, and as many where there is work. */
static void bounded(void **state)
{
	enum { COUNT = 40, LIMIT = 3 };
	struct gate gate = GATE;
	struct proa_port *port = make_port(LIMIT);
	struct proa_op ops[COUNT], *finished[COUNT];

	(void)state;
	for (int i = 0; i < COUNT; i++) {
		prepare_work(port, &ops[i], pass, &gate);
		assert_int_equal(workers_submit(port, &ops[i]), 0);
	}
	gate_await(&gate, LIMIT);
	pause_ms(20);
	assert_int_equal(gate.waiting, LIMIT);
	assert_null(atomic_load(&port->finished));
	gate_open(&gate, COUNT);
	take_finished(port, finished, COUNT);
	assert_int_equal(gate.most_waiting, LIMIT);
	free_port(port);
}

struct door {
	struct proa_port *port;
	struct gate gate;
};

static int32_t wait_at(void *argument)
{
	struct door *door = argument;

	workers_wait(door->port, true);
	gate_pass(&door->gate);
	workers_wait(door->port, false);
	return 1;
}

/* Who waits for a peer keeps nobody else from working; and when all are back there are
 * no more at work than before. */
static void waiting_does_not_count(void **state)
{
	enum { WAITERS = 5, JOBS = 20, LIMIT = 2 };
	struct door door = { make_port(LIMIT), GATE };
	struct gate gate = GATE;
	struct proa_op waits[WAITERS], jobs[JOBS], *finished[JOBS];

	(void)state;
	for (int i = 0; i < WAITERS; i++) {
		prepare_work(door.port, &waits[i], wait_at, &door);
		assert_int_equal(workers_submit(door.port, &waits[i]), 0);
	}
	gate_await(&door.gate, WAITERS);
	for (int i = 0; i < JOBS; i++) {
		prepare_work(door.port, &jobs[i], pass, &gate);
		assert_int_equal(workers_submit(door.port, &jobs[i]), 0);
	}
	gate_await(&gate, LIMIT);
	gate_open(&door.gate, WAITERS);
	take_finished(door.port, finished, WAITERS);
	pause_ms(20);
	assert_int_equal(gate.waiting, LIMIT);
	gate_open(&gate, JOBS);
	take_finished(door.port, finished, JOBS);
	assert_int_equal(gate.most_waiting, LIMIT);
	free_port(door.port);
}

/* One thread runs jobs in the order of submission. */
static void in_order(void **state)
{
	enum { COUNT = 500 };
	struct gate gate = GATE;
	struct proa_port *port = make_port(1);
	static struct proa_op ops[COUNT], *finished[COUNT];

	(void)state;
	for (int i = 0; i < COUNT; i++) {
		prepare_work(port, &ops[i], pass, &gate);
		assert_int_equal(workers_submit(port, &ops[i]), 0);
	}
	gate_open(&gate, COUNT);
	take_finished(port, finished, COUNT);
	for (int i = 0; i < COUNT; i++)
		assert_ptr_equal(finished[i], &ops[i]);
	free_port(port);
}

static void withdrawn(void **state)
{
	struct gate gate = GATE;
	struct proa_port *port = make_port(1);
	struct proa_op ops[6], *finished[6];

	(void)state;
	prepare_work(port, &ops[0], pass, &gate);
	assert_false(workers_withdraw(port, &ops[0])); /* before there are workers */
	for (int i = 0; i < 6; i++) {
		prepare_work(port, &ops[i], pass, &gate);
		assert_int_equal(workers_submit(port, &ops[i]), 0);
	}
	gate_await(&gate, 1);
	assert_false(workers_withdraw(port, &ops[0])); /* begun */
	assert_true(workers_withdraw(port, &ops[3])); /* from the middle */
	assert_false(workers_withdraw(port, &ops[3])); /* not there any more */
	assert_true(workers_withdraw(port, &ops[1])); /* the head */
	assert_true(workers_withdraw(port, &ops[5])); /* the last */
	/* The end of the queue is where it belongs: one more goes behind. */
	assert_int_equal(workers_submit(port, &ops[1]), 0);
	gate_open(&gate, 4);
	take_finished(port, finished, 4);
	assert_ptr_equal(finished[0], &ops[0]);
	assert_ptr_equal(finished[1], &ops[2]);
	assert_ptr_equal(finished[2], &ops[4]);
	assert_ptr_equal(finished[3], &ops[1]);
	assert_false(workers_withdraw(port, &ops[0])); /* done */
	free_port(port);
}

static int32_t nothing(void *runs)
{
	atomic_fetch_add((atomic_int *)runs, 1);
	return 0;
}

/* An op is withdrawn or comes back: never both, never neither. */
static void withdrawal_race(void **state)
{
	enum { COUNT = 64, ROUNDS = 300 };
	struct proa_port *port = make_port(2);
	static struct proa_op ops[COUNT], *finished[COUNT];
	atomic_int runs = 0;
	int expected = 0;

	(void)state;
	for (int round = 0; round < ROUNDS; round++) {
		size_t left = COUNT;

		for (int i = 0; i < COUNT; i++) {
			prepare_work(port, &ops[i], nothing, &runs);
			assert_int_equal(workers_submit(port, &ops[i]), 0);
		}
		for (int i = round % 3; i < COUNT; i += 1 + round % 4)
			left -= workers_withdraw(port, &ops[i]);
		take_finished(port, finished, left);
		expected += (int)left;
		assert_int_equal(atomic_load(&runs), expected);
	}
	free_port(port);
}

/* Can a test say how many threads there may be? */
static bool threads_are_ours(void)
{
	if (!THREADS_ARE_OURS)
		print_message("skipped: threads can't be made to fail in this build\n");
	return THREADS_ARE_OURS;
}

static void no_threads(void **state)
{
	struct gate gate = GATE;
	struct proa_port *port;
	struct proa_op ops[3], *finished[3];

	(void)state;
	if (!threads_are_ours())
		skip();
	port = make_port(4);
	for (int i = 0; i < 3; i++)
		prepare_work(port, &ops[i], pass, &gate);
	atomic_store(&threads_allowed, 0);
	assert_int_equal(workers_submit(port, &ops[0]), PROA_EAGAIN);
	assert_false(workers_withdraw(port, &ops[0]));
	/* One is enough to go on with. */
	atomic_store(&threads_allowed, 1);
	for (int i = 0; i < 3; i++)
		assert_int_equal(workers_submit(port, &ops[i]), 0);
	atomic_store(&threads_allowed, INT32_MAX);
	gate_open(&gate, 3);
	take_finished(port, finished, 3);
	assert_int_equal(gate.most_waiting, 1);
	free_port(port);
}

/* ---- names --------------------------------------------------------------------- */

static struct gate slow = GATE;
static int (*usual_system)(const char *, const char *, const struct addrinfo *,
	struct addrinfo **); /* set in main() */

static int slow_system(
	const char *host, const char *service, const struct addrinfo *hints, struct addrinfo **out)
{
	gate_pass(&slow);
	return getaddrinfo(host, service, hints, out);
}

static int failure, failure_errno;

static int failing_system(
	const char *host, const char *service, const struct addrinfo *hints, struct addrinfo **out)
{
	(void)host;
	(void)service;
	(void)hints;
	(void)out;
	errno = failure_errno;
	return failure;
}

/* The same address thrice, by three questions chained together. */
static int repeating_system(
	const char *host, const char *service, const struct addrinfo *hints, struct addrinfo **out)
{
	struct addrinfo **end = out;

	(void)host;
	for (int i = 0; i < 4; i++) {
		int code = getaddrinfo(i == 2 ? "10.0.0.2" : "10.0.0.1", service, hints, end);

		if (code != 0)
			return code;
		end = &(*end)->ai_next;
	}
	return 0;
}

struct asking {
	struct proa_op op;
	struct proa_query query;
	struct proa_address found[8];
};

static int ask(struct proa_port *port, struct asking *asking, const char *host, const char *service,
	uint32_t room)
{
	memset(asking, 0, sizeof *asking);
	asking->query.host = host;
	asking->query.service = service;
	asking->query.found = asking->found;
	asking->query.room = room;
	proa_op_init(&asking->op, port, NULL);
	proa_prep_resolve(&asking->op, &asking->query);
	asking->op.state_ = OP_WORKER;
	return resolve_begin(port, &asking->op);
}

static int32_t answer(struct proa_port *port, struct asking *asking)
{
	struct proa_op *finished;

	take_finished(port, &finished, 1);
	assert_ptr_equal(finished, &asking->op);
	return resolve_finish(&asking->op);
}

static bool is_v4(const struct proa_address *address, uint32_t host, uint16_t service)
{
	const struct sockaddr_in *in = (const void *)&address->to;

	return address->length == sizeof *in && in->sin_family == AF_INET &&
	       ntohl(in->sin_addr.s_addr) == host && ntohs(in->sin_port) == service;
}

static void numeric(void **state)
{
	struct proa_port *port = make_port(1);
	const struct sockaddr_in6 *six;
	struct asking asking;

	(void)state;
	assert_int_equal(ask(port, &asking, "127.0.0.1", "80", 8), 0);
	assert_int_equal(answer(port, &asking), 1);
	assert_true(is_v4(&asking.found[0], 0x7f000001, 80));
	assert_int_equal(asking.op.argument_, 0); /* can be submitted again as it is */
	assert_int_equal(ask(port, &asking, "::1", NULL, 8), 0);
	assert_int_equal(answer(port, &asking), 1);
	six = (const void *)&asking.found[0].to;
	assert_int_equal(six->sin6_family, AF_INET6);
	assert_int_equal(asking.found[0].length, sizeof *six);
	assert_int_equal(ask(port, &asking, NULL, "7", 8), 0);
	assert_true(answer(port, &asking) >= 1);
	free_port(port);
}

static void names(void **state)
{
	struct proa_port *port = make_port(1);
	struct asking asking;
	char host[] = "localhost", service[] = "81";
	int32_t count;
	bool found = false;

	(void)state;
	assert_int_equal(ask(port, &asking, host, service, 8), 0);
	memset(host, 'x', sizeof host - 1); /* it works on a copy */
	memset(service, 'x', sizeof service - 1);
	count = answer(port, &asking);
	assert_in_range(count, 1, 8);
	for (int32_t i = 0; i < count; i++)
		found |= is_v4(&asking.found[i], 0x7f000001, 81);
	assert_true(found);
	assert_int_equal(ask(port, &asking, "127.0.0.1", "no-such-service-anywhere", 8), 0);
	assert_int_equal(answer(port, &asking), PROA_ENONAME);
	assert_int_equal(ask(port, &asking, "256.1.1.1.1", NULL, 8), 0);
	assert_true(answer(port, &asking) < 0);
	free_port(port);
}

static void refused(void **state)
{
	struct proa_port *port = make_port(1);
	struct asking asking;

	(void)state;
	assert_int_equal(ask(port, &asking, NULL, NULL, 8), PROA_EINVAL);
	assert_int_equal(ask(port, &asking, "127.0.0.1", NULL, 0), PROA_EINVAL);
	proa_op_init(&asking.op, port, NULL);
	proa_prep_resolve(&asking.op, NULL);
	assert_int_equal(resolve_begin(port, &asking.op), PROA_EINVAL);
	free_port(port);
}

static void each_once_as_many_as_fit(void **state)
{
	struct proa_port *port = make_port(1);
	struct asking asking;

	(void)state;
	resolve_system = repeating_system;
	assert_int_equal(ask(port, &asking, "two", "9", 8), 0);
	assert_int_equal(answer(port, &asking), 2);
	assert_true(is_v4(&asking.found[0], 0x0a000001, 9));
	assert_true(is_v4(&asking.found[1], 0x0a000002, 9));
	assert_int_equal(ask(port, &asking, "two", "9", 1), 0);
	assert_int_equal(answer(port, &asking), 1);
	assert_true(is_v4(&asking.found[0], 0x0a000001, 9));
	assert_int_equal(asking.found[1].length, 0);
	resolve_system = usual_system;
	free_port(port);
}

static void failures(void **state)
{
	static const struct {
		int code, system, expected;
	} cases[] = {
		{ EAI_NONAME, 0, PROA_ENONAME },
		{ EAI_SERVICE, 0, PROA_ENONAME },
		{ EAI_AGAIN, 0, PROA_EAGAIN },
		{ EAI_MEMORY, 0, PROA_ENOMEM },
		{ EAI_FAIL, 0, PROA_EIO },
#if defined(_WIN32)
		{ EAI_FAMILY, 0, PROA_EAFNOSUPPORT }, /* its codes are Winsock's */
		{ WSAENETDOWN, 0, PROA_ENETDOWN },
#else
		{ EAI_FAMILY, 0, PROA_EIO },
		{ EAI_SYSTEM, EMFILE, PROA_EMFILE },
		{ EAI_SYSTEM, 0, PROA_EIO },
#endif
	};
	struct proa_port *port = make_port(1);
	struct asking asking;

	(void)state;
	resolve_system = failing_system;
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		failure = cases[i].code;
		failure_errno = cases[i].system;
		assert_int_equal(ask(port, &asking, "x", NULL, 8), 0);
		assert_int_equal(answer(port, &asking), cases[i].expected);
	}
	resolve_system = usual_system;
	free_port(port);
}

/* More look-ups than threads: some begun, some not; abandoned at once all the
 * same, and nothing comes of them, be their port gone. */
static void abandoned(void **state)
{
	enum { COUNT = 20 };
	struct proa_port *port = make_port(1), *other = make_port(1);
	static struct asking asking[COUNT], last;

	(void)state;
	resolve_system = slow_system;
	for (int i = 0; i < COUNT; i++)
		assert_int_equal(ask(port, &asking[i], "127.0.0.1", NULL, 8), 0);
	gate_await(&slow, RESOLVER_THREADS);
	pause_ms(20);
	assert_int_equal(slow.waiting, RESOLVER_THREADS);
	assert_int_equal(ask(other, &last, "127.0.0.2", NULL, 8), 0);
	for (int i = COUNT - 1; i >= 0; i--)
		assert_true(resolve_abandon(&asking[i].op));
	free_port(port);
	memset(asking, 0x5a, sizeof asking);
	gate_open(&slow, RESOLVER_THREADS + 1);
	assert_int_equal(answer(other, &last), 1);
	assert_true(is_v4(&last.found[0], 0x7f000002, 0));
	assert_int_equal(slow.most_waiting, RESOLVER_THREADS);
	resolve_system = usual_system;
	free_port(other);
}

/* Too late: the result comes. */
static void abandoned_late(void **state)
{
	struct proa_port *port = make_port(1);
	struct asking asking;

	(void)state;
	assert_int_equal(ask(port, &asking, "127.0.0.1", NULL, 8), 0);
	while (atomic_load(&port->finished) == NULL)
		pause_ms(1);
	assert_false(resolve_abandon(&asking.op));
	assert_int_equal(answer(port, &asking), 1);
	free_port(port);
}

/* A look-up is abandoned or comes back: never both, never neither. */
static void abandon_race(void **state)
{
	enum { COUNT = 12, ROUNDS = 150 };
	struct proa_port *port;
	static struct asking asking[COUNT];
	struct proa_op *finished[COUNT];

	(void)state;
	for (int round = 0; round < ROUNDS; round++) {
		size_t left = COUNT;

		port = make_port(1);
		for (int i = 0; i < COUNT; i++)
			assert_int_equal(ask(port, &asking[i], "127.0.0.1", NULL, 8), 0);
		if (round % 3 == 0)
			pause_ms(round % 2);
		for (int i = 0; i < COUNT; i++)
			left -= resolve_abandon(&asking[i].op);
		take_finished(port, finished, left);
		for (size_t i = 0; i < left; i++)
			assert_int_equal(resolve_finish(finished[i]), 1);
		free_port(port);
	}
}

static void no_resolver_threads(void **state)
{
	struct proa_port *port;
	static struct asking first, second;
	struct proa_op *finished[2];
	int error;

	(void)state;
	if (!threads_are_ours())
		skip();
	port = make_port(1);
	atomic_store(&threads_allowed, 0);
	/* The last test's threads are on their way out. */
	while ((error = ask(port, &first, "127.0.0.1", NULL, 8)) == 0) {
		assert_int_equal(answer(port, &first), 1);
		pause_ms(5);
	}
	assert_int_equal(error, PROA_EAGAIN);
	resolve_system = slow_system;
	gate_open(&slow, 0);
	atomic_store(&threads_allowed, 1);
	assert_int_equal(ask(port, &first, "127.0.0.1", NULL, 8), 0);
	assert_int_equal(ask(port, &second, "127.0.0.1", NULL, 8), 0);
	atomic_store(&threads_allowed, INT32_MAX);
	gate_open(&slow, 2);
	take_finished(port, finished, 2);
	assert_int_equal(resolve_finish(finished[0]), 1);
	assert_int_equal(resolve_finish(finished[1]), 1);
	resolve_system = usual_system;
	free_port(port);
}

#if !defined(_WIN32)

/* In a forked child: a look-up of its own. 0, or what went wrong. */
static char child_looks_up(void)
{
	struct proa_port *port = make_port(1);
	static struct asking asking;

	alarm(20);
	resolve_system = usual_system;
	if (ask(port, &asking, "127.0.0.3", NULL, 8) != 0)
		return 1;
	if (answer(port, &asking) != 1 || !is_v4(&asking.found[0], 0x7f000003, 0))
		return 2;
	free_port(port);
	return 0;
}

/* A child has no threads, whatever the parent's were at: it begins afresh. */
static void forked(void **state)
{
	enum { COUNT = RESOLVER_THREADS + 2 };
	struct proa_port *port;
	static struct asking asking[COUNT];
	struct proa_op *finished[COUNT];
	int ends[2];
	char verdict = -1;
	pid_t child;

	(void)state;
#	ifdef SANITIZED_FORK
	skip(); /* it lets a forked child make no thread */
#	endif
	port = make_port(1);
	assert_int_equal(pipe(ends), 0);
	resolve_system = slow_system;
	gate_open(&slow, 0);
	for (int i = 0; i < COUNT; i++)
		assert_int_equal(ask(port, &asking[i], "127.0.0.1", NULL, 8), 0);
	gate_await(&slow, RESOLVER_THREADS);
	child = fork();
	assert_true(child >= 0);
	if (child == 0) {
		verdict = child_looks_up();
		if (write(ends[1], &verdict, 1) == 1)
			raise(SIGKILL); /* a leak check would see the parent's threads */
		_exit(1);
	}
	close(ends[1]);
	assert_int_equal(read(ends[0], &verdict, 1), 1);
	close(ends[0]);
	assert_int_equal(waitpid(child, NULL, 0), child);
	gate_open(&slow, COUNT);
	take_finished(port, finished, COUNT);
	for (int i = 0; i < COUNT; i++)
		assert_int_equal(resolve_finish(finished[i]), 1);
	resolve_system = usual_system;
	free_port(port);
	assert_int_equal(verdict, 0);
}

#endif

/* In a process of its own: ends with look-ups that hang. 0, or what went wrong. */
static int end_while_stuck(void)
{
	static struct asking asking[2];
	struct proa_port *port = make_port(1);

	resolve_system = slow_system;
	gate_open(&slow, 0);
	if (ask(port, &asking[0], "127.0.0.1", NULL, 8) != 0 ||
		ask(port, &asking[1], "127.0.0.1", NULL, 8) != 0)
		return 1;
	gate_await(&slow, 2);
	return resolve_abandon(&asking[0].op) ? 0 : 2;
}

/* The end of the process does not wait for a name server. */
#if defined(_WIN32)

static void exit_while_stuck(void **state)
{
	char program[MAX_PATH];
	const char *const arguments[] = { program, "stuck", NULL };
	struct proa_command command = { .arguments = arguments };
	proa_process process;
	DWORD code = 99;

	(void)state;
	assert_true(GetModuleFileNameA(NULL, program, MAX_PATH) < MAX_PATH);
	assert_int_equal(proa_spawn(&command, &process), 0);
	assert_int_equal(WaitForSingleObject((HANDLE)process, 20000), WAIT_OBJECT_0);
	assert_true(GetExitCodeProcess((HANDLE)process, &code));
	CloseHandle((HANDLE)process);
	assert_int_equal(code, 0);
}

#else

static void exit_while_stuck(void **state)
{
	int status;
	pid_t child;

	(void)state;
#	ifdef SANITIZED_FORK
	skip();
#	endif
	if (getenv("LD_PRELOAD") != NULL && strstr(getenv("LD_PRELOAD"), "vgpreload") != NULL)
		skip(); /* valgrind takes a living thread's memory for lost */
	fflush(NULL); /* the child's exit() flushes, too */
	child = fork();
	assert_true(child >= 0);
	if (child == 0) {
		alarm(20);
		if (end_while_stuck() != 0)
			_exit(1);
		exit(0);
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
}

#endif

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_job),
		cmocka_unit_test(a_file),
#if !defined(_WIN32)
		cmocka_unit_test(signals_blocked),
#endif
		cmocka_unit_test(bounded),
		cmocka_unit_test(waiting_does_not_count),
		cmocka_unit_test(in_order),
		cmocka_unit_test(withdrawn),
		cmocka_unit_test(withdrawal_race),
		cmocka_unit_test(no_threads),
		cmocka_unit_test(numeric),
		cmocka_unit_test(names),
		cmocka_unit_test(refused),
		cmocka_unit_test(each_once_as_many_as_fit),
		cmocka_unit_test(failures),
		cmocka_unit_test(abandoned),
		cmocka_unit_test(abandoned_late),
		cmocka_unit_test(abandon_race),
		cmocka_unit_test(no_resolver_threads),
#if !defined(_WIN32)
		cmocka_unit_test(forked),
#endif
		cmocka_unit_test(exit_while_stuck),
	};

#if defined(_WIN32)
	WSADATA data;

	if (WSAStartup(MAKEWORD(2, 2), &data) != 0)
		return 1;
#endif
	usual_system = resolve_system;
	if (argc > 1 && strcmp(argv[1], "stuck") == 0)
		return end_while_stuck();
	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* The ledger: the linker leads the tests' calls of the library through here (--wrap),
 * and the library's calls of the tests' callbacks come back the same way. */
#include "lib/port.h"

#include <stdio.h>
#include <stdlib.h>

#include "ledger.h"
#include "posix.h"

#define BUCKETS   65536
#define PORT_MOST 64
#define POOL_MOST 64

/* Where an op stands. */
enum stand {
	LINKED, /* it follows another one, which has not been submitted yet */
	IN_FLIGHT,
	TAKEN, /* out of proa_wait(), and may still be dispatched */
};

struct entry {
	struct proa_op *op;
	struct proa_port *port;
	proa_done_fn *done;
	enum stand stand;
	struct entry *next;
};

struct loan {
	struct proa_buffer *buffer;
	unsigned times;
	struct loan *next;
};

static struct entry *entries[BUCKETS];
static struct loan *loans[BUCKETS];
static struct proa_port *ports[PORT_MOST];
static struct proa_pool *pools[POOL_MOST];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
/* Of waits_on. ledger_wake() is called from anywhere, and tries but once. */
static atomic_flag waits_lock = ATOMIC_FLAG_INIT;
static pthread_t test_thread;
static pid_t test_process;
static void (*tell_broken)(const char *what);
static bool ended;
static int depth; /* of the test's thread */
static void (*tell_waiting)(void);
static struct proa_port *volatile waits_on;
static _Thread_local const struct proa_completion *dispatched;

static size_t bucket_of(const void *at)
{
	return (size_t)((uint64_t)(uintptr_t)at * UINT64_C(0x9e3779b97f4a7c15) >> 48) % BUCKETS;
}

/* A child of a test's fork() is not judged. */
static bool is_judged(void)
{
	return tell_broken != NULL && getpid() == test_process;
}

static void broken(const char *what)
{
	if (is_judged())
		tell_broken(what);
}

/* Held by calls of the test's other threads; at the end, for good, by ledger_end(). */
#ifdef _WIN32
static SRWLOCK others = SRWLOCK_INIT;
#	define others_enter() AcquireSRWLockShared(&others)
#	define others_leave() ReleaseSRWLockShared(&others)
#	define others_stop()  AcquireSRWLockExclusive(&others)
#else
static pthread_rwlock_t others = PTHREAD_RWLOCK_INITIALIZER;
#	define others_enter() pthread_rwlock_rdlock(&others)
#	define others_leave() pthread_rwlock_unlock(&others)
#	define others_stop()  pthread_rwlock_wrlock(&others)
#endif

/* ---- entries ---------------------------------------------------------------------- */

static struct entry *entry_of(const struct proa_op *op)
{
	struct entry *entry = entries[bucket_of(op)];

	while (entry != NULL && entry->op != op)
		entry = entry->next;
	return entry;
}

static void entry_drop(const struct entry *gone)
{
	struct entry **at = &entries[bucket_of(gone->op)];

	while (*at != gone)
		at = &(*at)->next;
	*at = gone->next;
	free((void *)(uintptr_t)gone);
}

static void entry_set(
	struct proa_op *op, struct proa_port *port, proa_done_fn *done, enum stand stand)
{
	struct entry *entry = entry_of(op);

	if (entry == NULL) {
		entry = calloc(1, sizeof *entry);
		if (entry == NULL)
			abort();
		entry->next = entries[bucket_of(op)];
		entries[bucket_of(op)] = entry;
	}
	*entry = (struct entry) { op, port, done, stand, entry->next };
}

static void loan_count(struct proa_buffer *buffer, int more)
{
	struct loan **at = &loans[bucket_of(buffer)], *loan;

	while (*at != NULL && (*at)->buffer != buffer)
		at = &(*at)->next;
	loan = *at;
	if (loan == NULL && more > 0) {
		loan = calloc(1, sizeof *loan);
		if (loan == NULL)
			abort();
		loan->buffer = buffer;
		*at = loan;
	}
	if (loan == NULL)
		return; /* a mistake of the test's own, for the library to find */
	loan->times += (unsigned)more;
	if (loan->times == 0) {
		*at = loan->next;
		free(loan);
	}
}

/* A completion reaches the program. What it says to whom, if anyone is to be told. */
static proa_done_fn *note_completion(const struct proa_completion *c, bool taken)
{
	bool final = (c->flags & PROA_MORE) == 0;
	proa_done_fn *done = NULL;
	struct entry *entry;

	pthread_mutex_lock(&lock);
	entry = entry_of(c->op);
	if (is_judged()) {
		if (entry == NULL || entry->stand != IN_FLIGHT)
			broken("a completion of an op that is not in flight");
		/* Of a batch the final one may be behind. */
		if ((proa_op_pending(c->op) != 0) == final && (final || !taken))
			broken(final ? "an op is pending after its final completion"
				     : "an op is not pending after a completion with PROA_MORE");
	}
	if ((c->flags & PROA_LENT) && proa_lent(c) == NULL)
		broken("a completion marked PROA_LENT lends nothing");
	if (c->flags & PROA_LENT)
		loan_count(proa_lent(c), 1);
	if (entry != NULL) {
		done = entry->done;
		if (final && taken)
			entry->stand = TAKEN;
		else if (final)
			entry_drop(entry);
	}
	pthread_mutex_unlock(&lock);
	return done;
}

/* What every op is submitted with. */
static void ledger_done(struct proa_op *op, const struct proa_completion *c)
{
	proa_done_fn *done;
	struct entry *entry;
	int outer = depth;

	if (dispatched == c) { /* noted when it was taken */
		dispatched = NULL;
		pthread_mutex_lock(&lock);
		entry = entry_of(op);
		done = entry == NULL ? NULL : entry->done;
		pthread_mutex_unlock(&lock);
	} else {
		done = note_completion(c, false);
	}
	if (ended || done == NULL)
		return;
	if (pthread_equal(pthread_self(), test_thread))
		depth = 0;
	done(op, c);
	if (pthread_equal(pthread_self(), test_thread))
		depth = outer;
}

/* ---- calls ------------------------------------------------------------------------ */

/* Those of other threads wait for ever once the test has ended. */
static bool call_begin(void)
{
	bool other = !pthread_equal(pthread_self(), test_thread) && getpid() == test_process;

	if (other)
		others_enter();
	else
		depth++;
	return other;
}

static void call_end(bool other)
{
	if (other)
		others_leave();
	else
		depth--;
}

/* Once it is none, a port may be closed. */
static void set_waits_on(struct proa_port *port)
{
	while (atomic_flag_test_and_set(&waits_lock))
		; /* for as long as a wake-up takes */
	waits_on = port;
	atomic_flag_clear(&waits_lock);
}

static void wait_begin(struct proa_port *port)
{
	if (tell_waiting != NULL && getpid() == test_process)
		tell_waiting();
	set_waits_on(port);
}

#define WRAP(type, name, parameters)   \
	type __real_##name parameters; \
	type __wrap_##name parameters; \
	type __wrap_##name parameters

/* Calls that do nothing but what they always do. */
#define PASS(type, name, parameters, arguments)        \
	WRAP(type, name, parameters)                   \
	{                                              \
		bool other = call_begin();             \
		type result = __real_##name arguments; \
		call_end(other);                       \
		return result;                         \
	}
#define PASS_VOID(name, parameters, arguments) \
	WRAP(void, name, parameters)           \
	{                                      \
		bool other = call_begin();     \
		__real_##name arguments;       \
		call_end(other);               \
	}
/* Those that wait for what need not come any more. Other threads have ports of their own,
 * and hold nobody up while they wait. */
#define WAIT(name, parameters, arguments)                                 \
	WRAP(int, name, parameters)                                       \
	{                                                                 \
		bool other = !pthread_equal(pthread_self(), test_thread); \
		int result;                                               \
		if (!other && depth++ == 0)                               \
			wait_begin(port);                                 \
		result = __real_##name arguments;                         \
		if (!other && --depth == 0)                               \
			set_waits_on(NULL);                               \
		return result;                                            \
	}
WAIT(proa_run, (struct proa_port * port), (port))
WAIT(proa_run_once, (struct proa_port * port, int64_t timeout), (port, timeout))
PASS(int, proa_release, (struct proa_port * port, proa_handle handle), (port, handle))
PASS_VOID(proa_stop, (struct proa_port * port), (port))
PASS_VOID(proa_port_shut, (struct proa_port * port), (port))

/* From signal handlers, too: of other threads alone may the lock be asked. */
WRAP(void, proa_wake, (struct proa_port * port))
{
	bool other = call_begin();

	__real_proa_wake(port);
	call_end(other);
}

WRAP(uint64_t, proa_submit, (struct proa_op * op, proa_done_fn *done))
{
	bool other = call_begin(), idle = op->port != NULL && !proa_op_pending(op);
	struct entry *entry;
	uint64_t ticket;

	pthread_mutex_lock(&lock);
	entry = entry_of(op);
	if (idle && is_judged() && entry != NULL && entry->stand == IN_FLIGHT)
		broken("an op became idle without a final completion");
	if (idle) {
		entry_set(op, op->port, done, IN_FLIGHT);
		for (struct proa_op *next = op->next_; next != NULL; next = next->next_)
			if (!proa_op_pending(next) && (entry = entry_of(next)) != NULL)
				entry->stand = IN_FLIGHT;
	}
	pthread_mutex_unlock(&lock);
	ticket = __real_proa_submit(op, ledger_done);
	pthread_mutex_lock(&lock);
	if (ticket == 0 && idle && (entry = entry_of(op)) != NULL)
		entry_drop(entry); /* misuse, and the test has a handler for it */
	pthread_mutex_unlock(&lock);
	call_end(other);
	return ticket;
}

WRAP(void, proa_link, (struct proa_op * op, struct proa_op *next, proa_done_fn *next_done))
{
	bool other = call_begin();

	pthread_mutex_lock(&lock);
	if (!proa_op_pending(next))
		entry_set(next, next->port, next_done, LINKED);
	pthread_mutex_unlock(&lock);
	__real_proa_link(op, next, ledger_done);
	call_end(other);
}

WRAP(void, proa_post,
	(struct proa_port * port, struct proa_op *op, int32_t result, proa_done_fn *done))
{
	bool other = call_begin(), idle = op->port != NULL && !proa_op_pending(op);

	pthread_mutex_lock(&lock);
	if (idle)
		entry_set(op, port, done, IN_FLIGHT);
	pthread_mutex_unlock(&lock);
	__real_proa_post(port, op, result, ledger_done);
	call_end(other);
}

WRAP(int, proa_wait,
	(struct proa_port * port, struct proa_completion *out, int max, int64_t timeout))
{
	bool other = !pthread_equal(pthread_self(), test_thread);
	int count;

	if (!other && depth++ == 0)
		wait_begin(port);
	count = __real_proa_wait(port, out, max, timeout);
	for (int i = 0; i < count; i++)
		note_completion(&out[i], true);
	if (!other && --depth == 0)
		set_waits_on(NULL);
	return count;
}

WRAP(void, proa_dispatch, (const struct proa_completion *c))
{
	bool other = call_begin();

	dispatched = c;
	__real_proa_dispatch(c);
	dispatched = NULL;
	call_end(other);
}

WRAP(int, proa_port_open_sized,
	(const struct proa_port_options *options, size_t size, struct proa_port **out))
{
	bool other = call_begin();
	int result = __real_proa_port_open_sized(options, size, out);

	pthread_mutex_lock(&lock);
	for (int i = 0; i < PORT_MOST && result == 0; i++)
		if (ports[i] == NULL) {
			ports[i] = *out;
			break;
		}
	pthread_mutex_unlock(&lock);
	call_end(other);
	return result;
}

/* No op of the port's is in flight any more. */
static void port_gone(const struct proa_port *port, bool told)
{
	pthread_mutex_lock(&lock);
	for (int i = 0; i < PORT_MOST; i++)
		if (ports[i] == port)
			ports[i] = NULL;
	for (size_t i = 0; i < BUCKETS; i++)
		for (struct entry *entry = entries[i], *next; entry != NULL; entry = next) {
			next = entry->next;
			if (entry->port != port)
				continue;
			if (told && entry->stand == IN_FLIGHT)
				broken("a port has closed, and one of its ops has not ended");
			entry_drop(entry);
		}
	pthread_mutex_unlock(&lock);
}

WRAP(int, proa_port_close, (struct proa_port * port))
{
	bool other = call_begin();
	int result = __real_proa_port_close(port);

	if (result == 0 && port != NULL)
		port_gone(port, true);
	call_end(other);
	return result;
}

WRAP(void, proa_port_abandon, (struct proa_port * port))
{
	bool other = call_begin();

	__real_proa_port_abandon(port);
	port_gone(port, false);
	call_end(other);
}

WRAP(int, proa_pool_open_sized,
	(struct proa_port * port, const struct proa_pool_options *options, size_t size,
		struct proa_pool **out))
{
	bool other = call_begin();
	int result = __real_proa_pool_open_sized(port, options, size, out);

	pthread_mutex_lock(&lock);
	for (int i = 0; i < POOL_MOST && result == 0; i++)
		if (pools[i] == NULL) {
			pools[i] = *out;
			break;
		}
	pthread_mutex_unlock(&lock);
	call_end(other);
	return result;
}

WRAP(void, proa_pool_close, (struct proa_pool * pool))
{
	bool other = call_begin();

	pthread_mutex_lock(&lock);
	for (int i = 0; i < POOL_MOST && pool != NULL; i++)
		if (pools[i] == pool)
			pools[i] = NULL;
	pthread_mutex_unlock(&lock);
	__real_proa_pool_close(pool);
	call_end(other);
}

WRAP(struct proa_buffer *, proa_pool_take, (struct proa_pool * pool))
{
	bool other = call_begin();
	struct proa_buffer *buffer = __real_proa_pool_take(pool);

	pthread_mutex_lock(&lock);
	if (buffer != NULL)
		loan_count(buffer, 1);
	pthread_mutex_unlock(&lock);
	call_end(other);
	return buffer;
}

static void count_loan(struct proa_buffer *buffer, int more)
{
	pthread_mutex_lock(&lock);
	if (buffer != NULL)
		loan_count(buffer, more);
	pthread_mutex_unlock(&lock);
}

WRAP(void, proa_hold, (struct proa_buffer * buffer))
{
	bool other = call_begin();

	count_loan(buffer, 1);
	__real_proa_hold(buffer);
	call_end(other);
}

WRAP(void, proa_give_back, (struct proa_buffer * buffer))
{
	bool other = call_begin();

	count_loan(buffer, -1);
	__real_proa_give_back(buffer);
	call_end(other);
}

/* ---- begin and end ---------------------------------------------------------------- */

void ledger_begin(void (*tell)(const char *what), void (*tell_wait)(void))
{
	tell_waiting = tell_wait;
	test_thread = pthread_self();
	test_process = getpid();
	tell_broken = tell;
}

void ledger_wake(void)
{
	struct proa_port *port;

	if (atomic_flag_test_and_set(&waits_lock))
		return;
	port = waits_on;
	if (port != NULL) {
		__real_proa_stop(port);
		__real_proa_wake(port);
	}
	atomic_flag_clear(&waits_lock);
}

bool ledger_is_outside(void)
{
	return pthread_equal(pthread_self(), test_thread) && depth == 0;
}

static void give_all_back(void)
{
	for (size_t i = 0; i < BUCKETS; i++)
		while (loans[i] != NULL)
			__wrap_proa_give_back(loans[i]->buffer);
}

/* Of a job that the test alone can end its port waits for ever. */
static bool has_job(const struct proa_port *port)
{
	for (size_t i = 0; i < BUCKETS; i++)
		for (const struct entry *entry = entries[i]; entry != NULL; entry = entry->next)
			if (entry->port == port && entry->stand == IN_FLIGHT &&
				entry->op->kind_ == PROA_OP_WORK)
				return true;
	return false;
}

bool ledger_end(void)
{
	bool ours = true;

	others_stop();
	ended = true;
	set_waits_on(NULL);
	for (int i = 0; i < PORT_MOST; i++) {
		struct proa_port *port = ports[i];

		if (port == NULL)
			continue;
		if ((port->owner != NULL && port->owner != thread_self()) || has_job(port)) {
			ours = false;
			continue;
		}
		port->dispatching = false; /* the run that called the test's callback is over */
		if (__real_proa_port_close(port) != 0)
			broken("a port does not close");
		port_gone(port, true);
	}
	if (!ours)
		return false;
	give_all_back();
	for (int i = 0; i < POOL_MOST; i++)
		if (pools[i] != NULL)
			__wrap_proa_pool_close(pools[i]);
	return true;
}

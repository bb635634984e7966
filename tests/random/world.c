/* Tasks, what holds for every one of them, and the driver of a seeded run. */
#include "blocks.h"
#include "posix.h"
#include "random.h"

#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SECONDS_MOST 20 /* for a whole seed */

struct world world;

/* ---- chance --------------------------------------------------------------- */

int64_t clock_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * PROA_SECOND + now.tv_nsec;
}

/* The finalizer of splitmix64 (Steele, Lea, Flood 2014). */
uint64_t mix(uint64_t value)
{
	value += UINT64_C(0x9e3779b97f4a7c15);
	value = (value ^ value >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	value = (value ^ value >> 27) * UINT64_C(0x94d049bb133111eb);
	return value ^ value >> 31;
}

uint64_t choose(uint64_t below)
{
	uint64_t value = 0;

	if (world.bytes != world.bytes_end) {
		for (uint64_t most = 1; most < below && world.bytes != world.bytes_end; most <<= 8)
			value = value << 8 | *world.bytes++;
		return value % below;
	}
	world.random = mix(world.random);
	return world.random % below;
}

bool chance(unsigned percent)
{
	return choose(100) < percent;
}

/* ---- what has happened ---------------------------------------------------- */

#define TRACE_LINES 60
#define TRACE_WIDTH 160

static char traces[TRACE_LINES][TRACE_WIDTH];
static unsigned traced;

void trace(const char *format, ...)
{
	char *line = traces[traced++ % TRACE_LINES];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(line, TRACE_WIDTH, format, arguments);
	va_end(arguments);
	if (world.verbose)
		fprintf(stderr, "  %s\n", line);
}

void tell_in_flight(void)
{
	int64_t now = clock_ns();
	struct task *task;
	unsigned shown = 0;

	FOR_TASKS(task)
	{
		if (++shown > 40)
			break;
		fprintf(stderr,
			"  in flight for %lld ms: #%llu %s on %lld, %zu bytes, state %u %x%s%s%s\n",
			(long long)((now - task->submitted) / PROA_MILLISECOND),
			(unsigned long long)task->serial, task->what,
			(long long)end_handle_of_task(task), task->length, task->op->state_,
			task->op->options_, task->is_cancelled ? ", cancelled" : "",
			task->is_doomed ? ", doomed" : "",
			task->is_linked && !task->before_ended ? ", linked" : "");
	}
}

static void tell_steps(void)
{
	static bool told;
	unsigned from = traced > TRACE_LINES ? traced - TRACE_LINES : 0;

	if (world.verbose || told || traced == 0)
		return;
	told = true;
	fprintf(stderr, "  the last steps:\n");
	for (; from != traced; from++)
		fprintf(stderr, "  %s\n", traces[from % TRACE_LINES]);
}

static _Noreturn __attribute__((format(RANDOM_PRINTF, 2, 0))) void end_badly(
	int code, const char *format, va_list arguments)
{
	tell_steps();
	if (world.replay == NULL)
		fprintf(stderr, "seed %llu ", (unsigned long long)world.seed);
	fprintf(stderr, "engine %s: ", world.engine);
	vfprintf(stderr, format, arguments);
	fprintf(stderr, "\n");
	if (world.replay != NULL) {
		/* By that word tests/windows/again knows what needs no second run. */
		fprintf(stderr, "%sreplay: %s\n", code == EXIT_HANGS ? "" : "FAILED, ",
			world.replay);
		abort();
	}
	_exit(code);
}

void broken(const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	end_badly(1, format, arguments);
}

void hangs(const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	end_badly(EXIT_HANGS, format, arguments);
}

#ifdef _WIN32

_Noreturn void posix_lacks(const char *what)
{
	fprintf(stderr, "%s\n", what);
	exit(3);
}

static LONG WINAPI tell_exception(EXCEPTION_POINTERS *about)
{
	const EXCEPTION_RECORD *record = about->ExceptionRecord;
	uintptr_t base = (uintptr_t)GetModuleHandleA(NULL);

	if (world.replay != NULL)
		fprintf(stderr, "FAILED, replay: %s\n", world.replay);
	fprintf(stderr, "exception %08lx at image + 0x%llx\n", record->ExceptionCode,
		(unsigned long long)((uintptr_t)record->ExceptionAddress - base));
	fflush(NULL);
	TerminateProcess(GetCurrentProcess(), 9);
	return EXCEPTION_EXECUTE_HANDLER;
}

void exceptions_tell(void)
{
	SetErrorMode(SEM_FAILCRITICALERRORS | SEM_NOGPFAULTERRORBOX);
	SetUnhandledExceptionFilter(tell_exception);
}

#endif

static void check_time(void)
{
	if (clock_ns() < world.ends_by)
		return;
	tell_steps();
	tell_in_flight();
	streams_tell();
	datagrams_tell();
	hangs("does not come to an end; the last completion came %lld ms ago",
		(long long)((clock_ns() - world.came) / PROA_MILLISECOND));
}

/* ---- tasks ---------------------------------------------------------------- */

/* Ended tasks are kept, to notice a completion after the final one, and taken
 * again without proa_op_init(), as programs do; but under AddressSanitizer they
 * are freed, for it sees more. */
#if defined(__SANITIZE_ADDRESS__)
#	define KEEPS_TASKS false
#elif defined(__has_feature)
#	if __has_feature(address_sanitizer)
#		define KEEPS_TASKS false
#	endif
#endif
#ifndef KEEPS_TASKS
#	define KEEPS_TASKS true
#endif

static struct task *ended;

static struct task *task_memory(void)
{
	struct task *task = ended;
	struct proa_op op;

	if (task != NULL && chance(50)) {
		ended = task->next;
		op = task->own;
		memset(task, 0, sizeof(*task));
		task->own = op;
		return task;
	}
	task = calloc(1, sizeof(*task));
	if (task == NULL)
		abort();
	proa_op_init(&task->own, world.port, task);
	return task;
}

struct task *task_new(const char *what, judge_fn *judge, struct end *end)
{
	struct task *task = task_memory();

	task->op = &task->own;
	task->what = what;
	task->judge = judge;
	task->end = end;
	task->earliest = PROA_FOREVER;
	return task;
}

void task_use_buffer(struct task *task, struct proa_buffer *buffer)
{
	task->buffer = buffer;
	task->op = &buffer->op;
	task->op->data = task;
}

void task_limit(struct task *task)
{
	int64_t now, ns;

	if (!chance(12))
		return;
	ns = (int64_t)choose(8 * PROA_MILLISECOND);
	now = clock_ns();
	if (chance(50)) {
		proa_op_timeout(task->op, ns);
	} else {
		proa_op_deadline(task->op, now + ns);
	}
	task->earliest = now + ns;
}

static void task_enter(struct task *task)
{
	task->serial = ++world.serial;
	task->submitted = clock_ns();
	task->previous = world.tasks.previous;
	task->next = &world.tasks;
	task->previous->next = task;
	world.tasks.previous = task;
	world.in_flight++;
	if (task->end != NULL && !task->is_close) {
		task->end->busy++;
		task->is_after_close = task->end->is_closing;
	}
	if (world.is_shut && !task->is_close)
		task->is_cancelled = true;
}

void task_submit(struct task *task)
{
	struct task *link;

	task_enter(task);
	trace("submit #%llu %s on %lld: %zu bytes from %llu%s%s", (unsigned long long)task->serial,
		task->what, (long long)end_handle_of_task(task), task->length,
		(unsigned long long)task->start, task->is_after_close ? ", after close" : "",
		task->earliest != PROA_FOREVER ? ", limited" : "");
	for (link = task->then; link != NULL; link = link->then) {
		task_enter(link);
		trace("  then #%llu %s on %lld: %zu bytes from %llu",
			(unsigned long long)link->serial, link->what,
			(long long)end_handle_of_task(link), link->length,
			(unsigned long long)link->start);
	}
	HOLDS(!proa_op_pending(task->op), "an op is pending before its submit");
	world.in_call = true;
	task->ticket = proa_submit(task->op, task_done);
	world.in_call = false;
	HOLDS(task->ticket != 0, "a ticket is 0");
	HOLDS(proa_op_pending(task->op), "an op is not pending after its submit");
}

void task_link(struct task *task, struct task *next)
{
	task->then = next;
	next->before = task;
	next->is_linked = true;
	proa_link(task->op, next->op, task_done);
}

void task_post(struct task *task, int32_t value)
{
	task->is_unstoppable = true;
	task_enter(task);
	world.in_call = true;
	proa_post(world.port, task->op, value, task_done);
	world.in_call = false;
}

void task_expect_post(struct task *task)
{
	task->is_unstoppable = true;
	task_enter(task);
	world.foreign++;
}

static void task_free(struct task *task)
{
	if (task->bytes != NULL)
		memset(task->bytes, 0xdb, task->length);
	free(task->bytes);
	free(task->slices);
	free(task->range);
	free(task->extra);
	if (!KEEPS_TASKS) {
		free(task);
		return;
	}
	task->bytes = NULL;
	task->slices = NULL;
	task->range = NULL;
	task->extra = NULL;
	task->what = NULL;
	task->next = ended;
	ended = task;
}

static void task_leave(struct task *task)
{
	task->previous->next = task->next;
	task->next->previous = task->previous;
	world.in_flight--;
	if (task->end != NULL && !task->is_close)
		task->end->busy--;
	task_free(task);
}

void task_forget_post(struct task *task)
{
	world.foreign--;
	task_leave(task);
}

void cancel_task(struct task *task)
{
	if (task->is_unstoppable || (task->is_close && task->is_linked))
		return;
	trace("cancel #%llu %s", (unsigned long long)task->serial, task->what);
	task->is_cancelled = true;
	if (task->is_close && task->end != NULL)
		task->end->is_flushing = false;
	world.in_call = true;
	if (chance(50) || task->is_linked)
		proa_cancel(task->op);
	else
		proa_cancel_ticket(world.port, task->ticket);
	world.in_call = false;
}

/* ---- what holds for every completion --------------------------------------- */

static bool gone_or_going(const struct end *end)
{
	return end != NULL && (end->is_closing || end->may_close);
}

static bool is_ended_by_close(const struct task *task)
{
	if (task->is_send && !task->is_linked && task->end->is_flushing)
		return false;
	return gone_or_going(task->end);
}

bool system_fails(void)
{
	return getenv("RANDOM_FAULTS") != NULL;
}

bool asks_again(int error, unsigned *tries)
{
	return error < 0 && system_fails() && ++*tries < 100;
}

/* Under wine a poll takes the word of a reset away from a send that waits: that ends with
 * nothing sent, and no reason. */
static bool has_lost_its_reason(int32_t code)
{
#ifdef _WIN32
	return code == PROA_EIO && posix_is_wine();
#else
	(void)code;
	return false;
#endif
}

static bool may_report(const struct task *task, int32_t code)
{
	const int32_t *further;

	if (code == PROA_ECANCELED)
		return task->is_cancelled || task->is_doomed || task->before_failed ||
		       task->before_revoked || world.is_shut || is_ended_by_close(task);
	if (code == PROA_ETIMEDOUT)
		return clock_ns() >= task->earliest || system_fails();
	if (code == PROA_EBADF)
		return task->is_after_close || (task->is_linked && gone_or_going(task->end)) ||
		       (task->end != NULL && task->end->may_close);
	/* The other end is gone, or our own direction has been shut. */
	if ((code == PROA_EPIPE || code == PROA_ECONNRESET || code == PROA_ENOTCONN ||
		    (task->is_send && has_lost_its_reason(code))) &&
		task->channel != NULL) {
		if (end_gone(task->end->peer))
			return true;
		return (task->is_send && task->channel->shut_asked) || system_fails();
	}
	for (further = task->may_fail; further != NULL && *further != 0; further++)
		if (*further == code)
			return true;
	return system_fails();
}

static void judge_result(const struct task *task, const struct proa_completion *c)
{
	if (c->result < 0)
		HOLDS(may_report(task, c->result),
			"#%llu %s reports %s, which it has no reason for",
			(unsigned long long)task->serial, task->what, proa_error_name(c->result));
	if (task->is_after_close && !task->is_linked)
		HOLDS(c->result == PROA_EBADF || (world.is_shut && c->result == PROA_ECANCELED),
			"#%llu %s was submitted behind a close and gives %d",
			(unsigned long long)task->serial, task->what, c->result);
}

static bool has_done_all(const struct task *task, int32_t result)
{
	if (task->did_all != NULL)
		return task->did_all(task, result);
	if (task->is_receive)
		return task->flags & PROA_ALL ? result == (int32_t)task->length : result > 0;
	return result >= 0;
}

static void judge_chain(struct task *task, const struct proa_completion *c)
{
	if (task->is_linked && !task->before_ended)
		HOLDS(c->result == PROA_ECANCELED, "#%llu %s gives %d before what it was linked to",
			(unsigned long long)task->serial, task->what, c->result);
	else if (task->is_linked && task->before_failed && !task->is_close)
		HOLDS(c->result == PROA_ECANCELED, "#%llu %s of a broken chain gives %d",
			(unsigned long long)task->serial, task->what, c->result);
	/* It may have been cancelled, and be gone, before what it was linked to. */
	if (task->before != NULL)
		task->before->then = NULL;
	if (task->then != NULL) {
		task->then->before = NULL;
		task->then->before_ended = true;
		/* A close takes back a buffer or a socket that was not handed over
		 * yet: what it says is cancelled then may have gone on before. */
		task->then->before_revoked = c->result == PROA_ECANCELED && is_ended_by_close(task);
		task->then->before_failed =
			task->before_failed ||
			(!task->then->before_revoked && !has_done_all(task, c->result));
	}
}

static void act(void);

void task_done(struct proa_op *op, const struct proa_completion *c)
{
	struct task *task = op->data;
	bool is_final = (c->flags & PROA_MORE) == 0;

	HOLDS(!world.in_call, "a callback ran inside a call of the library");
	HOLDS(c->op == op && task->op == op, "a completion names another op than its callback");
	HOLDS(task->what != NULL, "a completion after the final one: #%llu, result %d",
		(unsigned long long)task->serial, c->result);
	trace("#%llu %s: %d%s%s", (unsigned long long)task->serial, task->what, c->result,
		is_final ? "" : ", more", c->flags & PROA_LENT ? ", lent" : "");
	world.completions++;
	if (is_final)
		HOLDS(!proa_op_pending(op), "an op is pending in its final callback");
	else if (!world.in_batch)
		HOLDS(proa_op_pending(op), "an op is not pending with more to come");
	judge_result(task, c);
	if (is_final)
		judge_chain(task, c);
	world.came = clock_ns();
	task->judge(task, c);
	if (!is_final)
		return;
	task_leave(task);
	/* In a batch of proa_wait() more has ended than the model has heard of. */
	if (!world.in_batch && !world.is_winding_down && world.depth == 0 && chance(30)) {
		world.depth++;
		act();
		world.depth--;
	}
}

/* ---- the driver ------------------------------------------------------------ */

static void cancel_some(void)
{
	unsigned skip = world.in_flight == 0 ? 0 : (unsigned)choose(world.in_flight);
	struct task *task;

	FOR_TASKS(task)
	if (skip-- == 0) {
		cancel_task(task);
		if (chance(20)) /* twice is as once */
			cancel_task(task);
		return;
	}
}

/* Limits in time may be set and changed in flight. */
static void limit_some(void)
{
	unsigned skip = world.in_flight == 0 ? 0 : (unsigned)choose(world.in_flight);
	int64_t ns = (int64_t)choose(10 * PROA_MILLISECOND), when;
	struct task *task;

	FOR_TASKS(task)
	{
		if (skip-- != 0)
			continue;
		if (task->is_unstoppable || task->is_linked || task->is_close)
			return;
		trace("limit #%llu %s to %lld us", (unsigned long long)task->serial, task->what,
			(long long)ns / 1000);
		world.in_call = true;
		if (chance(50)) {
			/* Without progress since then, at the least. */
			when = task->submitted + ns;
			proa_op_timeout(task->op, ns);
		} else {
			when = clock_ns() + ns;
			proa_op_deadline(task->op, when);
		}
		if (when < task->earliest)
			task->earliest = when;
		world.in_call = false;
		return;
	}
}

static void close_some(void)
{
	struct end *end = end_any();

	if (end == NULL || streams_alive() < 2)
		return;
	/* A flush without a limit ends only if its peer reads, and does not do
	 * the same. */
	if (chance(40) && !end_gone(end->peer))
		end_close(end, PROA_FLUSH, PROA_FOREVER);
	else if (chance(30))
		end_close(end, PROA_FLUSH, (int64_t)choose(10 * PROA_MILLISECOND));
	else
		end_close(end, 0, PROA_FOREVER);
}

static void act_stream(unsigned what)
{
	struct end *end = end_any();

	if (end == NULL)
		return;
	if (what < 48)
		stream_send(end);
	else if (what < 94)
		stream_receive(end);
	else if (what < 96)
		stream_poll(end);
	else if (what < 98)
		cancel_end(end);
	else if (what < 99)
		stream_shutdown(end);
	else
		close_some();
}

static void act(void)
{
	unsigned what = (unsigned)choose(100);

	if (what < 52)
		act_stream((unsigned)choose(100));
	else if (what < 60)
		timer_step();
	else if (what < 65)
		post_step();
	else if (what < 69)
		work_step();
	else if (what < 76)
		file_step();
	else if (what < 83)
		datagram_step();
	else if (what < 86)
		connect_one();
	else if (what < 89)
		chain_step();
	else if (what < 94)
		cancel_some();
	else if (what < 96)
		limit_some();
	else
		lend_give_back_one();
}

static void dispatch_batch(int64_t timeout)
{
	struct proa_completion batch[64];
	int n, i;

	n = proa_wait(world.port, batch, 1 + (int)choose(64), timeout);
	HOLDS(n >= 0, "proa_wait() gives %s", proa_error_name(n));
	world.in_batch = true;
	for (i = 0; i < n; i++)
		proa_dispatch(&batch[i]);
	world.in_batch = false;
}

static void turn(int64_t timeout)
{
	int n;

	check_time();
	if (chance(50)) {
		dispatch_batch(timeout);
	} else {
		n = proa_run_once(world.port, timeout);
		HOLDS(n >= 0, "proa_run_once() gives %s", proa_error_name(n));
	}
	if (world.foreign == 0)
		HOLDS(proa_in_flight(world.port) == world.in_flight,
			"the port has %zu ops in flight, the program %u",
			proa_in_flight(world.port), world.in_flight);
}

static void run_steps(unsigned steps)
{
	for (unsigned step = 0; step < steps; step++) {
		if (world.replay != NULL && world.bytes == world.bytes_end)
			return;
		/* Choices of a step don't hang on how the races before went. */
		world.random = mix(world.seed * UINT64_C(1000003) + step);
		act();
		if (chance(2)) {
			world.in_call = true;
			proa_wake(world.port);
			world.in_call = false;
		}
		if (chance(35) || world.in_flight > 250)
			turn(chance(60) ? 0 : (int64_t)choose(PROA_MILLISECOND));
	}
}

/* All buffers of the pool are in sends. */
static bool is_sent_out(const struct pool_model *pool)
{
	struct task *task;
	unsigned count = 0;

	FOR_TASKS(task)
	count += task->is_send && task->buffer != NULL && task->pool == pool;
	return count == pool->limit;
}

/* Reads all, ends every direction, then closes: nothing may be missing. */
static void end_in_order(void)
{
	struct task *task;
	bool goes_on;
	int n;

	trace("an orderly end");
	/* A send or a close that is linked behind a receive may be what that
	 * receive waits for: such a program has no orderly end of its own. */
	FOR_TASKS(task)
	if (task->is_linked && !task->before_ended)
		cancel_task(task->is_close && task->before != NULL ? task->before : task);
	/* Nor has one whose sends wait for a receive that waits for their buffers. */
	FOR_TASKS(task)
	if (task->is_receive && task->buffer == NULL && task->pool != NULL &&
		is_sent_out(task->pool))
		cancel_task(task);
	do {
		various_finish();
		lend_give_back_all();
		goes_on = streams_finish();
		goes_on = datagrams_finish() || goes_on;
		goes_on = listener_finish() || goes_on;
		turn(world.in_flight == 0 ? 0 : 2 * PROA_MILLISECOND);
	} while (goes_on || world.in_flight > 0);
	lend_give_back_all();
	n = proa_run(world.port);
	HOLDS(n == 0, "proa_run() of an idle port gives %d", n);
	pools_check();
	pools_close();
	n = proa_port_close(world.port);
	HOLDS(n == 0, "proa_port_close() gives %d", n);
}

/* Closes every handle with all that is in flight on it. */
static void end_by_closes(void)
{
	trace("an end by closes");
	streams_close();
	datagrams_close();
	listener_close();
	do {
		various_finish();
		lend_give_back_all();
		streams_close(); /* what connects were still to bring */
		listener_close();
		turn(world.in_flight == 0 ? 0 : 2 * PROA_MILLISECOND);
	} while (world.in_flight > 0);
	lend_give_back_all();
	pools_check();
	pools_close();
	proa_port_close(world.port);
}

/* Shuts the port with all that is in flight; with `runs`, before its close. */
static void end_by_shut(bool runs)
{
	int n = 0;

	trace("an end by %s", runs ? "shut" : "the port's close");
	world.is_shut = true;
	if (runs) {
		proa_port_shut(world.port);
		while (n != PROA_ESHUTDOWN) {
			check_time();
			n = chance(50) ? proa_run_once(world.port, PROA_SECOND)
				       : proa_run(world.port);
			HOLDS(n >= 0 || n == PROA_ESHUTDOWN, "a shut port gives %d", n);
		}
		HOLDS(world.in_flight == 0, "a port gave PROA_ESHUTDOWN with %u ops in flight",
			world.in_flight);
		pools_check();
	}
	n = proa_port_close(world.port);
	HOLDS(n == 0, "proa_port_close() gives %d", n);
	/* Buffers outlive the port. */
	lend_give_back_all();
	pools_close();
}

#ifdef _WIN32
static int descriptors(void)
{
	return posix_handles();
}

#else
static int descriptors(void)
{
	DIR *folder = opendir("/proc/self/fd");
	int count = 0;

	if (folder == NULL)
		return -1;
	while (readdir(folder) != NULL)
		count++;
	closedir(folder);
	return count;
}
#endif

/* Winsock and the engine keep handles of their own from the first use on, and the
 * library its list of who has which handle: so where these are counted. Once in a
 * process, which may play many. */
static void warm_up(void)
{
#if defined(COUNTS_BLOCKS) || defined(_WIN32)
	static bool warm;
	struct proa_port *port;
	unsigned tries = 0;
	int pair[2], error;

	if (warm)
		return;
	warm = true;
#	ifdef _WIN32
	HOLDS(posix_pair(pair) == 0, "a pair: %s", strerror(errno));
#	else
	HOLDS(pipe2(pair, O_CLOEXEC) == 0, "a pair: %s", strerror(errno));
#	endif
	do
		error = proa_port_open(NULL, &port);
	while (asks_again(error, &tries));
	HOLDS(error == 0, "no port: %s", proa_port_open_why());
	do
		error = proa_attach(port, pair[0]);
	while (asks_again(error, &tries));
	HOLDS(error == 0, "a socket can't be tied: %s", proa_error_name(error));
	proa_port_close(port);
	close(pair[0]);
	close(pair[1]);
#endif
}

static void memory_check(void)
{
	const struct timespec pause = { 0, 100 * PROA_MILLISECOND };

	/* A look-up that was abandoned has its memory until its thread comes back. */
	for (int tries = 0; blocks_new() > 0 && tries < 100; tries++)
		nanosleep(&pause, NULL);
	if (blocks_new() > 0)
		blocks_show();
	HOLDS(blocks_new() == 0, "%d blocks of memory were not freed", blocks_new());
}

static void world_open(const char *engine)
{
	struct proa_port_options options = { .engine = NULL };
	unsigned tries = 0;
	int error;

	if (chance(25)) /* small rings: the backlog has work */
		options.entries = 4 + (uint32_t)choose(12);
	options.workers = (uint32_t)choose(4);
	do
		error = proa_port_open(&options, &world.port);
	while (asks_again(error, &tries));
	HOLDS(error == 0, "no port: %s", proa_port_open_why());
	HOLDS(strcmp(engine, "any") == 0 || strncmp(engine, proa_engine_name(world.port),
						    strlen(proa_engine_name(world.port))) == 0,
		"the port's engine is %s", proa_engine_name(world.port));
	pools_open();
	stream_open();
	listener_open();
	datagrams_open();
	files_open();
}

void world_begin(const struct world *how)
{
	world = *how;
	traced = 0;
}

static void tasks_free(void)
{
	struct task *task;

	while ((task = ended) != NULL) {
		ended = task->next;
		free(task);
	}
}

/* Of a variable of the environment. */
static int number_in(const char *name, int otherwise)
{
	const char *text = getenv(name);

	return text != NULL && atoi(text) > 0 ? atoi(text) : otherwise;
}

static void run(const struct world *how, unsigned steps)
{
	int before, after;
	unsigned way;

	warm_up();
	before = descriptors();
	blocks_note();
	world_begin(how);
	world.random = mix(world.seed);
	world.tasks.next = world.tasks.previous = &world.tasks;
	world.ends_by = clock_ns() + number_in("RANDOM_SECONDS", SECONDS_MOST) *
					     number_in("TEST_TIME_FACTOR", 1) * PROA_SECOND;
	world_open(world.engine);
	run_steps(steps);
	world.random = mix(world.seed + 1);
	world.is_winding_down = true;
	way = (unsigned)choose(100);
	if (way < 60)
		end_in_order();
	else if (way < 80)
		end_by_closes();
	else
		end_by_shut(way < 90);
	HOLDS(world.in_flight == 0, "the port is gone, and %u ops have had no final completion",
		world.in_flight);
	streams_check();
	listener_check();
	datagrams_check();
	files_check();
	after = descriptors();
	HOLDS(after == before, "%d descriptors were open before, and %d after", before, after);
	tasks_free();
	memory_check();
	if (world.verbose)
		fprintf(stderr, "  %llu submitted, %llu completions\n",
			(unsigned long long)world.serial, (unsigned long long)world.completions);
}

int run_seed(const char *engine, uint64_t seed, unsigned steps, bool verbose)
{
	struct world how = { .engine = engine, .seed = seed, .verbose = verbose };

	run(&how, steps);
	return 0;
}

void run_bytes(const char *engine, const unsigned char *bytes, size_t length, const char *replay,
	bool verbose)
{
	struct world how = { .engine = engine, .verbose = verbose, .replay = replay };

	how.bytes = bytes;
	how.bytes_end = bytes + length;
	for (size_t i = 0; i < length; i++)
		how.seed = mix(how.seed + bytes[i]);
	run(&how, UINT_MAX);
}

/* Tasks, and the judge. */
#include "body.h"
#include "fault.h"
#include "cases.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "posix.h"

#define TASKS_MOST 2048
#define OWNED_MOST 128
#define ANY_HOW    (-1)

struct proa_port *port;

static struct task tasks[TASKS_MOST];
static unsigned task_count, flying;
static proa_handle owned[OWNED_MOST];
static unsigned owned_count;
static int fault_how, first_error;
static bool giving_up;

/* ---- the judge -------------------------------------------------------------------- */

void judge_begin(int how)
{
	fault_how = how;
	first_error = 0;
	giving_up = false;
}

void wrong(const char *format, ...)
{
	va_list rest;

	faults_end();
	va_start(rest, format);
	vfprintf(stderr, format, rest);
	va_end(rest);
	fprintf(stderr, "\n");
	process_fail();
}

/* Of one connection's or chain's failing others hear so. */
static bool is_hearsay(int code)
{
	return code == PROA_ECANCELED || code == PROA_ECONNRESET || code == PROA_EPIPE ||
	       code == PROA_ENOTCONN;
}

/* Want of threads is EAGAIN, whatever the system calls it; want of descriptors and
 * of room for buffers have one code each. */
static bool is_plausible(int code)
{
	if (fault_how == 0 || faults_come() == 0)
		return false;
	if (fault_how == ANY_HOW || is_hearsay(code) ||
		code == proa_error_from_system((unsigned long)fault_how))
		return true;
#ifdef _WIN32
	switch (fault_how) {
	case ERROR_NO_PROC_SLOTS:
		return code == PROA_EAGAIN || code == PROA_ENOMEM;
	case ERROR_ACCESS_DENIED: /* a program that can't be looked at is none */
		return code == PROA_ENOENT;
	case ERROR_NOT_ENOUGH_MEMORY: /* a thread's, too */
	case ERROR_NO_SYSTEM_RESOURCES:
		return code == PROA_EAGAIN;
	default:
		return false;
	}
#else
	switch (fault_how) {
	case ENFILE:
		return code == PROA_EMFILE;
	case ENOBUFS:
		return code == PROA_ENOMEM;
	case EAGAIN:
	case EPERM: /* of pthread_create() */
		return code == PROA_EAGAIN || code == PROA_ENOMEM;
	default:
		return false;
	}
#endif
}

bool erred(const char *what, int code)
{
	if (code >= 0)
		return false;
	if (!is_plausible(code))
		wrong("%s: %s (%d), which is not plausible", what, proa_error_name(code), code);
	if (first_error == 0)
		first_error = code;
	return true;
}

void cut_off(const char *what)
{
	if (fault_how == 0 || faults_come() == 0)
		wrong("%s: it ended too soon", what);
	if (first_error == 0)
		first_error = PROA_ECONNRESET;
}

bool has_erred(void)
{
	return first_error != 0;
}

/* ---- tasks ------------------------------------------------------------------------ */

struct task *task_new(void)
{
	struct task *task = &tasks[task_count++];

	if (task_count > TASKS_MOST)
		wrong("too many tasks");
	memset(task, 0, sizeof *task);
	proa_op_init(&task->op, port, task);
	task->handle = PROA_NO_HANDLE;
	return task;
}

static void landed(struct proa_op *op, const struct proa_completion *c)
{
	struct task *task = op->data;
	struct proa_completion copy = *c;

	if (!task->flying)
		wrong("a completion (%d) of an op that had its final one", c->result);
	if (c->flags & PROA_LENT && proa_lent(c) == NULL)
		wrong("a lent buffer that is not there");
	if ((c->flags & PROA_MORE) == 0) {
		task->flying = false;
		flying--;
		if (proa_op_pending(op))
			wrong("pending in its final callback");
	}
	if (task->then != NULL)
		task->then(task, &copy);
	else
		task_fine(task, &copy, true);
}

static void fly(struct task *task, then_fn *then)
{
	task->then = then;
	task->flying = true;
	flying++;
}

uint64_t task_go(struct task *task, then_fn *then)
{
	fly(task, then);
	return proa_submit(&task->op, landed);
}

void task_link(struct task *task, struct task *next, then_fn *next_then)
{
	fly(next, next_then);
	proa_link(&task->op, &next->op, landed);
}

void op_go(struct proa_op *op, proa_done_fn *done)
{
	flying++;
	proa_submit(op, done);
}

bool op_done(const char *what, const struct proa_completion *c)
{
	flying--;
	return !erred(what, c->result);
}

void give_up(void)
{
	if (giving_up)
		return;
	giving_up = true;
	proa_cancel_all(port);
}

bool given_up(void)
{
	return giving_up;
}

bool task_fine(struct task *task, const struct proa_completion *c, bool cancels)
{
	char what[32];

	if (c->result >= 0 || (cancels && c->result == PROA_ECANCELED))
		return c->result >= 0;
	snprintf(what, sizeof what, "op of kind %d", task->op.kind_);
	if (erred(what, c->result))
		give_up();
	return false;
}

/* ---- handles ---------------------------------------------------------------------- */

void own(proa_handle handle)
{
	if (owned_count == OWNED_MOST)
		wrong("too many handles");
	owned[owned_count++] = handle;
}

void disown(proa_handle handle)
{
	for (unsigned i = 0; i < owned_count; i++)
		if (owned[i] == handle) {
			owned[i] = owned[--owned_count];
			return;
		}
}

static void closed(struct task *task, const struct proa_completion *c)
{
	(void)task;
	/* With EBADF or ENOMEM it is not closed, for it was never the port's. */
	if (erred("close", c->result) && (c->result == PROA_ENOMEM || c->result == PROA_EBADF))
		close(task->handle);
}

void close_by_op(proa_handle handle, uint32_t flags)
{
	struct task *task = task_new();

	disown(handle);
	task->handle = handle;
	proa_prep_close(&task->op, handle, flags);
	task_go(task, closed);
}

/* ---- the port --------------------------------------------------------------------- */

bool body_open(const struct proa_port_options *options)
{
	int code = proa_port_open(options, &port);

	task_count = flying = owned_count = 0;
	if (code < 0 && proa_port_open_why()[0] == '\0')
		wrong("a port that did not open for no reason");
	return !erred("proa_port_open", code);
}

void body_run(void)
{
	int code = proa_run(port);

	if (code != 0)
		wrong("proa_run() gave %d", code);
}

void body_close(void)
{
	body_run();
	while (owned_count > 0)
		close_by_op(owned[0], 0);
	body_run();
	if (flying != 0)
		wrong("%u ops have had no final completion", flying);
	if (proa_in_flight(port) != 0)
		wrong("%u ops in flight", (unsigned)proa_in_flight(port));
	if (proa_port_close(port) != 0)
		wrong("the port does not close");
	if (flying != 0)
		wrong("%u ops have had no final completion", flying);
	port = NULL;
}

/* ---- bytes ------------------------------------------------------------------------ */

static unsigned char byte_at(uint64_t place)
{
	return (unsigned char)(place ^ place >> 8 ^ place >> 15);
}

void fill(void *bytes, size_t length, uint64_t at)
{
	for (size_t i = 0; i < length; i++)
		((unsigned char *)bytes)[i] = byte_at(at + i);
}

void check_bytes(const char *what, const void *bytes, size_t length, uint64_t at)
{
	for (size_t i = 0; i < length; i++)
		if (((const unsigned char *)bytes)[i] != byte_at(at + i))
			wrong("%s: a wrong byte at %llu", what, (unsigned long long)(at + i));
}

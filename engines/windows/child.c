/* Children that have been started: told of their end by a thread of the system's
 * pool (RegisterWaitForSingleObject()), which waits for many at once; and ended.
 *
 * An op waits on a handle of its own, and so does not care what becomes of the
 * program's meanwhile. To reap is to close that one: once, however many ops wait
 * for the same child. */
#include "engines/windows/windows.h"

#include <stdlib.h>

#include "lib/thread.h"

struct watch {
	struct watch *prev, *next; /* all there are */
	struct proa_port *port;
	struct proa_op *op;
	HANDLE process; /* the program's: what proa_spawn() gave */
	HANDLE ours;
	HANDLE wait;
	bool told; /* port_finished() has been called */
	bool abandoned;
	bool reaped; /* by another op: `process` is no longer open */
};

static struct watch *watches;
/* Of all watches. port_finished() is called with it held, and child_finish() takes it:
 * a port can't be freed while port_finished() is still at work on it. */
static thread_mutex lock = THREAD_MUTEX;

static struct watch *watch_of(const struct proa_op *op)
{
	return (struct watch *)(uintptr_t)op->argument_;
}

/* The lock is held. */
static void watch_enlist(struct watch *watch)
{
	watch->next = watches;
	if (watches != NULL)
		watches->prev = watch;
	watches = watch;
}

static void watch_unlist(struct watch *watch)
{
	if (watch->prev != NULL)
		watch->prev->next = watch->next;
	else
		watches = watch->next;
	if (watch->next != NULL)
		watch->next->prev = watch->prev;
}

/* On a thread of the pool, once. */
static void CALLBACK on_end(void *argument, BOOLEAN timed_out)
{
	struct watch *watch = argument;

	(void)timed_out;
	mutex_lock(&lock);
	if (!watch->abandoned) {
		watch->told = true;
		port_finished(watch->port, watch->op);
	}
	mutex_unlock(&lock);
}

/* Ours to wait on: 0, PROA_ENOMEM, or PROA_ECHILD for what is no process that we could
 * wait for. */
static int watch_open(struct watch *watch, intptr_t process)
{
	/* -1 stands for ourselves, other negative numbers for more of that kind. */
	if (process <= 0)
		return PROA_ECHILD;
	watch->process = (HANDLE)process;
	if (!DuplicateHandle(GetCurrentProcess(), watch->process, GetCurrentProcess(), &watch->ours,
		    SYNCHRONIZE | PROCESS_QUERY_LIMITED_INFORMATION, FALSE, 0))
		return windows_error() == PROA_ENOMEM ? PROA_ENOMEM : PROA_ECHILD;
	if (GetProcessId(watch->ours) != 0)
		return 0;
	CloseHandle(watch->ours);
	return PROA_ECHILD;
}

int child_begin(struct proa_port *port, struct proa_op *op)
{
	struct watch *watch = calloc(1, sizeof *watch);
	int error;

	if (watch == NULL)
		return PROA_ENOMEM;
	error = watch_open(watch, (intptr_t)op->argument_);
	if (error < 0) {
		free(watch);
		return error;
	}
	watch->port = port;
	watch->op = op;
	mutex_lock(&lock);
	watch_enlist(watch);
	mutex_unlock(&lock);
	op->argument_ = (uint64_t)(uintptr_t)watch;
	if (RegisterWaitForSingleObject(&watch->wait, watch->ours, on_end, watch, INFINITE,
		    WT_EXECUTEONLYONCE | WT_EXECUTEINWAITTHREAD))
		return 0;
	error = windows_error();
	mutex_lock(&lock);
	watch_unlist(watch);
	mutex_unlock(&lock);
	CloseHandle(watch->ours);
	free(watch);
	return error;
}

/* Waits for on_end() to return, if it runs: it does nothing that takes long. */
static void watch_free(struct watch *watch)
{
	UnregisterWaitEx(watch->wait, INVALID_HANDLE_VALUE);
	CloseHandle(watch->ours);
	free(watch);
}

bool child_abandon(struct proa_op *op)
{
	struct watch *watch = watch_of(op);
	bool told;

	mutex_lock(&lock);
	told = watch->told;
	if (!told) {
		watch->abandoned = true;
		watch_unlist(watch);
	}
	mutex_unlock(&lock);
	if (told)
		return false;
	op->argument_ = (uint64_t)(uintptr_t)watch->process;
	watch_free(watch);
	return true;
}

/* ---- how it ended -------------------------------------------------------------------- */

/* What proa_kill() lets a process end with, and the number of the signal: with bit 29
 * set, no code of the system's (winerror.h). */
#define KILLED_BY      0xe0504b00u
#define KILLED_BY_MASK 0xffffff00u
#define SIGNAL_LAST    64

/* The signal that would be a POSIX system's word for it; 0: it ended by itself. Their
 * numbers are those of the C runtime's <signal.h>. */
static int32_t signal_of(DWORD code)
{
	if ((code & KILLED_BY_MASK) == KILLED_BY)
		return (int32_t)(code & ~KILLED_BY_MASK);
	switch (code) {
	case 0xc000013a: /* STATUS_CONTROL_C_EXIT */
		return 2; /* SIGINT */
	case EXCEPTION_ILLEGAL_INSTRUCTION:
	case EXCEPTION_PRIV_INSTRUCTION:
		return 4; /* SIGILL */
	case EXCEPTION_FLT_DIVIDE_BY_ZERO:
	case EXCEPTION_INT_DIVIDE_BY_ZERO:
		return 8; /* SIGFPE */
	case EXCEPTION_ACCESS_VIOLATION:
	case EXCEPTION_STACK_OVERFLOW:
	case EXCEPTION_IN_PAGE_ERROR:
		return 11; /* SIGSEGV */
	case 0xc0000409: /* STATUS_STACK_BUFFER_OVERRUN: abort() of newer runtimes */
		return 22; /* SIGABRT */
	default:
		return 0;
	}
}

int32_t child_finish(struct proa_op *op)
{
	struct watch *watch = watch_of(op);
	struct proa_exit *out = op->buffer_;
	int32_t result = 0;
	DWORD code = 0;

	mutex_lock(&lock);
	watch_unlist(watch);
	for (struct watch *other = watches; other != NULL; other = other->next)
		if (other->process == watch->process)
			other->reaped = true;
	mutex_unlock(&lock);
	if (watch->reaped)
		result = PROA_ECHILD;
	else if (!GetExitCodeProcess(watch->ours, &code))
		result = windows_error();
	if (result == 0 && out != NULL) {
		out->signal = signal_of(code);
		out->code = code;
	}
	if (!watch->reaped)
		CloseHandle(watch->process);
	op->argument_ = 0;
	watch_free(watch);
	return result;
}

/* ---- ending it ------------------------------------------------------------------------ */

int proa_kill(proa_process process, int number)
{
	HANDLE handle = (HANDLE)process;

	if (process <= 0 || number < 0 || number > SIGNAL_LAST)
		return PROA_EINVAL;
	if (GetProcessId(handle) == 0)
		return PROA_ESRCH;
	if (WaitForSingleObject(handle, 0) == WAIT_OBJECT_0) /* it has ended */
		return PROA_ESRCH;
	if (number == 0 || TerminateProcess(handle, KILLED_BY | (unsigned)number))
		return 0;
	/* So it answers for one that has ended meanwhile. */
	if (GetLastError() == ERROR_ACCESS_DENIED &&
		WaitForSingleObject(handle, 0) == WAIT_OBJECT_0)
		return PROA_ESRCH;
	return windows_error();
}

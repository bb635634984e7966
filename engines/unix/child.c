/* Children that have been started: waiting for them, reaping them, signals to
 * them.
 *
 * To wait for one is to wait for a descriptor that becomes readable at its end:
 * a pidfd (Linux 5.3), or a kqueue of its own with EVFILT_PROC (macOS, BSDs).
 * Where there is neither, or a filter of system calls forbids it, a thread sleeps
 * in waitid(2) and then writes to a pipe. */
#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engines/unix/unix.h"

#ifdef PROA_HAVE_KQUEUE
#	include <fcntl.h>
#	include <sys/types.h>
/* after it, on some systems */
#	include <sys/event.h>
#else
#	include <pthread.h>
#	include <stdlib.h>
#endif
#ifdef PROA_HAVE_PIDFD
#	include <sys/syscall.h>
#endif

/* 0 and negative numbers name groups, or every process there is: never one. */
static bool is_process(proa_process process)
{
	return process > 0 && process <= INT_MAX;
}

#ifdef PROA_HAVE_KQUEUE

/* ---- EVFILT_PROC ----------------------------------------------------------------- */

static const struct timespec at_once = { 0, 0 };

/* One that has ended already may be refused with ESRCH, though it waits to be
 * reaped (macOS and BSDs: libuv's pull requests 3441 and 3451). There is no event for what is over: the queue
 * becomes readable by a timer. */
static int watch_ended(int watch)
{
	struct kevent change;

	EV_SET(&change, 1, EVFILT_TIMER, EV_ADD | EV_ONESHOT, 0, 1, 0);
	return kevent(watch, &change, 1, NULL, 0, NULL);
}

static int watch_exit(int watch, pid_t pid)
{
	struct kevent change;

	EV_SET(&change, (uintptr_t)pid, EVFILT_PROC, EV_ADD | EV_ONESHOT, NOTE_EXIT, 0, 0);
	if (kevent(watch, &change, 1, NULL, 0, NULL) == 0)
		return 0;
	if (errno != ESRCH || (kill(pid, 0) < 0 && errno == ESRCH))
		return -1;
	return watch_ended(watch);
}

int unix_child_open(proa_process process)
{
	int watch, error;

	if (!is_process(process))
		return PROA_EINVAL;
	watch = kqueue();
	if (watch >= 0 && fcntl(watch, F_SETFD, FD_CLOEXEC) == 0 &&
		watch_exit(watch, (pid_t)process) == 0)
		return watch;
	error = unix_error(errno);
	if (watch >= 0)
		close(watch);
	return error;
}

void unix_child_close(int watch)
{
	close(watch);
}

/* NOTE_EXIT may come a moment before the child can be reaped (OpenBSD and others
 * have been seen to: libuv's issue 3504, pull request 3521). It comes once: who has it may wait for the rest. */
static bool watch_says_over(int watch)
{
	struct kevent event;

	return watch >= 0 && kevent(watch, NULL, 0, &event, 1, &at_once) == 1;
}

#else

/* ---- a thread that waits ------------------------------------------------------------- */

/* A thread can't be called back from waitid(2). One whose op has ended before the
 * child stays behind, with neither descriptor nor anybody to tell. */
struct wait {
	struct wait *next;
	pid_t pid;
	int read_end, write_end; /* -1: closed */
	bool done;
};

#	define WAIT_STACK (64 * 1024)

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct wait *waits;
static pthread_once_t fork_once = PTHREAD_ONCE_INIT;

static void wait_remove(struct wait *wait)
{
	struct wait **link = &waits;

	while (*link != wait)
		link = &(*link)->next;
	*link = wait->next;
	free(wait);
}

static void *wait_main(void *argument)
{
	struct wait *wait = argument;
	siginfo_t info;
	int result;

	/* It stays to be reaped. An error says that somebody else has done so. */
	do
		result = waitid(P_PID, (id_t)wait->pid, &info, WEXITED | WNOWAIT);
	while (result < 0 && errno == EINTR);
	pthread_mutex_lock(&lock);
	wait->done = true;
	if (wait->write_end >= 0) {
		/* Not the end of the pipe: a child forked meanwhile may hold it. */
		system_wake(wait->write_end);
		close(wait->write_end);
		wait->write_end = -1;
	}
	if (wait->read_end < 0)
		wait_remove(wait);
	pthread_mutex_unlock(&lock);
	return NULL;
}

static void before_fork(void)
{
	pthread_mutex_lock(&lock);
}

static void parent_after_fork(void)
{
	pthread_mutex_unlock(&lock);
}

/* The threads are the parent's, and the ops, too. */
static void child_after_fork(void)
{
	struct wait *wait;

	while ((wait = waits) != NULL) {
		waits = wait->next;
		if (wait->read_end >= 0)
			close(wait->read_end);
		if (wait->write_end >= 0)
			close(wait->write_end);
		free(wait);
	}
	pthread_mutex_unlock(&lock);
}

static void watch_forks(void)
{
	/* Without memory for it, a forked child keeps two descriptors more. */
	pthread_atfork(before_fork, parent_after_fork, child_after_fork);
}

/* All signals blocked: they are for the program's threads. */
static int wait_start(struct wait *wait)
{
	pthread_attr_t attributes;
	sigset_t all, before;
	pthread_t thread;
	int error;

	if (pthread_attr_init(&attributes) != 0)
		return PROA_ENOMEM;
	pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
	pthread_attr_setstacksize(&attributes, WAIT_STACK);
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	error = pthread_create(&thread, &attributes, wait_main, wait);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	pthread_attr_destroy(&attributes);
	return error == 0 ? 0 : PROA_EAGAIN;
}

static int wait_open(pid_t pid)
{
	struct wait *wait;
	int ends[2], error;

	if (kill(pid, 0) < 0 && errno == ESRCH)
		return PROA_ESRCH;
	pthread_once(&fork_once, watch_forks);
	error = unix_pipe(ends);
	if (error < 0)
		return error;
	wait = malloc(sizeof *wait);
	if (wait != NULL) {
		pthread_mutex_lock(&lock);
		*wait = (struct wait) { waits, pid, ends[0], ends[1], false };
		waits = wait;
		error = wait_start(wait);
		if (error < 0)
			wait_remove(wait);
		pthread_mutex_unlock(&lock);
	}
	if (wait != NULL && error == 0)
		return ends[0];
	close(ends[0]);
	close(ends[1]);
	return wait == NULL ? PROA_ENOMEM : error;
}

int unix_child_open(proa_process process)
{
	if (!is_process(process))
		return PROA_EINVAL;
#	ifdef PROA_HAVE_PIDFD
	/* Close-on-exec always. ENOSYS: Linux before 5.3; EPERM: containers'
	 * filters that know nothing of it. */
	long fd = syscall(SYS_pidfd_open, (pid_t)process, 0u);

	if (fd >= 0)
		return (int)fd;
	if (errno != ENOSYS && errno != EPERM)
		return unix_error(errno);
#	endif
	return wait_open((pid_t)process);
}

void unix_child_close(int watch)
{
	struct wait *wait;

	pthread_mutex_lock(&lock);
	for (wait = waits; wait != NULL && wait->read_end != watch;)
		wait = wait->next;
	if (wait != NULL) {
		wait->read_end = -1;
		if (wait->write_end >= 0)
			close(wait->write_end);
		wait->write_end = -1;
		if (wait->done)
			wait_remove(wait);
	}
	pthread_mutex_unlock(&lock);
	close(watch);
}

static bool watch_says_over(int watch)
{
	(void)watch; /* it becomes readable when the child can be reaped */
	return false;
}

#endif

int unix_reap(proa_process process, struct proa_exit *out, int watch)
{
	bool over = false;
	pid_t reaped;
	int status;

	if (!is_process(process))
		return PROA_EINVAL;
	for (;;) {
		reaped = waitpid((pid_t)process, &status, over ? 0 : WNOHANG);
		if (reaped < 0 && errno == EINTR)
			continue;
		if (reaped != 0)
			break;
		over = watch_says_over(watch);
		if (!over)
			return PROA_EAGAIN;
	}
	if (reaped < 0)
		return unix_error(errno);
	if (out != NULL) {
		out->code = WIFEXITED(status) ? (uint32_t)WEXITSTATUS(status) : 0;
		out->signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
	}
	return 0;
}

int proa_kill(proa_process process, int number)
{
	if (!is_process(process))
		return PROA_EINVAL;
	return kill((pid_t)process, number) < 0 ? unix_error(errno) : 0;
}

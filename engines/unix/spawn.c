/* Starting a process: what the child does between vfork() and execve().
 *
 * All that needs memory is made before (struct plan). The child then makes
 * only calls that are safe after fork() in a process with threads, and writes
 * only to the plan and to its own stack, which it shares with us under
 * vfork(2): its parent's thread stands still meanwhile. If it fails it says so
 * in the plan, and, where vfork() is but a fork() (under qemu, and sanitizers),
 * through a pipe that a successful execve() closes. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>
#if defined __linux__ || defined __FreeBSD__
#	include <sys/syscall.h>
#endif

#include "engines/unix/unix.h"

extern char **environ;

/* What the child needs to know. `source` holds the descriptors that are to be
 * 0, 1, 2, ... `count` - 1 there; `candidates` the paths to try, each with its
 * NUL, with an empty one at the end. */
struct plan {
	char *const *arguments;
	char *const *environment;
	const char *directory;
	char *candidates;
	int *source;
	int count;
	bool inherit; /* 0, 1, 2 are ours, be they open or not */
	int report[2];
	/* Written by the child, seen by us only if it runs on our memory: volatile,
	 * as no compiler expects that of a call that does not return. */
	volatile bool shared;
	volatile int reason;
};

/* Says why it fails, and ends. No atexit() functions: they are the parent's. */
static _Noreturn void child_fail(struct plan *plan, int report)
{
	int reason = errno;
	ssize_t written;

	plan->reason = reason;
	do
		written = write(report, &reason, sizeof reason);
	while (written < 0 && errno == EINTR);
	_exit(127);
}

/* Handlers are of no use to what is to run; execve() resets them too, but the
 * signals are let through before. What is ignored stays ignored. */
static void child_signals(void)
{
	struct sigaction action;
	sigset_t none;

	for (int number = 1; number < NSIG; number++) {
		if (sigaction(number, NULL, &action) < 0)
			continue;
		if ((action.sa_flags & SA_SIGINFO) == 0 &&
			(action.sa_handler == SIG_DFL || action.sa_handler == SIG_IGN))
			continue;
		memset(&action, 0, sizeof action);
		action.sa_handler = SIG_DFL;
		sigaction(number, &action, NULL);
	}
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
}

/* Places the descriptors. Sources that lie among the targets are first moved
 * up, or one would be overwritten before its turn. */
static int child_descriptors(struct plan *plan)
{
	int first = plan->inherit ? 3 : 0;

	for (int i = first; i < plan->count; i++) {
		if (plan->source[i] == i || plan->source[i] >= plan->count)
			continue;
		plan->source[i] = fcntl(plan->source[i], F_DUPFD_CLOEXEC, plan->count);
		if (plan->source[i] < 0)
			return -1;
	}
	for (int i = 0; i < first; i++)
		if (fcntl(i, F_SETFD, 0) < 0 && errno != EBADF)
			return -1;
	for (int i = first; i < plan->count; i++) {
		int done = plan->source[i] == i ? fcntl(i, F_SETFD, 0) : dup2(plan->source[i], i);

		if (done < 0)
			return -1;
	}
	return 0;
}

/* Our end of the pipe, out of the targets' way. The other ends must go, or
 * they would be taken for descriptors of ours when they are 0, 1 or 2. */
static int child_report(struct plan *plan)
{
	int report = plan->report[1];

	close(plan->report[0]);
	if (report >= plan->count)
		return report;
	report = fcntl(report, F_DUPFD_CLOEXEC, plan->count);
	if (report < 0)
		child_fail(plan, plan->report[1]);
	close(plan->report[1]);
	return report;
}

#if defined(__linux__) && defined(SYS_getdents64)
/* What /proc/self/fd lists. Raw calls, since opendir() allocates. */
static bool close_on_exec_listed(int first)
{
	struct entry {
		uint64_t inode;
		int64_t next;
		uint16_t length;
		uint8_t type;
		char name[];
	};
	_Alignas(struct entry) char room[1024];
	int list = open("/proc/self/fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	long got;

	if (list < 0)
		return false;
	while ((got = syscall(SYS_getdents64, list, room, sizeof room)) > 0) {
		for (long at = 0; at < got;) {
			const struct entry *entry = (const struct entry *)(void *)(room + at);
			int fd = 0;

			at += entry->length;
			for (const char *digit = entry->name; *digit >= '0' && *digit <= '9';
				digit++)
				fd = fd * 10 + (*digit - '0');
			if (fd >= first)
				fcntl(fd, F_SETFD, FD_CLOEXEC);
		}
	}
	close(list);
	return got == 0;
}
#else
static bool close_on_exec_listed(int first)
{
	(void)first;
	return false;
}
#endif

/* Every descriptor from `first` on stays behind. */
static void child_close_on_exec(int first)
{
	struct rlimit limit;

#ifdef SYS_close_range
	/* Linux 5.11, FreeBSD 13; 4 is CLOSE_RANGE_CLOEXEC, which older headers lack. */
	if (syscall(SYS_close_range, (unsigned)first, ~0u, 4u) == 0)
		return;
#endif
	if (close_on_exec_listed(first))
		return;
	if (getrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_cur > INT_MAX)
		limit.rlim_cur = 65536;
	for (int fd = first; fd < (int)limit.rlim_cur; fd++)
		fcntl(fd, F_SETFD, FD_CLOEXEC);
}

/* As execvp(3) does it, but that a file which is no program is an error, not a
 * script. A candidate that we may not run hides a later one that is missing. */
static void child_execute(const struct plan *plan)
{
	bool denied = false;

	errno = ENOENT;
	for (char *path = plan->candidates; *path != '\0'; path += strlen(path) + 1) {
		execve(path, plan->arguments, plan->environment);
		switch (errno) {
		case EACCES:
			denied = true;
			break;
		case ENOENT:
		case ENOTDIR:
		case ENODEV:
		case ESTALE:
		case ETIMEDOUT:
			break;
		default:
			return;
		}
	}
	if (denied)
		errno = EACCES;
}

static _Noreturn void child_run(struct plan *plan)
{
	int report;

	plan->shared = true;
	report = child_report(plan);
	child_signals();
	if (child_descriptors(plan) < 0)
		child_fail(plan, report);
	child_close_on_exec(plan->count);
	if (plan->directory != NULL && chdir(plan->directory) < 0)
		child_fail(plan, report);
	child_execute(plan);
	child_fail(plan, report);
}

/* vfork() returns twice into this frame: nothing may live in it across. */
static __attribute__((noinline)) pid_t start_child(struct plan *plan)
{
	pid_t pid;

#ifdef __APPLE__
	pid = fork(); /* vfork() is deprecated: its SDK's <unistd.h> */
#else
	pid = vfork();
#endif
	if (pid == 0)
		child_run(plan);
	return pid;
}

/* No handler of the program may run in the child, on our memory. */
static pid_t start_masked(struct plan *plan)
{
	sigset_t all, before;
	pid_t pid;
	int reason;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	pid = start_child(plan);
	reason = errno;
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	errno = reason;
	return pid;
}

/* 0 when execve() has succeeded, else its errno. With shared memory all has been
 * said by now; to read to the pipe's end could take for ever, if another thread
 * forked a child that holds it. */
static int read_report(const struct plan *plan)
{
	int reason;
	ssize_t got;

	if (plan->shared)
		return plan->reason;
	do
		got = read(plan->report[0], &reason, sizeof reason);
	while (got < 0 && errno == EINTR);
	return got == (ssize_t)sizeof reason ? reason : 0;
}

/* A child that failed is nobody's business. */
static void reap_failed(pid_t pid)
{
	while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
		;
}

static int plan_start(struct plan *plan, proa_process *out)
{
	pid_t pid;
	int code = unix_pipe(plan->report);

	if (code < 0)
		return code;
	pid = start_masked(plan);
	code = pid < 0 ? unix_error(errno) : 0;
	close(plan->report[1]);
	if (pid >= 0) {
		code = unix_error(read_report(plan));
		if (code < 0)
			reap_failed(pid);
	}
	close(plan->report[0]);
	if (code == 0)
		*out = pid;
	return code;
}

/* The paths to try for `name`: itself if it has a slash, else one for each
 * folder of our PATH (not of the child's), where an empty one is the current
 * folder. NULL: no memory. */
static char *candidates_of(const char *name)
{
	const char *path = getenv("PATH");
	size_t length = strlen(name), folders = 1;
	char *all, *at;

	if (path == NULL)
		path = "/usr/bin:/bin";
	if (length == 0 || strchr(name, '/') != NULL)
		path = "";
	for (const char *c = path; *c != '\0'; c++)
		folders += *c == ':';
	all = at = malloc(strlen(path) + folders * (length + 2) + 1);
	if (all == NULL)
		return NULL;
	while (length > 0) {
		size_t folder = strcspn(path, ":");

		memcpy(at, path, folder);
		at += folder;
		if (folder > 0)
			*at++ = '/';
		memcpy(at, name, length + 1);
		at += length + 1;
		path += folder;
		if (*path++ == '\0')
			break;
	}
	*at = '\0';
	return all;
}

static int plan_make(struct plan *plan, const struct proa_command *command)
{
	size_t count = 3 + (size_t)command->pass_count;

	memset(plan, 0, sizeof *plan);
	if (command->arguments == NULL || command->arguments[0] == NULL ||
		(command->pass == NULL && command->pass_count > 0) || count > INT_MAX)
		return PROA_EINVAL;
	/* execve() takes them as not const for history's sake alone. */
	plan->arguments = (char *const *)(uintptr_t)command->arguments;
	plan->environment = (char *const *)(uintptr_t)command->environment;
	if (plan->environment == NULL)
		plan->environment = environ;
	plan->directory = command->directory;
	plan->count = (int)count;
	plan->inherit = command->standard == NULL;
	plan->candidates = candidates_of(command->arguments[0]);
	plan->source = malloc(count * sizeof plan->source[0]);
	if (plan->candidates == NULL || plan->source == NULL)
		return PROA_ENOMEM;
	for (size_t i = 0; i < 3; i++)
		plan->source[i] = plan->inherit ? (int)i : command->standard[i];
	for (size_t i = 3; i < count; i++)
		plan->source[i] = command->pass[i - 3];
	/* Before the pipe takes the number of one that is not open. */
	for (size_t i = plan->inherit ? 3 : 0; i < count; i++)
		if (fcntl(plan->source[i], F_GETFD) < 0)
			return unix_error(errno);
	return 0;
}

int proa_spawn_sized(const struct proa_command *theirs, size_t size, proa_process *out)
{
	struct proa_command command;
	struct plan plan;
	int code =
		sized_copy(&command, sizeof command, _Alignof(struct proa_command), theirs, size);

	if (code < 0)
		return code;
	code = plan_make(&plan, &command);
	if (code == 0)
		code = plan_start(&plan, out);
	free(plan.source);
	free(plan.candidates);
	return code;
}

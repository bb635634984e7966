/* Children that have been started: waiting for them, reaping them, signals to
 * them. */
#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engines/unix/unix.h"

/* 0 and negative numbers name groups, or every process there is: never one. */
static bool is_process(proa_process process)
{
	return process > 0 && process <= INT_MAX;
}

int unix_pidfd(proa_process process)
{
#ifdef SYS_pidfd_open
	/* Linux 5.3; close-on-exec always. */
	long fd;

	if (!is_process(process))
		return PROA_EINVAL;
	fd = syscall(SYS_pidfd_open, (pid_t)process, 0u);
	return fd < 0 ? unix_error(errno) : (int)fd;
#else
	(void)process;
	return PROA_ENOSYS;
#endif
}

int unix_reap(proa_process process, struct proa_exit *out)
{
	pid_t reaped;
	int status;

	if (!is_process(process))
		return PROA_EINVAL;
	do
		reaped = waitpid((pid_t)process, &status, WNOHANG);
	while (reaped < 0 && errno == EINTR);
	if (reaped < 0)
		return unix_error(errno);
	if (reaped == 0)
		return PROA_EAGAIN;
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

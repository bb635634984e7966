/* Cores, processes of their own, results. */
#include "bench.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#ifndef _WIN32
#	include <sched.h>
#	include <signal.h>
#	include <sys/mman.h>
#	include <sys/wait.h>
#	include <unistd.h>
#endif

void bench_clear(struct bench_result *result)
{
	memset(result, 0, sizeof *result);
	result->rate = result->cpu = result->calls = NAN;
	result->p50 = result->p99 = result->p999 = result->most = NAN;
	result->bytes = result->client = NAN;
}

void bench_fail(struct bench_result *result, const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(result->error, sizeof result->error, format, arguments);
	va_end(arguments);
}

void bench_latency(struct bench_result *result, const struct histogram *latency)
{
	if (latency->total == 0)
		return;
	result->p50 = histogram_share(latency, 0.5);
	result->p99 = histogram_share(latency, 0.99);
	result->p999 = histogram_share(latency, 0.999);
	result->most = (double)latency->max;
}

#ifndef _WIN32 /* else: windows/windows.c */

/* The cores this process was given, before it bound itself to any of them. */
static const cpu_set_t *allowed_cores(void)
{
	static cpu_set_t allowed;
	static bool asked;

	if (!asked && sched_getaffinity(0, sizeof allowed, &allowed) != 0)
		CPU_ZERO(&allowed);
	asked = true;
	return &allowed;
}

unsigned bench_cores(void)
{
	return (unsigned)CPU_COUNT(allowed_cores());
}

void bench_pin(unsigned which, bool same)
{
	const cpu_set_t *allowed = allowed_cores();
	unsigned found = 0, wanted = same || bench_cores() < 2 ? 0 : which;
	cpu_set_t one;

	for (unsigned core = 0; core < CPU_SETSIZE; core++) {
		if (!CPU_ISSET(core, allowed) || found++ != wanted)
			continue;
		CPU_ZERO(&one);
		CPU_SET(core, &one);
		sched_setaffinity(0, sizeof one, &one); /* where it is refused we float */
		return;
	}
}

void bench_reap(pid_t process, char *text, size_t size)
{
	int status = 0;
	pid_t ended = 0;

	for (int tries = 0; tries < 500 && ended == 0; tries++) {
		ended = waitpid(process, &status, WNOHANG);
		if (ended == 0)
			usleep(10000);
	}
	if (ended == 0) {
		kill(process, SIGKILL);
		waitpid(process, &status, 0);
		snprintf(text, size, "the measured process did not end");
	} else if (ended == process && WIFSIGNALED(status)) {
		snprintf(text, size, "the measured process died: %s", strsignal(WTERMSIG(status)));
	} else if (ended == process && WEXITSTATUS(status) != 0) {
		snprintf(text, size, "the measured process failed: exit %d", WEXITSTATUS(status));
	} else {
		text[0] = '\0';
	}
}

/* A measurement takes well under a minute; one that hangs must not hang us. */
#	define APART_SECONDS 120

static void reap_within(pid_t process, char *text, size_t size)
{
	siginfo_t ended;

	for (int tries = 0; tries < APART_SECONDS * 100; tries++) {
		ended.si_pid = 0;
		if (waitid(P_PID, (id_t)process, &ended, WEXITED | WNOHANG | WNOWAIT) != 0 ||
			ended.si_pid != 0)
			break;
		usleep(10000);
	}
	bench_reap(process, text, size);
}

void bench_apart(bench_apart_fn *measure, const struct bench_options *options, const char *engine,
	struct bench_result *results, unsigned count, void *argument)
{
	size_t size = count * sizeof *results;
	struct bench_result *shared =
		mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	char ended[ERROR_TEXT] = "";
	pid_t child;

	for (unsigned i = 0; i < count; i++)
		bench_clear(&results[i]);
	if (shared == MAP_FAILED) {
		bench_fail(&results[0], "mmap: %s", strerror(errno));
		return;
	}
	memcpy(shared, results, size);
	allowed_cores();
	fflush(NULL);
	child = fork();
	if (child == 0) {
		bench_pin(0, options->same_core);
		measure(options, engine, shared, argument);
		_exit(0);
	}
	if (child < 0)
		snprintf(ended, sizeof ended, "fork: %s", strerror(errno));
	else
		reap_within(child, ended, sizeof ended);
	memcpy(results, shared, size);
	munmap(shared, size);
	if (ended[0] != '\0')
		for (unsigned i = 0; i < count; i++)
			bench_fail(&results[i], "%s", ended);
}

#endif

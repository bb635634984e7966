/* Runs seeds, each in a child process with a limit in time, on each engine. */
#include "posix.h"
#include "random.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct profile {
	const char *name, *engine, *off;
};

/* What a port gets by itself; tried where it is asked for. */
#define ANY "any"

/* "io_uring-basic" is io_uring without all that newer kernels brought. */
static const struct profile profiles[] = {
#ifdef _WIN32
	{ "iocp", "iocp", NULL },
#else
	{ "io_uring", "io_uring", NULL },
	{ "io_uring-basic", "io_uring", "all" },
	{ "epoll", "epoll", NULL },
#endif
	{ "poll", "poll", NULL },
	{ "select", "select", NULL },
#ifndef _WIN32
	{ "kqueue", "kqueue", NULL },
	{ "kqueue-plain", "kqueue", NULL },
#endif
	{ ANY, "", NULL },
};

#define PROFILES       (sizeof(profiles) / sizeof(profiles[0]))
#define DEFAULT_COUNT  40
#define DEFAULT_STEPS  1500
#define SECONDS_A_SEED 30

static struct {
	uint64_t seed;
	unsigned count, steps;
	bool verbose, wanted[PROFILES];
} wishes = { 1, DEFAULT_COUNT, DEFAULT_STEPS, false, { false } };

static int passed, failed, skipped;

static void use_profile(const struct profile *profile)
{
	setenv("PROA_ENGINE", profile->engine, 1);
	if (profile->off != NULL)
		setenv("PROA_URING_OFF", profile->off, 1);
}

static int time_factor(void)
{
	const char *factor = getenv("TEST_TIME_FACTOR");

	return factor != NULL && atoi(factor) > 0 ? atoi(factor) : 1;
}

static void tell_replay(const struct profile *profile, uint64_t seed)
{
	fprintf(stderr, "replay: random --engine %s --seed %llu --count 1 --steps %u -v\n",
		profile->name, (unsigned long long)seed, wishes.steps);
}

/* What has come of looking for an engine. */
enum found {
	WORKS,
	LACKS, /* and says why */
	CRASHES,
};

static enum found tell_crash(const struct profile *profile, int code, const char *how)
{
	printf("FAILED %s: opening a port: %s (%d)\n", profile->name, how, code);
	fflush(stdout);
	return CRASHES;
}

#define PROBE_SAID_WHY 77 /* exit code; abort() has 3 on Windows */

/* 0 if a port of that engine opens. */
static int probe(const struct profile *profile)
{
	struct proa_port *port;
	unsigned tries = 0;
	int error;

	use_profile(profile);
	do
		error = proa_port_open(NULL, &port);
	while (asks_again(error, &tries));
	if (error == 0) {
		proa_port_close(port);
		return 0;
	}
	printf("SKIPPED %s: %s\n", profile->name, proa_port_open_why());
	fflush(stdout);
	return PROBE_SAID_WHY;
}

#define CHILD_PROBE "--probe"
#define CHILD_SEED  "--seed-alone"

/* Of a process that was started to probe an engine, or for one seed. NULL: it was
 * not. */
static const struct profile *child_profile(int argc, char **argv)
{
	for (size_t i = 0; argc > 2 && i < PROFILES; i++)
		if (strcmp(argv[2], profiles[i].name) == 0 &&
			(strcmp(argv[1], CHILD_PROBE) == 0 ||
				(strcmp(argv[1], CHILD_SEED) == 0 && argc == 6)))
			return &profiles[i];
	return NULL;
}

/* What it was started for: its exit code. */
static int child_run(const struct profile *profile, char **argv)
{
	if (strcmp(argv[1], CHILD_PROBE) == 0)
		return probe(profile);
	use_profile(profile);
	return run_seed(profile->name, strtoull(argv[3], NULL, 0),
		(unsigned)strtoul(argv[4], NULL, 0), atoi(argv[5]) != 0);
}

#ifdef _WIN32

/* This program again with `arguments`: its exit code, or a reason in words. */
static int run_self(const char *arguments, unsigned seconds, const char **reason)
{
	STARTUPINFOA how = { .cb = sizeof(how) };
	PROCESS_INFORMATION made;
	char program[MAX_PATH], line[MAX_PATH + 256];
	DWORD code = 1;

	fflush(NULL);
	*reason = NULL;
	GetModuleFileNameA(NULL, program, sizeof(program));
	snprintf(line, sizeof(line), "\"%s\" %s", program, arguments);
	/* Wine fails to, now and then. */
	for (int tries = 1;
		!CreateProcessA(program, line, NULL, NULL, TRUE, 0, NULL, NULL, &how, &made);
		tries++) {
		if (tries == 10) {
			*reason = "no process";
			return 1;
		}
		Sleep(500);
	}
	if (WaitForSingleObject(made.hProcess, seconds * 1000) != WAIT_OBJECT_0) {
		*reason = "hangs inside a call";
		TerminateProcess(made.hProcess, 1);
	}
	GetExitCodeProcess(made.hProcess, &code);
	CloseHandle(made.hThread);
	CloseHandle(made.hProcess);
	return (int)code;
}

static enum found look_for(const struct profile *profile)
{
	const char *reason;
	char arguments[64];
	int code = 0;

	snprintf(arguments, sizeof(arguments), "%s %s", CHILD_PROBE, profile->name);
	for (int i = 0; i < 2; i++) {
		code = run_self(arguments, 20 * (unsigned)time_factor(), &reason);
		if (code == 0)
			return WORKS;
		if (code == PROBE_SAID_WHY && reason == NULL)
			return LACKS;
		if (!posix_is_wine())
			break;
	}
	return tell_crash(profile, code, reason != NULL ? reason : "it ended");
}

/* A process that ends without a word of its own, neither judged nor by an exception
 * that it told of, was ended by wine: it has a second chance. So has one that does not
 * come to an end: under wine 8 a call on a socket is seen never to, now and then. */
static bool run_one(const struct profile *profile, uint64_t seed)
{
	const char *reason;
	char arguments[128];
	int code = 0;

	snprintf(arguments, sizeof(arguments), "%s %s %llu %u %d", CHILD_SEED, profile->name,
		(unsigned long long)seed, wishes.steps, (int)wishes.verbose);
	for (int i = 0; i < 2; i++) {
		code = run_self(arguments, SECONDS_A_SEED * (unsigned)time_factor() + 5, &reason);
		if ((code >= 0 && code != EXIT_HANGS) || !posix_is_wine())
			break;
		printf("AGAIN seed %llu engine %s: %s (%08x)\n", (unsigned long long)seed,
			profile->name, code == EXIT_HANGS ? "no end" : "wine ended its process",
			(unsigned)code);
	}
	if (code == 0)
		return true;
	fprintf(stderr, "seed %llu engine %s: exit %d%s%s\n", (unsigned long long)seed,
		profile->name, code, reason != NULL ? ", " : "", reason != NULL ? reason : "");
	tell_replay(profile, seed);
	return false;
}

/* In a process that is a seed's own. */
static void be_child(int argc, char **argv)
{
	const struct profile *profile = child_profile(argc, argv);

	if (profile == NULL)
		return;
	exceptions_tell();
	exit(child_run(profile, argv));
}

#else

/* Where the profile's engine is in a build of its own (kqueue, on Linux), it is in
 * another program: ours with the profile's name behind. In a forked child: becomes
 * that, if it is there. */
static void become_other(const struct profile *profile, const char *what, uint64_t seed)
{
	char program[512], number[24], steps[16];
	ssize_t n = readlink("/proc/self/exe", program, sizeof(program) - 64);

	if (n < 0)
		return;
	snprintf(program + n, sizeof(program) - (size_t)n, "-%s", profile->name);
	if (access(program, X_OK) < 0)
		return;
	snprintf(number, sizeof(number), "%llu", (unsigned long long)seed);
	snprintf(steps, sizeof(steps), "%u", wishes.steps);
	execl(program, program, what, profile->name, number, steps, wishes.verbose ? "1" : "0",
		(char *)NULL);
	_exit(127);
}

/* In a child, for this process must not hold a ring. */
static enum found look_for(const struct profile *profile)
{
	pid_t child;
	int status = 0;

	fflush(NULL);
	child = fork();
	if (child < 0)
		return tell_crash(profile, errno, "no process");
	if (child == 0) {
		alarm((unsigned)(10 * time_factor()));
		become_other(profile, CHILD_PROBE, 0);
		_exit(probe(profile));
	}
	waitpid(child, &status, 0);
	if (WIFSIGNALED(status))
		return tell_crash(profile, WTERMSIG(status), strsignal(WTERMSIG(status)));
	if (WEXITSTATUS(status) != 0 && WEXITSTATUS(status) != PROBE_SAID_WHY)
		return tell_crash(profile, WEXITSTATUS(status), "it ended");
	return WEXITSTATUS(status) == 0 ? WORKS : LACKS;
}

#	ifdef __GLIBC__
#		include <execinfo.h>

/* Where it was, for addr2line(1). */
static void tell_where(int number)
{
	void *frames[40];

	if (number == SIGALRM)
		tell_in_flight();
	backtrace_symbols_fd(frames, backtrace(frames, 40), STDERR_FILENO);
	signal(number, SIG_DFL);
	raise(number);
}

static void watch_signals(void)
{
	static const int watched[] = { SIGALRM, SIGSEGV, SIGBUS, SIGABRT };

	for (size_t i = 0; i < sizeof(watched) / sizeof(watched[0]); i++)
		signal(watched[i], tell_where);
}
#	else
static void watch_signals(void)
{
}
#	endif

/* In a program that become_other() has started. */
static void be_child(int argc, char **argv)
{
	const struct profile *profile = child_profile(argc, argv);

	if (profile == NULL)
		return;
	watch_signals();
	exit(child_run(profile, argv));
}

/* The child watches its own time and says what hangs; the alarm is for one that
 * doesn't come back from a call. */
static bool run_one(const struct profile *profile, uint64_t seed)
{
	int status = 0;
	pid_t child;

	fflush(NULL);
	child = fork();
	if (child < 0) {
		perror("fork");
		return false;
	}
	if (child == 0) {
		watch_signals();
		alarm((unsigned)(SECONDS_A_SEED * time_factor()));
		become_other(profile, CHILD_SEED, seed);
		use_profile(profile);
		exit(run_seed(profile->name, seed, wishes.steps, wishes.verbose));
	}
	waitpid(child, &status, 0);
	if (status == 0)
		return true;
	if (WIFSIGNALED(status))
		fprintf(stderr, "seed %llu engine %s: %s\n", (unsigned long long)seed,
			profile->name,
			WTERMSIG(status) == SIGALRM ? "hangs inside a call"
						    : strsignal(WTERMSIG(status)));
	tell_replay(profile, seed);
	return false;
}

#endif

static void run_profile(const struct profile *profile)
{
	int failed_before = failed, passed_before = passed;

	enum found found = look_for(profile);

	if (found != WORKS) {
		skipped += found == LACKS;
		failed += found == CRASHES;
		return;
	}
	for (unsigned i = 0; i < wishes.count; i++) {
		if (run_one(profile, wishes.seed + i))
			passed++;
		else
			failed++;
	}
	printf("%-14s seeds %llu to %llu: %d passed, %d failed\n", profile->name,
		(unsigned long long)wishes.seed,
		(unsigned long long)(wishes.seed + wishes.count - 1), passed - passed_before,
		failed - failed_before);
}

static int usage(void)
{
	fprintf(stderr, "usage: random [--engine NAME]... [--seed N] [--count N] [--steps N] [-v]\n"
			"engines:");
	for (size_t i = 0; i < PROFILES; i++)
		fprintf(stderr, " %s", profiles[i].name);
	fprintf(stderr, "\n");
	return 2;
}

static bool want_profile(const char *name)
{
	for (size_t i = 0; i < PROFILES; i++)
		if (strcmp(name, profiles[i].name) == 0)
			return wishes.wanted[i] = true;
	return false;
}

static bool read_arguments(int argc, char **argv, bool *any)
{
	for (int i = 1; i < argc; i++) {
		bool has_value = i + 1 < argc;

		if (strcmp(argv[i], "-v") == 0)
			wishes.verbose = true;
		else if (has_value && strcmp(argv[i], "--seed") == 0)
			wishes.seed = strtoull(argv[++i], NULL, 0);
		else if (has_value && strcmp(argv[i], "--count") == 0)
			wishes.count = (unsigned)strtoul(argv[++i], NULL, 0);
		else if (has_value && strcmp(argv[i], "--steps") == 0)
			wishes.steps = (unsigned)strtoul(argv[++i], NULL, 0);
		else if (has_value && strcmp(argv[i], "--engine") == 0 && want_profile(argv[i + 1]))
			*any = (bool)++i;
		else
			return false;
	}
	return true;
}

int main(int argc, char **argv)
{
	bool any = false;

	be_child(argc, argv);
	if (!read_arguments(argc, argv, &any))
		return usage();
	for (size_t i = 0; i < PROFILES; i++)
		if (any ? wishes.wanted[i] : strcmp(profiles[i].name, ANY) != 0)
			run_profile(&profiles[i]);
	printf("%d passed, %d failed, %d skipped\n", passed, failed, skipped);
	return failed > 0;
}

/* Bytes as a program of operations, run on each engine in turn. The first byte says of
 * which kind: one of the random programs (tests/random), which its model judges, or a
 * determined one, whose results must be the model's and the same on all engines.
 *
 * With clang's -fsanitize=fuzzer this is the target of a fuzzer; play.c plays files. */
#include "posix.h"

#include "fuzz.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "random/random.h"

#define LENGTH_MOST 1024

struct profile {
	const char *name, *engine, *off;
	bool tried, works;
};

static struct profile profiles[] = {
#ifdef _WIN32
	{ "iocp", "iocp", NULL, false, false },
#else
	{ "io_uring", "io_uring", NULL, false, false },
	{ "io_uring-basic", "io_uring", "all", false, false },
	{ "epoll", "epoll", NULL, false, false },
	{ "kqueue", "kqueue", NULL, false, false }, /* of a program of its own */
#endif
	{ "poll", "poll", NULL, false, false },
	{ "select", "select", NULL, false, false },
};
#define PROFILES (sizeof(profiles) / sizeof(profiles[0]))

static void choose_engine(const struct profile *profile)
{
	setenv("PROA_ENGINE", profile->engine, 1);
	if (profile->off != NULL)
		setenv("PROA_URING_OFF", profile->off, 1);
	else
		unsetenv("PROA_URING_OFF");
}

static bool works(struct profile *profile)
{
	struct proa_port *port;

	choose_engine(profile);
	if (!profile->tried) {
		profile->tried = true;
		profile->works = proa_port_open(NULL, &port) == 0;
		if (profile->works)
			proa_port_close(port);
		else if (strstr(proa_port_open_why(), "not part of this build") == NULL)
			fprintf(stderr, "without %s: %s\n", profile->name, proa_port_open_why());
	}
	return profile->works;
}

bool fuzz_verbose;
const char *fuzz_program = "fuzz-play";

/* On one engine, or, with NULL, on all. */
static const char *replay_line(const char *engine, const unsigned char *bytes, size_t length)
{
	static char line[2 * LENGTH_MOST + 128];
	int n = snprintf(line, 128, "%.60s%s%s --hex ", fuzz_program,
		engine != NULL ? " --engine " : "", engine != NULL ? engine : "");

	for (size_t i = 0; i < length; i++)
		n += snprintf(line + n, sizeof(line) - (size_t)n, "%02x", bytes[i]);
	return line;
}

static void compare(const struct profile *one, const struct outcome *first, size_t count,
	const struct profile *other, const struct outcome *second, size_t others)
{
	for (size_t i = 0; i < count && i < others; i++) {
		const struct outcome *a = &first[i], *b = &second[i];

		HOLDS(a->result == b->result && a->flags == b->flags && a->count == b->count &&
				a->digest == b->digest,
			"op %zu, %s, gives %d (flags %x, %llu bytes) on %s, and %d (flags %x, %llu bytes) on %s",
			i, a->what, a->result, a->flags, (unsigned long long)a->count, one->name,
			b->result, b->flags, (unsigned long long)b->count, other->name);
	}
	HOLDS(count == others, "%zu ops end on %s, and %zu on %s", count, one->name, others,
		other->name);
}

void fuzz_one(const unsigned char *bytes, size_t length, const char *only)
{
	static struct outcome logs[2][OUTCOMES_MOST];
	const struct profile *before = NULL;
	size_t counts[2] = { 0, 0 };
	const char *replay;
	bool ran = false;

	if (length < 2)
		return;
	if (length > LENGTH_MOST)
		length = LENGTH_MOST;
	for (struct profile *profile = profiles; profile < profiles + PROFILES; profile++) {
		if ((only != NULL && strcmp(only, profile->name) != 0) || !works(profile))
			continue;
		ran = true;
		replay = replay_line(profile->name, bytes, length);
		if (bytes[0] % 2 == 0) {
			run_bytes(profile->engine, bytes + 1, length - 1, replay, fuzz_verbose);
			continue;
		}
		counts[1] = determined_run(profile->engine, bytes + 1, length - 1, replay, logs[1]);
		world.replay = replay_line(NULL, bytes, length);
		if (before != NULL)
			compare(before, logs[0], counts[0], profile, logs[1], counts[1]);
		memcpy(logs[0], logs[1], counts[1] * sizeof(logs[0][0]));
		counts[0] = counts[1];
		before = profile;
	}
	if (!ran) {
		fprintf(stderr, "FAILED: no engine to run it on\n");
		abort();
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	fuzz_one(data, size, NULL);
	return 0;
}

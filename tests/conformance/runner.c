/* Runs the conformance tests: each in a process of its own, on every engine, with
 * a limit in time and a count of descriptors and of memory; and prints what came of it. */
#include "blocks.h"
#include "harness.h"
#include "matrix.h"
#include "posix.h"
#include "runner.h"

#define AT_ONCE  8 /* tests of one engine that run at the same time, at most */
#define PROFILES 16

struct running {
	struct test *test; /* NULL: a free place */
	int64_t until;
	bool late, again;
	struct process process;
};

static struct test *tests, **tests_end = &tests;
static const char *profiles[PROFILES];
static int profile_count;
static bool verbose;
/* Most tests wait rather than work: more of them than there are processors. */
static int at_once = 4;
static int passed, failed, skipped, repeated;

/* ---- Registration ---- */

void test_register(struct test *test)
{
	test->file = base_name(test->file);
	*tests_end = test;
	tests_end = &test->next;
}

/* ---- Running ---- */

static void choose_engine(const char *profile)
{
	setenv("PROA_ENGINE", test_engine(), 1);
	if (strcmp(profile, "io_uring-basic") == 0)
		setenv("PROA_URING_OFF", "all", 1);
	else if (strncmp(profile, "io_uring-no-", 12) == 0) /* one feature off */
		setenv("PROA_URING_OFF", profile + 12, 1);
	else
		unsetenv("PROA_URING_OFF");
}

static struct test *find_test(const char *name)
{
	struct test *test = tests;

	while (test != NULL && strcmp(test->name, name) != 0)
		test = test->next;
	return test;
}

/* Is the engine there at all? Its reason, if not, in the report. */
static void probe(void)
{
	struct proa_port *port;

	if (proa_port_open(NULL, &port) < 0)
		snprintf(report->reason, sizeof(report->reason), "%s", proa_port_open_why());
	else if (!test_engine_is(proa_engine_name(port)))
		snprintf(report->reason, sizeof(report->reason), "a port opens with %s instead",
			proa_engine_name(port));
	report->ended = true;
	process_exit(report->reason[0] != '\0');
}

#ifdef _WIN32
static const bool is_windows = true;
#else
static const bool is_windows = false;
#endif

/* What a test's own process does. */
static void run_test(const char *name)
{
	const struct test *test = name != NULL ? find_test(name) : NULL;
	struct descriptors *note;
	int before, after;

	choose_engine(current_profile);
	if (test == NULL)
		probe();
	if (test->cold)
		test->run();
	/* libc and sanitizers open what they keep before the first count. */
	test_warm_up();
	before = descriptors_note(&note);
	blocks_note();
	test->run();
	after = descriptors_all();
	/* A look-up that was abandoned has its memory until its thread comes back, and the
	 * last of a child's or a worker's thread may come after what it tells. On Windows
	 * threads of the system's own pool, and their handles, stay for some seconds. */
	for (int tries = 0; tries < 120; tries++) {
		if (blocks_new() == 0 && (after <= before || !is_windows))
			break;
		test_sleep((tries < 20 ? 5 : 100) * PROA_MILLISECOND);
		after = descriptors_all();
	}
	if (blocks_new() > 0) {
		blocks_show();
		test_fail(__FILE__, __LINE__, "%d blocks of memory were not freed", blocks_new());
	}
	if (after != before) {
		descriptors_differ(note);
		test_fail(__FILE__, __LINE__,
			"%d descriptors were open before the test, %d are now", before, after);
	}
	fflush(NULL);
	report->ended = true;
	exit(0);
}

static void start(struct running *place, struct test *test)
{
	place->test = test;
	place->late = false;
	place->until = test_clock() + test->seconds * PROA_SECOND * time_factor;
	process_start(&place->process, test->name);
}

static void show_line(const char *what, const char *profile, const struct test *test)
{
	printf("%-7s %-14s rule %d (%s) %s", what, profile, test->rule, test->clause, test->name);
}

static void show_failure(
	const struct running *place, const char *profile, const struct ending *ending)
{
	const struct report *of = place->process.report;
	int line = atomic_load(&of->line);

	show_line("FAILED", profile, place->test);
	printf(": %s", place->late ? "out of time" : ending->text);
	if (line != 0)
		printf("; the last check that held: %s:%d", of->where, line);
	printf("\n");
	process_show(&place->process);
}

static void settle(struct running *place, const char *profile, const struct ending *ending)
{
	const struct test *test = place->test;

	if (!place->late && ending->code == 0) {
		matrix_add(profile, test->rule, PASSED);
		passed++;
		if (verbose) {
			show_line("ok", profile, test);
			printf("\n");
		}
	} else if (!place->late && ending->code == EXIT_SKIP) {
		matrix_skip(profile, test->rule, test->name, place->process.report->reason);
		skipped++;
		show_line("SKIPPED", profile, test);
		printf(": %s\n", place->process.report->reason);
	} else {
		matrix_add(profile, test->rule, FAILED);
		failed++;
		show_failure(place, profile, ending);
	}
	place->test = NULL;
}

/* A process that wine itself ended, neither by the test's word nor by an exception in
 * it, or that hangs, gets a second chance: each is seen once in some hundred runs of
 * wine 8. */
static bool try_again(struct running *place, const char *profile)
{
	struct test *test = place->test;

	if (!test_on_wine() || place->again || place->process.report->ended)
		return false;
	show_line("AGAIN", profile, test);
	printf(": %s\n", place->late ? "out of time" : "wine ended its process");
	process_show(&place->process);
	process_forget(&place->process);
	repeated++;
	place->again = true;
	start(place, test);
	return true;
}

/* Ends what has run too long; takes in what has ended. True if a place is free. */
static bool look_after(struct running *places, const char *profile)
{
	bool room = false;

	for (int i = 0; i < at_once; i++) {
		struct running *place = &places[i];
		struct ending ending;

		if (place->test != NULL && test_clock() > place->until) {
			place->late = true;
			process_kill(&place->process);
		}
		if (place->test != NULL && process_ended(&place->process, &ending) &&
			!try_again(place, profile)) {
			settle(place, profile, &ending);
			fflush(stdout);
			process_forget(&place->process);
			place->again = false;
		}
		room |= place->test == NULL;
	}
	return room;
}

static bool busy(const struct running *places)
{
	for (int i = 0; i < at_once; i++)
		if (places[i].test != NULL)
			return true;
	return false;
}

static void wait_for_one(const struct running *places)
{
	struct process running[AT_ONCE];
	int count = 0;

	for (int i = 0; i < at_once; i++)
		if (places[i].test != NULL)
			running[count++] = places[i].process;
	process_wait(running, count);
}

static bool chosen(const struct test *test, char **filters)
{
	char rule[16];

	snprintf(rule, sizeof(rule), "%d", test->rule);
	if (*filters == NULL)
		return true;
	for (; *filters != NULL; filters++)
		if (strcmp(*filters, rule) == 0 || strstr(test->name, *filters) != NULL ||
			strstr(test->file, *filters) != NULL)
			return true;
	return false;
}

#define PROBE_SECONDS 30

/* Runs the probe until it ends, or for its time: its ending. */
static void run_probe(struct running *place, struct ending *ending)
{
	int64_t until = test_clock() + PROBE_SECONDS * PROA_SECOND * time_factor;

	process_start(&place->process, NULL);
	place->late = false;
	while (!process_ended(&place->process, ending)) {
		if (!place->late && test_clock() > until) {
			place->late = true;
			process_kill(&place->process);
		}
		process_wait(&place->process, 1);
	}
}

/* Can the engine be tried here? If not: why, in `reason`. A probe that ends without a
 * reason of its own has found no lack, but a bug. */
static enum outcome look_for_engine(struct running *place, char *reason, size_t size)
{
	enum outcome outcome;
	struct ending ending;

	run_probe(place, &ending);
	if (test_on_wine() && !place->process.report->ended) { /* wine's own, as in try_again() */
		process_forget(&place->process);
		run_probe(place, &ending);
	}
	snprintf(reason, size, "%s", place->process.report->reason);
	outcome = ending.code == 0 ? PASSED : SKIPPED;
	if (ending.code < 0 || (ending.code != 0 && reason[0] == '\0')) {
		outcome = FAILED;
		snprintf(reason, size, "opening a port ended with %s",
			place->late ? "a hang" : ending.text);
		process_show(&place->process);
	}
	process_forget(&place->process);
	return outcome;
}

/* Cells of the matrix stay empty: it says why. */
static void tell_partial(const char *profile, char **filters)
{
	char text[256] = "asked for";
	size_t at = strlen(text);

	if (*filters == NULL)
		return;
	for (; *filters != NULL && at < sizeof(text); filters++)
		at += (size_t)snprintf(text + at, sizeof(text) - at, " %s", *filters);
	if (at < sizeof(text))
		snprintf(text + at, sizeof(text) - at, " alone: %s",
			strncmp(profile, "io_uring-no-", 12) == 0
				? "the rules that the feature touches"
			: strcmp(profile, "any") == 0
				? "the rules that show which engine a port gets, and that it works"
				: "no others were wanted");
	matrix_partial(profile, text);
}

static void run_profile(const char *profile, struct running *places, char **filters)
{
	char reason[512];

	current_profile = profile;
	tell_partial(profile, filters);
	switch (look_for_engine(&places[0], reason, sizeof(reason))) {
	case PASSED:
		break;
	case SKIPPED:
		printf("SKIPPED %-14s not available here: %s\n", profile, reason);
		matrix_missing(profile, reason);
		skipped++;
		return;
	case FAILED:
		printf("FAILED  %-14s %s\n", profile, reason);
		matrix_missing(profile, reason);
		failed++;
		return;
	}
	for (struct test *test = tests; test != NULL; test = test->next) {
		if (!chosen(test, filters))
			continue;
		while (!look_after(places, profile))
			wait_for_one(places);
		for (int i = 0; i < at_once; i++)
			if (places[i].test == NULL) {
				start(&places[i], test);
				break;
			}
	}
	while (look_after(places, profile), busy(places))
		wait_for_one(places);
}

/* ---- The command line ---- */

static void list_tests(char **filters)
{
	for (struct test *test = tests; test != NULL; test = test->next)
		if (chosen(test, filters))
			printf("rule %2d  %-28s %-44s %s\n", test->rule, test->clause, test->name,
				test->file);
}

/* By rule, then as they were registered; false if two have one name. */
static bool sort_tests(void)
{
	struct test *sorted = NULL, **end = &sorted, *next;

	for (int rule = 0; rule <= RULES; rule++)
		for (struct test **at = &tests; *at != NULL;) {
			if ((*at)->rule != rule) {
				at = &(*at)->next;
				continue;
			}
			next = *at;
			*at = next->next;
			next->next = NULL;
			*end = next;
			end = &next->next;
		}
	if (tests != NULL) {
		fprintf(stderr, "%s: there is no rule %d\n", tests->name, tests->rule);
		return false;
	}
	tests = sorted;
	for (struct test *one = tests; one != NULL; one = one->next)
		for (next = one->next; next != NULL; next = next->next)
			if (strcmp(one->name, next->name) == 0) {
				fprintf(stderr, "two tests are called %s\n", one->name);
				return false;
			}
	return true;
}

static void add_profile(const char *name)
{
	if (profile_count < PROFILES)
		profiles[profile_count++] = name;
}

static int usage(const char *program)
{
	fprintf(stderr,
		"usage: %s [-v] [--engine NAME]... [--list] [--matrix FILE [--as NAME]] "
		"[--jobs N] [--time-factor N] [filter...]\n"
		"       %s --join FILE...: one table of what --matrix has written\n"
		"A filter is a rule's number, or a part of a test's or file's name.\n",
		program, program);
	return 2;
}

struct wishes {
	bool list, join;
	const char *matrix;
	char **filters;
};

static bool read_wishes(int argc, char **argv, struct wishes *wishes)
{
	int i;

	for (i = 1; i < argc && argv[i][0] == '-'; i++) {
		if (strcmp(argv[i], "-v") == 0)
			verbose = true;
		else if (strcmp(argv[i], "--list") == 0)
			wishes->list = true;
		else if (strcmp(argv[i], "--join") == 0)
			wishes->join = true;
		else if (i + 1 < argc && strcmp(argv[i], "--engine") == 0)
			add_profile(argv[++i]);
		else if (i + 1 < argc && strcmp(argv[i], "--matrix") == 0)
			wishes->matrix = argv[++i];
		else if (i + 1 < argc && strcmp(argv[i], "--as") == 0)
			matrix_rename(argv[++i]);
		else if (i + 1 < argc && strcmp(argv[i], "--time-factor") == 0)
			time_factor = atoi(argv[++i]);
		else if (i + 1 < argc && strcmp(argv[i], "--jobs") == 0)
			at_once = atoi(argv[++i]);
		else
			return false;
	}
	wishes->filters = argv + i;
	return time_factor >= 1 && at_once >= 1 && at_once <= AT_ONCE;
}

static int join(char **paths)
{
	for (; *paths != NULL; paths++)
		if (!matrix_read(*paths)) {
			fprintf(stderr, "%s is not what --matrix writes\n", *paths);
			return 2;
		}
	matrix_print(stdout);
	return 0;
}

static void prepare_places(struct running *places)
{
	struct process all[AT_ONCE] = { 0 };

	process_prepare(all, at_once);
	for (int i = 0; i < at_once; i++)
		places[i].process = all[i];
}

int main(int argc, char **argv)
{
#ifdef _WIN32
	static const char *const usual[] = { "iocp", "poll", "select" };
#else
	static const char *const usual[] = { "io_uring", "io_uring-basic", "epoll", "poll",
		"select", "kqueue", "kqueue-plain" };
#endif
	struct running places[AT_ONCE] = { 0 };
	struct wishes wishes = { 0 };

	if (getenv("TEST_TIME_FACTOR") != NULL)
		time_factor = atoi(getenv("TEST_TIME_FACTOR"));
	if (!sort_tests())
		return 2;
	process_main(argc, argv, run_test);
	if (!read_wishes(argc, argv, &wishes))
		return usage(argv[0]);
	if (wishes.join)
		return join(wishes.filters);
	if (wishes.list) {
		list_tests(wishes.filters);
		return 0;
	}
	if (profile_count == 0)
		for (size_t i = 0; i < sizeof(usual) / sizeof(usual[0]); i++)
			add_profile(usual[i]);
	prepare_places(places);
	for (int i = 0; i < profile_count; i++)
		run_profile(profiles[i], places, wishes.filters);
	matrix_print(stdout);
	if (*wishes.filters == NULL) /* all was asked for: no cell may be empty */
		failed += matrix_holes(stdout);
	if (wishes.matrix != NULL && !matrix_write(wishes.matrix)) {
		perror(wishes.matrix);
		return 2;
	}
	if (repeated > 0)
		printf("%d run again after a crash of wine's\n", repeated);
	printf("%d passed, %d failed, %d skipped\n", passed, failed, skipped);
	return failed > 0;
}

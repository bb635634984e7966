/* The conformance tests, with one call of the library's failing, interrupted or short: each
 * test once without, which counts its calls; then once for each of these calls. Errors that
 * a program must notice come, too, so what the tests expect does not hold. What has to hold
 * all the same:
 *
 * - nothing crashes, aborts or hangs;
 * - each op that was submitted has one final completion, and none when it is not in
 *   flight (ledger.c);
 * - when a test has been led astray, its ports close; then no more of the library's memory
 *   is left than without a fault, and none of the descriptors that it keeps to itself. */
#include "fault.h"
#include "hard.h"
#include "harness.h"
#include "ledger.h"
#include "posix.h"
#include "runner.h"

#include <limits.h>

#define SITES_MOST   128
#define AT_ONCE      8 /* most of them wait */
#define BROKEN       9 /* exit code */
#define TRIES_ENOUGH 20 /* of one call, to tell whether its faults come at all */

/* A test has so long, and waits no more then; and so much longer to end. */
#define PATIENCE (700 * PROA_MILLISECOND)
#define HUNG     (40 * PROA_SECOND)

/* How many calls of one site fail in turn, evenly chosen of more; and of allocations. */
#define IN_TURN      16
#define IN_TURN_LONG 24
#define MEMORY_LONG  UINT_MAX /* all */

/* What a test's process has found without a fault: its calls, and what is left. */
struct counted {
	long blocks;
	int descriptors;
	unsigned site_count;
	struct {
		char name[40];
		int ways[FAULT_WAYS + 1];
		unsigned calls;
	} sites[SITES_MOST];
};

struct examined {
	struct test *test;
	struct counted counted; /* no sites: nothing is to be tried */
	int64_t took;
	struct examined *next;
};

/* What the runner and a test's process both have. */
struct common {
	bool counts;
	struct fault_plan plan; /* if it does not */
	struct counted counted; /* by the test; what it has been without a fault */
};

struct place {
	struct examined *one; /* NULL: free */
	struct common *common;
	bool again;
	int64_t since;
	struct process process;
};

static struct {
	bool verbose, longer, memory; /* allocations alone, each one */
	const char *engine, *plan;
	uint64_t seed;
	unsigned part, tests; /* one case, and one test, in so many */
	int64_t most; /* tests that take longer are left out */
	int jobs; /* at once */
	char **filters;
} wishes = { .seed = 1, .part = 1, .tests = 1, .most = INT64_MAX, .jobs = AT_ONCE };

static struct place places[AT_ONCE];
static struct examined *all, **all_end = &all;
#ifdef _WIN32
static const char *const profiles[] = { "iocp", "poll", "select" };
#elif defined PROA_HAVE_KQUEUE
static const char *const profiles[] = { "kqueue" };
#else
static const char *const profiles[] = { "io_uring", "io_uring-basic", "epoll", "poll", "select" };
#endif
static unsigned passed, failed, skipped, missed;

/* In a test's process. */
static struct common *mine;
static pthread_t main_thread;
static pid_t main_process;

void test_register(struct test *test)
{
	struct examined *one = calloc(1, sizeof(*one));

	if (one == NULL)
		abort();
	test->file = base_name(test->file);
	one->test = test;
	*all_end = one;
	all_end = &one->next;
}

/* ---- in a test's process --------------------------------------------------------- */

static void broken(const char *what)
{
	fprintf(stderr, "%s\n", what);
	process_exit(BROKEN);
}

static void note_calls(struct counted *counted)
{
	struct fault_site *sites[SITES_MOST];
	unsigned count = faults_sites(sites, SITES_MOST);

	for (unsigned i = 0; i < count; i++) {
		snprintf(counted->sites[i].name, sizeof(counted->sites[i].name), "%s",
			sites[i]->name);
		memcpy(counted->sites[i].ways, sites[i]->ways, sizeof(sites[i]->ways));
		counted->sites[i].calls = atomic_load(&sites[i]->calls);
	}
	counted->site_count = count;
}

/* What is left once all ports and pools are closed. Look-ups that were abandoned end by
 * themselves. */
static void check_left(void)
{
	const struct counted *allowed = &mine->counted;
	char text[96];

	for (int i = 0; i < 3000 && faults_blocks() > allowed->blocks; i++)
		test_sleep(PROA_MILLISECOND);
	if (faults_blocks() > allowed->blocks) {
		snprintf(text, sizeof(text), "%ld blocks of memory are left, without a fault %ld",
			faults_blocks(), allowed->blocks);
		broken(text);
	}
	if (faults_descriptors() > allowed->descriptors) {
		snprintf(text, sizeof(text), "%d descriptors of the library's are left open",
			faults_descriptors());
		broken(text);
	}
}

static _Noreturn void finish(void)
{
	unsigned come = faults_come();

	faults_end();
	if (ledger_end())
		check_left();
	atomic_store(&report->line, (int)come);
	report->ended = true;
	process_exit(0);
}

/* A check of the test's does not hold. */
static void astray(void)
{
	if (getpid() != main_process)
		return;
	while (!pthread_equal(pthread_self(), main_thread))
		test_sleep(PROA_SECOND); /* the test's own thread finds out by itself */
	if (mine->counts)
		return;
	finish();
}

static void on_time(void)
{
	time_is_up = 1;
	ledger_wake();
}

static void before_wait(void)
{
	if (time_is_up && !mine->counts)
		finish();
}

static struct examined *examined_named(const char *name)
{
	struct examined *one = all;

	while (one != NULL && strcmp(one->test->name, name) != 0)
		one = one->next;
	return one;
}

static void run_test(const char *name)
{
	struct counted *counted;

	mine = common_mine();
	counted = &mine->counted;
	setenv("PROA_ENGINE", test_engine(), 1);
	setenv("PROA_URING_OFF", strcmp(current_profile, "io_uring-basic") == 0 ? "all" : "", 1);
	main_thread = pthread_self();
	main_process = getpid();
	test_astray = astray;
	ledger_begin(broken, before_wait);
	if (!mine->counts)
		lateness_begin(PATIENCE * time_factor, on_time);
	faults_begin(mine->counts ? NULL : &mine->plan);
	examined_named(name)->test->run();
	if (!mine->counts)
		finish();
	faults_end();
	note_calls(counted);
	if (!ledger_end())
		broken("a port of another thread's is left open");
	/* Abandoned look-ups. */
	for (int i = 0; i < 100; i++) {
		long before = faults_blocks();

		test_sleep(PROA_MILLISECOND);
		if (faults_blocks() == before)
			break;
	}
	counted->blocks = faults_blocks();
	counted->descriptors = faults_descriptors();
	report->ended = true;
	process_exit(0);
}

/* ---- the runner -------------------------------------------------------------------- */

static void show(const char *what, const struct place *place, const char *how)
{
	char plan[96] = "no fault";

	if (!place->common->counts)
		faults_tell(&place->common->plan, plan, sizeof(plan));
	printf("%-7s %-14s %s %s: %s\n", what, current_profile, place->one->test->name, plan, how);
}

static void place_begin(struct place *place)
{
	place->since = test_clock();
	common_choose((int)(place - places));
	process_start(&place->process, place->one->test->name);
}

static void place_start(struct place *place, struct examined *one, const struct fault_plan *plan)
{
	place->one = one;
	place->again = false;
	place->common->counts = plan == NULL;
	if (plan != NULL)
		place->common->plan = *plan;
	place->common->counted = one->counted;
	place_begin(place);
}

/* Of each call that has been made to fail: how often, and how often it did. */
static struct tally {
	char name[40];
	unsigned tried, come;
} tallies[2 * SITES_MOST];

static void tally_count(const char *name, bool has_come)
{
	struct tally *tally = tallies;

	while (tally->name[0] != '\0' && strcmp(tally->name, name) != 0)
		if (++tally == tallies + sizeof(tallies) / sizeof(tallies[0]))
			abort();
	snprintf(tally->name, sizeof(tally->name), "%s", name);
	tally->tried++;
	tally->come += has_come;
}

/* As the conformance tests do: what wine ended by itself, or what hangs, has a second
 * chance there. */
static bool try_again(struct place *place)
{
	if (!test_on_wine() || place->again || place->process.report->ended)
		return false;
	show("AGAIN", place, "wine ended its process, or it hung");
	process_show(&place->process);
	process_forget(&place->process);
	place->again = true;
	place_begin(place);
	return true;
}

static void place_settle(struct place *place, struct ending *ending)
{
	struct examined *one = place->one;
	bool counts = place->common->counts;

	if (!counts && ended_by_own_signal(ending))
		*ending = (struct ending) { 0 };
	else if (ending->code != 0 && ending->code != EXIT_SKIP && ending->code != BROKEN &&
		 try_again(place))
		return;
	if (ending->code == 0 && counts) {
		one->counted = place->common->counted;
		one->took = test_clock() - place->since;
	} else if (ending->code == EXIT_SKIP && counts) {
		skipped++;
		show("SKIPPED", place, place->process.report->reason);
	} else if (ending->code == EXIT_SKIP) {
		/* By the fault: what it needs is not there. */
	} else if (ending->code == 0) {
		bool has_come = atomic_load(&place->process.report->line) > 0;

		passed++;
		missed += !has_come;
		tally_count(place->common->plan.name, has_come);
		if (wishes.verbose)
			show("ok", place, has_come ? "" : "the fault did not come");
	} else if (counts && ending->code == EXIT_FAILED) {
		/* Some look at the clock, and the machine is busy. */
		skipped++;
		show("SKIPPED", place,
			"it fails by itself, which is for the conformance tests to judge");
		process_show(&place->process);
	} else {
		failed++;
		show("FAILED", place, ending->text);
		process_show(&place->process);
		fflush(stdout);
	}
	process_forget(&place->process);
	place->one = NULL;
}

static void place_watch(struct place *place)
{
	int64_t patience =
		place->common->counts ? place->one->test->seconds * PROA_SECOND : PATIENCE;

	if (test_clock() - place->since > (patience + HUNG) * time_factor)
		process_kill(&place->process);
}

/* A free place. */
static struct place *place_wait(bool all_of_them)
{
	struct process running[AT_ONCE];

	for (;;) {
		struct place *free = NULL;
		struct ending ending;
		int busy = 0;

		for (int i = 0; i < wishes.jobs; i++) {
			struct place *place = &places[i];

			if (place->one != NULL && process_ended(&place->process, &ending))
				place_settle(place, &ending);
			if (place->one == NULL) {
				free = place;
				continue;
			}
			place_watch(place);
			running[busy++] = place->process;
		}
		if (all_of_them ? busy == 0 : free != NULL)
			return free;
		process_wait(running, busy);
	}
}

/* One in so many. Which ones hangs on the seed and on what is asked about alone: calls are
 * not always as many. */
static bool is_sampled(unsigned part, const char *test, const char *call, unsigned number)
{
	uint64_t x = (wishes.seed + 1) * UINT64_C(0x9e3779b97f4a7c15) ^ number;

	for (; *test != '\0'; test++)
		x = x * 131 + (unsigned char)*test;
	for (; *call != '\0'; call++)
		x = x * 137 + (unsigned char)*call;
	x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
	return (x >> 33) % part == 0;
}

/* Parts of clauses and names; all calls, or one. */
static const struct {
	const char *text, *call, *why;
} left_out[] = {
	{ "misuse", NULL, "calls are come back from by a jump" },
	{ "submit_allocates_nothing", NULL, "the ledger does" },
	{ "op_is_the_callers_in", NULL, "it goes on with what its callbacks have freed" },
	{ "stuck_lookups_are_abandoned", NULL,
		"what is stuck has memory until the test lets it go" },
	/* They make it one of an old kernel's, which closes when its ops have ended. */
	{ "io_uring_forbidden_at_work", "get_probe_ring", "what the kernel has it waits for" },
	{ "io_uring_forbidden_at_work", "io_uring_setup", "what the kernel has it waits for" },
};

static bool is_left_out(const struct test *test, const char *call)
{
	for (size_t i = 0; i < sizeof(left_out) / sizeof(left_out[0]); i++) {
		if (left_out[i].call != NULL &&
			(call == NULL || strcmp(left_out[i].call, call) != 0))
			continue;
		if (strstr(test->clause, left_out[i].text) != NULL ||
			strstr(test->name, left_out[i].text) != NULL)
			return true;
	}
	return false;
}

static bool is_chosen(const struct test *test)
{
	if (is_left_out(test, NULL))
		return false;
	if (*wishes.filters == NULL)
		return true;
	for (char **filter = wishes.filters; *filter != NULL; filter++)
		if (strstr(test->name, *filter) != NULL)
			return true;
	return false;
}

static bool is_memory(const char *name)
{
	return strcmp(name, "malloc") == 0 || strcmp(name, "calloc") == 0 ||
	       strcmp(name, "realloc") == 0;
}

static void fail_site(struct examined *one, const char *name, const int *how, unsigned calls)
{
	bool all_of_them = is_memory(name) && (wishes.longer || wishes.memory);
	unsigned most = all_of_them ? MEMORY_LONG : wishes.longer ? IN_TURN_LONG : IN_TURN;
	unsigned step = calls <= most ? 1 : (calls + most - 1) / most, ways = 0;
	struct fault_plan plan = { 0 };

	if (is_left_out(one->test, name))
		return;
	snprintf(plan.name, sizeof(plan.name), "%s", name);
	while (how[ways] != 0)
		ways++;
	for (unsigned nth = 1; nth <= calls; nth += step)
		for (unsigned way = 0; way < ways; way++) {
			/* All ways of the first call; then one after another. */
			if (nth > 1 && way != (nth / step + wishes.seed) % ways)
				continue;
			plan.nth = nth;
			plan.how = how[way];
			if (is_sampled(wishes.part, one->test->name, name, nth * FAULT_WAYS + way))
				place_start(place_wait(false), one, &plan);
		}
}

static void run_profile(void)
{
	unsigned before = passed, failures = failed;
	int64_t begun = test_clock();
	struct fault_plan plan;

	for (struct examined *one = all; one != NULL; one = one->next) {
		one->counted.site_count = 0;
		if (is_chosen(one->test) && is_sampled(wishes.tests, one->test->name, "", 0))
			place_start(place_wait(false), one, NULL);
	}
	place_wait(true);
	for (struct examined *one = all; one != NULL; one = one->next) {
		if (one->counted.site_count == 0 || one->took > wishes.most)
			continue;
		if (faults_parse(&plan, wishes.plan)) {
			place_start(place_wait(false), one, &plan);
			continue;
		}
		for (unsigned i = 0; i < one->counted.site_count; i++)
			if (!wishes.memory || is_memory(one->counted.sites[i].name))
				fail_site(one, one->counted.sites[i].name,
					one->counted.sites[i].ways, one->counted.sites[i].calls);
	}
	place_wait(true);
	printf("%-15s %5u passed, %u failed, %ld s\n", current_profile, passed - before,
		failed - failures, (long)((test_clock() - begun) / PROA_SECOND));
	fflush(stdout);
}

/* Threads may call in another order, and a test may be out of its time before its fault is
 * due, more often on a busy machine. But if very many are missed, or all of one call, none
 * may have come. */
static void judge_missed(void)
{
	printf("%u faults did not come\n", missed);
	if ((wishes.plan == NULL && missed * 4 > passed) || (missed > 0 && missed == passed)) {
		printf("FAILED: too many of them\n");
		failed++;
	}
	for (const struct tally *tally = tallies; tally->name[0] != '\0'; tally++)
		if (tally->come == 0 && tally->tried >= TRIES_ENOUGH) {
			printf("FAILED: of %u faults of %s none has come\n", tally->tried,
				tally->name);
			failed++;
		}
}

static int usage(void)
{
	fprintf(stderr,
		"usage: conformance-hard [-v] [--long | --memory] [--seed N] [--part N]\n"
		"                        [--tests N] [--most MS] [--jobs N] [--engine NAME]\n"
		"                        [--plan CALL:N:ERROR] [TEST...]\n");
	return 2;
}

static bool read_wishes(int argc, char **argv)
{
	int i;

	for (i = 1; i < argc && argv[i][0] == '-'; i++) {
		if (strcmp(argv[i], "-v") == 0)
			wishes.verbose = true;
		else if (strcmp(argv[i], "--long") == 0)
			wishes.longer = true;
		else if (strcmp(argv[i], "--memory") == 0)
			wishes.memory = true;
		else if (i + 1 == argc)
			return false;
		else if (strcmp(argv[i], "--seed") == 0)
			wishes.seed = strtoull(argv[++i], NULL, 0);
		else if (strcmp(argv[i], "--part") == 0)
			wishes.part = (unsigned)strtoul(argv[++i], NULL, 10);
		else if (strcmp(argv[i], "--tests") == 0)
			wishes.tests = (unsigned)strtoul(argv[++i], NULL, 10);
		else if (strcmp(argv[i], "--most") == 0)
			wishes.most = atoi(argv[++i]) * PROA_MILLISECOND;
		else if (strcmp(argv[i], "--jobs") == 0)
			wishes.jobs = atoi(argv[++i]);
		else if (strcmp(argv[i], "--engine") == 0)
			wishes.engine = argv[++i];
		else if (strcmp(argv[i], "--plan") == 0)
			wishes.plan = argv[++i];
		else
			return false;
	}
	wishes.filters = argv + i;
	return wishes.part > 0 && wishes.tests > 0 && wishes.jobs > 0 && wishes.jobs <= AT_ONCE;
}

int main(int argc, char **argv)
{
	struct process processes[AT_ONCE] = { 0 };
	struct common *common;

	if (getenv("TEST_TIME_FACTOR") != NULL)
		time_factor = atoi(getenv("TEST_TIME_FACTOR"));
	process_main(argc, argv, run_test);
	if (!read_wishes(argc, argv) || time_factor < 1)
		return usage();
	for (size_t i = 0; i < sizeof(left_out) / sizeof(left_out[0]); i++)
		printf("without tests of %s%s%s: %s\n", left_out[i].text,
			left_out[i].call != NULL ? ", and faults of " : "",
			left_out[i].call != NULL ? left_out[i].call : "", left_out[i].why);
	process_prepare(processes, AT_ONCE);
	common = common_make(AT_ONCE, sizeof(*common));
	if (common == NULL) {
		perror("memory for what is common");
		return 2;
	}
	for (int i = 0; i < AT_ONCE; i++) {
		places[i].process = processes[i];
		places[i].common = &common[i];
	}
	printf("seed %llu%s; one test in %u, one case in %u\n", (unsigned long long)wishes.seed,
		wishes.memory   ? ", each allocation"
		: wishes.longer ? ", all calls"
				: "",
		wishes.tests, wishes.part);
	for (size_t i = 0; i < sizeof(profiles) / sizeof(profiles[0]); i++) {
		if (wishes.engine != NULL && strcmp(wishes.engine, profiles[i]) != 0)
			continue;
		current_profile = profiles[i];
		run_profile();
	}
	judge_missed();
	printf("%u passed, %u failed, %u skipped\n", passed, failed, skipped);
	return failed > 0;
}

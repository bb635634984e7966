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
#include "harness.h"
#include "ledger.h"
#include "posix.h"
#include "runner.h"

#include <limits.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#define SITES_MOST   128
#define AT_ONCE      8 /* most of them wait */
#define BROKEN       3 /* exit code */
#define TRIES_ENOUGH 20 /* of one call, to tell whether its faults come at all */

/* A test has so long, and is told then to wait no more; and so long to end in all. */
#define PATIENCE (700 * PROA_MILLISECOND)
#define HUNG     (40 * PROA_SECOND)

/* How many calls of one site fail in turn, evenly chosen of more; and of allocations. */
#define IN_TURN      16
#define IN_TURN_LONG 24
#define MEMORY_LONG  UINT_MAX /* all */

#define TELLS_TIME (SIGRTMAX - 2)

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
	struct counted *counted; /* shared with the test's process; NULL: not counted */
	int64_t took;
	struct examined *next;
};

struct place {
	struct examined *one; /* NULL: free */
	struct fault_plan plan;
	bool counts;
	int64_t since, told;
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
#ifdef PROA_HAVE_KQUEUE
static const char *const profiles[] = { "kqueue" };
#else
static const char *const profiles[] = { "io_uring", "io_uring-basic", "epoll", "poll", "select" };
#endif
static unsigned passed, failed, skipped, missed;

/* In a test's process. */
static const struct place *mine;
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
	fflush(NULL);
	_exit(BROKEN);
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
	const struct counted *allowed = mine->one->counted;
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
	atomic_store(&mine->process.report->line, (int)come);
	mine->process.report->ended = true;
	fflush(NULL);
	_exit(0);
}

/* A check of the test's does not hold. */
static void astray(void)
{
	if (getpid() != main_process)
		return;
	while (!pthread_equal(pthread_self(), main_thread))
		pause(); /* the test's own thread finds out by itself */
	if (mine->counts)
		return;
	finish();
}

static void on_time(int number)
{
	(void)number;
	time_is_up = 1; /* and what blocks is interrupted */
	ledger_wake();
}

static void before_wait(void)
{
	if (time_is_up && !mine->counts)
		finish();
}

int __real_pthread_join(pthread_t thread, void **out);
int __wrap_pthread_join(pthread_t thread, void **out);
/* A peer's thread may wait for what never comes. */
int __wrap_pthread_join(pthread_t thread, void **out)
{
	struct timespec until;
	int error;

	if (ledger_is_inside() || !pthread_equal(pthread_self(), main_thread))
		return __real_pthread_join(thread, out);
	do {
		clock_gettime(CLOCK_REALTIME, &until);
		until.tv_nsec += 20 * 1000 * 1000;
		until.tv_sec += until.tv_nsec / 1000000000;
		until.tv_nsec %= 1000000000;
		error = pthread_timedjoin_np(thread, out, &until);
	} while (error == ETIMEDOUT && !time_is_up);
	if (error == ETIMEDOUT)
		test_fail(__FILE__, __LINE__, "a thread was waited for in vain");
	return error;
}

static void run_test(const char *name)
{
	struct counted *counted = mine->one->counted;

	(void)name;
	setenv("PROA_ENGINE", test_engine(), 1);
	setenv("PROA_URING_OFF", strcmp(current_profile, "io_uring-basic") == 0 ? "all" : "", 1);
	main_thread = pthread_self();
	main_process = getpid();
	test_astray = astray;
	ledger_begin(broken, before_wait);
	faults_begin(mine->counts ? NULL : &mine->plan);
	mine->one->test->run();
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
	fflush(NULL);
	_exit(0);
}

/* ---- the runner -------------------------------------------------------------------- */

static void show(const char *what, const struct place *place, const char *how)
{
	char plan[96] = "no fault";

	if (!place->counts)
		faults_tell(&place->plan, plan, sizeof(plan));
	printf("%-7s %-14s %s %s: %s\n", what, current_profile, place->one->test->name, plan, how);
}

static void place_start(struct place *place, struct examined *one, const struct fault_plan *plan)
{
	place->one = one;
	place->counts = plan == NULL;
	if (plan != NULL)
		place->plan = *plan;
	place->since = place->told = test_clock();
	mine = place;
	process_start(&place->process, one->test->name);
}

/* Tests of signals raise them; the library may have been refused to take them. */
static bool is_own_signal(const struct ending *ending)
{
	static const int raised[] = { SIGHUP, SIGINT, SIGQUIT, SIGUSR1, SIGUSR2, SIGTERM, SIGALRM };
	int number = 0;

	if (ending->code >= 0 || sscanf(ending->text, "signal %d", &number) != 1)
		return false;
	for (size_t i = 0; i < sizeof(raised) / sizeof(raised[0]); i++)
		if (raised[i] == number)
			return true;
	return false;
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

static void place_settle(struct place *place, struct ending *ending)
{
	struct examined *one = place->one;

	if (!place->counts && is_own_signal(ending))
		*ending = (struct ending) { 0 };
	if (ending->code == EXIT_SKIP || (ending->code == 0 && place->counts)) {
		if (ending->code == EXIT_SKIP && place->counts) {
			skipped++;
			one->counted->site_count = 0;
			show("SKIPPED", place, place->process.report->reason);
		}
	} else if (ending->code == 0) {
		bool has_come = atomic_load(&place->process.report->line) > 0;

		passed++;
		missed += !has_come;
		tally_count(place->plan.name, has_come);
		if (wishes.verbose)
			show("ok", place, has_come ? "" : "the fault did not come");
	} else if (place->counts && ending->code == EXIT_FAILED) {
		/* Some look at the clock, and the machine is busy. */
		skipped++;
		one->counted->site_count = 0;
		show("SKIPPED", place,
			"it fails by itself, which is for the conformance tests to judge");
		process_show(&place->process);
	} else {
		failed++;
		if (place->counts)
			one->counted->site_count = 0;
		show("FAILED", place, ending->text);
		process_show(&place->process);
		fflush(stdout);
	}
	if (place->counts)
		one->took = test_clock() - place->since;
	process_forget(&place->process);
	place->one = NULL;
}

static void place_watch(struct place *place)
{
	int64_t now = test_clock(), ran = now - place->since;
	int64_t patience = place->counts ? place->one->test->seconds * PROA_SECOND : PATIENCE;
	pid_t pid = (pid_t)place->process.id;

	if (ran > (patience + HUNG) * time_factor)
		process_kill(&place->process);
	else if (ran > patience * time_factor && now - place->told > 100 * PROA_MILLISECOND) {
		place->told = now;
		tgkill(pid, pid, TELLS_TIME);
	}
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

/* Parts of clauses and names. */
static const struct {
	const char *text, *why;
} left_out[] = {
	{ "misuse", "calls are come back from by a jump" },
	{ "submit_allocates_nothing", "the ledger does" },
	{ "op_is_the_callers_in", "it goes on with what its callbacks have freed" },
	{ "stuck_lookups_are_abandoned", "what is stuck has memory until the test lets it go" },
};

static bool is_chosen(const struct test *test)
{
	for (size_t i = 0; i < sizeof(left_out) / sizeof(left_out[0]); i++)
		if (strstr(test->clause, left_out[i].text) != NULL ||
			strstr(test->name, left_out[i].text) != NULL)
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
		one->counted->site_count = 0;
		if (is_chosen(one->test) && is_sampled(wishes.tests, one->test->name, "", 0))
			place_start(place_wait(false), one, NULL);
	}
	place_wait(true);
	for (struct examined *one = all; one != NULL; one = one->next) {
		if (one->counted->site_count == 0 || one->took > wishes.most)
			continue;
		if (faults_parse(&plan, wishes.plan)) {
			place_start(place_wait(false), one, &plan);
			continue;
		}
		for (unsigned i = 0; i < one->counted->site_count; i++)
			if (!wishes.memory || is_memory(one->counted->sites[i].name))
				fail_site(one, one->counted->sites[i].name,
					one->counted->sites[i].ways, one->counted->sites[i].calls);
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
	struct sigaction action = { .sa_handler = on_time };

	if (getenv("TEST_TIME_FACTOR") != NULL)
		time_factor = atoi(getenv("TEST_TIME_FACTOR"));
	process_main(argc, argv, run_test);
	if (!read_wishes(argc, argv) || time_factor < 1)
		return usage();
	for (struct examined *one = all; one != NULL; one = one->next) {
		one->counted = mmap(NULL, sizeof(*one->counted), PROT_READ | PROT_WRITE,
			MAP_SHARED | MAP_ANONYMOUS, -1, 0);
		if (one->counted == MAP_FAILED) {
			perror("mmap");
			return 2;
		}
	}
	for (size_t i = 0; i < sizeof(left_out) / sizeof(left_out[0]); i++)
		printf("without tests of %s: %s\n", left_out[i].text, left_out[i].why);
	process_prepare(processes, AT_ONCE);
	sigaction(
		TELLS_TIME, &action, NULL); /* here, for a test's process begins slowly at times */
	for (int i = 0; i < AT_ONCE; i++)
		places[i].process = processes[i];
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

/* Runs each body once without faults, which counts its calls; then once for each of
 * these calls with that one failing, and under seeds of many faults: each time in a
 * process of its own (see cases.h), with a limit in time.
 *
 * A case passes if the body's judge finds nothing wrong, and if after it the same
 * body runs well without faults in the same process, and what is left then, in
 * blocks of memory, descriptors and threads, is what is left without any fault. */
#include "bodies.h"
#include "body.h"
#include "fault.h"
#include "cases.h"

#include <stdlib.h>
#include <string.h>

#include "posix.h"

/* How many calls of one site fail in turn; where there are more, some of them. */
#define IN_TURN      12
#define IN_TURN_LONG 400
#define MEMORY_MOST  100 /* ... but of allocations each one */
#define SEEDS        6
#define SEEDS_LONG   200

/* Are calls refused from then on, too? Under wine a case takes long enough as it is. */
#ifdef _WIN32
#	define REFUSED_ON false
#else
#	define REFUSED_ON true
#endif

#ifdef _WIN32
#	define ON_UNIX(name, why)       \
		{                        \
#			name, NULL, why \
		}
#else
#	define ON_UNIX(name, why)               \
		{                                \
#			name, body_##name, NULL \
		}
#endif

const struct body bodies[] = {
	{ "echo", body_echo, NULL },
	{ "echo_small_pool", body_echo_small_pool, NULL },
	{ "mail", body_mail, NULL },
	{ "datagrams", body_datagrams, NULL },
	{ "control", body_control, NULL },
	{ "flush", body_flush, NULL },
	{ "foreign_sockets", body_foreign_sockets, NULL },
	{ "foreign_pipe", body_foreign_pipe, NULL },
	{ "loans", body_loans, NULL },
	{ "late", body_late, NULL },
	{ "many", body_many, NULL },
	{ "cancels", body_cancels, NULL },
	{ "files", body_files, NULL },
	{ "edges", body_edges, NULL },
	{ "sendfile", body_sendfile, NULL },
	{ "chains", body_chains, NULL },
	{ "timers", body_timers, NULL },
	{ "jobs", body_jobs, NULL },
	{ "resolve", body_resolve, NULL },
	{ "processes", body_processes, NULL },
	{ "kill", body_kill, NULL },
	{ "signals", body_signals, NULL },
	ON_UNIX(fork, "there is no fork"),
	ON_UNIX(outer_loop, "a port has no descriptor"),
	ON_UNIX(positions, "the calls are those of files with a position"),
	ON_UNIX(gathers, "no call writes several pieces to a pipe"),
	ON_UNIX(terminal, "no terminal can be made"),
	ON_UNIX(packets, "no stream keeps messages apart"),
	ON_UNIX(overlaps, "handles of children have no numbers of their own"),
	ON_UNIX(older, "it is about older kernels of Linux"),
	ON_UNIX(cold, "the system does not tell what lies in its cache"),
};
const unsigned body_count = sizeof bodies / sizeof bodies[0];

static const struct profile profiles[] = {
	{ "iocp", "iocp", "" },
	{ "io_uring", "io_uring", "" },
	{ "io_uring-basic", "io_uring", "all" },
	{ "epoll", "epoll", "" },
	{ "poll", "poll", "" },
	{ "select", "select", "" },
	{ "kqueue", "kqueue", "" },
};
#define PROFILES (sizeof profiles / sizeof profiles[0])

const struct body *body_named(const char *name)
{
	for (unsigned i = 0; i < body_count; i++)
		if (strcmp(bodies[i].name, name) == 0)
			return &bodies[i];
	return NULL;
}

const struct profile *profile_named(const char *name)
{
	for (size_t i = 0; i < PROFILES; i++)
		if (strcmp(profiles[i].name, name) == 0)
			return &profiles[i];
	return NULL;
}

static struct {
	bool verbose, longer, first;
	const char *body, *engine, *plan;
	uint64_t seed;
	unsigned part; /* one case in so many */
} wishes = { .seed = 1, .part = 1 };

static struct slot slots[SLOTS];
static unsigned passed, failed, skipped, missed, offered;
struct left expected;
const struct profile *profile;
char folder[160];

const char *scratch_path(const char *name)
{
	static char path[200];

	snprintf(path, sizeof path, "%s/%ld-%s", folder, (long)getpid(), name);
	return path;
}

/* ---- in a case's process --------------------------------------------------------------- */

/* An error is no surprise: 0 if none may be seen. */
static int judged(const struct fault_plan *plan)
{
	if (plan->nth == 0)
		return plan->soft ? 0 : -1;
	return faults_is_soft(plan->name, plan->how) ? 0 : plan->how;
}

void case_note(struct counted *counted)
{
	struct fault_site *sites[SITES_MOST];
	unsigned count = faults_sites(sites, SITES_MOST);

	for (unsigned i = 0; i < count; i++) {
		snprintf(counted->sites[i].name, sizeof counted->sites[i].name, "%s",
			sites[i]->name);
		memcpy(counted->sites[i].ways, sites[i]->ways, sizeof sites[i]->ways);
		counted->sites[i].calls = counted->sites[i].again = atomic_load(&sites[i]->calls);
	}
	counted->site_count = count;
}

void case_run(const struct body *body, const struct fault_plan *plan, struct counted *counted)
{
	judge_begin(plan == NULL ? 0 : judged(plan));
	faults_begin(plan);
	body->run();
	faults_end();
	counted->come = faults_come();
	judge_begin(0);
}

/* ---- the runner ------------------------------------------------------------------------- */

static void show(const char *what, const struct slot *slot, const char *how)
{
	char plan[96];

	faults_tell(&slot->plan, plan, sizeof plan);
	printf("%-7s %-15s %-16s %s: %s\n", what, profile->name, slot->body->name, plan, how);
	process_show(slot);
	fflush(stdout);
}

static void slot_start(struct slot *slot, enum case_kind kind, bool again)
{
	memset(slot->counted, 0, sizeof *slot->counted);
	fflush(stdout);
	slot->kind = kind;
	slot->again = again;
	process_start(slot, kind);
	slot->busy = true;
}

static const char *called[SITES_MOST];
static unsigned called_count;

static bool is_called(const char *name)
{
	for (unsigned i = 0; i < called_count; i++)
		if (strcmp(called[i], name) == 0)
			return true;
	return false;
}

static void note_called(const struct counted *counted)
{
	for (unsigned i = 0; i < counted->site_count; i++)
		if (!is_called(counted->sites[i].name) && called_count < SITES_MOST)
			called[called_count++] = strdup(counted->sites[i].name);
}

static void settle_one(void)
{
	char how[64];
	struct slot *slot = process_wait(slots, how, sizeof how);

	slot->busy = false;
	if (strncmp(how, "it hung", 7) == 0 && !slot->again && process_may_hang()) {
		show("AGAIN", slot, how);
		slot_start(slot, slot->kind, true);
		return;
	}
	if (how[0] != '\0') {
		failed++;
		show("FAILED", slot, how);
		return;
	}
	passed++;
	note_called(slot->counted);
	if (slot->counted->come == 0 && slot->plan.nth > 0)
		missed++;
	if (wishes.verbose) {
		char plan[96];

		faults_tell(&slot->plan, plan, sizeof plan);
		printf("ok      %-15s %-16s %s: %u came\n", profile->name, slot->body->name, plan,
			slot->counted->come);
	}
}

static bool is_memory(const char *name)
{
	return strcmp(name, "malloc") == 0 || strcmp(name, "calloc") == 0 ||
	       strcmp(name, "realloc") == 0;
}

/* One in so many, which ones by the seed. */
static bool is_sampled(void)
{
	uint64_t x = (wishes.seed + 1) * UINT64_C(0x9e3779b97f4a7c15) ^ ++offered;

	x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
	return wishes.plan != NULL || (x >> 33) % wishes.part == 0;
}

/* A call's way that this engine has not had yet: those are never left out. */
static bool is_new(const struct fault_plan *plan)
{
	static const struct profile *of;
	static struct {
		char name[sizeof plan->name];
		int how;
	} had[2 * SITES_MOST * FAULT_WAYS];
	static size_t count;

	if (of != profile)
		count = 0;
	of = profile;
	for (size_t i = 0; i < count; i++)
		if (had[i].how == plan->how && strcmp(had[i].name, plan->name) == 0)
			return false;
	if (count == sizeof had / sizeof had[0])
		abort();
	memcpy(had[count].name, plan->name, sizeof had[count].name);
	had[count++].how = plan->how;
	return true;
}

static bool is_wanted(const struct fault_plan *plan)
{
	bool sampled = is_sampled(), of_count = plan->nth > 0;

	return (of_count && is_new(plan)) || sampled || (of_count && is_memory(plan->name));
}

static void add_case(const struct body *body, const struct fault_plan *plan, enum case_kind kind)
{
	if (!is_wanted(plan))
		return;
	for (;;) {
		for (int i = 0; i < SLOTS; i++)
			if (!slots[i].busy) {
				slots[i].body = body;
				slots[i].plan = *plan;
				slot_start(&slots[i], kind, false);
				return;
			}
		settle_one();
	}
}

static void await_cases(void)
{
	for (int i = 0; i < SLOTS; i++)
		while (slots[i].busy)
			settle_one();
}

#ifndef _WIN32
/* Calls that bodies may not come to, and why. */
static const struct {
	const char *name, *why;
} excused[] = {
	{ "uring_ftruncate", "Linux 6.9" },
	{ "uring_mkdirat", "Linux 5.15" },
	{ "uring_renameat", "Linux 5.11" },
	{ "uring_unlinkat", "Linux 5.11" },
	{ "unregister_buf_ring", "Linux 5.19" },
};
#	define EXCUSED (sizeof excused / sizeof excused[0])
#endif

static const char *excuse_for(const char *name)
{
#ifndef _WIN32
	for (size_t i = 0; i < EXCUSED; i++)
		if (strcmp(excused[i].name, name) == 0)
			return excused[i].why;
#endif
	(void)name;
	return NULL;
}

/* Calls that can be made to fail, and that no body has made on any engine. (What a child
 * does before it is another program counts where vfork() shares the memory.) */
static void tell_uncalled(void)
{
	struct fault_site *sites[2 * SITES_MOST];
	unsigned count = faults_all(sites, 2 * SITES_MOST);

	if (wishes.engine != NULL || wishes.body != NULL)
		return;
	if (skipped > 0) {
		printf("not told which calls no body makes: not all engines are here\n");
		return;
	}
	for (unsigned i = 0; i < count; i++)
		if (is_called(sites[i]->name)) {
			continue;
		} else if (excuse_for(sites[i]->name) != NULL) {
			printf("no body calls for %s: %s\n", sites[i]->name,
				excuse_for(sites[i]->name));
		} else {
			printf("FAILED no body calls for %s\n", sites[i]->name);
			failed++;
		}
}

/* Without faults: what is called, and what is left. */
static bool count_calls(const struct body *body, struct counted *out)
{
	char how[64];

	slots[0].body = body;
	memset(&slots[0].plan, 0, sizeof slots[0].plan);
	slot_start(&slots[0], CASE_COUNTS, false);
	process_wait(slots, how, sizeof how);
	slots[0].busy = false;
	*out = *slots[0].counted;
	expected = out->left;
	note_called(out);
	if (how[0] == '\0')
		return true;
	failed++;
	show("FAILED", &slots[0], how);
	return false;
}

/* What the library asks again until it is granted: accepts, a full listener, waits,
 * cancels (ever less often). */
static bool is_asked_again(const struct fault_plan *plan)
{
	return strstr(plan->name, "accept") != NULL || strcmp(plan->name, "uring_cancel") == 0 ||
	       strcmp(plan->name, "ppoll") == 0 || strcmp(plan->name, "pselect6") == 0 ||
	       (strcmp(plan->name, "connect") == 0 && strcmp(fault_way(plan->how), "EAGAIN") == 0);
}

/* Is it to be refused from then on as well? Of other calls than for memory it is enough
 * that the first and all others are, unless it may take long. */
static bool may_last(const struct fault_plan *plan)
{
	if (!REFUSED_ON || plan->how == FAULT_SHORT || is_asked_again(plan))
		return false;
	if (wishes.longer || plan->nth == 1 || strcmp(plan->name, "enter") == 0)
		return true;
	return is_memory(plan->name) && plan->nth % 2 == wishes.seed % 2;
}

/* Calls of one site, one by one. */
static void fail_site(const struct body *body, const struct counted *counted, unsigned i,
	unsigned calls, unsigned most, enum case_kind kind)
{
	const int *how = counted->sites[i].ways;
	unsigned ways = 0, turn = (unsigned)wishes.seed, step;

	while (how[ways] != 0)
		ways++;
	if (is_memory(counted->sites[i].name) && most < MEMORY_MOST)
		most = MEMORY_MOST;
	step = calls <= most ? 1 : (calls + most - 1) / most;
	/* The first calls, and of more of them one of each `step`, by the seed. */
	for (unsigned nth = 1; nth <= calls;
		nth +=
		nth < most / 2 ? 1 : 1 + (unsigned)(wishes.seed * 7 + nth) % (2 * step - 1)) {
		struct fault_plan plan = { .nth = nth };

		snprintf(plan.name, sizeof plan.name, "%s", counted->sites[i].name);
		for (unsigned way = 0; way < ways; way++) {
			/* All ways of the first call; then one after another. */
			if (!wishes.longer && nth > 1 && way != turn % ways)
				continue;
			plan.how = how[way];
			add_case(body, &plan, kind);
			plan.lasting = may_last(&plan);
			if (plan.lasting)
				add_case(body, &plan, kind);
			plan.lasting = false;
		}
		turn++;
	}
}

/* Those whose calls fail in the first run of a process as well, where the process's own
 * preparations are among them. */
static bool has_first_cases(const struct body *body)
{
	return wishes.longer || body->run == body_echo || body->run == body_files ||
	       body->run == body_signals;
}

static void fail_in_turn(const struct body *body, const struct counted *counted)
{
	unsigned most = wishes.longer ? IN_TURN_LONG : IN_TURN;

	for (unsigned i = 0; i < counted->site_count; i++) {
		unsigned again = counted->sites[i].again, first = counted->sites[i].calls;

		fail_site(body, counted, i, again, most, CASE_FAULT);
		if (first != again && has_first_cases(body))
			fail_site(body, counted, i, first, most, CASE_FIRST);
	}
}

static void fail_by_seed(const struct body *body)
{
	static const unsigned rates[] = { 50, 300, 1500 };
	unsigned count = wishes.longer ? SEEDS_LONG : SEEDS;

	for (unsigned i = 0; i < count; i++) {
		struct fault_plan plan = {
			.seed = wishes.seed + i, .rate = rates[i % 3], .soft = i % 2 == 1
		};

		add_case(body, &plan, CASE_FAULT);
	}
}

static void run_body(const struct body *body)
{
	static struct counted counted;
	struct fault_plan plan;

	if (!count_calls(body, &counted))
		return;
	if (faults_parse(&plan, wishes.plan)) {
		add_case(body, &plan, wishes.first ? CASE_FIRST : CASE_FAULT);
	} else {
		fail_in_turn(body, &counted);
		fail_by_seed(body);
	}
	await_cases();
	process_rest(slots);
}

#define NOT_BUILT 2
#define SAID_WHY  3

/* 0: a port opens. */
static int probe(void)
{
	struct proa_port *probed;

	setenv("PROA_ENGINE", profile->engine, 1);
	setenv("PROA_URING_OFF", profile->off, 1);
	if (proa_port_open(NULL, &probed) == 0) {
		proa_port_close(probed);
		return 0;
	}
	if (strstr(proa_port_open_why(), "not part of this build") != NULL)
		return NOT_BUILT;
	printf("SKIPPED %s: %s\n", profile->name, proa_port_open_why());
	fflush(stdout);
	return SAID_WHY;
}

static bool profile_works(void)
{
	int answer = process_probe(probe);

	/* Other programs have the engines that this one was not built with. */
	skipped += answer == SAID_WHY;
	if (answer != 0 && answer != NOT_BUILT && answer != SAID_WHY) {
		printf("FAILED %s: opening a port ended its process\n", profile->name);
		failed++;
	}
	return answer == 0;
}

static void run_profile(void)
{
	unsigned before = passed, failures = failed;
	struct timespec begun, ended;

	if (!profile_works())
		return;
	clock_gettime(CLOCK_MONOTONIC, &begun);
	for (unsigned i = 0; i < body_count; i++)
		if (bodies[i].run != NULL &&
			(wishes.body == NULL || strcmp(wishes.body, bodies[i].name) == 0))
			run_body(&bodies[i]);
	clock_gettime(CLOCK_MONOTONIC, &ended);
	printf("%-15s %5u passed, %u failed, %ld s\n", profile->name, passed - before,
		failed - failures, (long)(ended.tv_sec - begun.tv_sec));
	fflush(stdout);
}

static void tell_left_out(void)
{
	for (unsigned i = 0; i < body_count; i++)
		if (bodies[i].run == NULL)
			printf("without %s: %s\n", bodies[i].name, bodies[i].lacks);
	fflush(stdout);
}

static void usage(void)
{
	fprintf(stderr, "usage: fault [-v] [--long] [--seed N] [--part N] [--engine NAME]\n"
			"             [--body NAME] [--first]\n"
			"             [--plan CALL:N:ERROR | --plan seed=N,rate=N[,soft]]\n"
			"bodies:");
	for (unsigned i = 0; i < body_count; i++)
		fprintf(stderr, " %s", bodies[i].name);
	fprintf(stderr, "\n");
	exit(2);
}

static void read_wishes(int argc, char **argv)
{
	for (int i = 1; i < argc; i++) {
		if (strcmp(argv[i], "-v") == 0)
			wishes.verbose = true;
		else if (strcmp(argv[i], "--long") == 0)
			wishes.longer = true;
		else if (strcmp(argv[i], "--first") == 0)
			wishes.first = true;
		else if (i + 1 == argc)
			usage();
		else if (strcmp(argv[i], "--seed") == 0)
			wishes.seed = strtoull(argv[++i], NULL, 0);
		else if (strcmp(argv[i], "--part") == 0)
			wishes.part = (unsigned)strtoul(argv[++i], NULL, 10);
		else if (strcmp(argv[i], "--engine") == 0)
			wishes.engine = argv[++i];
		else if (strcmp(argv[i], "--body") == 0)
			wishes.body = argv[++i];
		else if (strcmp(argv[i], "--plan") == 0)
			wishes.plan = argv[++i];
		else
			usage();
	}
}

int main(int argc, char **argv)
{
	process_main(argc, argv);
	read_wishes(argc, argv);
	if (wishes.part == 0)
		usage();
	process_folder();
	process_prepare(slots);
	printf("seed %llu%s; one case in %u\n", (unsigned long long)wishes.seed,
		wishes.longer ? ", all calls" : "", wishes.part);
	tell_left_out();
	for (size_t i = 0; i < PROFILES; i++) {
		profile = &profiles[i];
		if (wishes.engine == NULL || strcmp(wishes.engine, profile->name) == 0)
			run_profile();
	}
	rmdir(folder);
	tell_uncalled();
	/* Threads may call in another order, in one body more than in all; but if many are
	 * missed, none may have come. */
	printf("%u faults did not come\n", missed);
	if (missed * (wishes.body != NULL ? 4 : 20) > passed && wishes.plan == NULL) {
		printf("FAILED: too many of them\n");
		failed++;
	}
	printf("%u passed, %u failed, %u skipped\n", passed, failed, skipped);
	return failed == 0 ? 0 : 1;
}

/* Runs each body once without faults, which counts its calls; then once for each of
 * these calls with that one failing, and under seeds of many faults: each time in a
 * process of its own, with a limit in time.
 *
 * A case passes if the body's judge finds nothing wrong, and if after it the same
 * body runs well without faults in the same process, and what is left then, in
 * blocks of memory, descriptors and threads, is what is left without any fault. */
#include "bodies.h"
#include "body.h"
#include "fault.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define SITES_MOST 128
#define SLOTS      2
#define SECONDS    10
/* How many calls of one site fail in turn; where there are more, some of them. */
#define IN_TURN      12
#define IN_TURN_LONG 400
#define SEEDS        6
#define SEEDS_LONG   200

const struct body bodies[] = {
	{ "echo", body_echo },
	{ "echo_small_pool", body_echo_small_pool },
	{ "mail", body_mail },
	{ "datagrams", body_datagrams },
	{ "flush", body_flush },
	{ "foreign_sockets", body_foreign_sockets },
	{ "foreign_pipe", body_foreign_pipe },
	{ "loans", body_loans },
	{ "late", body_late },
	{ "many", body_many },
	{ "cancels", body_cancels },
	{ "files", body_files },
	{ "sendfile", body_sendfile },
	{ "chains", body_chains },
	{ "timers", body_timers },
	{ "jobs", body_jobs },
	{ "resolve", body_resolve },
	{ "processes", body_processes },
	{ "signals", body_signals },
	{ "fork", body_fork },
	{ "outer_loop", body_outer_loop },
};
const unsigned body_count = sizeof bodies / sizeof bodies[0];

static const struct profile {
	const char *name, *engine, *off;
} profiles[] = {
	{ "io_uring", "io_uring", "" },
	{ "io_uring-basic", "io_uring", "all" },
	{ "epoll", "epoll", "" },
	{ "poll", "poll", "" },
	{ "select", "select", "" },
	{ "kqueue", "kqueue", "" },
};
#define PROFILES (sizeof profiles / sizeof profiles[0])

/* What a process has found. */
struct left {
	long blocks;
	int descriptors;
};
struct counted {
	struct left left;
	unsigned come;
	unsigned site_count;
	struct {
		char name[32];
		int ways[FAULT_WAYS + 1];
		unsigned calls;
	} sites[SITES_MOST];
};

struct slot {
	pid_t pid;
	const struct body *body;
	struct fault_plan plan;
	struct counted *counted; /* shared with the process */
	int output;
};

static struct {
	bool verbose, longer;
	const char *body, *engine, *plan;
	uint64_t seed;
} wishes = { false, false, NULL, NULL, NULL, 1 };

static struct slot slots[SLOTS];
static struct left expected;
static unsigned passed, failed, skipped, missed;
static const struct profile *profile;
static char folder[] = "/tmp/proa-fault-XXXXXX";

const char *scratch_path(const char *name)
{
	static char path[160];

	snprintf(path, sizeof path, "%s/%ld-%s", folder, (long)getpid(), name);
	return path;
}

/* ---- in a case's process --------------------------------------------------------------- */

static int entries_of(const char *path)
{
	DIR *list = opendir(path);
	int count = 0;

	while (list != NULL && readdir(list) != NULL)
		count++;
	if (list != NULL)
		closedir(list);
	return count;
}

/* Threads that look names up end by themselves. */
static void settle(void)
{
	const struct timespec moment = { .tv_nsec = 1000000 };

	for (int i = 0; i < 3000 && entries_of("/proc/self/task") > 3; i++)
		nanosleep(&moment, NULL);
	if (entries_of("/proc/self/task") > 3)
		wrong("threads are left");
}

static void look(struct left *left)
{
	settle();
	left->blocks = faults_blocks();
	left->descriptors = entries_of("/proc/self/fd");
}

/* An error is no surprise: 0 if none may be seen. */
static int judged(const struct fault_plan *plan)
{
	if (plan->nth == 0)
		return plan->soft ? 0 : -1;
	return faults_is_soft(plan->name, plan->how) ? 0 : plan->how;
}

static void note_sites(struct counted *counted)
{
	struct fault_site *sites[SITES_MOST];
	unsigned count = faults_sites(sites, SITES_MOST);

	for (unsigned i = 0; i < count; i++) {
		snprintf(counted->sites[i].name, sizeof counted->sites[i].name, "%s",
			sites[i]->name);
		memcpy(counted->sites[i].ways, sites[i]->ways, sizeof sites[i]->ways);
		counted->sites[i].calls = atomic_load(&sites[i]->calls);
	}
	counted->site_count = count;
}

static void run_case(const struct body *body, const struct fault_plan *plan,
	struct counted *counted, const struct left *wanted)
{
	struct left left;

	alarm(SECONDS *
		(getenv("TEST_TIME_FACTOR") ? (unsigned)atoi(getenv("TEST_TIME_FACTOR")) : 1));
	judge_begin(plan == NULL ? 0 : judged(plan));
	faults_begin(plan);
	body->run();
	faults_end();
	counted->come = faults_come();
	if (plan == NULL)
		note_sites(counted);
	judge_begin(0);
	body->run();
	look(&left);
	if (wanted == NULL) {
		counted->left = left;
		return;
	}
	if (left.blocks != wanted->blocks)
		wrong("%ld blocks of memory are left, and should be %ld", left.blocks,
			wanted->blocks);
	if (left.descriptors != wanted->descriptors)
		wrong("%d descriptors are left, and should be %d", left.descriptors,
			wanted->descriptors);
}

static _Noreturn void case_process(struct slot *slot, bool counts)
{
	setenv("PROA_ENGINE", profile->engine, 1);
	setenv("PROA_URING_OFF", profile->off, 1);
	dup2(slot->output, 1);
	dup2(slot->output, 2);
	for (int i = 0; i < SLOTS; i++)
		if (slots[i].output > 2)
			close(slots[i].output);
	run_case(slot->body, counts ? NULL : &slot->plan, slot->counted, counts ? NULL : &expected);
	exit(0);
}

/* ---- the runner ------------------------------------------------------------------------- */

static void slots_open(void)
{
	for (int i = 0; i < SLOTS; i++) {
		slots[i].counted = mmap(NULL, sizeof *slots[i].counted, PROT_READ | PROT_WRITE,
			MAP_SHARED | MAP_ANONYMOUS, -1, 0);
		slots[i].output = memfd_create("output", MFD_CLOEXEC);
		if (slots[i].counted == MAP_FAILED || slots[i].output < 0) {
			perror("fault");
			exit(2);
		}
	}
}

static void show_output(const struct slot *slot)
{
	char text[4096];
	ssize_t n = pread(slot->output, text, sizeof text, 0);

	if (n > 0)
		printf("    %.*s", (int)n, text);
}

static void show(const struct slot *slot, int status)
{
	char plan[64];

	faults_tell(&slot->plan, plan, sizeof plan);
	printf("FAILED  %-15s %-16s %s: ", profile->name, slot->body->name, plan);
	if (WIFSIGNALED(status))
		printf("%s\n",
			WTERMSIG(status) == SIGALRM ? "it hung" : strsignal(WTERMSIG(status)));
	else
		printf("exit %d\n", WEXITSTATUS(status));
	show_output(slot);
	fflush(stdout);
}

static void slot_start(struct slot *slot, bool counts)
{
	if (ftruncate(slot->output, 0) < 0 || lseek(slot->output, 0, SEEK_SET) < 0)
		perror("fault");
	memset(slot->counted, 0, sizeof *slot->counted);
	fflush(stdout);
	slot->pid = fork();
	if (slot->pid == 0)
		case_process(slot, counts);
	if (slot->pid < 0) {
		perror("fork");
		exit(2);
	}
}

static struct slot *slot_wait(int *status)
{
	for (;;) {
		pid_t pid = wait(status);

		for (int i = 0; i < SLOTS; i++)
			if (slots[i].pid == pid) {
				slots[i].pid = 0;
				return &slots[i];
			}
		if (pid < 0)
			return NULL;
	}
}

static void settle_one(void)
{
	int status;
	struct slot *slot = slot_wait(&status);

	if (slot == NULL)
		return;
	if (status != 0) {
		failed++;
		show(slot, status);
		return;
	}
	passed++;
	if (slot->counted->come == 0 && slot->plan.nth > 0)
		missed++;
	if (wishes.verbose) {
		char plan[64];

		faults_tell(&slot->plan, plan, sizeof plan);
		printf("ok      %-15s %-16s %s: %u came\n", profile->name, slot->body->name, plan,
			slot->counted->come);
	}
}

static void add_case(const struct body *body, const struct fault_plan *plan)
{
	for (;;) {
		for (int i = 0; i < SLOTS; i++)
			if (slots[i].pid == 0) {
				slots[i].body = body;
				slots[i].plan = *plan;
				slot_start(&slots[i], false);
				return;
			}
		settle_one();
	}
}

static void await_cases(void)
{
	for (int i = 0; i < SLOTS; i++)
		while (slots[i].pid != 0)
			settle_one();
}

/* Without faults: what is called, and what is left. */
static bool count_calls(const struct body *body, struct counted *out)
{
	int status;

	slots[0].body = body;
	memset(&slots[0].plan, 0, sizeof slots[0].plan);
	slot_start(&slots[0], true);
	slot_wait(&status);
	*out = *slots[0].counted;
	expected = out->left;
	if (status == 0)
		return true;
	failed++;
	show(&slots[0], status);
	return false;
}

static void fail_in_turn(const struct body *body, const struct counted *counted)
{
	unsigned most = wishes.longer ? IN_TURN_LONG : IN_TURN;

	for (unsigned i = 0; i < counted->site_count; i++) {
		unsigned calls = counted->sites[i].calls;
		unsigned step = calls <= most ? 1 : (calls + most - 1) / most;
		unsigned ways = 0, turn = (unsigned)wishes.seed;

		while (counted->sites[i].ways[ways] != 0)
			ways++;
		/* The first calls, and of more of them one of each `step`, by the seed. */
		for (unsigned nth = 1; nth <= calls;
			nth += nth < most / 2
				       ? 1
				       : 1 + (unsigned)(wishes.seed * 7 + nth) % (2 * step - 1)) {
			struct fault_plan plan = { .nth = nth };

			snprintf(plan.name, sizeof plan.name, "%s", counted->sites[i].name);
			for (unsigned way = 0; way < ways; way++) {
				/* All ways of the first call; then one after another. */
				if (!wishes.longer && nth > 1 && way != turn % ways)
					continue;
				plan.how = counted->sites[i].ways[way];
				add_case(body, &plan);
			}
			turn++;
		}
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

		add_case(body, &plan);
	}
}

static void run_body(const struct body *body)
{
	static struct counted counted;
	struct fault_plan plan;

	if (!count_calls(body, &counted))
		return;
	if (faults_parse(&plan, wishes.plan)) {
		add_case(body, &plan);
	} else {
		fail_in_turn(body, &counted);
		fail_by_seed(body);
	}
	await_cases();
}

#define NOT_BUILT 2

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
	return 1;
}

/* In a process of its own: the runner must not have used the library. */
static bool profile_works(void)
{
	int status;
	pid_t pid = fork();

	if (pid == 0)
		_exit(probe());
	if (waitpid(pid, &status, 0) == pid && status == 0)
		return true;
	/* Other programs have the engines that this one was not built with. */
	if (!WIFEXITED(status) || WEXITSTATUS(status) != NOT_BUILT)
		skipped++;
	return false;
}

static void run_profile(void)
{
	unsigned before = passed, failures = failed;
	struct timespec begun, ended;

	if (!profile_works())
		return;
	clock_gettime(CLOCK_MONOTONIC, &begun);
	for (unsigned i = 0; i < body_count; i++)
		if (wishes.body == NULL || strcmp(wishes.body, bodies[i].name) == 0)
			run_body(&bodies[i]);
	clock_gettime(CLOCK_MONOTONIC, &ended);
	printf("%-15s %5u passed, %u failed, %ld s\n", profile->name, passed - before,
		failed - failures, (long)(ended.tv_sec - begun.tv_sec));
	fflush(stdout);
}

static void usage(void)
{
	fprintf(stderr, "usage: fault [-v] [--long] [--seed N] [--engine NAME] [--body NAME]\n"
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
		else if (i + 1 == argc)
			usage();
		else if (strcmp(argv[i], "--seed") == 0)
			wishes.seed = strtoull(argv[++i], NULL, 0);
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
	read_wishes(argc, argv);
	if (mkdtemp(folder) == NULL) {
		perror(folder);
		return 2;
	}
	slots_open();
	printf("seed %llu%s\n", (unsigned long long)wishes.seed,
		wishes.longer ? ", all calls" : "");
	for (size_t i = 0; i < PROFILES; i++) {
		profile = &profiles[i];
		if (wishes.engine == NULL || strcmp(wishes.engine, profile->name) == 0)
			run_profile();
	}
	rmdir(folder);
	/* Threads may call in another order; but if many are missed, none may have come. */
	printf("%u faults did not come\n", missed);
	if (missed * 20 > passed && wishes.plan == NULL) {
		printf("FAILED: too many of them\n");
		failed++;
	}
	printf("%u passed, %u failed, %u skipped\n", passed, failed, skipped);
	return failed == 0 ? 0 : 1;
}

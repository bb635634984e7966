/* Processes of cases: a fork for each. */
#include "cases.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

struct process {
	pid_t pid;
	int output;
};

static struct process processes[SLOTS];

/* ---- in a case's process --------------------------------------------------------------- */

static unsigned seconds(void)
{
	const char *factor = getenv("TEST_TIME_FACTOR");

	return SECONDS * (factor == NULL ? 1 : (unsigned)atoi(factor));
}

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

/* Threads that look names up end by themselves. Those that end while the list is read may
 * hide others: it is believed when it says so twice. */
static void settle(void)
{
	const struct timespec moment = { .tv_nsec = 1000000 };
	int alone = 0;

	for (int i = 0; i < 3000 && alone < 2; i++) {
		alone = entries_of("/proc/self/task") > 3 ? 0 : alone + 1;
		if (alone < 2)
			nanosleep(&moment, NULL);
	}
	if (alone < 2)
		wrong("threads are left");
}

static void look(struct left *left)
{
	settle();
	left->blocks = faults_blocks();
	left->descriptors = entries_of("/proc/self/fd");
}

static void check_left(const struct slot *slot)
{
	struct left left;

	look(&left);
	if (left.blocks != expected.blocks)
		wrong("%ld blocks of memory are left, and should be %ld", left.blocks,
			expected.blocks);
	if (left.descriptors != expected.descriptors)
		wrong("%d descriptors are left, and should be %d", left.descriptors,
			expected.descriptors);
	(void)slot;
}

static _Noreturn void case_process(struct slot *slot, enum case_kind kind)
{
	bool counts = kind == CASE_COUNTS;

	setenv("PROA_ENGINE", profile->engine, 1);
	setenv("PROA_URING_OFF", profile->off, 1);
	dup2(slot->process->output, 1);
	dup2(slot->process->output, 2);
	for (int i = 0; i < SLOTS; i++)
		if (processes[i].output > 2)
			close(processes[i].output);
	alarm(seconds());
	case_run(slot->body, counts ? NULL : &slot->plan, slot->counted);
	case_note(slot->counted);
	slot->body->run();
	if (counts)
		look(&slot->counted->left);
	else
		check_left(slot);
	exit(0);
}

_Noreturn void process_fail(void)
{
	exit(1);
}

/* ---- the runner ------------------------------------------------------------------------- */

int process_probe(int (*probe)(void))
{
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		alarm(seconds());
		_exit(probe());
	}
	return waitpid(pid, &status, 0) == pid && WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

void process_main(int argc, char **argv)
{
	(void)argc;
	(void)argv;
}

void process_folder(void)
{
	strcpy(folder, "/tmp/proa-fault-XXXXXX");
	if (mkdtemp(folder) == NULL) {
		perror(folder);
		exit(2);
	}
}

void process_prepare(struct slot *slots)
{
	for (int i = 0; i < SLOTS; i++) {
		slots[i].process = &processes[i];
		slots[i].counted = mmap(NULL, sizeof *slots[i].counted, PROT_READ | PROT_WRITE,
			MAP_SHARED | MAP_ANONYMOUS, -1, 0);
		processes[i].output = memfd_create("output", MFD_CLOEXEC);
		if (slots[i].counted == MAP_FAILED || processes[i].output < 0) {
			perror("fault");
			exit(2);
		}
	}
}

void process_start(struct slot *slot, enum case_kind kind)
{
	struct process *process = slot->process;

	if (ftruncate(process->output, 0) < 0 || lseek(process->output, 0, SEEK_SET) < 0)
		perror("fault");
	process->pid = fork();
	if (process->pid == 0)
		case_process(slot, kind);
	if (process->pid < 0) {
		perror("fork");
		exit(2);
	}
}

static void tell_status(int status, char *how, size_t size)
{
	how[0] = '\0';
	if (WIFSIGNALED(status))
		snprintf(how, size, "%s",
			WTERMSIG(status) == SIGALRM ? "it hung" : strsignal(WTERMSIG(status)));
	else if (WEXITSTATUS(status) != 0)
		snprintf(how, size, "exit %d", WEXITSTATUS(status));
}

struct slot *process_wait(struct slot *slots, char *how, size_t size)
{
	for (;;) {
		int status;
		pid_t pid = wait(&status);

		for (int i = 0; i < SLOTS; i++)
			if (pid > 0 && processes[i].pid == pid) {
				processes[i].pid = 0;
				tell_status(status, how, size);
				return &slots[i];
			}
		if (pid < 0 && errno != EINTR) {
			perror("wait");
			exit(2);
		}
	}
}

void process_rest(struct slot *slots)
{
	(void)slots;
}

bool process_may_hang(void)
{
	return false;
}

void process_show(const struct slot *slot)
{
	char text[4096];
	ssize_t n = pread(slot->process->output, text, sizeof text, 0);

	if (n > 0)
		printf("    %.*s", (int)n, text);
}

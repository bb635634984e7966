/* Tests' processes on Unix: forked, in process groups of their own. */
#ifndef _WIN32
#	include "harness.h"
#	include "posix.h"
#	include "runner.h"

#	include <ftw.h>

#	define FD_MOST 1024 /* descriptors of a test that the leak check can tell apart */

static void (*test_body)(const char *name);
/* Of all tests, in memory that another program can have, too. */
static struct report *reports;
static int report_memory;

/* A file without a name, which an execve() leaves open. */
static int shared_memory(const char *name)
{
#	ifdef __linux__
	return memfd_create(name, 0);
#	else
	char path[] = "/tmp/proa-test-XXXXXX";
	int fd = mkstemp(path);

	(void)name;
	if (fd >= 0)
		unlink(path);
	return fd;
#	endif
}

static void map_reports(int count)
{
	reports = mmap(NULL, (size_t)count * sizeof(*reports), PROT_READ | PROT_WRITE, MAP_SHARED,
		report_memory, 0);
	if (reports != MAP_FAILED)
		return;
	perror("mmap");
	exit(2);
}

/* What become_other() has started: `--one MEMORY PLACE PROFILE TEST`. */
static void be_other(char **arguments, void (*body)(const char *name))
{
	int place = atoi(arguments[1]);

	report_memory = atoi(arguments[0]);
	map_reports(place + 1);
	close(report_memory);
	report = &reports[place];
	current_profile = arguments[2];
	setvbuf(stdout, NULL, _IONBF, 0);
	body(arguments[3][0] != '\0' ? arguments[3] : NULL);
	process_exit(EXIT_FAILED);
}

void process_main(int argc, char **argv, void (*body)(const char *name))
{
	test_body = body;
	if (argc == 6 && strcmp(argv[1], "--one") == 0)
		be_other(argv + 2, body);
}

void process_prepare(struct process *all, int count)
{
	sigset_t child;

	report_memory = shared_memory("reports");
	if (report_memory < 0 ||
		ftruncate(report_memory, (off_t)((size_t)count * sizeof(*reports))) < 0) {
		perror("memory for reports");
		exit(2);
	}
	map_reports(count);
	for (int i = 0; i < count; i++)
		all[i].report = &reports[i];
	sigemptyset(&child);
	sigaddset(&child, SIGCHLD);
	sigprocmask(SIG_BLOCK, &child, NULL);
}

/* Where the profile's engine is in a build of its own (kqueue, on Linux) the tests
 * are in another program: ours with the profile's name behind. In the child of
 * fork(): becomes that, if it is there. */
static void become_other(const struct process *process, const char *name)
{
	char program[512], memory[16], place[16];
	ssize_t n = readlink("/proc/self/exe", program, sizeof(program) - 64);

	if (n < 0)
		return;
	snprintf(program + n, sizeof(program) - (size_t)n, "-%s", current_profile);
	if (access(program, X_OK) < 0)
		return;
	snprintf(memory, sizeof(memory), "%d", report_memory);
	snprintf(place, sizeof(place), "%d", (int)(process->report - reports));
	execl(program, program, "--one", memory, place, current_profile, name != NULL ? name : "",
		(char *)NULL);
	process_exit(127);
}

/* In the child of fork(): what every test's process begins with. */
static void become_test(struct process *process)
{
	sigset_t none;
	int output = (int)process->output;

	setpgid(0, 0);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	report = process->report;
	dup2(output, STDOUT_FILENO);
	dup2(output, STDERR_FILENO);
	close(output);
	setvbuf(stdout, NULL, _IONBF, 0);
}

void process_start(struct process *process, const char *name)
{
	fflush(NULL);
	memset(process->report, 0, sizeof(*process->report));
	process->output = shared_memory("output");
	fcntl((int)process->output, F_SETFD, FD_CLOEXEC);
	process->id = fork();
	if (process->id == 0) {
		become_test(process);
		become_other(process, name);
		close(report_memory);
		test_body(name);
		process_exit(EXIT_FAILED);
	}
	if (process->id < 0) {
		perror("fork");
		exit(2);
	}
	/* As the child does: whoever is first. */
	setpgid((pid_t)process->id, (pid_t)process->id);
}

void process_kill(struct process *process)
{
	kill((pid_t)-process->id, SIGKILL);
}

bool process_ended(struct process *process, struct ending *ending)
{
	pid_t pid = (pid_t)process->id;
	siginfo_t info = { 0 };
	int status;

	if (waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT) < 0 || info.si_pid != pid)
		return false;
	/* Its own children go too; the group is ours until it is reaped. */
	kill(-pid, SIGKILL);
	waitpid(pid, &status, 0);
	if (WIFEXITED(status)) {
		ending->code = WEXITSTATUS(status);
		snprintf(ending->text, sizeof(ending->text), "exit %d", ending->code);
	} else {
		ending->code = -1;
		snprintf(ending->text, sizeof(ending->text), "signal %d (%s)", WTERMSIG(status),
			strsignal(WTERMSIG(status)));
	}
	return true;
}

void process_wait(const struct process *all, int count)
{
	struct timespec most = { 0, 100 * 1000 * 1000 };
	sigset_t child;

	(void)all;
	(void)count;
	sigemptyset(&child);
	sigaddset(&child, SIGCHLD);
	sigtimedwait(&child, NULL, &most);
}

void process_show(const struct process *process)
{
	char buffer[4096];
	off_t at = 0;
	ssize_t n;

	while ((n = pread((int)process->output, buffer, sizeof(buffer), at)) > 0) {
		fwrite(buffer, 1, (size_t)n, stdout);
		at += n;
	}
}

static int remove_entry(const char *path, const struct stat *status, int kind, struct FTW *place)
{
	(void)status;
	(void)kind;
	(void)place;
	return remove(path);
}

void process_forget(struct process *process)
{
	struct report *of = process->report;

	if (of->folder[0] != '\0')
		nftw(of->folder, remove_entry, 16, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);
	of->folder[0] = '\0';
	close((int)process->output);
}

void process_exit(int code)
{
	_exit(code);
}

/* ---- Children ---- */

proa_process act(const char *script)
{
	const char *const arguments[] = { "sh", "-c", script, NULL };
	struct proa_command command = { .arguments = arguments };
	proa_process process = 0;

	CHECK_INT(proa_spawn(&command, &process), 0);
	CHECK(process > 0);
	return process;
}

void expect_killed(proa_process process, int signal)
{
	int status;

	CHECK_SYSTEM(waitpid((pid_t)process, &status, 0));
	CHECK(WIFSIGNALED(status));
	CHECK_INT(WTERMSIG(status), signal);
}

void expect_aborted(proa_process process)
{
	expect_killed(process, SIGABRT);
}

void expect_ended(proa_process process)
{
	int status;

	CHECK_SYSTEM(waitpid((pid_t)process, &status, 0));
	CHECK_INT(status, 0);
}

bool whole_path(const char *path, char *out, size_t size)
{
	char *whole = realpath(path, NULL);

	if (whole == NULL)
		return false;
	snprintf(out, size, "%s", whole);
	free(whole);
	return true;
}

void expect_reaped(proa_process process)
{
	int status;

	CHECK_INT(waitpid((pid_t)process, &status, WNOHANG), -1);
	CHECK_INT(errno, ECHILD);
}

/* ---- Descriptors ---- */

struct descriptors {
	bool open[FD_MOST];
};

/* Marks each open descriptor but the one that reads the folder; their number. */
static int list_descriptors(struct descriptors *note)
{
#	ifdef __linux__
	DIR *folder = opendir("/proc/self/fd");
#	else
	DIR *folder = opendir("/dev/fd");
#	endif
	struct dirent *entry;
	int count = 0, fd;

	CHECK(folder != NULL);
	while ((entry = readdir(folder)) != NULL) {
		fd = atoi(entry->d_name);
		if (entry->d_name[0] == '.' || fd == dirfd(folder))
			continue;
		if (note != NULL && fd < FD_MOST)
			note->open[fd] = true;
		count++;
	}
	closedir(folder);
	return count;
}

int descriptors_note(struct descriptors **out)
{
	static struct descriptors note;

	*out = &note;
	return list_descriptors(&note);
}

int descriptors_all(void)
{
	return list_descriptors(NULL);
}

int descriptors_open(void)
{
	return list_descriptors(NULL);
}

void descriptors_differ(const struct descriptors *note)
{
	struct descriptors now = { 0 };
	char path[64], target[256];

	list_descriptors(&now);
	for (int fd = 0; fd < FD_MOST; fd++) {
		ssize_t n;

		if (note->open[fd] == now.open[fd])
			continue;
		snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
		n = readlink(path, target, sizeof(target) - 1);
		target[n > 0 ? n : 0] = '\0';
		fprintf(stderr, "descriptor %d %s %s\n", fd,
			now.open[fd] ? "was left open:" : "was closed", target);
	}
}

#endif

/* Processes of cases on Windows: this program again, told by its arguments for which
 * engine and body. To start one takes long, so it runs case after case, until one fails;
 * the next begins afresh. What is left is compared with what was left before, once the
 * body has run without faults. */
#include "cases.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "posix.h"

#define STARTED_AS "--case-process" /* + profile, body, folder, and three handles */
#define ACTS_AS    "--act" /* body_processes()'s child */

/* What is left has so many milliseconds to go: threads end by themselves. */
#define SETTLE_MS 3000
#define BRIEF_MS  100

struct order {
	enum case_kind kind;
	struct fault_plan plan;
	struct left expected;
	struct counted counted;
	atomic_bool faulty; /* at work with the fault; false: before or after */
};

struct process {
	HANDLE memory, go, done; /* inherited */
	struct order *order;
	HANDLE id; /* NULL: it has not been started */
	HANDLE output;
	ULONGLONG until;
};

static struct process processes[SLOTS];

_Noreturn void posix_lacks(const char *what)
{
	wrong("%s", what);
}

_Noreturn void process_fail(void)
{
	fflush(NULL);
	TerminateProcess(GetCurrentProcess(), 1);
	abort();
}

/* ---- in a case's process --------------------------------------------------------------- */

static LONG WINAPI say_exception(EXCEPTION_POINTERS *about)
{
	const EXCEPTION_RECORD *record = about->ExceptionRecord;
	uintptr_t at = (uintptr_t)record->ExceptionAddress;

	fprintf(stderr, "exception %08lx, image + 0x%llx\n", record->ExceptionCode,
		(unsigned long long)(at - (uintptr_t)GetModuleHandleA(NULL)));
	process_fail();
}

static void look(struct left *left)
{
	left->blocks = faults_blocks();
	left->descriptors = posix_handles();
}

/* Until it is no more than was wanted, for a while. */
static void settle(const struct left *goal, struct left *left, int most)
{
	const struct left wanted = *goal;

	for (int ms = 0; ms < most; ms += 10) {
		look(left);
		if (left->blocks <= wanted.blocks && left->descriptors <= wanted.descriptors)
			return;
		Sleep(10);
	}
}

static void run_with_fault(const struct body *body, struct order *order)
{
	atomic_store(&order->faulty, true);
	case_run(body, &order->plan, &order->counted);
	case_note(&order->counted);
	atomic_store(&order->faulty, false);
}

/* What the system keeps for itself (an event for a thread that has used a socket) it
 * keeps once: a leak comes again with the same fault. */
static void run_fault(const struct body *body, struct order *order, struct left *before)
{
	struct left left;

	for (int i = 0; i < 2; i++) {
		run_with_fault(body, order);
		body->run();
		settle(before, &left, i == 0 ? BRIEF_MS : SETTLE_MS);
		if (i == 1 && left.blocks > before->blocks)
			wrong("%ld blocks of memory are left, and should be %ld", left.blocks,
				before->blocks);
		if (left.blocks <= before->blocks && left.descriptors <= before->descriptors) {
			before->blocks = left.blocks; /* a thread was still at it before */
			return;
		}
		if (i == 1)
			wrong("%d handles are left, and should be %d", left.descriptors,
				before->descriptors);
		before->descriptors = left.descriptors;
	}
}

/* The calls of a first run, and of one that follows. */
static void run_count(const struct body *body, struct counted *counted)
{
	static struct counted again;

	case_run(body, NULL, counted);
	case_note(counted);
	case_run(body, NULL, &again);
	case_note(&again);
	for (unsigned i = 0; i < counted->site_count; i++)
		for (unsigned k = 0; k < again.site_count; k++)
			if (strcmp(counted->sites[i].name, again.sites[k].name) == 0)
				counted->sites[i].again = again.sites[k].calls;
	Sleep(BRIEF_MS);
	look(&counted->left);
}

/* After a first run: what is left, from which the next are counted. */
static void begin_count(const struct body *body, const struct left *first, struct left *before)
{
	body->run();
	body->run();
	before->descriptors = INT_MAX;
	before->blocks = first->blocks;
	settle(before, before, SETTLE_MS);
	if (before->blocks > first->blocks)
		wrong("%ld blocks of memory are left, and should be %ld", before->blocks,
			first->blocks);
}

static _Noreturn void serve(const struct body *body, struct order *order, HANDLE go, HANDLE done)
{
	struct left before = { 0, 0 };
	bool warm = false;

	for (;;) {
		WaitForSingleObject(go, INFINITE);
		if (order->kind == CASE_NONE)
			TerminateProcess(GetCurrentProcess(), 0);
		if (order->kind == CASE_COUNTS) {
			run_count(body, &order->counted);
		} else {
			if (order->kind == CASE_FIRST)
				run_with_fault(body, order);
			if (!warm)
				begin_count(body, &order->expected, &before);
			warm = true;
			if (order->kind == CASE_FAULT)
				run_fault(body, order, &before);
		}
		SetEvent(done);
	}
}

static HANDLE handle_in(const char *text)
{
	return (HANDLE)(intptr_t)strtoll(text, NULL, 10);
}

void process_main(int argc, char **argv)
{
	const struct body *body;
	struct order *order;

	if (argc > 1 && strcmp(argv[1], ACTS_AS) == 0) {
		_setmode(1, _O_BINARY);
		printf("hello\n");
		exit(7);
	}
	if (argc != 8 || strcmp(argv[1], STARTED_AS) != 0)
		return;
	SetErrorMode(SEM_FAILCRITICALERRORS | SEM_NOGPFAULTERRORBOX);
	SetUnhandledExceptionFilter(say_exception);
	setvbuf(stdout, NULL, _IONBF, 0);
	setvbuf(stderr, NULL, _IONBF, 0);
	profile = profile_named(argv[2]);
	body = body_named(argv[3]);
	snprintf(folder, sizeof folder, "%s", argv[4]);
	order = MapViewOfFile(
		handle_in(argv[5]), FILE_MAP_READ | FILE_MAP_WRITE, 0, 0, sizeof *order);
	if (profile == NULL || body == NULL || order == NULL)
		process_fail();
	setenv("PROA_ENGINE", profile->engine, 1);
	serve(body, order, handle_in(argv[6]), handle_in(argv[7]));
}

/* ---- the runner ------------------------------------------------------------------------- */

static _Noreturn void give_up_for(const char *what)
{
	fprintf(stderr, "%s: error %lu\n", what, GetLastError());
	exit(2);
}

int process_probe(int (*probe)(void))
{
	return probe();
}

void process_folder(void)
{
	char temporary[MAX_PATH];

	if (GetTempPathA(sizeof temporary, temporary) == 0)
		give_up_for("a folder");
	snprintf(folder, sizeof folder, "%sproa-fault-XXXXXX", temporary);
	if (mkdtemp(folder) == NULL)
		give_up_for(folder);
}

static SECURITY_ATTRIBUTES inherited(void)
{
	return (SECURITY_ATTRIBUTES) { .nLength = sizeof(SECURITY_ATTRIBUTES),
		.bInheritHandle = TRUE };
}

void process_prepare(struct slot *slots)
{
	SECURITY_ATTRIBUTES attributes = inherited();

	for (int i = 0; i < SLOTS; i++) {
		struct process *process = &processes[i];

		process->memory = CreateFileMappingA(INVALID_HANDLE_VALUE, &attributes,
			PAGE_READWRITE, 0, sizeof *process->order, NULL);
		process->go = CreateEventA(&attributes, FALSE, FALSE, NULL);
		process->done = CreateEventA(&attributes, FALSE, FALSE, NULL);
		if (process->memory == NULL || process->go == NULL || process->done == NULL)
			give_up_for("memory for orders");
		process->order = MapViewOfFile(process->memory, FILE_MAP_READ | FILE_MAP_WRITE, 0,
			0, sizeof *process->order);
		if (process->order == NULL)
			give_up_for("a view of orders");
		slots[i].process = process;
		slots[i].counted = &process->order->counted;
	}
}

/* A file that goes with its last handle. */
static HANDLE output_file(void)
{
	SECURITY_ATTRIBUTES attributes = inherited();
	static unsigned number;
	char name[256];
	HANDLE file;

	snprintf(name, sizeof name, "%s/output-%u", folder, number++);
	file = CreateFileA(name, GENERIC_READ | GENERIC_WRITE | DELETE,
		FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE, &attributes, CREATE_ALWAYS,
		FILE_ATTRIBUTE_TEMPORARY | FILE_FLAG_DELETE_ON_CLOSE, NULL);
	if (file == INVALID_HANDLE_VALUE)
		give_up_for(name);
	return file;
}

/* With the runner go those that it has started. */
static HANDLE job_object(void)
{
	JOBOBJECT_EXTENDED_LIMIT_INFORMATION limits = {
		.BasicLimitInformation.LimitFlags = JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE
	};
	HANDLE job = CreateJobObjectA(NULL, NULL);

	if (job == NULL)
		give_up_for("a job object");
	SetInformationJobObject(job, JobObjectExtendedLimitInformation, &limits, sizeof limits);
	return job;
}

static void end(struct process *process)
{
	if (process->id == NULL)
		return;
	TerminateProcess(process->id, 1);
	WaitForSingleObject(process->id, INFINITE);
	CloseHandle(process->id);
	CloseHandle(process->output);
	process->id = NULL;
}

/* One that waits for its next case. */
static void let_end(struct process *process)
{
	if (process->id == NULL)
		return;
	process->order->kind = CASE_NONE;
	SetEvent(process->go);
	WaitForSingleObject(process->id, SECONDS * 1000);
	end(process);
}

static void begin(struct slot *slot)
{
	static HANDLE job;
	struct process *process = slot->process;
	STARTUPINFOA start = { .cb = sizeof start, .dwFlags = STARTF_USESTDHANDLES };
	PROCESS_INFORMATION made;
	char program[MAX_PATH], line[MAX_PATH + 512];

	if (job == NULL)
		job = job_object();
	process->output = output_file();
	start.hStdOutput = start.hStdError = process->output;
	GetModuleFileNameA(NULL, program, sizeof program);
	snprintf(line, sizeof line, "\"%s\" %s %s %s \"%s\" %lld %lld %lld", program, STARTED_AS,
		profile->name, slot->body->name, folder, (long long)(intptr_t)process->memory,
		(long long)(intptr_t)process->go, (long long)(intptr_t)process->done);
	/* Wine fails to, now and then. */
	for (int tries = 1;
		!CreateProcessA(program, line, NULL, NULL, TRUE, 0, NULL, NULL, &start, &made);
		tries++) {
		if (tries == 10)
			give_up_for(program);
		Sleep(500);
	}
	AssignProcessToJobObject(job, made.hProcess);
	CloseHandle(made.hThread);
	process->id = made.hProcess;
}

void process_start(struct slot *slot, enum case_kind kind)
{
	struct process *process = slot->process;
	const char *factor = getenv("TEST_TIME_FACTOR");

	if (kind != CASE_FAULT)
		let_end(process);
	if (process->id == NULL)
		begin(slot);
	process->order->kind = kind;
	atomic_store(&process->order->faulty, false);
	process->order->plan = slot->plan;
	process->order->expected = expected;
	process->until = GetTickCount64() +
			 SECONDS * 1000ull * (factor == NULL ? 1 : (unsigned)atoi(factor));
	SetEvent(process->go);
}

/* Has it come to an end? */
static bool is_over(struct process *process, char *how, size_t size)
{
	DWORD code;

	how[0] = '\0';
	if (WaitForSingleObject(process->done, 0) == WAIT_OBJECT_0)
		return true;
	if (WaitForSingleObject(process->id, 0) == WAIT_OBJECT_0) {
		GetExitCodeProcess(process->id, &code);
		snprintf(how, size, "exit %ld", (long)code);
		return true;
	}
	if (GetTickCount64() < process->until)
		return false;
	snprintf(how, size, "it hung %s the fault",
		atomic_load(&process->order->faulty) ? "with" : "before or after");
	return true;
}

struct slot *process_wait(struct slot *slots, char *how, size_t size)
{
	for (;;) {
		for (int i = 0; i < SLOTS; i++)
			if (slots[i].busy && is_over(slots[i].process, how, size))
				return &slots[i];
		Sleep(1);
	}
}

void process_rest(struct slot *slots)
{
	for (int i = 0; i < SLOTS; i++)
		let_end(slots[i].process);
}

/* Under wine 8 a call on a socket is seen never to end, once in some thousand cases. */
bool process_may_hang(void)
{
	return GetProcAddress(GetModuleHandleA("ntdll.dll"), "wine_get_version") != NULL;
}

/* And that is the end of it. */
void process_show(const struct slot *slot)
{
	struct process *process = slot->process;
	char text[4096];
	ssize_t n;

	if (process->id == NULL)
		return;
	TerminateProcess(process->id, 1);
	WaitForSingleObject(process->id, INFINITE);
	n = pread((int)(intptr_t)process->output, text, sizeof text, 0);
	if (n > 0)
		printf("    %.*s", (int)n, text);
	end(process);
}

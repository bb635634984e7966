/* Tests' processes on Windows: this program again, told by its arguments which test
 * it is to run, in a job object that ends its own children with it. */
#include "harness.h"
#include "posix.h"
#include "runner.h"

#include <winternl.h>

#define STARTED_AS "--test-process" /* + test or "-", profile, handle of the report */
#define ACTS_AS    "--act" /* + script */

static HANDLE handle_in(intptr_t value)
{
	return (HANDLE)value;
}

_Noreturn void posix_lacks(const char *what)
{
	test_skip("%s", what);
}

/* ---- In a test's process ---- */

static LONG WINAPI say_exception(EXCEPTION_POINTERS *about)
{
	const EXCEPTION_RECORD *record = about->ExceptionRecord;
	uintptr_t at = (uintptr_t)record->ExceptionAddress;

	fprintf(stderr, "exception %08lx at %p, image + 0x%llx\n", record->ExceptionCode,
		record->ExceptionAddress,
		(unsigned long long)(at - (uintptr_t)GetModuleHandleA(NULL)));
	fflush(stderr);
	report->ended = true; /* it is the program's own: no second chance */
	TerminateProcess(GetCurrentProcess(), record->ExceptionCode);
	return EXCEPTION_EXECUTE_HANDLER;
}

/* What was given to standard input, to standard output. */
static void copy_input(void)
{
	char bytes[256];
	size_t n;

	while ((n = fread(bytes, 1, sizeof(bytes), stdin)) > 0)
		fwrite(bytes, 1, n, stdout);
}

/* What can't be told by a completion: aborts. */
static int misuse(void)
{
	struct proa_port *port = NULL;
	struct proa_op op;

	SetErrorMode(SEM_FAILCRITICALERRORS | SEM_NOGPFAULTERRORBOX);
	if (proa_port_open(NULL, &port) < 0)
		return 5;
	proa_op_init(&op, port, NULL);
	proa_prep_timer(&op, PROA_SECOND);
	proa_submit(&op, NULL);
	proa_prep_timer(&op, 0);
	return 4;
}

/* "sleep SECONDS", "exit CODE", "print TEXT", "error TEXT", "cat" and "misuse", with "; "
 * between. */
static int play(char *script)
{
	int code = 0;

	for (char *step = strtok(script, ";"); step != NULL; step = strtok(NULL, ";")) {
		char text[256];
		double seconds;

		if (sscanf(step, " exec sleep %lf", &seconds) == 1 ||
			sscanf(step, " sleep %lf", &seconds) == 1)
			Sleep((DWORD)(seconds * 1000));
		else if (sscanf(step, " print %255[^\n]", text) == 1)
			printf("%s\n", text);
		else if (sscanf(step, " error %255[^\n]", text) == 1)
			fprintf(stderr, "%s\n", text);
		else if (strcmp(step, " cat") == 0)
			copy_input();
		else if (strcmp(step, "misuse") == 0)
			code = misuse();
		else if (sscanf(step, " exit %d", &code) == 1)
			break;
		else
			return 127;
	}
	return code;
}

/* What the process was started with: "<one><two>". */
static int show_words(char **words)
{
	for (; *words != NULL; words++)
		printf("<%s>", *words);
	return 0;
}

static int show_place(void)
{
	const char *const names[] = { "ONE", "TWO", "HOME" };
	char folder[1024];

	for (int i = 0; i < 3; i++)
		printf("%s%c", getenv(names[i]) != NULL ? getenv(names[i]) : "",
			i < 2 ? '-' : '\n');
	printf("%s\n", getcwd(folder, sizeof(folder)) != NULL ? folder : "?");
	return 0;
}

/* A process that a test has started. */
static void be_child(int argc, char **argv)
{
	if (argc < 2)
		return;
	for (int i = 0; i < 3; i++)
		_setmode(i, _O_BINARY);
	if (argc == 3 && strcmp(argv[1], ACTS_AS) == 0)
		exit(play(argv[2]));
	if (strcmp(argv[1], "--show-words") == 0)
		exit(show_words(argv + 2));
	if (strcmp(argv[1], "--show-place") == 0)
		exit(show_place());
}

void process_main(int argc, char **argv, void (*body)(const char *name))
{
	intptr_t mapping;

	be_child(argc, argv);
	if (argc != 5 || strcmp(argv[1], STARTED_AS) != 0)
		return;
	mapping = (intptr_t)strtoll(argv[4], NULL, 10);
	report = MapViewOfFile(
		handle_in(mapping), FILE_MAP_READ | FILE_MAP_WRITE, 0, 0, sizeof(*report));
	if (report == NULL)
		exit(3);
	CloseHandle(handle_in(mapping));
	SetErrorMode(SEM_FAILCRITICALERRORS | SEM_NOGPFAULTERRORBOX);
	SetUnhandledExceptionFilter(say_exception);
	setvbuf(stdout, NULL, _IONBF, 0);
	setvbuf(stderr, NULL, _IONBF, 0);
	current_profile = argv[3];
	body(strcmp(argv[2], "-") == 0 ? NULL : argv[2]);
	process_exit(EXIT_FAILED);
}

_Noreturn void process_exit(int code)
{
	fflush(NULL);
	TerminateProcess(GetCurrentProcess(), (UINT)code);
	abort();
}

/* ---- In the runner ---- */

static _Noreturn void give_up(const char *what)
{
	fprintf(stderr, "%s: error %lu\n", what, GetLastError());
	exit(2);
}

static SECURITY_ATTRIBUTES inherited(void)
{
	return (SECURITY_ATTRIBUTES) { .nLength = sizeof(SECURITY_ATTRIBUTES),
		.bInheritHandle = TRUE };
}

void process_prepare(struct process *all, int count)
{
	SECURITY_ATTRIBUTES attributes = inherited();

	for (int i = 0; i < count; i++) {
		HANDLE memory = CreateFileMappingA(INVALID_HANDLE_VALUE, &attributes,
			PAGE_READWRITE, 0, sizeof(struct report), NULL);

		if (memory == NULL)
			give_up("memory for a report");
		all[i].shared = (intptr_t)memory;
		all[i].report = MapViewOfFile(
			memory, FILE_MAP_READ | FILE_MAP_WRITE, 0, 0, sizeof(struct report));
		if (all[i].report == NULL)
			give_up("a view of a report");
	}
}

/* A file that goes with its last handle. */
static HANDLE output_file(void)
{
	SECURITY_ATTRIBUTES attributes = inherited();
	char folder[MAX_PATH], name[MAX_PATH + 64];
	static unsigned number;
	HANDLE file;

	if (GetTempPathA(sizeof(folder), folder) == 0)
		give_up("a folder for output");
	snprintf(name, sizeof(name), "%sproa-output-%lu-%u", folder, GetCurrentProcessId(),
		number++);
	file = CreateFileA(name, GENERIC_READ | GENERIC_WRITE | DELETE,
		FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE, &attributes, CREATE_ALWAYS,
		FILE_ATTRIBUTE_TEMPORARY | FILE_FLAG_DELETE_ON_CLOSE, NULL);
	if (file == INVALID_HANDLE_VALUE)
		give_up(name);
	return file;
}

static HANDLE job_object(void)
{
	JOBOBJECT_EXTENDED_LIMIT_INFORMATION limits = {
		.BasicLimitInformation.LimitFlags = JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE
	};
	HANDLE job = CreateJobObjectA(NULL, NULL);

	if (job == NULL)
		give_up("a job object");
	SetInformationJobObject(job, JobObjectExtendedLimitInformation, &limits, sizeof(limits));
	return job;
}

void process_start(struct process *process, const char *name)
{
	STARTUPINFOA how = { .cb = sizeof(how), .dwFlags = STARTF_USESTDHANDLES };
	PROCESS_INFORMATION made;
	char program[MAX_PATH], line[MAX_PATH + 512];

	fflush(NULL);
	memset(process->report, 0, sizeof(*process->report));
	how.hStdOutput = how.hStdError = output_file();
	process->output = (intptr_t)how.hStdOutput;
	process->group = (intptr_t)job_object();
	GetModuleFileNameA(NULL, program, sizeof(program));
	snprintf(line, sizeof(line), "\"%s\" %s %s %s %lld", program, STARTED_AS,
		name != NULL ? name : "-", current_profile, (long long)process->shared);
	/* Suspended, so that no child of its own is made before it is in the job. */
	/* Wine fails to, now and then. */
	for (int tries = 1; !CreateProcessA(
		     program, line, NULL, NULL, TRUE, CREATE_SUSPENDED, NULL, NULL, &how, &made);
		tries++) {
		if (tries == 10)
			give_up(program);
		Sleep(500);
	}
	AssignProcessToJobObject(handle_in(process->group), made.hProcess);
	ResumeThread(made.hThread);
	CloseHandle(made.hThread);
	process->id = (intptr_t)made.hProcess;
}

void process_kill(struct process *process)
{
	TerminateJobObject(handle_in(process->group), EXIT_FAILED);
	TerminateProcess(handle_in(process->id), EXIT_FAILED);
}

bool process_ended(struct process *process, struct ending *ending)
{
	DWORD code;

	if (WaitForSingleObject(handle_in(process->id), 0) != WAIT_OBJECT_0)
		return false;
	GetExitCodeProcess(handle_in(process->id), &code);
	TerminateJobObject(handle_in(process->group), EXIT_FAILED);
	ending->code = (code & 0x80000000u) != 0 ? -1 : (int)code;
	if (ending->code < 0)
		snprintf(ending->text, sizeof(ending->text), "exception %08lx", code);
	else
		snprintf(ending->text, sizeof(ending->text), "exit %d", ending->code);
	return true;
}

void process_wait(const struct process *all, int count)
{
	HANDLE running[8];

	for (int i = 0; i < count; i++)
		running[i] = handle_in(all[i].id);
	WaitForMultipleObjects((DWORD)count, running, FALSE, 100);
}

void process_show(const struct process *process)
{
	char buffer[4096];
	off64_t at = 0;
	ssize_t n;

	while ((n = pread((int)process->output, buffer, sizeof(buffer), at)) > 0) {
		fwrite(buffer, 1, (size_t)n, stdout);
		at += n;
	}
}

static void remove_folder(const char *path)
{
	char inside[1024];
	WIN32_FIND_DATAA entry;
	HANDLE search;

	snprintf(inside, sizeof(inside), "%s/*", path);
	search = FindFirstFileA(inside, &entry);
	if (search == INVALID_HANDLE_VALUE)
		return;
	do {
		if (strcmp(entry.cFileName, ".") == 0 || strcmp(entry.cFileName, "..") == 0)
			continue;
		snprintf(inside, sizeof(inside), "%s/%s", path, entry.cFileName);
		if ((entry.dwFileAttributes & FILE_ATTRIBUTE_DIRECTORY) != 0)
			remove_folder(inside);
		else
			DeleteFileA(inside);
	} while (FindNextFileA(search, &entry));
	FindClose(search);
	RemoveDirectoryA(path);
}

void process_forget(struct process *process)
{
	CloseHandle(handle_in(process->id));
	CloseHandle(handle_in(process->group));
	CloseHandle(handle_in(process->output));
	if (process->report->folder[0] != '\0')
		remove_folder(process->report->folder);
	process->report->folder[0] = '\0';
}

/* ---- Children ---- */

const char *test_program(void)
{
	static char path[MAX_PATH];

	GetModuleFileNameA(NULL, path, sizeof(path));
	return path;
}

proa_process act(const char *script)
{
	const char *const arguments[] = { test_program(), ACTS_AS, script, NULL };
	struct proa_command command = { .arguments = arguments };
	proa_process process = 0;
	int code = proa_spawn(&command, &process);

	/* Once in thousands wine makes no process, for reasons that it keeps to itself. */
	if (code == PROA_EIO) {
		printf("AGAIN: no process was made, Win32 error %lu\n", GetLastError());
		code = proa_spawn(&command, &process);
	}
	CHECK_INT(code, 0);
	CHECK(process > 0);
	return process;
}

void expect_killed(proa_process process, int signal)
{
	DWORD code = 0;

	(void)signal;
	CHECK_INT(WaitForSingleObject(handle_in(process), 10000), WAIT_OBJECT_0);
	CHECK(GetExitCodeProcess(handle_in(process), &code));
	CHECK(code != 0 && code != STILL_ACTIVE);
	CloseHandle(handle_in(process));
}

static DWORD end_of(proa_process process)
{
	DWORD code = STILL_ACTIVE;

	CHECK_INT(WaitForSingleObject(handle_in(process), 10000), WAIT_OBJECT_0);
	CHECK(GetExitCodeProcess(handle_in(process), &code));
	CloseHandle(handle_in(process));
	return code;
}

void expect_ended(proa_process process)
{
	CHECK_INT(end_of(process), 0);
}

/* 3 is what the C runtime's abort() gives; newer ones have the system say it. */
void expect_aborted(proa_process process)
{
	DWORD code = end_of(process);

	CHECK(code == 3 || code == 0xc0000409);
}

bool whole_path(const char *path, char *out, size_t size)
{
	return _fullpath(out, path, size) != NULL;
}

/* To be waited for is, here, to have its handle closed. */
void expect_reaped(proa_process process)
{
	DWORD flags;

	CHECK(!GetHandleInformation(handle_in(process), &flags));
}

/* ---- Descriptors ---- */

#define HANDLES_MOST 65536

struct descriptors {
	bool open[HANDLES_MOST];
};

int descriptors_note(struct descriptors **out)
{
	static struct descriptors note;

	*out = &note;
	return posix_list_handles(note.open, HANDLES_MOST);
}

int descriptors_all(void)
{
	return posix_handles();
}

/* What it is a handle of, as far as the system tells: "File", "Event". */
static void name_type(HANDLE handle, char *out, size_t size)
{
	union {
		PUBLIC_OBJECT_TYPE_INFORMATION type;
		char room[1024];
	} about;

	snprintf(out, size, "?");
	if (NtQueryObject(handle, ObjectTypeInformation, &about, sizeof(about), NULL) == 0)
		snprintf(out, size, "%.*ls", (int)(about.type.TypeName.Length / sizeof(WCHAR)),
			about.type.TypeName.Buffer);
}

/* A port's workers stay until its end, each with a handle, and with an event of
 * Winsock's: no test counts those while the port is open. */
static bool is_of_threads(HANDLE handle)
{
	char type[64];

	name_type(handle, type, sizeof(type));
	return strcmp(type, "Thread") == 0 || strcmp(type, "Event") == 0;
}

int descriptors_open(void)
{
	static bool open[HANDLES_MOST];
	int count;

	memset(open, 0, sizeof(open));
	count = posix_list_handles(open, HANDLES_MOST);
	for (int i = 0; i < HANDLES_MOST; i++)
		if (open[i] && is_of_threads(handle_in(i * 4)))
			count--;
	return count;
}

void descriptors_differ(const struct descriptors *note)
{
	static struct descriptors now;
	char type[64];

	posix_list_handles(now.open, HANDLES_MOST);
	for (int i = 0; i < HANDLES_MOST; i++) {
		if (note->open[i] == now.open[i])
			continue;
		name_type(handle_in(i * 4), type, sizeof(type));
		fprintf(stderr, "handle %#x %s %s\n", i * 4,
			now.open[i] ? "was left open:" : "was closed", type);
	}
}

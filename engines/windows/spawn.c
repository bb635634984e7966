/* Starting a process.
 *
 * Its arguments become one line of text, quoted so that CommandLineToArgvW() and the
 * C runtime's start-up take it apart into the same ones. The program is looked for
 * here, in the folders of PATH alone: CreateProcessW() by itself would look in the
 * current folder, too. What it inherits is a list of handles, made inheritable for
 * it: nothing that another thread's child should not have, or that this one should
 * not. */
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <wchar.h>

#include "engines/windows/path.h"
#include "engines/windows/windows.h"

/* The longest line: CreateProcessW(). */
#define LINE_MOST 32767

struct plan {
	WCHAR *program; /* its path */
	WCHAR *line;
	WCHAR *environment; /* NULL: ours */
	WCHAR *directory; /* NULL: ours */
	HANDLE standard[3]; /* copies for the child; NULL: none */
};

/* ---- text that grows ------------------------------------------------------------------ */

struct text {
	WCHAR *at;
	size_t length, room;
	bool failed; /* no memory */
};

static void text_add(struct text *text, const WCHAR *more, size_t count)
{
	if (text->failed)
		return;
	if (text->length + count + 1 > text->room) {
		size_t room = (text->length + count + 1) * 2;
		WCHAR *grown = realloc(text->at, room * sizeof *grown);

		if (grown == NULL) {
			text->failed = true;
			return;
		}
		text->at = grown;
		text->room = room;
	}
	wmemcpy(text->at + text->length, more, count);
	text->length += count;
	text->at[text->length] = L'\0';
}

static void text_repeat(struct text *text, WCHAR what, size_t count)
{
	while (count-- > 0)
		text_add(text, &what, 1);
}

/* ---- arguments --------------------------------------------------------------------------- */

static bool needs_quotes(const WCHAR *argument)
{
	return argument[0] == L'\0' || argument[wcscspn(argument, L" \t\n\v\"")] != L'\0';
}

/* Backslashes mean themselves but before a quote: there two stand for one, and one
 * more makes the quote a plain character. */
static void add_quoted(struct text *line, const WCHAR *argument)
{
	size_t slashes = 0;

	text_add(line, L"\"", 1);
	for (; *argument != L'\0'; argument++) {
		if (*argument == L'"')
			text_repeat(line, L'\\', slashes + 1);
		slashes = *argument == L'\\' ? slashes + 1 : 0;
		text_add(line, argument, 1);
	}
	text_repeat(line, L'\\', slashes);
	text_add(line, L"\"", 1);
}

static int add_argument(struct text *line, const char *argument, bool first)
{
	WCHAR *wide;
	int error = wide_text(argument, &wide);

	if (error < 0)
		return error;
	if (!first)
		text_add(line, L" ", 1);
	/* The first one knows no escapes: it ends at the next quote. */
	if (first && wcschr(wide, L'"') != NULL)
		error = PROA_EINVAL;
	else if (first) {
		text_add(line, L"\"", 1);
		text_add(line, wide, wcslen(wide));
		text_add(line, L"\"", 1);
	} else if (needs_quotes(wide))
		add_quoted(line, wide);
	else
		text_add(line, wide, wcslen(wide));
	free(wide);
	return error;
}

static int make_line(struct plan *plan, const char *const *arguments)
{
	struct text line = { NULL, 0, 0, false };
	int error = 0;

	for (size_t i = 0; arguments[i] != NULL && error == 0; i++)
		error = add_argument(&line, arguments[i], i == 0);
	if (line.failed)
		error = PROA_ENOMEM;
	else if (error == 0 && line.length >= LINE_MOST)
		error = PROA_E2BIG;
	plan->line = line.at;
	return error;
}

/* ---- environment -------------------------------------------------------------------------- */

/* By name, as the system wants the block sorted: without regard to case, by code. */
static int compare_variables(const void *a, const void *b)
{
	const WCHAR *one = *(WCHAR *const *)a, *other = *(WCHAR *const *)b;
	size_t first = one[0] == L'\0' ? 0 : 1 + wcscspn(one + 1, L"=");
	size_t second = other[0] == L'\0' ? 0 : 1 + wcscspn(other + 1, L"=");

	return CompareStringOrdinal(one, (int)first, other, (int)second, TRUE) - CSTR_EQUAL;
}

/* Winsock, and much else of the system, does not start without it. A text for
 * free(), or NULL. */
static WCHAR *system_root(void)
{
	static const WCHAR name[] = L"SystemRoot=";
	const size_t length = sizeof name / sizeof name[0] - 1;
	WCHAR folder[MAX_PATH], *text;
	UINT count = GetWindowsDirectoryW(folder, MAX_PATH);

	if (count == 0 || count >= MAX_PATH)
		return NULL;
	text = malloc((length + count + 1) * sizeof *text);
	if (text == NULL)
		return NULL;
	wmemcpy(text, name, length);
	wmemcpy(text + length, folder, count + 1);
	return text;
}

static bool is_system_root(const WCHAR *variable)
{
	return _wcsnicmp(variable, L"SystemRoot=", 11) == 0;
}

/* One after the other, each with its NUL, and one more at the end. */
static WCHAR *join_variables(WCHAR **variables, size_t count)
{
	struct text block = { NULL, 0, 0, false };

	for (size_t i = 0; i < count; i++)
		text_add(&block, variables[i], wcslen(variables[i]) + 1);
	if (count == 0)
		text_add(&block, L"", 1);
	text_add(&block, L"", 1);
	if (!block.failed)
		return block.at;
	free(block.at);
	return NULL;
}

static int make_environment(struct plan *plan, const char *const *environment)
{
	size_t count = 0, made = 0;
	bool has_root = false;
	WCHAR **variables;
	int error = 0;

	while (environment[count] != NULL)
		count++;
	variables = calloc(count + 1, sizeof(*variables));
	if (variables == NULL)
		return PROA_ENOMEM;
	while (made < count && error == 0) {
		error = wide_text(environment[made], &variables[made]);
		if (error < 0)
			break;
		has_root |= is_system_root(variables[made++]);
	}
	if (error == 0 && !has_root && (variables[made] = system_root()) != NULL)
		made++;
	if (error == 0) {
		qsort(variables, made, sizeof(*variables), compare_variables);
		plan->environment = join_variables(variables, made);
		error = plan->environment == NULL ? PROA_ENOMEM : 0;
	}
	while (made > 0)
		free(variables[--made]);
	free(variables);
	return error;
}

/* ---- the program --------------------------------------------------------------------------- */

static bool is_file(const WCHAR *path)
{
	DWORD attributes = GetFileAttributesW(path);

	return attributes != INVALID_FILE_ATTRIBUTES &&
	       (attributes & FILE_ATTRIBUTE_DIRECTORY) == 0;
}

/* A file "folder\name", or the same with ".exe", in *found, for free(); NULL: there is
 * none. 0 or PROA_ENOMEM. */
static int find_in(const WCHAR *folder, size_t length, const WCHAR *name, WCHAR **found)
{
	struct text path = { NULL, 0, 0, false };

	text_add(&path, folder, length);
	if (length > 0 && folder[length - 1] != L'\\' && folder[length - 1] != L'/')
		text_add(&path, L"\\", 1);
	text_add(&path, name, wcslen(name));
	*found = path.at;
	if (!path.failed && is_file(path.at))
		return 0;
	text_add(&path, L".exe", 4);
	*found = path.at;
	if (!path.failed && is_file(path.at))
		return 0;
	free(path.at);
	*found = NULL;
	return path.failed ? PROA_ENOMEM : 0;
}

/* The folders of our PATH, not of the child's. Some are in quotes; an empty one is
 * none. */
static int find_in_path(const WCHAR *name, WCHAR **found)
{
	DWORD room = GetEnvironmentVariableW(L"PATH", NULL, 0);
	WCHAR *path = room > 0 ? malloc(room * sizeof *path) : NULL;
	const WCHAR *at = path;
	int error = 0;

	*found = NULL;
	if (room > 0 && path == NULL)
		return PROA_ENOMEM;
	if (path == NULL || GetEnvironmentVariableW(L"PATH", path, room) >= room)
		at = L"";
	while (*at != L'\0' && *found == NULL && error == 0) {
		bool quoted = *at == L'"';
		size_t length = wcscspn(at += quoted, quoted ? L"\"" : L";");

		if (length > 0)
			error = find_in(at, length, name, found);
		at += length;
		at += wcscspn(at, L";");
		at += *at == L';';
	}
	free(path);
	return error;
}

static bool is_absolute(const WCHAR *path)
{
	return path[0] == L'\\' || path[0] == L'/' || (path[0] != L'\0' && path[1] == L':');
}

/* Scripts are no programs, as elsewhere. The system would hand these to cmd.exe, whose
 * rules for the line are others: what is an argument here could be a command there. */
static bool is_script(const WCHAR *path)
{
	size_t length = wcslen(path);

	while (length > 0 && (path[length - 1] == L' ' || path[length - 1] == L'.'))
		length--; /* the file system does not see these */
	return length >= 4 && (_wcsnicmp(path + length - 4, L".bat", 4) == 0 ||
				      _wcsnicmp(path + length - 4, L".cmd", 4) == 0);
}

/* With a folder in its name it is that one, seen from where the child starts. */
static int find_program(struct plan *plan, const char *name)
{
	WCHAR *wide;
	int error = wide_path(name, &wide);

	if (error < 0)
		return error;
	if (wide[wcscspn(wide, L"\\/:")] == L'\0')
		error = find_in_path(wide, &plan->program);
	else if (plan->directory != NULL && !is_absolute(wide))
		error = find_in(plan->directory, wcslen(plan->directory), wide, &plan->program);
	else
		error = find_in(L"", 0, wide, &plan->program);
	free(wide);
	if (error < 0)
		return error;
	if (plan->program == NULL)
		return PROA_ENOENT;
	return is_script(plan->program) ? PROA_ENOEXEC : 0;
}

/* ---- handles ---------------------------------------------------------------------------------- */

/* An inheritable copy. 0, PROA_EBADF or PROA_ENOMEM. */
static int copy_handle(HANDLE from, HANDLE *out)
{
	const HANDLE us = GetCurrentProcess();

	/* -1 and its like stand for ourselves and our threads, and can be copied. */
	if ((intptr_t)from < 0)
		return PROA_EBADF;
	if (DuplicateHandle(us, from, us, out, 0, TRUE, DUPLICATE_SAME_ACCESS))
		return 0;
	return windows_error() == PROA_ENOMEM ? PROA_ENOMEM : PROA_EBADF;
}

static int make_standard(struct plan *plan, const proa_handle *standard)
{
	static const DWORD names[3] = { STD_INPUT_HANDLE, STD_OUTPUT_HANDLE, STD_ERROR_HANDLE };
	int error = 0;

	for (int i = 0; i < 3 && error == 0; i++) {
		if (standard != NULL) {
			error = copy_handle((HANDLE)(intptr_t)standard[i], &plan->standard[i]);
			continue;
		}
		/* Ours may not be there, or be closed: then the child has none either. */
		error = copy_handle(GetStdHandle(names[i]), &plan->standard[i]);
		if (error == PROA_EBADF) {
			plan->standard[i] = NULL;
			error = 0;
		}
	}
	return error;
}

/* ---- the start ---------------------------------------------------------------------------------- */

static void plan_free(struct plan *plan)
{
	free(plan->program);
	free(plan->line);
	free(plan->environment);
	free(plan->directory);
	for (int i = 0; i < 3; i++)
		if (plan->standard[i] != NULL)
			CloseHandle(plan->standard[i]);
}

static int plan_make(struct plan *plan, const struct proa_command *command)
{
	int error = 0;

	if (command->arguments == NULL || command->arguments[0] == NULL)
		return PROA_EINVAL;
	if (command->pass_count > 0) /* a C runtime's own agreement with another */
		return PROA_ENOSYS;
	if (command->directory != NULL)
		error = wide_path(command->directory, &plan->directory);
	if (error == 0)
		error = find_program(plan, command->arguments[0]);
	if (error == 0)
		error = make_line(plan, command->arguments);
	if (error == 0 && command->environment != NULL)
		error = make_environment(plan, command->environment);
	if (error == 0)
		error = make_standard(plan, command->standard);
	return error;
}

/* What the system says of a start that failed; of the directory it says but that it is
 * none. */
static int start_error(const struct plan *plan)
{
	DWORD code = GetLastError();

	if (code == ERROR_DIRECTORY &&
		GetFileAttributesW(plan->directory) == INVALID_FILE_ATTRIBUTES)
		return PROA_ENOENT;
	return proa_error_from_system(code);
}

static int start_with(
	struct plan *plan, LPPROC_THREAD_ATTRIBUTE_LIST attributes, bool inherits, HANDLE *out)
{
	STARTUPINFOEXW start = { .StartupInfo.cb = sizeof start };
	PROCESS_INFORMATION process;

	start.StartupInfo.dwFlags = STARTF_USESTDHANDLES;
	start.StartupInfo.hStdInput = plan->standard[0];
	start.StartupInfo.hStdOutput = plan->standard[1];
	start.StartupInfo.hStdError = plan->standard[2];
	start.lpAttributeList = attributes;
	if (!CreateProcessW(plan->program, plan->line, NULL, NULL, inherits,
		    CREATE_UNICODE_ENVIRONMENT | EXTENDED_STARTUPINFO_PRESENT, plan->environment,
		    plan->directory, &start.StartupInfo, &process))
		return start_error(plan);
	CloseHandle(process.hThread);
	*out = process.hProcess;
	return 0;
}

/* With the list of what is inherited, which must not be empty. */
static int plan_start(struct plan *plan, HANDLE *out)
{
	HANDLE list[3];
	SIZE_T size = 0;
	DWORD count = 0;
	LPPROC_THREAD_ATTRIBUTE_LIST attributes;
	int error;

	for (int i = 0; i < 3; i++)
		if (plan->standard[i] != NULL)
			list[count++] = plan->standard[i];
	InitializeProcThreadAttributeList(NULL, 1, 0, &size);
	attributes = malloc(size);
	if (attributes == NULL)
		return PROA_ENOMEM;
	if (!InitializeProcThreadAttributeList(attributes, 1, 0, &size)) {
		error = windows_error();
		free(attributes);
		return error;
	}
	if (count == 0 ||
		UpdateProcThreadAttribute(attributes, 0, PROC_THREAD_ATTRIBUTE_HANDLE_LIST, list,
			count * sizeof list[0], NULL, NULL))
		error = start_with(plan, attributes, count > 0, out);
	else
		error = windows_error();
	DeleteProcThreadAttributeList(attributes);
	free(attributes);
	return error;
}

int proa_spawn_sized(const struct proa_command *theirs, size_t size, proa_process *out)
{
	struct plan plan = { .program = NULL };
	struct proa_command command;
	HANDLE process = NULL;
	int error =
		sized_copy(&command, sizeof command, _Alignof(struct proa_command), theirs, size);

	if (error < 0)
		return error;
	error = plan_make(&plan, &command);
	if (error == 0)
		error = plan_start(&plan, &process);
	plan_free(&plan);
	if (error == 0)
		*out = (proa_process)process;
	return error;
}

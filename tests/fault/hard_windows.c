/* hard.c's side of Windows: processes that begin anew, and no signals. */
#include "hard.h"
#include "harness.h"
#include "ledger.h"
#include "posix.h"

#define COMMON "PROA_TEST_COMMON" /* handle, size of an element, which */

static HANDLE common;
static size_t common_size;
static void (*tell_time)(void);
static HANDLE test_thread;

void *common_make(int count, size_t size)
{
	SECURITY_ATTRIBUTES inherited = { sizeof(inherited), NULL, TRUE };

	common = CreateFileMappingA(INVALID_HANDLE_VALUE, &inherited, PAGE_READWRITE, 0,
		(DWORD)((size_t)count * size), NULL);
	common_size = size;
	if (common == NULL)
		return NULL;
	return MapViewOfFile(common, FILE_MAP_READ | FILE_MAP_WRITE, 0, 0, (size_t)count * size);
}

void common_choose(int which)
{
	char text[64];

	snprintf(text, sizeof(text), "%llu %llu %d", (unsigned long long)(uintptr_t)common,
		(unsigned long long)common_size, which);
	setenv(COMMON, text, 1);
}

void *common_mine(void)
{
	unsigned long long handle, size;
	const char *text = getenv(COMMON);
	int which;
	char *start;

	CHECK(text != NULL && sscanf(text, "%llu %llu %d", &handle, &size, &which) == 3);
	start = MapViewOfFile((HANDLE)(uintptr_t)handle, FILE_MAP_READ | FILE_MAP_WRITE, 0, 0,
		(size_t)size * (size_t)(which + 1));
	CHECK(start != NULL);
	CloseHandle((HANDLE)(uintptr_t)handle);
	return start + (size_t)size * (size_t)which;
}

static bool is_late(void)
{
	return time_is_up != 0;
}

static DWORD WINAPI tell_again(void *argument)
{
	Sleep((DWORD)(uintptr_t)argument);
	for (;;) {
		tell_time();
		CancelSynchronousIo(test_thread); /* a pipe that it reads, or writes */
		Sleep(100);
	}
	return 0;
}

void lateness_begin(int64_t after, void (*tell)(void))
{
	HANDLE thread;

	tell_time = tell;
	posix_gives_up = is_late;
	CHECK(DuplicateHandle(GetCurrentProcess(), GetCurrentThread(), GetCurrentProcess(),
		&test_thread, 0, FALSE, DUPLICATE_SAME_ACCESS));
	thread = CreateThread(
		NULL, 0, tell_again, (void *)(uintptr_t)(after / PROA_MILLISECOND), 0, NULL);
	CHECK(thread != NULL);
	CloseHandle(thread);
}

/* Ctrl-C's. */
bool ended_by_own_signal(const struct ending *ending)
{
	return ending->code < 0 && strcmp(ending->text, "exception c000013a") == 0;
}

int __real_posix_thread_join(posix_thread thread, void **result);
int __wrap_posix_thread_join(posix_thread thread, void **result);
/* A peer's thread may wait for what never comes. */
int __wrap_posix_thread_join(posix_thread thread, void **result)
{
	while (ledger_is_outside() && WaitForSingleObject((HANDLE)thread, 20) == WAIT_TIMEOUT)
		if (time_is_up)
			test_fail(__FILE__, __LINE__, "a thread was waited for in vain");
	return __real_posix_thread_join(thread, result);
}

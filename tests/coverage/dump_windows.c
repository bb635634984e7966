/* As dump.c, on Windows: tests' processes end by TerminateProcess(), before which is
 * written down what they have run. It is called by a pointer, which the linker's --wrap
 * puts ours in the place of.
 *
 * The files are locked by libgcov, which waits a second where one is locked already: so
 * only one process at a time comes to it. */
#include <gcov.h>
#include <windows.h>

typedef BOOL WINAPI terminate_fn(HANDLE process, UINT code);

extern terminate_fn *__real___imp_TerminateProcess;
extern terminate_fn *__wrap___imp_TerminateProcess;

static void write_down(void)
{
	HANDLE lock = CreateMutexA(NULL, FALSE, "proa-coverage");

	if (lock != NULL)
		WaitForSingleObject(lock, INFINITE);
	__gcov_dump();
	if (lock != NULL)
		ReleaseMutex(lock);
}

static BOOL WINAPI terminate(HANDLE process, UINT code)
{
	if (process == GetCurrentProcess())
		write_down();
	return __real___imp_TerminateProcess(process, code);
}

terminate_fn *__wrap___imp_TerminateProcess = terminate;

/* Before libgcov's own, which finds nothing left to do. */
__attribute__((destructor)) static void at_exit(void)
{
	write_down();
}

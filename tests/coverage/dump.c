/* Part of what is built with -Db_coverage=true: writes down what has been run before a
 * process ends without exit(), or becomes another. The linker's --wrap leads here.
 *
 * The counts begin anew each time: a child of vfork() does this in its parent's memory. */
#include <gcov.h>
#include <stdlib.h>
#include <unistd.h>

_Noreturn void __real__exit(int code);
_Noreturn void __wrap__exit(int code);
_Noreturn void __real_abort(void);
_Noreturn void __wrap_abort(void);
int __real_execve(const char *path, char *const *arguments, char *const *environment);
int __wrap_execve(const char *path, char *const *arguments, char *const *environment);

/* For tests that let calls fail: not these. */
int coverage_is_written;

static void write_down(void)
{
	coverage_is_written = 1;
	__gcov_dump();
	__gcov_reset();
	coverage_is_written = 0;
}

void __wrap__exit(int code)
{
	write_down();
	__real__exit(code);
}

void __wrap_abort(void)
{
	write_down();
	__real_abort();
}

int __wrap_execve(const char *path, char *const *arguments, char *const *environment)
{
	write_down();
	return __real_execve(path, arguments, environment);
}

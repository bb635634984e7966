/* Part of what is built with -Db_coverage=true: writes down what has been run before a
 * process ends without exit(), or becomes another. The linker's --wrap leads here.
 *
 * The counts begin anew each time: a child of vfork() does this in its parent's memory. */
#include <gcov.h>
#include <pthread.h>
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

/* __gcov_dump() holds a lock of its own. A child that is forked meanwhile would have it
 * locked for good, and never get through its own dump: so nothing forks meanwhile. */
static pthread_mutex_t writing = PTHREAD_MUTEX_INITIALIZER;

static void lock(void)
{
	pthread_mutex_lock(&writing);
}

static void unlock(void)
{
	pthread_mutex_unlock(&writing);
}

__attribute__((constructor)) static void watch_forks(void)
{
	pthread_atfork(lock, unlock, unlock);
}

static void write_down(void)
{
	lock();
	coverage_is_written = 1;
	__gcov_dump();
	__gcov_reset();
	coverage_is_written = 0;
	unlock();
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

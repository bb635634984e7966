/* hard.c's side of Unix. */
#include "hard.h"
#include "harness.h"
#include "ledger.h"
#include "posix.h"

#define TELLS_TIME (SIGRTMAX - 2)
#ifndef sigev_notify_thread_id
#	define sigev_notify_thread_id _sigev_un._tid
#endif

static char *common;
static size_t common_size;
static int chosen;
static void (*tell_time)(void);

static void on_time(int number)
{
	(void)number;
	tell_time();
}

void *common_make(int count, size_t size)
{
	common = mmap(NULL, (size_t)count * size, PROT_READ | PROT_WRITE,
		MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	common_size = size;
	return common == MAP_FAILED ? NULL : common;
}

void common_choose(int which)
{
	chosen = which;
}

void *common_mine(void)
{
	return common + (size_t)chosen * common_size;
}

/* A timer of the thread's: no fork() and no execve() passes it on. */
void lateness_begin(int64_t after, void (*tell)(void))
{
	struct sigaction action = { .sa_handler = on_time };
	struct sigevent event = { .sigev_notify = SIGEV_THREAD_ID, .sigev_signo = TELLS_TIME };
	struct itimerspec times = {
		.it_value = { after / PROA_SECOND, after % PROA_SECOND },
		.it_interval = { 0, 100 * PROA_MILLISECOND },
	};
	timer_t timer;

	tell_time = tell;
	sigaction(TELLS_TIME, &action, NULL);
	event.sigev_notify_thread_id = gettid();
	CHECK_SYSTEM(timer_create(CLOCK_MONOTONIC, &event, &timer));
	CHECK_SYSTEM(timer_settime(timer, 0, &times, NULL));
}

bool ended_by_own_signal(const struct ending *ending)
{
	static const int raised[] = { SIGHUP, SIGINT, SIGQUIT, SIGUSR1, SIGUSR2, SIGTERM, SIGALRM };
	int number = 0;

	if (ending->code >= 0 || sscanf(ending->text, "signal %d", &number) != 1)
		return false;
	for (size_t i = 0; i < sizeof(raised) / sizeof(raised[0]); i++)
		if (raised[i] == number)
			return true;
	return false;
}

int __real_pthread_join(pthread_t thread, void **out);
int __wrap_pthread_join(pthread_t thread, void **out);
/* A peer's thread may wait for what never comes. */
int __wrap_pthread_join(pthread_t thread, void **out)
{
	struct timespec until;
	int error;

	if (!ledger_is_outside())
		return __real_pthread_join(thread, out);
	do {
		clock_gettime(CLOCK_REALTIME, &until);
		until.tv_nsec += 20 * 1000 * 1000;
		until.tv_sec += until.tv_nsec / 1000000000;
		until.tv_nsec %= 1000000000;
		error = pthread_timedjoin_np(thread, out, &until);
	} while (error == ETIMEDOUT && !time_is_up);
	if (error == ETIMEDOUT)
		test_fail(__FILE__, __LINE__, "a thread was waited for in vain");
	return error;
}

/* Threads, mutexes, conditions and once, as the system has them: pthreads, or
 * Windows' own (winpthreads is mingw's alone). */
#ifndef PROA_LIB_THREAD_H
#define PROA_LIB_THREAD_H

#include <stdatomic.h>
#include <stdbool.h>

#include <proa/error.h>

#if defined(_WIN32)

#	include <winsock2.h> /* before windows.h, or that brings the old winsock.h */
#	include <windows.h>
#	include <process.h>

typedef SRWLOCK thread_mutex;
typedef CONDITION_VARIABLE thread_cond;
typedef INIT_ONCE thread_once_flag;
typedef HANDLE thread_id;
#	define THREAD_MUTEX SRWLOCK_INIT
#	define THREAD_COND  CONDITION_VARIABLE_INIT
#	define THREAD_ONCE  INIT_ONCE_STATIC_INIT
/* A thread's function: static THREAD_RETURN name(void *argument), which ends with
 * return THREAD_DONE. */
#	define THREAD_RETURN unsigned __stdcall
#	define THREAD_DONE   0u

static inline int mutex_init(thread_mutex *mutex)
{
	InitializeSRWLock(mutex);
	return 0;
}

static inline void mutex_destroy(thread_mutex *mutex)
{
	(void)mutex; /* it holds nothing of the system's */
}

static inline void mutex_lock(thread_mutex *mutex)
{
	AcquireSRWLockExclusive(mutex);
}

static inline void mutex_unlock(thread_mutex *mutex)
{
	ReleaseSRWLockExclusive(mutex);
}

static inline int cond_init(thread_cond *cond)
{
	InitializeConditionVariable(cond);
	return 0;
}

static inline void cond_destroy(thread_cond *cond)
{
	(void)cond;
}

static inline void cond_wait(thread_cond *cond, thread_mutex *mutex)
{
	SleepConditionVariableSRW(cond, mutex, INFINITE, 0);
}

static inline void cond_signal(thread_cond *cond)
{
	WakeConditionVariable(cond);
}

static inline void cond_broadcast(thread_cond *cond)
{
	WakeAllConditionVariable(cond);
}

static inline void thread_once(thread_once_flag *flag, void (*run)(void))
{
	BOOL first = FALSE;

	if (!InitOnceBeginInitialize(flag, 0, &first, NULL) || !first)
		return;
	run();
	InitOnceComplete(flag, 0, NULL);
}

/* _beginthreadex, and not CreateThread: the C runtime's own data for the thread is
 * made and freed. 0 or PROA_EAGAIN. */
static inline int thread_start(thread_id *out, unsigned(__stdcall *run)(void *), void *argument)
{
	*out = (HANDLE)_beginthreadex(NULL, 0, run, argument, 0, NULL);
	return *out == NULL ? PROA_EAGAIN : 0;
}

static inline void thread_join(thread_id thread)
{
	WaitForSingleObject(thread, INFINITE);
	CloseHandle(thread);
}

#else

#	include <pthread.h>
#	include <signal.h>

typedef pthread_mutex_t thread_mutex;
typedef pthread_cond_t thread_cond;
typedef pthread_once_t thread_once_flag;
typedef pthread_t thread_id;
#	define THREAD_MUTEX  PTHREAD_MUTEX_INITIALIZER
#	define THREAD_COND   PTHREAD_COND_INITIALIZER
#	define THREAD_ONCE   PTHREAD_ONCE_INIT
#	define THREAD_RETURN void *
#	define THREAD_DONE   NULL

static inline int mutex_init(thread_mutex *mutex)
{
	return pthread_mutex_init(mutex, NULL) == 0 ? 0 : PROA_ENOMEM;
}

static inline void mutex_destroy(thread_mutex *mutex)
{
	pthread_mutex_destroy(mutex);
}

static inline void mutex_lock(thread_mutex *mutex)
{
	pthread_mutex_lock(mutex);
}

static inline void mutex_unlock(thread_mutex *mutex)
{
	pthread_mutex_unlock(mutex);
}

static inline int cond_init(thread_cond *cond)
{
	return pthread_cond_init(cond, NULL) == 0 ? 0 : PROA_ENOMEM;
}

static inline void cond_destroy(thread_cond *cond)
{
	pthread_cond_destroy(cond);
}

static inline void cond_wait(thread_cond *cond, thread_mutex *mutex)
{
	pthread_cond_wait(cond, mutex);
}

static inline void cond_signal(thread_cond *cond)
{
	pthread_cond_signal(cond);
}

static inline void cond_broadcast(thread_cond *cond)
{
	pthread_cond_broadcast(cond);
}

static inline void thread_once(thread_once_flag *flag, void (*run)(void))
{
	pthread_once(flag, run);
}

/* With all signals blocked: they are for the program's threads. 0 or PROA_EAGAIN. */
static inline int thread_start(thread_id *out, void *(*run)(void *), void *argument)
{
	sigset_t all, before;
	int code;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	code = pthread_create(out, NULL, run, argument);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return code != 0 ? PROA_EAGAIN : 0;
}

static inline void thread_join(thread_id thread)
{
	pthread_join(thread, NULL);
}

#endif

/* What the process prepares once; and again, if it failed for want of something. */
typedef struct {
	thread_mutex lock;
	atomic_bool done;
} thread_preparation;
#define THREAD_PREPARATION          \
	{                           \
		THREAD_MUTEX, false \
	}

static inline int thread_prepare(thread_preparation *preparation, int (*prepare)(void))
{
	int error = 0;

	if (atomic_load(&preparation->done))
		return 0;
	mutex_lock(&preparation->lock);
	if (!atomic_load(&preparation->done)) {
		error = prepare();
		atomic_store(&preparation->done, error == 0);
	}
	mutex_unlock(&preparation->lock);
	return error;
}

#endif

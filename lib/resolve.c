/* Look-ups of names. The system's resolver blocks, for half a minute if a name
 * server does not answer, and can't be interrupted. So it runs on threads that
 * no port owns, on a copy of the query: an op that is cancelled leaves its
 * look-up behind, and the thread throws it away when the resolver returns.
 *
 * One lock guards it all. port_finished() is called with it held, and
 * resolve_finish() takes it: a port can't end and be freed while port_finished()
 * is still at work on it.
 *
 * A thread ends when the queue is empty: making one costs little beside what a
 * look-up costs. Each that ends joins the one that ended before it, and the
 * last is joined at exit, so that none is ever reported as leaked. On Windows
 * threads need no joining; there the library stays loaded from the first one on,
 * for its code must not go while one is in the system's resolver. */
#include "lib/workers.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#if defined(_WIN32)
#	include <winsock2.h>
#	include <ws2tcpip.h>
#else
#	include <netdb.h>
#	include <time.h>
#endif

#include "lib/port.h"
#include "lib/thread.h"

enum lookup_state {
	LOOKUP_QUEUED,
	LOOKUP_RUNNING, /* a thread is in the system's resolver */
	LOOKUP_ABANDONED, /* the same, and nobody wants to know */
	LOOKUP_DONE, /* port_finished() has been called */
};

struct lookup {
	struct lookup *prev, *next; /* all there are: a forked child frees them */
	struct lookup *behind; /* the queue */
	enum lookup_state state;
	struct proa_port *port;
	struct proa_op *op;
	int32_t result;
	struct addrinfo *found;
	int (*system)(const char *, const char *, const struct addrinfo *, struct addrinfo **);
	const char *host, *service; /* NULL, or in `text` */
	char text[];
};

static struct {
	thread_mutex lock;
	thread_cond quiet; /* a thread has begun a look-up, or ended */
	struct lookup *all, *queue, **queue_end;
	unsigned queued;
	unsigned threads, looking; /* there are, and are in the system's resolver */
#if !defined(_WIN32)
	pthread_t ended; /* the last thread that ended, not joined yet */
	bool has_ended;
#endif
	bool closed;
} pool = {
	.lock = THREAD_MUTEX,
	.quiet = THREAD_COND,
	.queue_end = &pool.queue,
};

/* A function of ours around it, for on Windows its calling convention is another. */
static int system_resolver(
	const char *host, const char *service, const struct addrinfo *hints, struct addrinfo **out)
{
#if defined(_WIN32)
	/* "" is this machine's own name there; everywhere else it is none. */
	if (host != NULL && host[0] == '\0')
		return EAI_NONAME;
#endif
	return getaddrinfo(host, service, hints, out);
}

int (*resolve_system)(const char *host, const char *service, const struct addrinfo *hints,
	struct addrinfo **out) = system_resolver;

/* ---- look-ups ------------------------------------------------------------------ */

static struct lookup *lookup_make(const struct proa_query *query)
{
	size_t host = query->host == NULL ? 0 : strlen(query->host) + 1;
	size_t service = query->service == NULL ? 0 : strlen(query->service) + 1;
	struct lookup *lookup = calloc(1, sizeof *lookup + host + service);

	if (lookup == NULL)
		return NULL;
	if (host > 0)
		lookup->host = memcpy(lookup->text, query->host, host);
	if (service > 0)
		lookup->service = memcpy(lookup->text + host, query->service, service);
	return lookup;
}

/* The lock is held. */
static void lookup_enlist(struct lookup *lookup)
{
	lookup->next = pool.all;
	if (pool.all != NULL)
		pool.all->prev = lookup;
	pool.all = lookup;
}

static void lookup_unlist(struct lookup *lookup)
{
	if (lookup->prev != NULL)
		lookup->prev->next = lookup->next;
	else
		pool.all = lookup->next;
	if (lookup->next != NULL)
		lookup->next->prev = lookup->prev;
}

static void lookup_free(struct lookup *lookup)
{
	if (lookup->found != NULL)
		freeaddrinfo(lookup->found);
	free(lookup);
}

static void unqueue(struct lookup **link)
{
	struct lookup *lookup = *link;

	*link = lookup->behind;
	if (*link == NULL)
		pool.queue_end = link;
	pool.queued--;
}

/* Our code for one of getaddrinfo(3)'s; `system_errno` is what it left. On Windows
 * its codes are Winsock's. */
static int32_t code_of(int code, int system_errno)
{
	int32_t error;

	switch (code) {
	case 0:
		return 0;
	case EAI_NONAME:
	case EAI_SERVICE:
#if defined(EAI_NODATA) && EAI_NODATA != EAI_NONAME
	case EAI_NODATA:
#endif
#ifdef EAI_ADDRFAMILY
	case EAI_ADDRFAMILY:
#endif
		return PROA_ENONAME;
	case EAI_AGAIN:
		return PROA_EAGAIN;
	case EAI_MEMORY:
		return PROA_ENOMEM;
#ifdef EAI_SYSTEM
	case EAI_SYSTEM:
		break;
#endif
	default:
#if defined(_WIN32)
		system_errno = code;
		break;
#else
		return PROA_EIO;
#endif
	}
	error = proa_error_from_system((unsigned long)system_errno);
	return error < 0 ? error : PROA_EIO;
}

/* On the resolver's thread, without the lock. No AI_ADDRCONFIG: it would hide
 * "localhost" from a machine that has no network. One type of socket, or each
 * address came three times. */
static void lookup_run(struct lookup *lookup)
{
	struct addrinfo hints = { .ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM };
	int code = lookup->system(lookup->host, lookup->service, &hints, &lookup->found);

	if (code == EAI_SERVICE) { /* some services are known for datagrams alone */
		hints.ai_socktype = SOCK_DGRAM;
		code = lookup->system(lookup->host, lookup->service, &hints, &lookup->found);
	}
	lookup->result = code_of(code, errno);
	if (code != 0)
		lookup->found = NULL;
}

/* ---- threads ------------------------------------------------------------------- */

/* Runs the queue's head. The lock is held, before and after. */
static void serve_one(void)
{
	struct lookup *lookup = pool.queue;

	unqueue(&pool.queue);
	lookup->state = LOOKUP_RUNNING;
	pool.looking++;
	cond_broadcast(&pool.quiet);
	mutex_unlock(&pool.lock);
	lookup_run(lookup);
	mutex_lock(&pool.lock);
	pool.looking--;
	if (lookup->state == LOOKUP_ABANDONED) {
		lookup_unlist(lookup);
		lookup_free(lookup);
		return;
	}
	lookup->state = LOOKUP_DONE;
	port_finished(lookup->port, lookup->op);
}

/* Until there is no more to do. The lock is held. */
static void serve_all(void)
{
	while (pool.queue != NULL && !pool.closed)
		serve_one();
	pool.threads--;
	cond_broadcast(&pool.quiet);
}

#if defined(_WIN32)

static THREAD_RETURN resolver_main(void *argument)
{
	(void)argument;
	mutex_lock(&pool.lock);
	serve_all();
	mutex_unlock(&pool.lock);
	return THREAD_DONE;
}

/* One more thread. The lock is held. At the end of the process the system ends
 * the threads before any code of ours could run. */
static void thread_add(void)
{
	HMODULE ours;
	thread_id thread;

	if (!GetModuleHandleExW(
		    GET_MODULE_HANDLE_EX_FLAG_PIN | GET_MODULE_HANDLE_EX_FLAG_FROM_ADDRESS,
		    (const WCHAR *)(const void *)&pool, &ours))
		return;
	if (thread_start(&thread, resolver_main, NULL) < 0)
		return;
	CloseHandle(thread);
	pool.threads++;
}

static int pool_prepare(void)
{
	return 0; /* no forks there */
}

#else

static THREAD_RETURN resolver_main(void *argument)
{
	pthread_t before = pthread_self();
	bool join;

	(void)argument;
	mutex_lock(&pool.lock);
	serve_all();
	join = pool.has_ended;
	if (join)
		before = pool.ended;
	pool.ended = pthread_self();
	pool.has_ended = true;
	mutex_unlock(&pool.lock);
	if (join)
		thread_join(before);
	return THREAD_DONE;
}

/* One more thread. The lock is held. */
static void thread_add(void)
{
	thread_id thread;

	if (thread_start(&thread, resolver_main, NULL) == 0)
		pool.threads++;
}

/* pthread_mutex_timedlock(3), which macOS and OpenBSD lack. */
static bool lock_within_a_second(void)
{
	const struct timespec moment = { .tv_nsec = 1000 * 1000 };

	for (int i = 0; pthread_mutex_trylock(&pool.lock) != 0; i++) {
		if (i == 1000)
			return false;
		nanosleep(&moment, NULL);
	}
	return true;
}

/* At exit, or when the library is unloaded. A thread in the system's resolver
 * can't be stopped, and is left to the end of the process. The lock may be the
 * very one that a thread held when a signal handler called exit(): hence a
 * limit to the wait. */
__attribute__((destructor)) static void pool_close(void)
{
	struct timespec limit;

	clock_gettime(CLOCK_REALTIME, &limit);
	limit.tv_sec++;
	if (!lock_within_a_second())
		return;
	pool.closed = true;
	while (pool.threads > pool.looking)
		if (pthread_cond_timedwait(&pool.quiet, &pool.lock, &limit) != 0)
			break;
	if (pool.has_ended && !pthread_equal(pool.ended, pthread_self()))
		pthread_join(pool.ended, NULL);
	pool.has_ended = false;
	mutex_unlock(&pool.lock);
}

/* ---- fork ---------------------------------------------------------------------- */

static void before_fork(void)
{
	mutex_lock(&pool.lock);
}

static void parent_after_fork(void)
{
	mutex_unlock(&pool.lock);
}

/* The threads are the parent's, and so are the ops: begin afresh. What the
 * resolver itself had in hand is lost. */
static void child_after_fork(void)
{
	struct lookup *next;

	for (; pool.all != NULL; pool.all = next) {
		next = pool.all->next;
		if (pool.all->state != LOOKUP_DONE)
			pool.all->found = NULL; /* half written, maybe */
		lookup_free(pool.all);
	}
	pool.queue = NULL;
	pool.queue_end = &pool.queue;
	pool.queued = pool.threads = pool.looking = 0;
	pool.has_ended = false;
	pool.quiet = (thread_cond)THREAD_COND; /* no one waits now */
	mutex_unlock(&pool.lock);
}

static int watch_forks(void)
{
	return pthread_atfork(before_fork, parent_after_fork, child_after_fork) == 0 ? 0
										     : PROA_ENOMEM;
}

static int pool_prepare(void)
{
	static thread_preparation preparation = THREAD_PREPARATION;

	return thread_prepare(&preparation, watch_forks);
}

#endif

/* ---- ops ----------------------------------------------------------------------- */

static struct lookup *lookup_of(const struct proa_op *op)
{
	return (struct lookup *)(uintptr_t)op->argument_;
}

int resolve_begin(struct proa_port *port, struct proa_op *op)
{
	const struct proa_query *query = op->buffer_;
	struct lookup *lookup, **link;
	bool served;

	if (query == NULL || query->found == NULL || query->room == 0 ||
		(query->host == NULL && query->service == NULL))
		return PROA_EINVAL;
	lookup = pool_prepare() == 0 ? lookup_make(query) : NULL;
	if (lookup == NULL)
		return PROA_ENOMEM;
	lookup->port = port;
	lookup->op = op;
	lookup->system = resolve_system;
	op->argument_ = (uint64_t)(uintptr_t)lookup;
	mutex_lock(&pool.lock);
	lookup_enlist(lookup);
	link = pool.queue_end;
	*link = lookup;
	pool.queue_end = &lookup->behind;
	pool.queued++;
	if (pool.queued > pool.threads - pool.looking && pool.threads < RESOLVER_THREADS)
		thread_add(); /* if it can't be made, the others come to it */
	served = pool.threads > 0 && !pool.closed;
	if (!served) {
		unqueue(link);
		lookup_unlist(lookup);
		lookup_free(lookup);
	}
	mutex_unlock(&pool.lock);
	return served ? 0 : PROA_EAGAIN;
}

static bool is_among(
	const struct proa_address *addresses, int32_t count, const struct addrinfo *one)
{
	for (int32_t i = 0; i < count; i++)
		if (addresses[i].length == one->ai_addrlen &&
			memcmp(&addresses[i].to, one->ai_addr, one->ai_addrlen) == 0)
			return true;
	return false;
}

/* Fills the query: the system's order, each address once, as many as fit. */
static int32_t fill(const struct proa_query *query, const struct addrinfo *found)
{
	uint32_t room = query->room > INT32_MAX ? INT32_MAX : query->room;
	int32_t count = 0;

	for (; found != NULL && (uint32_t)count < room; found = found->ai_next) {
		struct proa_address *address = &query->found[count];

		if (found->ai_addrlen > sizeof address->to || is_among(query->found, count, found))
			continue;
		memset(address, 0, sizeof *address);
		address->length = (uint32_t)found->ai_addrlen;
		memcpy(&address->to, found->ai_addr, found->ai_addrlen);
		count++;
	}
	return count > 0 ? count : PROA_ENONAME;
}

int32_t resolve_finish(struct proa_op *op)
{
	struct lookup *lookup = lookup_of(op);
	int32_t result;

	mutex_lock(&pool.lock);
	assert(lookup->state == LOOKUP_DONE);
	lookup_unlist(lookup);
	mutex_unlock(&pool.lock);
	op->argument_ = 0;
	result = lookup->result < 0 ? lookup->result : fill(op->buffer_, lookup->found);
	lookup_free(lookup);
	return result;
}

/* Takes a look-up that no thread has begun away. The lock is held. */
static void withdraw(struct lookup *lookup)
{
	struct lookup **link = &pool.queue;

	while (*link != lookup)
		link = &(*link)->behind;
	unqueue(link);
	lookup_unlist(lookup);
	lookup_free(lookup);
}

bool resolve_abandon(struct proa_op *op)
{
	struct lookup *lookup = lookup_of(op);
	bool abandoned;

	mutex_lock(&pool.lock);
	assert(lookup->state != LOOKUP_ABANDONED);
	abandoned = lookup->state != LOOKUP_DONE;
	if (lookup->state == LOOKUP_RUNNING)
		lookup->state = LOOKUP_ABANDONED;
	else if (lookup->state == LOOKUP_QUEUED)
		withdraw(lookup);
	mutex_unlock(&pool.lock);
	if (abandoned)
		op->argument_ = 0;
	return abandoned;
}

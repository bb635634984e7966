/* Counts blocks of memory: see blocks.h. What shared libraries ask for among themselves
 * is not seen, and what is freed here but came from them is let through. */
#include "blocks.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#ifdef _WIN32
#	include <windows.h>
#else
#	include <pthread.h>
#endif

#define CHAINS 4096 /* a power of 2 */
#define SHOWN  20

void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *at, size_t size);
void __real_free(void *at);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *at, size_t size);
void __wrap_free(void *at);

struct block {
	struct block *next;
	uintptr_t hidden; /* where it is, inverted: to valgrind we must not name it */
	const void *caller;
	size_t size;
	bool old;
};

static atomic_ulong asked;
static struct block *chains[CHAINS];

#ifdef _WIN32

void *__real___emutls_get_address(void *variable);
void *__wrap___emutls_get_address(void *variable);

static SRWLOCK chains_lock = SRWLOCK_INIT;
/* Set in a thread that makes room for its thread-local variables: they go with it. */
static DWORD of_thread = TLS_OUT_OF_INDEXES;

static void lock(void)
{
	AcquireSRWLockExclusive(&chains_lock);
}

static void unlock(void)
{
	ReleaseSRWLockExclusive(&chains_lock);
}

static bool goes_with_thread(void)
{
	return of_thread != TLS_OUT_OF_INDEXES && TlsGetValue(of_thread) != NULL;
}

static void prepare(void)
{
	if (of_thread == TLS_OUT_OF_INDEXES)
		of_thread = TlsAlloc();
}

static uintptr_t image_start(void)
{
	return (uintptr_t)GetModuleHandleA(NULL);
}

void *__wrap___emutls_get_address(void *variable)
{
	DWORD error = GetLastError();
	void *at;

	if (of_thread != TLS_OUT_OF_INDEXES)
		TlsSetValue(of_thread, variable);
	at = __real___emutls_get_address(variable);
	if (of_thread != TLS_OUT_OF_INDEXES)
		TlsSetValue(of_thread, NULL);
	SetLastError(error);
	return at;
}

/* Does a variable of the program's name it? What is kept for good is found by that (the
 * library's list of who has which handle). What such a block names in turn is not let
 * off: a port that was forgotten has more than its own. */
static bool is_kept(const void *at)
{
	const char *image = (const char *)GetModuleHandleA(NULL);
	const IMAGE_DOS_HEADER *dos = (const void *)image;
	const IMAGE_NT_HEADERS *header = (const void *)(image + dos->e_lfanew);
	const IMAGE_SECTION_HEADER *section = IMAGE_FIRST_SECTION(header);

	for (int i = 0; i < header->FileHeader.NumberOfSections; i++, section++) {
		const void *const *words = (const void *)(image + section->VirtualAddress);

		if ((section->Characteristics & IMAGE_SCN_MEM_WRITE) == 0)
			continue;
		for (size_t n = section->Misc.VirtualSize / sizeof(*words); n > 0; n--)
			if (*words++ == at)
				return true;
	}
	return false;
}

#else

extern const char __executable_start[]; /* the linker's */

static pthread_mutex_t chains_lock = PTHREAD_MUTEX_INITIALIZER;

static void lock(void)
{
	pthread_mutex_lock(&chains_lock);
}

static void unlock(void)
{
	pthread_mutex_unlock(&chains_lock);
}

static bool goes_with_thread(void)
{
	return false;
}

/* A forked child asks for memory, too, whatever other threads were at. Before all other
 * handlers of fork() are told of: these may ask for memory themselves, and so run while
 * it is not locked. */
__attribute__((constructor(101))) static void watch_forks(void)
{
	pthread_atfork(lock, unlock, unlock);
}

static void prepare(void)
{
}

static uintptr_t image_start(void)
{
	return (uintptr_t)__executable_start;
}

/* What the library keeps for good is there before the count begins: test_warm_up(). */
static bool is_kept(const void *at)
{
	(void)at;
	return false;
}

#endif

static const void *block_at(const struct block *block)
{
	return (const void *)~block->hidden;
}

static struct block **chain_of(const void *at)
{
	return &chains[((uintptr_t)at >> 4) & (CHAINS - 1)];
}

static void put(struct block *block)
{
	lock();
	block->next = *chain_of(block_at(block));
	*chain_of(block_at(block)) = block;
	unlock();
}

/* NULL stays NULL; so it becomes where there is no room to note the block. */
static void *enter(void *at, size_t size, const void *caller)
{
	struct block *block = NULL;

	if (goes_with_thread())
		return at;
	if (at != NULL)
		block = __real_malloc(sizeof *block);
	if (block == NULL) {
		__real_free(at);
		return NULL;
	}
	*block = (struct block) { .hidden = ~(uintptr_t)at, .caller = caller, .size = size };
	put(block);
	return at;
}

/* The block's entry, taken off; NULL: it is not one of ours. */
static struct block *leave(const void *at)
{
	struct block **link, *block;

	lock();
	for (link = chain_of(at); *link != NULL && block_at(*link) != at;)
		link = &(*link)->next;
	block = *link;
	if (block != NULL)
		*link = block->next;
	unlock();
	return block;
}

void *__wrap_malloc(size_t size)
{
	atomic_fetch_add(&asked, 1);
	return enter(__real_malloc(size), size, __builtin_return_address(0));
}

void *__wrap_calloc(size_t count, size_t size)
{
	atomic_fetch_add(&asked, 1);
	return enter(__real_calloc(count, size), count * size, __builtin_return_address(0));
}

/* The entry is off while the block moves: another thread may be given its old place. */
void *__wrap_realloc(void *at, size_t size)
{
	struct block *block = leave(at);
	void *moved = __real_realloc(at, size);

	atomic_fetch_add(&asked, 1);
	if (block == NULL)
		return enter(moved, size, __builtin_return_address(0));
	if (moved == NULL && size == 0) { /* freed */
		__real_free(block);
		return NULL;
	}
	if (moved != NULL) { /* else it is where it was */
		block->hidden = ~(uintptr_t)moved;
		block->size = size;
		block->caller = __builtin_return_address(0);
	}
	put(block);
	return moved;
}

void __wrap_free(void *at)
{
	__real_free(leave(at));
	__real_free(at);
}

/* Those that are not old: the first few in `shown`, if it is there; aged, or not. Their
 * number. */
static int each_new(bool age, struct block *shown)
{
	int count = 0;

	lock();
	for (size_t i = 0; i < CHAINS; i++)
		for (struct block *block = chains[i]; block != NULL; block = block->next) {
			if (block->old || (!age && is_kept(block_at(block))))
				continue;
			block->old = age;
			if (shown != NULL && count < SHOWN)
				shown[count] = *block;
			count++;
		}
	unlock();
	return count;
}

void blocks_note(void)
{
	prepare();
	each_new(true, NULL);
}

unsigned long blocks_asked(void)
{
	return atomic_load(&asked);
}

int blocks_new(void)
{
#ifdef STATIC_PROGRAM
	return 0; /* libc's own are among them */
#else
	return each_new(false, NULL);
#endif
}

void blocks_show(void)
{
	uintptr_t image = image_start();
	struct block shown[SHOWN];
	int count = each_new(false, shown);

	for (int i = 0; i < count && i < SHOWN; i++)
		fprintf(stderr, "%llu bytes, asked for at image + 0x%llx\n",
			(unsigned long long)shown[i].size,
			(unsigned long long)((uintptr_t)shown[i].caller - image));
}

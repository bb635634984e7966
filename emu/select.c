/* select(2), with sets of our own that grow: FD_SETSIZE bounds the type fd_set,
 * not the system call (Linux and the BSDs read as many bits as nfds says), so a
 * descriptor above it is as good as any. */
#ifdef __APPLE__
/* select(2), macOS: without it more than FD_SETSIZE descriptors are EINVAL. */
#	define _DARWIN_UNLIMITED_SELECT 1
#endif
#include "emu/reactor.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/select.h>
#ifdef __linux__
#	include <sys/syscall.h>
#endif
#include <time.h>
#include <unistd.h>

#include "engines/unix/unix.h"

/* What an fd_set is made of: sys/types.h of macOS, sys/select.h of the others. */
#if defined __APPLE__ || defined __OpenBSD__ || defined __NetBSD__
typedef uint32_t set_word;
#else
typedef unsigned long set_word;
#endif

#define WORD_BITS (8 * (int)sizeof(set_word))

struct sets {
	set_word *wanted_in, *wanted_out;
	set_word *in, *out, *except; /* what the call gets, and gives */
	int words, highest;
	int next; /* the word where the next look begins */
};

static int select_start(void **world, char *why, size_t size)
{
	*world = calloc(1, sizeof(struct sets));
	if (*world != NULL)
		return 0;
	snprintf(why, size, "no memory");
	return PROA_ENOMEM;
}

static void select_stop(void *world)
{
	struct sets *sets = world;

	free(sets->wanted_in); /* one block for all five */
	free(sets);
}

static int select_reserve(struct sets *sets, int fd)
{
	int words = sets->words == 0 ? 1024 / WORD_BITS : sets->words;
	set_word *block;
	size_t bytes;

	if (fd / WORD_BITS < sets->words)
		return 0;
	while (words <= fd / WORD_BITS)
		words *= 2;
	block = calloc(5 * (size_t)words, sizeof *block);
	if (block == NULL)
		return PROA_ENOMEM;
	bytes = (size_t)sets->words * sizeof *block;
	if (bytes > 0) {
		memcpy(block, sets->wanted_in, bytes);
		memcpy(block + words, sets->wanted_out, bytes);
	}
	free(sets->wanted_in);
	sets->wanted_in = block;
	sets->wanted_out = block + words;
	sets->in = block + 2 * words;
	sets->out = block + 3 * words;
	sets->except = block + 4 * words;
	sets->words = words;
	return 0;
}

static int select_set(
	void *world, int fd, uint8_t generation, short before, short events, bool check)
{
	struct sets *sets = world;
	set_word bit = (set_word)1 << (fd % WORD_BITS);
	int error = select_reserve(sets, fd);

	(void)generation;
	(void)before;
	(void)check;
	if (error < 0)
		return error;
	sets->wanted_in[fd / WORD_BITS] &= ~bit;
	sets->wanted_out[fd / WORD_BITS] &= ~bit;
	if (events & POLLIN)
		sets->wanted_in[fd / WORD_BITS] |= bit;
	if (events & POLLOUT)
		sets->wanted_out[fd / WORD_BITS] |= bit;
	if (fd > sets->highest)
		sets->highest = fd;
	return 0;
}

/* glibc's fortified pselect() would take our sets for fd_sets. */
static int call_select(struct sets *sets, int64_t timeout)
{
	struct timespec limit = unix_timespec(timeout);

#ifdef __linux__
	/* This call has seconds of a long, whatever libc's have. */
	const long kernels[2] = { (long)limit.tv_sec, (long)limit.tv_nsec };

	return (int)syscall(__NR_pselect6, sets->highest + 1, sets->in, sets->out, sets->except,
		timeout == PROA_FOREVER ? NULL : kernels, NULL);
#else
	return pselect(sets->highest + 1, (fd_set *)(void *)sets->in, (fd_set *)(void *)sets->out,
		(fd_set *)(void *)sets->except, timeout == PROA_FOREVER ? NULL : &limit, NULL);
#endif
}

static short bits_of(const struct sets *sets, int word, int bit)
{
	set_word mask = (set_word)1 << bit;

	return (short)(((sets->in[word] & mask) ? POLLIN : 0) |
		       ((sets->out[word] & mask) ? POLLOUT : 0) |
		       ((sets->except[word] & mask) ? POLLPRI | POLLERR : 0));
}

/* A descriptor that was closed behind our back would make every call fail: it
 * is told to whoever waits for it, as poll(2) does. */
static int find_bad(struct sets *sets, struct reactor_event *out)
{
	int n = 0;

	for (int fd = 0; fd <= sets->highest && n < REACTOR_EVENTS; fd++) {
		struct pollfd p = { .fd = fd };
		set_word bit = (set_word)1 << (fd % WORD_BITS);

		if (((sets->wanted_in[fd / WORD_BITS] | sets->wanted_out[fd / WORD_BITS]) & bit) ==
			0)
			continue;
		if (poll(&p, 1, 0) == 1 && (p.revents & POLLNVAL)) {
			sets->wanted_in[fd / WORD_BITS] &= ~bit;
			sets->wanted_out[fd / WORD_BITS] &= ~bit;
			out[n].fd = fd;
			out[n].refused = 0;
			out[n++].events = POLLNVAL;
		}
	}
	return n;
}

static int select_take(void *world, int64_t timeout, struct reactor_event *out)
{
	struct sets *sets = world;
	int words = sets->highest / WORD_BITS + 1, n = 0, found, i;
	size_t bytes = (size_t)words * sizeof *sets->in;

	memcpy(sets->in, sets->wanted_in, bytes);
	memcpy(sets->out, sets->wanted_out, bytes);
	memcpy(sets->except, sets->wanted_in, bytes);
	found = call_select(sets, timeout);
	if (found < 0 && errno == EBADF)
		n = find_bad(sets, out);
	if (found < 0)
		return n > 0 || errno == EINTR ? n : unix_error(errno);
	if (found == 0)
		return 0;
	for (i = 0; i < words; i++) {
		int word = (sets->next + i) % words;
		set_word any = sets->in[word] | sets->out[word] | sets->except[word];

		if (n + WORD_BITS > REACTOR_EVENTS)
			break;
		for (; any != 0; any &= any - 1) {
			int bit = __builtin_ctzl(any);

			out[n].fd = word * WORD_BITS + bit;
			out[n].refused = 0;
			out[n++].events = bits_of(sets, word, bit);
		}
	}
	/* In order, but where not all could be told: the rest comes first then. */
	sets->next = i == words ? 0 : (sets->next + i) % words;
	return n;
}

static int select_descriptor(void *world)
{
	(void)world;
	return -1;
}

const struct reactor select_reactor = {
	.name = "select",
	.edge = false,
	.no_end = true,
	.open = select_start,
	.close = select_stop,
	.set = select_set,
	.wait = select_take,
	.descriptor = select_descriptor,
};

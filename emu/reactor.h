/* The second, smaller seam: what the emulation needs of a readiness backend.
 * Events are poll(2)'s bits. */
#ifndef PROA_EMU_REACTOR_H
#define PROA_EMU_REACTOR_H

#include <stdbool.h>
#include <stdint.h>

#include "lib/port.h"

struct reactor_event {
	int fd;
	uint8_t generation; /* what set() was told; only those with edges keep it */
	/* Not 0: a PROA_E* code, negated. What set() was told for the directions of
	 * `events` (POLLIN, POLLOUT) could not be done, and is not set. */
	uint8_t refused;
	short events;
};

#define REACTOR_EVENTS 256 /* that one wait may take in */

struct reactor {
	const char *name;
	bool edge; /* reports changes alone, and keeps what is set for life */
	bool no_end; /* can't wait for an end (POLLHUP) alone */
	bool sockets_only; /* what else can't be waited for is asked now and then */

	int (*open)(void **world, char *why, size_t size);
	void (*close)(void *world);
	/* From what is set (`before`, 0: nothing) to `events` (0: nothing). Where
	 * `before` is not certain, `check`: it is made so. 0 or an error; where
	 * there is a flush(), errors may come as events instead. */
	int (*set)(void *world, int fd, uint8_t generation, short before, short events, bool check);
	/* Waits up to `timeout` ns. How many events, 0 on time-out or a signal; or an error,
	 * for which others than the waiter are to blame. */
	int (*wait)(void *world, int64_t timeout, struct reactor_event *events);
	/* A descriptor that is readable when wait() has events; -1: none. */
	int (*descriptor)(void *world);

	/* All that follows may be NULL or false. */
	/* set() gathers, and wait() hands over: here it is done at once. True if
	 * wait() has something to tell since. */
	bool (*flush)(void *world);
	/* `fd` is about to be closed, and what is set for it goes with it. */
	void (*closing)(void *world, int fd);
	/* From any thread and from signal handlers: makes wait() return. NULL: a
	 * descriptor of the port's is waited for, as any other. */
	void (*wake)(void *world);
	/* close() in a forked child. NULL: the same. */
	void (*abandon)(void *world);
	/* Urgent data, at whose place a read stops short, is not reported. */
	bool blind;
};

extern const struct reactor epoll_reactor, kqueue_reactor, poll_reactor, select_reactor;

#endif

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
	short events;
};

#define REACTOR_EVENTS 256 /* that one wait may take in */

struct reactor {
	const char *name;
	bool edge; /* reports changes alone, and keeps what is set for life */

	int (*open)(void **world, char *why, size_t size);
	void (*close)(void *world);
	/* From what is set (`before`, 0: nothing) to `events` (0: nothing). Where
	 * `before` is not certain, `check`: it is made so. 0 or an error. */
	int (*set)(void *world, int fd, uint8_t generation, short before, short events, bool check);
	/* Waits up to `timeout` ns. How many events, 0 on time-out or a signal. */
	int (*wait)(void *world, int64_t timeout, struct reactor_event *events);
	/* A descriptor that is readable when wait() has events; -1: none. */
	int (*descriptor)(void *world);
};

extern const struct reactor epoll_reactor, poll_reactor, select_reactor;

#endif

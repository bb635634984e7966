/* poll(2): an array of what is waited for, and where each descriptor is in it. */
#include "emu/reactor.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engines/unix/unix.h"

struct polled {
	struct pollfd *entries;
	int count, room;
	int *place; /* by descriptor, from 1; 0: none */
	int places;
	int next; /* where the next look begins, so that all have their turn */
};

static int poll_start(void **world, char *why, size_t size)
{
	*world = calloc(1, sizeof(struct polled));
	if (*world != NULL)
		return 0;
	snprintf(why, size, "no memory");
	return PROA_ENOMEM;
}

static void poll_stop(void *world)
{
	struct polled *polled = world;

	free(polled->entries);
	free(polled->place);
	free(polled);
}

/* Room for one more entry, and for `fd` in the index. */
static int poll_reserve(struct polled *polled, int fd)
{
	struct pollfd *entries;
	int *place, room;

	if (polled->count == polled->room) {
		room = polled->room == 0 ? 64 : polled->room * 2;
		entries = realloc(polled->entries, (size_t)room * sizeof *entries);
		if (entries == NULL)
			return PROA_ENOMEM;
		polled->entries = entries;
		polled->room = room;
	}
	if (fd >= polled->places) {
		for (room = polled->places == 0 ? 64 : polled->places; room <= fd;)
			room *= 2;
		place = realloc(polled->place, (size_t)room * sizeof *place);
		if (place == NULL)
			return PROA_ENOMEM;
		memset(place + polled->places, 0, (size_t)(room - polled->places) * sizeof *place);
		polled->place = place;
		polled->places = room;
	}
	return 0;
}

static int poll_set(void *world, int fd, uint8_t generation, short before, short events, bool check)
{
	struct polled *polled = world;
	struct pollfd *last;
	int at, error;

	(void)generation;
	(void)before;
	(void)check;
	at = fd < polled->places ? polled->place[fd] : 0;
	if (at == 0 && events == 0)
		return 0;
	if (at == 0) {
		error = poll_reserve(polled, fd);
		if (error < 0)
			return error;
		at = ++polled->count;
		polled->place[fd] = at;
		polled->entries[at - 1].fd = fd;
		polled->entries[at - 1].revents = 0;
	}
	if (events != 0) {
		polled->entries[at - 1].events = events;
		return 0;
	}
	last = &polled->entries[--polled->count];
	polled->place[last->fd] = at;
	polled->entries[at - 1] = *last;
	polled->place[fd] = 0;
	return 0;
}

static int call_poll(struct polled *polled, int64_t timeout)
{
#ifdef PROA_HAVE_PPOLL
	struct timespec limit = unix_timespec(timeout);

	return ppoll(polled->entries, (nfds_t)polled->count,
		timeout == PROA_FOREVER ? NULL : &limit, NULL);
#else
	/* Milliseconds, rounded up: a wait that ends early would spin. */
	int64_t left = timeout / PROA_MILLISECOND + (timeout % PROA_MILLISECOND != 0);

	return poll(polled->entries, (nfds_t)polled->count,
		timeout == PROA_FOREVER ? -1
		: left > INT32_MAX      ? INT32_MAX
					: (int)left);
#endif
}

static int poll_take(void *world, int64_t timeout, struct reactor_event *out)
{
	struct polled *polled = world;
	int found, n = 0, i, at;

	found = call_poll(polled, timeout);
	if (found < 0)
		return errno == EINTR ? 0 : unix_error(errno);
	if (found == 0)
		return 0;
	if (found > REACTOR_EVENTS)
		found = REACTOR_EVENTS;
	for (i = 0; i < polled->count && n < found; i++) {
		at = (polled->next + i) % polled->count;
		if (polled->entries[at].revents == 0)
			continue;
		out[n].fd = polled->entries[at].fd;
		out[n].refused = 0;
		out[n++].events = polled->entries[at].revents;
	}
	/* In order, but where not all could be told: the rest comes first then. */
	polled->next = n < REACTOR_EVENTS ? 0 : (polled->next + i) % polled->count;
	return n;
}

static int poll_descriptor(void *world)
{
	(void)world;
	return -1;
}

const struct reactor poll_reactor = {
	.name = "poll",
	.edge = false,
	.open = poll_start,
	.close = poll_stop,
	.set = poll_set,
	.wait = poll_take,
	.descriptor = poll_descriptor,
};

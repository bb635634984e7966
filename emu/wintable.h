/* What WSAPoll() and select() of Winsock wait for: an array of sockets, and where
 * each is in it. Both take whole sets with every call. */
#ifndef PROA_EMU_WINTABLE_H
#define PROA_EMU_WINTABLE_H

#include <stdlib.h>
#include <string.h>

#include "emu/reactor.h"
#include "engines/windows/windows.h"

struct table {
	WSAPOLLFD *entries;
	int count, room;
	int *place; /* by handle_index(), from 1; 0: none */
	int places;
	int next; /* where the next look begins, so that all have their turn */
};

static inline void table_free(struct table *table)
{
	free(table->entries);
	free(table->place);
}

/* Room for one more entry, and for `index` among the places. */
static inline int table_reserve(struct table *table, int index)
{
	WSAPOLLFD *entries;
	int *place, room;

	if (table->count == table->room) {
		room = table->room == 0 ? 64 : table->room * 2;
		entries = realloc(table->entries, (size_t)room * sizeof *entries);
		if (entries == NULL)
			return PROA_ENOMEM;
		table->entries = entries;
		table->room = room;
	}
	if (index >= table->places) {
		for (room = table->places == 0 ? 64 : table->places; room <= index;)
			room *= 2;
		place = realloc(table->place, (size_t)room * sizeof *place);
		if (place == NULL)
			return PROA_ENOMEM;
		memset(place + table->places, 0, (size_t)(room - table->places) * sizeof *place);
		table->place = place;
		table->places = room;
	}
	return 0;
}

static inline void table_remove(struct table *table, int index)
{
	int at = table->place[index];
	WSAPOLLFD *last = &table->entries[--table->count];

	table->place[handle_index(windows_fd(last->fd))] = at;
	table->entries[at - 1] = *last;
	table->place[index] = 0;
}

/* The entry of `fd` gets `events`; 0 takes it out. 0 or PROA_ENOMEM. */
static inline int table_set(struct table *table, int fd, short events)
{
	int index = handle_index(fd), error;
	int at = index < table->places ? table->place[index] : 0;

	if (events == 0) {
		if (at != 0)
			table_remove(table, index);
		return 0;
	}
	if (at == 0) {
		error = table_reserve(table, index);
		if (error < 0)
			return error;
		at = ++table->count;
		table->place[index] = at;
		table->entries[at - 1].fd = windows_socket_of(fd);
		table->entries[at - 1].revents = 0;
	}
	table->entries[at - 1].events = events;
	return 0;
}

/* After a call that failed. A socket that was closed behind our back makes every call
 * fail: it is told to whoever waits for it, as poll(2) does. If there is none: the
 * call's error. */
static inline int table_find_bad(struct table *table, struct reactor_event *out)
{
	int n = 0, error = windows_socket_error();

	if (error != PROA_ENOTSOCK)
		return error;
	for (int i = table->count - 1; i >= 0 && n < REACTOR_EVENTS; i--) {
		int fd = windows_fd(table->entries[i].fd);

		if (windows_is_socket(fd))
			continue;
		table_set(table, fd, 0);
		out[n].fd = fd;
		out[n++].events = POLLNVAL;
	}
	return n > 0 ? n : error;
}

/* Milliseconds, rounded up: not early. INFINITE is -1. */
static inline int table_patience(int64_t timeout)
{
	if (timeout == PROA_FOREVER)
		return -1;
	if (timeout > INT64_C(0x7fffffff) * PROA_MILLISECOND)
		return 0x7fffffff;
	return (int)((timeout + PROA_MILLISECOND - 1) / PROA_MILLISECOND);
}

#endif

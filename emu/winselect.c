/* select() of Winsock: its sets are arrays of sockets with their number in front,
 * so that FD_SETSIZE bounds the type fd_set and not the call. A connect that failed
 * is told by the third set. */
#include "emu/wintable.h"

#include <stdio.h>

/* An fd_set of any size. */
struct set {
	u_int count;
	SOCKET sockets[1];
};
_Static_assert(offsetof(struct set, sockets) == offsetof(fd_set, fd_array), "laid out as fd_set");

struct selected {
	struct table table;
	struct set *in, *out, *except; /* what the call gets, and gives */
	int room;
};

static int select_start(void **world, char *why, size_t size)
{
	*world = calloc(1, sizeof(struct selected));
	if (*world != NULL)
		return 0;
	snprintf(why, size, "no memory");
	return PROA_ENOMEM;
}

static void select_stop(void *world)
{
	struct selected *selected = world;

	table_free(&selected->table);
	free(selected->in);
	free(selected->out);
	free(selected->except);
	free(selected);
}

static bool grow(struct set **set, int room)
{
	struct set *grown = realloc(*set, sizeof *grown + (size_t)room * sizeof(SOCKET));

	if (grown == NULL)
		return false;
	*set = grown;
	return true;
}

static int select_set(
	void *world, int fd, uint8_t generation, short before, short events, bool check)
{
	struct selected *selected = world;
	int error;

	(void)generation;
	(void)before;
	(void)check;
	error = table_set(&selected->table, fd, events & (POLLIN | POLLOUT));
	if (error < 0 || selected->room == selected->table.room)
		return error;
	if (grow(&selected->in, selected->table.room) &&
		grow(&selected->out, selected->table.room) &&
		grow(&selected->except, selected->table.room)) {
		selected->room = selected->table.room;
		return 0;
	}
	table_set(&selected->table, fd, 0);
	return PROA_ENOMEM;
}

/* From where the last look had to stop, so that all have their turn. */
static void fill(struct selected *selected)
{
	struct table *table = &selected->table;

	selected->in->count = selected->out->count = selected->except->count = 0;
	for (int i = 0; i < table->count; i++) {
		const WSAPOLLFD *entry = &table->entries[(table->next + i) % table->count];

		if (entry->events & POLLIN)
			selected->in->sockets[selected->in->count++] = entry->fd;
		if (entry->events & POLLOUT)
			selected->out->sockets[selected->out->count++] = entry->fd;
		selected->except->sockets[selected->except->count++] = entry->fd;
	}
}

/* Of a socket that is in two sets there are two events. False: no more room. */
static bool take(
	struct table *table, const struct set *set, short bits, struct reactor_event *out, int *n)
{
	for (u_int i = 0; i < set->count; i++) {
		if (*n == REACTOR_EVENTS) {
			table->next = table->place[handle_index(windows_fd(set->sockets[i]))] - 1;
			return false;
		}
		out[*n].fd = windows_fd(set->sockets[i]);
		out[(*n)++].events = bits;
	}
	return true;
}

static int select_take(void *world, int64_t timeout, struct reactor_event *out)
{
	struct selected *selected = world;
	struct table *table = &selected->table;
	int patience = table_patience(timeout), n = 0;
	struct timeval limit = { .tv_sec = patience / 1000, .tv_usec = patience % 1000 * 1000 };

	fill(selected);
	table->next = 0;
	if (select(0, (fd_set *)(void *)selected->in, (fd_set *)(void *)selected->out,
		    (fd_set *)(void *)selected->except, patience < 0 ? NULL : &limit) < 0)
		return table_find_bad(table, out);
	if (take(table, selected->except, POLLPRI | POLLERR, out, &n) &&
		take(table, selected->in, POLLIN, out, &n))
		take(table, selected->out, POLLOUT, out, &n);
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
	.sockets_only = true,
	.open = select_start,
	.close = select_stop,
	.set = select_set,
	.wait = select_take,
	.descriptor = select_descriptor,
};

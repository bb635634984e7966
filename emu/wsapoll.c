/* WSAPoll(): poll(2) as Winsock has it. It differs in what follows:
 * - POLLHUP, which can't be declined, is no more than the peer's end; a socket that
 *   waits to be writable would have every call return at once. It is left out of
 *   the call then, and asked by select() every few milliseconds.
 * - Before Windows 10 2004 it does not report a connect that failed: there,
 *   whoever waits to be writable is asked by select() now and then, too.
 * - POLLPRI is an error. */
#include "emu/wintable.h"

#include <stdio.h>

#define CARE_MS                10 /* between looks at what WSAPoll() does not report */
#define REPORTS_CONNECTS_BUILD 19041u

struct polled {
	struct table table;
	int writers; /* entries that wait to be writable */
	int muted; /* of them, left out of the call */
	bool forgets_connects;
};

static bool forgets_connects(void)
{
	typedef LONG(WINAPI * get_version)(OSVERSIONINFOW *);
	OSVERSIONINFOW version = { .dwOSVersionInfoSize = sizeof version };
	HMODULE ntdll = GetModuleHandleW(L"ntdll.dll");
	/* GetVersionEx() tells every program what its manifest says it knows. */
	get_version ask =
		ntdll == NULL ? NULL
			      : (get_version)(void (*)(void))GetProcAddress(ntdll, "RtlGetVersion");

	return ask == NULL || ask(&version) != 0 || version.dwBuildNumber < REPORTS_CONNECTS_BUILD;
}

static int poll_start(void **world, char *why, size_t size)
{
	struct polled *polled = calloc(1, sizeof *polled);

	*world = polled;
	if (polled == NULL) {
		snprintf(why, size, "no memory");
		return PROA_ENOMEM;
	}
	polled->forgets_connects = forgets_connects();
	return 0;
}

static void poll_stop(void *world)
{
	struct polled *polled = world;

	table_free(&polled->table);
	free(polled);
}

/* What is left out of the call: WSAPoll() passes over negative sockets. */
#define MUTED(s) ((intptr_t)(s) < 0)

static void unmute(struct polled *polled, WSAPOLLFD *entry)
{
	if (!MUTED(entry->fd))
		return;
	entry->fd = ~entry->fd;
	polled->muted--;
}

static WSAPOLLFD *entry_of(struct polled *polled, int fd)
{
	int index = handle_index(fd);
	int at = index < polled->table.places ? polled->table.place[index] : 0;

	return at == 0 ? NULL : &polled->table.entries[at - 1];
}

static int poll_set(void *world, int fd, uint8_t generation, short before, short events, bool check)
{
	struct polled *polled = world;
	WSAPOLLFD *entry = entry_of(polled, fd);
	int error;

	(void)generation;
	(void)before;
	(void)check;
	events &= POLLIN | POLLOUT;
	if (entry != NULL) {
		unmute(polled, entry);
		polled->writers -= (entry->events & POLLOUT) != 0;
	}
	/* The last one may move, by its socket's number. */
	if (polled->table.count > 0)
		unmute(polled, &polled->table.entries[polled->table.count - 1]);
	error = table_set(&polled->table, fd, events);
	if (error == 0)
		polled->writers += (events & POLLOUT) != 0;
	return error;
}

/* Those that WSAPoll() does not report as they are: what they have is put in
 * revents. */
static void look_closer(struct polled *polled)
{
	struct timeval now = { 0, 0 };
	fd_set out, except;

	for (int i = 0; i < polled->table.count; i++) {
		WSAPOLLFD *entry = &polled->table.entries[i];
		SOCKET s = MUTED(entry->fd) ? ~entry->fd : entry->fd;

		if (MUTED(entry->fd))
			entry->revents = 0;
		if (entry->revents != 0 || (entry->events & POLLOUT) == 0 ||
			(!MUTED(entry->fd) && !polled->forgets_connects))
			continue;
		FD_ZERO(&out);
		FD_ZERO(&except);
		FD_SET(s, &out);
		FD_SET(s, &except);
		if (select(0, NULL, &out, &except, &now) == 0)
			continue;
		unmute(polled, entry);
		entry->revents = FD_ISSET(s, &except) ? POLLOUT | POLLERR : POLLOUT;
	}
}

/* POLLHUP alone, for one that does not read, is no event. */
static bool mute(struct polled *polled, WSAPOLLFD *entry)
{
	if (entry->revents != POLLHUP || (entry->events & POLLIN))
		return false;
	entry->revents = 0;
	entry->fd = ~entry->fd;
	polled->muted++;
	return true;
}

static int take(struct polled *polled, struct reactor_event *out)
{
	struct table *table = &polled->table;
	int n = 0, i, at;

	for (i = 0; i < table->count && n < REACTOR_EVENTS; i++) {
		at = (table->next + i) % table->count;
		if (table->entries[at].revents == 0 || mute(polled, &table->entries[at]))
			continue;
		out[n].fd = windows_fd(table->entries[at].fd);
		out[n++].events = table->entries[at].revents;
	}
	/* In order, but where not all could be told: the rest comes first then. */
	table->next = n < REACTOR_EVENTS ? 0 : (table->next + i) % table->count;
	return n;
}

static int poll_take(void *world, int64_t timeout, struct reactor_event *out)
{
	struct polled *polled = world;
	int patience = table_patience(timeout), found;
	bool careful = polled->muted > 0 || (polled->forgets_connects && polled->writers > 0);

	if (careful && (patience < 0 || patience > CARE_MS))
		patience = CARE_MS;
	found = WSAPoll(polled->table.entries, (ULONG)polled->table.count, patience);
	if (found < 0)
		return table_find_bad(&polled->table, out);
	if (careful)
		look_closer(polled);
	else if (found == 0)
		return 0;
	return take(polled, out);
}

static int poll_descriptor(void *world)
{
	(void)world;
	return -1;
}

const struct reactor poll_reactor = {
	.name = "poll",
	.edge = false,
	.no_end = true, /* WSAPoll() refuses POLLHUP as a wish */
	.sockets_only = true,
	.open = poll_start,
	.close = poll_stop,
	.set = poll_set,
	.wait = poll_take,
	.descriptor = poll_descriptor,
};

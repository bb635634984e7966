/* The benchmarks' other half on Windows: readiness by WSAPoll(), and one process
 * instead of two, so that the figures are of both together. */
#include "bench.h"

#include <stdio.h>
#include <string.h>

#include "like_posix.h"

_Noreturn void posix_lacks(const char *what)
{
	fprintf(stderr, "proa-bench: %s\n", what);
	exit(1);
}

/* ---- readiness ------------------------------------------------------------------------ */

#define SET_MOST 4096
#define NUMBERS  65536 /* of handles, each a multiple of four */

static struct pollfd polled[SET_MOST];
static struct epoll_event wanted[SET_MOST];
static int set_count;
static int places[NUMBERS]; /* from 1; 0: not in the set */

static int place_of(int fd)
{
	return fd >= 0 && fd / 4 < NUMBERS ? places[fd / 4] - 1 : -1;
}

int epoll_create1(int flags)
{
	(void)flags;
	set_count = 0;
	memset(places, 0, sizeof places);
	return (int)(intptr_t)CreateEventW(NULL, TRUE, FALSE, NULL);
}

int epoll_ctl(int set, int what, int fd, const struct epoll_event *event)
{
	int place = place_of(fd);

	(void)set;
	if (what == EPOLL_CTL_ADD && (set_count == SET_MOST || fd / 4 >= NUMBERS)) {
		errno = ENOMEM;
		return -1;
	}
	if (what == EPOLL_CTL_ADD) {
		place = set_count++;
		places[fd / 4] = place + 1;
	}
	wanted[place] = *event;
	polled[place].fd = (SOCKET)(intptr_t)fd;
	polled[place].events = (short)(POLLIN | ((event->events & EPOLLOUT) != 0 ? POLLOUT : 0));
	return 0;
}

int epoll_wait(int set, struct epoll_event *out, int most, int ms)
{
	static int next; /* so that all have their turn */
	int n = 0;

	(void)set;
	if (set_count == 0) {
		Sleep((DWORD)ms);
		return 0;
	}
	if (WSAPoll(polled, (ULONG)set_count, ms) <= 0)
		return 0;
	for (int i = 0; i < set_count && n < most; i++) {
		struct pollfd *entry = &polled[(next + i) % set_count];

		if (entry->revents == 0)
			continue;
		out[n] = wanted[entry - polled];
		out[n].events = ((entry->revents & POLLIN) != 0 ? EPOLLIN : 0) |
				((entry->revents & POLLOUT) != 0 ? EPOLLOUT : 0) |
				((entry->revents & POLLERR) != 0 ? EPOLLERR : 0) |
				((entry->revents & POLLHUP) != 0 ? EPOLLHUP : 0);
		if (entry->revents & POLLOUT)
			entry->events &= (short)~POLLOUT;
		n++;
	}
	next = (next + 1) % set_count;
	return n;
}

#undef send
#undef close

ssize_t bench_send(int fd, const void *buffer, size_t length, int flags)
{
	ssize_t n = posix_send(fd, buffer, length, flags);
	int place = place_of(fd);

	if (n < 0 && errno == EAGAIN && place >= 0)
		polled[place].events |= POLLOUT;
	return n;
}

int bench_close(int fd)
{
	int place = place_of(fd);

	if (place >= 0) {
		set_count--;
		polled[place] = polled[set_count];
		wanted[place] = wanted[set_count];
		places[(int)(intptr_t)polled[place].fd / 4] = place + 1;
		places[fd / 4] = 0;
	}
	return posix_close(fd);
}

/* ---- the system -------------------------------------------------------------------------- */

void *bench_map(size_t length, int fd)
{
	HANDLE mapping = CreateFileMappingW(
		(HANDLE)(intptr_t)fd, NULL, PAGE_READWRITE, 0, (DWORD)length, NULL);
	void *at = mapping == NULL ? NULL : MapViewOfFile(mapping, FILE_MAP_WRITE, 0, 0, length);

	if (mapping != NULL)
		CloseHandle(mapping);
	return at == NULL ? MAP_FAILED : at;
}

int uname(struct utsname *out)
{
	snprintf(out->sysname, sizeof out->sysname, "Windows");
	snprintf(out->release, sizeof out->release, "%s", posix_is_wine() ? "(wine)" : "");
	return 0;
}

unsigned bench_cores(void)
{
	SYSTEM_INFO system;

	GetSystemInfo(&system);
	return system.dwNumberOfProcessors;
}

void bench_pin(unsigned which, bool same)
{
	(void)which; /* threads go where the system puts them */
	(void)same;
}

void bench_apart(bench_apart_fn *measure, const struct bench_options *options, const char *engine,
	struct bench_result *results, unsigned count, void *argument)
{
	for (unsigned i = 0; i < count; i++)
		bench_clear(&results[i]);
	measure(options, engine, results, argument);
}

void bench_file(const struct bench_options *options, const char *engine)
{
	(void)options;
	printf("SKIPPED file, %s: its file is made with calls that Windows has not\n", engine);
}

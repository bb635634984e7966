/* Wake-ups from other threads, the clock, and what little else lib/ asks of the
 * process. */
#include "engines/windows/windows.h"

#include <stdlib.h>

#define FULL_TRIES 20 /* a millisecond apart */

static int64_t counts_a_second;

int system_prepare(void)
{
	LARGE_INTEGER frequency;
	WSADATA ignored;
	int error = WSAStartup(MAKEWORD(2, 2), &ignored);

	if (error != 0)
		return system_code((unsigned long)error);
	QueryPerformanceFrequency(&frequency); /* can't fail since Windows XP */
	counts_a_second = frequency.QuadPart;
	return 0;
}

int64_t clock_now(void)
{
	LARGE_INTEGER count;

	QueryPerformanceCounter(&count);
	if (counts_a_second == 0)
		system_prepare();
	/* Rounded down: what has not passed is not counted. */
	return count.QuadPart / counts_a_second * PROA_SECOND +
	       count.QuadPart % counts_a_second * PROA_SECOND / counts_a_second;
}

void system_nap(int64_t ns)
{
	Sleep((DWORD)((ns + PROA_MILLISECOND - 1) / PROA_MILLISECOND));
}

const char *system_variable(const char *name)
{
	return getenv(name);
}

int system_wake_open(int *read_end, int *write_end)
{
	int ends[2], error = windows_pair(ends);

	if (error < 0)
		return error;
	*read_end = ends[0];
	*write_end = ends[1];
	return 0;
}

void system_wake(int write_end)
{
	DWORD saved = GetLastError();
	const char one = 1;
	int tries = 0;

	/* A wake-up must not be lost. Memory may be short for the moment. And wine says
	 * "full" while another thread's send is not quite over, whose byte may have been
	 * drained by then; where it is said for long, full is as good as written. */
	while (send(windows_socket_of(write_end), &one, 1, 0) < 0 &&
		(WSAGetLastError() == WSAENOBUFS ||
			(WSAGetLastError() == WSAEWOULDBLOCK && tries++ < FULL_TRIES)))
		Sleep(1);
	SetLastError(saved);
}

void system_wake_drain(int read_end)
{
	char bytes[64];

	while (recv(windows_socket_of(read_end), bytes, sizeof bytes, 0) == sizeof bytes)
		;
}

void system_wake_close(int read_end, int write_end)
{
	closesocket(windows_socket_of(read_end));
	closesocket(windows_socket_of(write_end));
}

/* There is nothing that becomes ready for every way of waiting. */
int system_outer_open(struct proa_port *port, int inner)
{
	(void)port;
	(void)inner;
	return PROA_ENOSYS;
}

void system_outer_arm(struct proa_port *port, int64_t when)
{
	(void)port;
	(void)when;
}

void system_outer_close(struct proa_port *port)
{
	(void)port;
}

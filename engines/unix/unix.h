/* What Unix systems do in the same way, whichever engine runs. */
#ifndef PROA_ENGINES_UNIX_H
#define PROA_ENGINES_UNIX_H

#include <pthread.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>

#include "engines/attempt.h"

/* As long a wait as the system knows: a time_t of 32 bits ends after 68 years. */
static inline struct timespec unix_timespec(int64_t ns)
{
	int64_t seconds = ns / PROA_SECOND;

	return (struct timespec) { .tv_sec = seconds > INT32_MAX ? INT32_MAX : (time_t)seconds,
		.tv_nsec = (long)(ns % PROA_SECOND) };
}

/* socket.c: a new socket of a SOCK_* type, non-blocking, close-on-exec and,
 * where a socket option can do that, SIGPIPE-free. A descriptor or a PROA_E*
 * code. */
int unix_socket(int family, int type);
/* accept(2): a socket as of unix_socket(), or -1 with errno. */
int unix_accept(int listener, struct sockaddr *peer, socklen_t *length);
/* A blocking pipe, close-on-exec at both ends. 0 or an error. */
int unix_pipe(int ends[2]);
/* Our code for errno. */
int unix_error(int system_errno);

/* file.c: PROA_OPEN_* as the O_* flags of open(2), close-on-exec; PROA_EINVAL for a
 * combination that has no meaning. */
int file_open_flags(uint32_t how);
/* Reads a range into the page cache: blocks, so for worker threads. 0 (be the
 * file shorter, too) or an error. */
int file_warm(proa_handle file, uint64_t offset, size_t length);
/* Does the range seem to be there? It looks at a few places of it; where the
 * system can't tell, it says so. */
bool file_is_warm(proa_handle file, uint64_t offset, size_t length);
#ifdef __linux__
/* For a statx(2) that runs by itself: where in `out` it is to write (all of
 * `out`: the struct is larger than room_), and what makes a proa_stat of it. */
static inline struct statx *stat_statx(struct proa_stat *out)
{
	return (struct statx *)(void *)out;
}
void stat_fill_from_statx(struct proa_stat *out);
#endif

/* child.c: a descriptor that is readable when `process` has ended, or an error. */
int unix_child_open(proa_process process);
void unix_child_close(int watch);
/* Reaps: 0 with *out filled, PROA_EAGAIN if it runs, or an error. `watch`: its
 * descriptor. */
int unix_reap(proa_process process, struct proa_exit *out, int watch);

#endif

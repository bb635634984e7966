/* A kqueue for tests on Linux: what kqueue(2) documents of the filters that the
 * library uses, under its names. Never installed. With KQUEUE_PLAIN it lacks what
 * some BSDs lack: EVFILT_USER, EVFILT_EXCEPT and EV_RECEIPT.
 *
 * It stands on epoll(7), so two things are looser than on a real one: data and
 * fflags are not filled in but where said, and what is registered goes with a
 * descriptor that is closed by close() in a program linked with
 * -Wl,--wrap=close, not with one that dup2() replaces. */
#ifndef PROA_TESTS_KQUEUE_SYS_EVENT_H
#define PROA_TESTS_KQUEUE_SYS_EVENT_H

#include <stdint.h>
#include <sys/types.h>
#include <time.h>

struct kevent {
	uintptr_t ident;
	int16_t filter;
	uint16_t flags;
	uint32_t fflags;
	intptr_t data;
	void *udata;
};

#define EV_SET(event, ident_, filter_, flags_, fflags_, data_, udata_) \
	(*(event) = (struct kevent) { .ident = (ident_),               \
		 .filter = (filter_),                                  \
		 .flags = (uint16_t)(flags_),                          \
		 .fflags = (fflags_),                                  \
		 .data = (data_),                                      \
		 .udata = (udata_) })

#define EVFILT_READ  (-1)
#define EVFILT_WRITE (-2)
#define EVFILT_PROC  (-5)
#define EVFILT_TIMER (-7)

#define EV_ADD     0x0001
#define EV_DELETE  0x0002
#define EV_ONESHOT 0x0010
#define EV_CLEAR   0x0020
#define EV_ERROR   0x4000
#define EV_EOF     0x8000

#define NOTE_EXIT     0x80000000u
#define NOTE_NSECONDS 0x00000004u /* EVFILT_TIMER: the unit; else milliseconds */

#ifdef KQUEUE_PLAIN
#	define NO_READER EBADF /* registering a pipe for writing: NetBSD */
#else
#	define NO_READER     EPIPE /* FreeBSD, macOS */
#	define EVFILT_USER   (-10)
#	define EVFILT_EXCEPT (-15)
#	define EV_RECEIPT    0x0040
#	define NOTE_TRIGGER  0x01000000u
#	define NOTE_OOB      0x00000002u
#endif

int kqueue(void);
int kevent(int queue, const struct kevent *changes, int change_count, struct kevent *events,
	int event_count, const struct timespec *timeout);

/* What a test wants to know: calls of kevent() so far, changes with EV_ADD, and
 * registrations of a queue. */
unsigned long kqueue_calls(void);
unsigned long kqueue_changes(void);
int kqueue_registered(int queue);
/* From the next call on one in `each` that reports something also reports, of the
 * same descriptor, what is not so. 0: none. */
void kqueue_lie(unsigned each);
/* The next `count` registrations for reading or writing fail with `error`. */
void kqueue_refuse(unsigned count, int error);

#endif

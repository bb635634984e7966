/* kqueue(2), of macOS and the BSDs: a filter is registered once for its
 * descriptor's life, with EV_CLEAR, and for writing only when somebody first had
 * to wait for that. Changes are gathered and handed over with the next wait: one
 * kevent(2) a turn.
 *
 * What the kernel is given to remember is the handle's generation, never a
 * pointer: an event of a descriptor's earlier life is told apart, and dropped.
 *
 * The systems differ; docs/design/kqueue.md has the list. What is used here is
 * common to all of them but where #ifdef says so. */
#include "emu/reactor.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
/* after it: FreeBSD's and NetBSD's manual pages ask for this order */
#include <sys/event.h>
#include <time.h>
#include <unistd.h>

#include "engines/unix/unix.h"

/* As many as events are taken in: each may fail, and a failure is told as an
 * event if there is room for it. */
#define CHANGES_MOST REACTOR_EVENTS

/* Some kernels refuse a time too far away (sys/kern/kern_time.c, itimerfix(), as older
 * BSDs have it: EINVAL above 10^8 seconds). To wake up once a day does no harm. */
#define WAIT_MOST (24 * 3600 * PROA_SECOND)

/* NetBSD before 10 declares udata as intptr_t, the others as a pointer. */
#define UDATA(value) ((__typeof__(((struct kevent *)0)->udata))(intptr_t)(value))

/* That more than was asked for is not reported with the answers: macOS 10.6,
 * FreeBSD 8.1, OpenBSD 6.2, NetBSD 10. Where it is missing, what is reported is
 * kept as it comes. */
#ifndef EV_RECEIPT
#	define EV_RECEIPT 0
#endif

struct queue {
	int fd;
	int count; /* of changes */
	int kept_count, kept_room;
	struct kevent *kept; /* reported when changes had to be handed over early */
	struct kevent changes[CHANGES_MOST];
	struct kevent events[REACTOR_EVENTS];
};

static const struct timespec at_once = { 0, 0 };

/* ---- changes ------------------------------------------------------------------ */

/* Room for what `count` changes may answer: 0 or PROA_ENOMEM. */
static int kept_reserve(struct queue *queue, int count)
{
	struct kevent *kept;
	int room = queue->kept_count + count;

	if (room <= queue->kept_room)
		return 0;
	kept = realloc(queue->kept, (size_t)room * sizeof *kept);
	if (kept == NULL)
		return PROA_ENOMEM;
	queue->kept = kept;
	queue->kept_room = room;
	return 0;
}

static bool is_news(const struct kevent *event)
{
	return (event->flags & EV_ERROR) == 0 || event->data != 0;
}

/* One by one: a call that fails as a whole does not say how far it came. */
static void hand_over_each(struct queue *queue)
{
	for (int i = 0; i < queue->count; i++) {
		struct kevent *change = &queue->changes[i], answer;
		int n;

		change->flags |= EV_RECEIPT;
		n = kevent(queue->fd, change, 1, &answer, 1, &at_once);
		if (n < 0 && errno != EINTR) {
			answer = *change;
			answer.flags = EV_ERROR;
			answer.data = errno;
			n = 1;
		}
		if (n == 1 && is_news(&answer))
			queue->kept[queue->kept_count++] = answer;
	}
	queue->count = 0;
}

/* Before the wait: what has to be known of it is kept. 0, or PROA_ENOMEM and
 * nothing done. */
static int hand_over(struct queue *queue)
{
	int error = kept_reserve(queue, queue->count), n;
	struct kevent *answers;

	if (error < 0)
		return error;
	for (int i = 0; i < queue->count; i++)
		queue->changes[i].flags |= EV_RECEIPT;
	answers = queue->kept + queue->kept_count;
	do
		n = kevent(
			queue->fd, queue->changes, queue->count, answers, queue->count, &at_once);
	while (n < 0 && errno == EINTR); /* registering twice is as once */
	if (n < 0) {
		hand_over_each(queue);
		return 0;
	}
	queue->count = 0;
	for (int i = 0; i < n; i++)
		if (is_news(&answers[i]))
			queue->kept[queue->kept_count++] = answers[i];
	return 0;
}

static int change(struct queue *queue, int fd, uint8_t generation, short filter, unsigned fflags)
{
	if (queue->count == CHANGES_MOST) {
		int error = hand_over(queue);

		if (error < 0)
			return error;
	}
	EV_SET(&queue->changes[queue->count++], (uintptr_t)fd, filter, EV_ADD | EV_CLEAR, fflags, 0,
		UDATA(generation));
	return 0;
}

/* What was not handed over yet would be taken for another's, if the number is
 * given out again. */
static void queue_drop(void *world, int fd)
{
	struct queue *queue = world;
	int kept = 0;

	for (int i = 0; i < queue->count; i++)
		if (queue->changes[i].ident != (uintptr_t)fd)
			queue->changes[kept++] = queue->changes[i];
	queue->count = kept;
}

/* Not left to the next wait: who releases a handle is told that the kernel holds
 * nothing of it. That some of it is not there (ENOENT) is as good. */
static void withdraw(struct queue *queue, int fd, short before)
{
	struct kevent change, answer;

	queue_drop(queue, fd);
	if (before & POLLIN) {
		EV_SET(&change, (uintptr_t)fd, EVFILT_READ, EV_DELETE | EV_RECEIPT, 0, 0, UDATA(0));
		kevent(queue->fd, &change, 1, EV_RECEIPT ? &answer : NULL, EV_RECEIPT ? 1 : 0,
			&at_once);
#ifdef EVFILT_EXCEPT
		EV_SET(&change, (uintptr_t)fd, EVFILT_EXCEPT, EV_DELETE | EV_RECEIPT, 0, 0,
			UDATA(0));
		kevent(queue->fd, &change, 1, &answer, 1, &at_once);
#endif
	}
	if (before & POLLOUT) {
		EV_SET(&change, (uintptr_t)fd, EVFILT_WRITE, EV_DELETE | EV_RECEIPT, 0, 0,
			UDATA(0));
		kevent(queue->fd, &change, 1, EV_RECEIPT ? &answer : NULL, EV_RECEIPT ? 1 : 0,
			&at_once);
	}
}

static int queue_set(
	void *world, int fd, uint8_t generation, short before, short events, bool check)
{
	struct queue *queue = world;
	short added = check ? events : (short)(events & ~before);
	int error = 0;

	if (events == 0) {
		withdraw(queue, fd, before);
		return 0;
	}
	if (added & POLLIN)
		error = change(queue, fd, generation, EVFILT_READ, 0);
#ifdef EVFILT_EXCEPT
	/* Sockets alone have it: a refusal is no news. */
	if (error == 0 && (added & POLLIN))
		error = change(queue, fd, generation, EVFILT_EXCEPT, NOTE_OOB);
#endif
	if (error == 0 && (added & POLLOUT))
		error = change(queue, fd, generation, EVFILT_WRITE, 0);
	return error;
}

static bool queue_flush(void *world)
{
	struct queue *queue = world;

	/* Without memory it is tried again: whoever kicks comes back. */
	if (queue->count > 0 && hand_over(queue) < 0)
		return true;
	return queue->kept_count > 0;
}

/* ---- events -------------------------------------------------------------------- */

static short events_of(const struct kevent *event)
{
	bool end = (event->flags & EV_EOF) != 0;

	switch (event->filter) {
	case EVFILT_READ:
		/* EV_EOF comes before the data is read: it says that a short read
		 * proves nothing, and no more. */
		return end ? POLLIN | POLLHUP : POLLIN;
	case EVFILT_WRITE:
		return end ? POLLOUT | POLLHUP : POLLOUT;
#ifdef EVFILT_EXCEPT
	case EVFILT_EXCEPT:
		return POLLPRI;
#endif
	default:
		return 0; /* a wake-up, which has done its work */
	}
}

/* False: nothing to tell. */
static bool translate(const struct kevent *event, struct reactor_event *out)
{
	out->fd = (int)event->ident;
	out->generation = (uint8_t)(uintptr_t)event->udata;
	out->refused = 0;
	if ((event->flags & EV_ERROR) == 0) {
		out->events = events_of(event);
		return out->events != 0;
	}
	if (event->data == 0 || (event->filter != EVFILT_READ && event->filter != EVFILT_WRITE))
		return false;
	out->events = event->filter == EVFILT_READ ? POLLIN : POLLOUT;
	/* A pipe whose reader is gone can't be registered for writing: EPIPE (FreeBSD and
	 * xnu, sys_pipe.c, pipe_kqfilter()), EBADF (NetBSD, the same). It is ready: write(2)
	 * has the answer. */
	if (event->data == EPIPE || (event->data == EBADF && event->filter == EVFILT_WRITE))
		out->events |= POLLHUP;
	else
		out->refused = (uint8_t)-unix_error((int)event->data);
	return true;
}

static int take_kept(struct queue *queue, struct reactor_event *out)
{
	int used, n = 0;

	for (used = 0; used < queue->kept_count && n < REACTOR_EVENTS; used++)
		n += translate(&queue->kept[used], &out[n]);
	queue->kept_count -= used;
	memmove(queue->kept, queue->kept + used, (size_t)queue->kept_count * sizeof *queue->kept);
	return n;
}

static int queue_wait(void *world, int64_t timeout, struct reactor_event *out)
{
	struct queue *queue = world;
	struct timespec limit;
	int found, n = 0;

	if (queue->kept_count > 0)
		return take_kept(queue, out);
	if (timeout > WAIT_MOST && timeout != PROA_FOREVER)
		timeout = WAIT_MOST;
	limit.tv_sec = (time_t)(timeout / PROA_SECOND);
	limit.tv_nsec = (long)(timeout % PROA_SECOND);
	found = kevent(queue->fd, queue->changes, queue->count, queue->events, REACTOR_EVENTS,
		timeout == PROA_FOREVER ? NULL : &limit);
	if (found < 0 && errno != EINTR && queue->count == 0)
		return unix_error(errno);
	if (found < 0 && errno != EINTR) {
		hand_over(queue);
		return 0;
	}
	/* With EINTR too the changes have been made: kevent(2), FreeBSD. */
	queue->count = 0;
	for (int i = 0; i < found; i++)
		n += translate(&queue->events[i], &out[n]);
	return n;
}

/* ---- life ------------------------------------------------------------------------ */

#ifdef EVFILT_USER
/* The number is of its own kind: no descriptor's. */
#	define WAKE 0

static int wake_register(const struct queue *queue)
{
	struct kevent change;

	EV_SET(&change, WAKE, EVFILT_USER, EV_ADD | EV_CLEAR, 0, 0, UDATA(0));
	return kevent(queue->fd, &change, 1, NULL, 0, NULL);
}

/* A system call and no more, so it may be made in a signal handler. */
static void queue_wake(void *world)
{
	const struct queue *queue = world;
	struct kevent change;
	int saved = errno;

	EV_SET(&change, WAKE, EVFILT_USER, 0, NOTE_TRIGGER, 0, UDATA(0));
	while (kevent(queue->fd, &change, 1, NULL, 0, NULL) < 0 && errno == EINTR)
		;
	errno = saved;
}
#else
#	define queue_wake NULL

static int wake_register(const struct queue *queue)
{
	(void)queue; /* the port's own descriptor is set as any other */
	return 0;
}
#endif

static void queue_free(struct queue *queue)
{
	free(queue->kept);
	free(queue);
}

static int queue_open(void **world, char *why, size_t size)
{
	struct queue *queue = calloc(1, sizeof *queue);
	int error;

	if (queue == NULL) {
		snprintf(why, size, "no memory");
		return PROA_ENOMEM;
	}
	queue->fd = kqueue();
	if (queue->fd >= 0 && fcntl(queue->fd, F_SETFD, FD_CLOEXEC) == 0 &&
		wake_register(queue) == 0) {
		*world = queue;
		return 0;
	}
	error = unix_error(errno);
	snprintf(why, size, "%s: %s (%s)", queue->fd < 0 ? "kqueue" : "its wake-up",
		proa_error_name(error), proa_error_text(error));
	if (queue->fd >= 0)
		close(queue->fd);
	queue_free(queue);
	return error;
}

static void queue_close(void *world)
{
	struct queue *queue = world;

	close(queue->fd);
	queue_free(queue);
}

/* "The queue is not inherited by a child created with fork(2)": its number may be
 * another's there. */
static void queue_abandon(void *world)
{
	queue_free(world);
}

static int queue_descriptor(void *world)
{
	const struct queue *queue = world;

	return queue->fd;
}

const struct reactor kqueue_reactor = {
	.name = "kqueue",
	.edge = true,
	.open = queue_open,
	.close = queue_close,
	.set = queue_set,
	.wait = queue_wait,
	.descriptor = queue_descriptor,
	.flush = queue_flush,
	.closing = queue_drop,
	.wake = queue_wake,
	.abandon = queue_abandon,
#ifndef EVFILT_EXCEPT
	.blind = true,
#endif
};

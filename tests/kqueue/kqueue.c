/* A kqueue for tests: see sys/event.h.
 *
 * A queue's descriptor is an epoll(7), so that it can be waited for itself. What
 * is registered for reading is in it; what is for writing is in a second epoll,
 * which is in the first, so that data that arrives does not look like news to a
 * writer. Timers, children and wake-ups are descriptors of their own in the
 * first. */
#include <sys/event.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <unistd.h>

#define QUEUES 4096 /* descriptors that can be queues */
#define TAKEN  64 /* of epoll's events at once */

#ifndef EV_RECEIPT
#	define EV_RECEIPT 0
#endif

enum { READS, WRITES, EXCEPTS, FILTERS };

struct note {
	bool set;
	uint16_t flags;
	void *udata;
};

struct notes {
	struct note of[FILTERS];
};

/* A timer, a child, or a wake-up: what has no descriptor in the program. */
struct other {
	struct other *next;
	uintptr_t ident;
	int16_t filter;
	uint16_t flags;
	uint32_t fflags;
	void *udata;
	int fd;
};

struct queue {
	int fd, writers;
	struct notes *notes; /* by descriptor */
	size_t room;
	struct other *others;
	atomic_int trigger; /* the eventfd of the one wake-up; -1: none */
	unsigned turn;
};

/* epoll's data: which, and in whose name. */
#define TAG_WRITERS (UINT64_C(1) << 40)
#define TAG_OTHER   (UINT64_C(1) << 41)

static _Atomic(struct queue *) queues[QUEUES];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static atomic_ulong calls, added;
static unsigned lies, refusals;
static int refusal;

int __real_close(int fd);
int __wrap_close(int fd);

unsigned long kqueue_calls(void)
{
	return atomic_load(&calls);
}

unsigned long kqueue_changes(void)
{
	return atomic_load(&added);
}

void kqueue_lie(unsigned each)
{
	lies = each;
}

void kqueue_refuse(unsigned count, int error)
{
	refusals = count;
	refusal = error;
}

static struct queue *queue_of(int fd)
{
	return fd < 0 || fd >= QUEUES ? NULL : atomic_load(&queues[fd]);
}

int kqueue_registered(int fd)
{
	struct queue *queue = queue_of(fd);
	int count = 0;

	if (queue == NULL)
		return -1;
	pthread_mutex_lock(&lock);
	for (size_t i = 0; i < queue->room; i++)
		for (int filter = 0; filter < FILTERS; filter++)
			count += queue->notes[i].of[filter].set;
	for (const struct other *other = queue->others; other != NULL; other = other->next)
		count++;
	pthread_mutex_unlock(&lock);
	return count;
}

/* ---- the end of a queue, and of descriptors -------------------------------------- */

static void queue_end(struct queue *queue)
{
	struct other *other;

	atomic_store(&queues[queue->fd], NULL);
	while ((other = queue->others) != NULL) {
		queue->others = other->next;
		__real_close(other->fd);
		free(other);
	}
	__real_close(queue->writers);
	free(queue->notes);
	free(queue);
}

/* "Events which are attached to file descriptors are automatically deleted on the
 * last close of the descriptor." epoll would keep them while another descriptor
 * of the same open file lives. */
static void forget(struct queue *queue, int fd)
{
	if ((size_t)fd >= queue->room)
		return;
	if (queue->notes[fd].of[READS].set || queue->notes[fd].of[EXCEPTS].set)
		epoll_ctl(queue->fd, EPOLL_CTL_DEL, fd, NULL);
	if (queue->notes[fd].of[WRITES].set)
		epoll_ctl(queue->writers, EPOLL_CTL_DEL, fd, NULL);
	memset(&queue->notes[fd], 0, sizeof queue->notes[fd]);
}

int __wrap_close(int fd)
{
	struct queue *queue;

	pthread_mutex_lock(&lock);
	for (int i = 0; i < QUEUES && fd >= 0; i++)
		if ((queue = atomic_load(&queues[i])) != NULL)
			forget(queue, fd);
	queue = queue_of(fd);
	if (queue != NULL)
		queue_end(queue);
	pthread_mutex_unlock(&lock);
	return __real_close(fd);
}

static void before_fork(void)
{
	pthread_mutex_lock(&lock);
}

static void parent_after_fork(void)
{
	pthread_mutex_unlock(&lock);
}

/* "The queue is not inherited by a child created with fork(2)." */
static void child_after_fork(void)
{
	struct queue *queue;

	for (int fd = 0; fd < QUEUES; fd++)
		if ((queue = atomic_load(&queues[fd])) != NULL) {
			queue_end(queue);
			__real_close(fd);
		}
	pthread_mutex_unlock(&lock);
}

static void prepare(void)
{
	const char *each = getenv("KQUEUE_LIES");

	pthread_atfork(before_fork, parent_after_fork, child_after_fork);
	if (each != NULL)
		lies = (unsigned)atoi(each);
}

static int add_writers(struct queue *queue)
{
	struct epoll_event event = { .events = EPOLLIN, .data.u64 = TAG_WRITERS };

	int error = 0;

	queue->writers = epoll_create1(EPOLL_CLOEXEC);
	if (queue->writers < 0)
		return errno;
	if (epoll_ctl(queue->fd, EPOLL_CTL_ADD, queue->writers, &event) < 0) {
		error = errno;
		__real_close(queue->writers);
	}
	return error;
}

int kqueue(void)
{
	struct queue *queue = calloc(1, sizeof *queue);
	int error;

	pthread_once(&once, prepare);
	if (queue == NULL)
		return -1;
	atomic_init(&queue->trigger, -1);
	/* Not close-on-exec, as a real one. */
	queue->fd = epoll_create1(0);
	if (queue->fd >= QUEUES) {
		__real_close(queue->fd);
		queue->fd = -1;
		errno = EMFILE;
	}
	error = queue->fd < 0 ? errno : add_writers(queue);
	if (error != 0) {
		if (queue->fd >= 0)
			__real_close(queue->fd);
		free(queue);
		errno = error;
		return -1;
	}
	atomic_store(&queues[queue->fd], queue);
	return queue->fd;
}

/* ---- changes of what is a descriptor's ------------------------------------------- */

static int filter_index(int16_t filter)
{
	switch (filter) {
	case EVFILT_READ:
		return READS;
	case EVFILT_WRITE:
		return WRITES;
#ifdef EVFILT_EXCEPT
	case EVFILT_EXCEPT:
		return EXCEPTS;
#endif
	default:
		return -1;
	}
}

static int reserve(struct queue *queue, size_t fd)
{
	size_t room = queue->room == 0 ? 64 : queue->room;
	struct notes *notes;

	if (fd < queue->room)
		return 0;
	while (room <= fd)
		room *= 2;
	notes = realloc(queue->notes, room * sizeof *notes);
	if (notes == NULL)
		return ENOMEM;
	memset(notes + queue->room, 0, (room - queue->room) * sizeof *notes);
	queue->notes = notes;
	queue->room = room;
	return 0;
}

static uint32_t edge(uint16_t flags)
{
	return (flags & EV_CLEAR) ? EPOLLET : 0;
}

/* Tells epoll what the notes of a descriptor say. An error of errno, or 0. */
static int apply(struct queue *queue, int fd, bool writing)
{
	const struct note *notes = queue->notes[fd].of;
	struct epoll_event event = { .data.u64 = (uint64_t)fd };
	int target = writing ? queue->writers : queue->fd;

	if (writing && notes[WRITES].set)
		event.events = EPOLLOUT | edge(notes[WRITES].flags);
	if (!writing && notes[READS].set)
		event.events |= EPOLLIN | EPOLLRDHUP | edge(notes[READS].flags);
	if (!writing && notes[EXCEPTS].set)
		event.events |= EPOLLPRI | edge(notes[EXCEPTS].flags);
	if (event.events == 0)
		return epoll_ctl(target, EPOLL_CTL_DEL, fd, NULL) < 0 ? errno : 0;
	/* Modified, it looks anew, as a filter that is added again. */
	if (epoll_ctl(target, EPOLL_CTL_MOD, fd, &event) == 0)
		return 0;
	if (errno == ENOENT && epoll_ctl(target, EPOLL_CTL_ADD, fd, &event) == 0)
		return 0;
	return errno == EPERM ? EINVAL : errno;
}

/* What a real one refuses, and epoll does not. */
static int check(int fd, int index)
{
	struct pollfd p = { .fd = fd, .events = POLLOUT };
	struct stat status;

	if (fstat(fd, &status) < 0)
		return EBADF;
	if (index == EXCEPTS && !S_ISSOCK(status.st_mode))
		return EINVAL;
	if (index == WRITES && S_ISFIFO(status.st_mode) && poll(&p, 1, 0) == 1 &&
		(p.revents & POLLERR))
		return NO_READER;
	return 0;
}

static int change_descriptor(struct queue *queue, const struct kevent *change, int index)
{
	int fd = (int)change->ident, error;
	struct note *note, before;

	if (fcntl(fd, F_GETFD) < 0)
		return EBADF;
	error = reserve(queue, (size_t)fd);
	if (error != 0)
		return error;
	note = &queue->notes[fd].of[index];
	if (change->flags & EV_DELETE) {
		if (!note->set)
			return ENOENT;
		note->set = false;
		return apply(queue, fd, index == WRITES);
	}
	if ((change->flags & EV_ADD) == 0)
		return note->set ? 0 : ENOENT;
	error = check(fd, index);
	if (error == 0 && refusals > 0 && index != EXCEPTS) {
		refusals--;
		error = refusal;
	}
	if (error != 0)
		return error;
	before = *note;
	*note = (struct note) { true, change->flags, change->udata };
	error = apply(queue, fd, index == WRITES);
	if (error != 0)
		*note = before;
	return error;
}

/* ---- changes of the others --------------------------------------------------------- */

static struct other **other_find(struct queue *queue, const struct kevent *change)
{
	struct other **link = &queue->others;

	while (*link != NULL &&
		((*link)->ident != change->ident || (*link)->filter != change->filter))
		link = &(*link)->next;
	return link;
}

static void other_remove(struct queue *queue, struct other **link)
{
	struct other *other = *link;

	*link = other->next;
	if (atomic_load(&queue->trigger) == other->fd)
		atomic_store(&queue->trigger, -1);
	__real_close(other->fd);
	free(other);
}

static void timer_set(int fd, const struct kevent *change)
{
	int64_t unit = (change->fflags & NOTE_NSECONDS) ? 1 : 1000000;
	int64_t period = change->data > 0 ? (int64_t)change->data * unit : 1;
	struct itimerspec at = { 0 };

	at.it_value.tv_sec = period / 1000000000;
	at.it_value.tv_nsec = period % 1000000000;
	if ((change->flags & EV_ONESHOT) == 0)
		at.it_interval = at.it_value;
	timerfd_settime(fd, 0, &at, NULL);
}

static int other_open(const struct kevent *change)
{
	switch (change->filter) {
	case EVFILT_TIMER:
		return timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
	case EVFILT_PROC:
		/* macOS and the BSDs say ESRCH of one that has ended, too. */
		if (kill((pid_t)change->ident, 0) < 0)
			return -1;
		{
			siginfo_t info = { 0 };

			if (waitid(P_PID, (id_t)change->ident, &info,
				    WEXITED | WNOHANG | WNOWAIT) == 0 &&
				info.si_pid != 0) {
				errno = ESRCH;
				return -1;
			}
		}
		return (int)syscall(SYS_pidfd_open, (pid_t)change->ident, 0u);
	default:
		return eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	}
}

static int other_add(struct queue *queue, struct other **link, const struct kevent *change)
{
	struct epoll_event event = { .events = EPOLLIN };
	struct other *other = *link;

	if (other == NULL) {
		other = calloc(1, sizeof *other);
		if (other == NULL)
			return ENOMEM;
		other->ident = change->ident;
		other->filter = change->filter;
		other->fd = other_open(change);
		event.data.u64 = TAG_OTHER | (uint64_t)(unsigned)other->fd;
		if (other->fd < 0 || epoll_ctl(queue->fd, EPOLL_CTL_ADD, other->fd, &event) < 0) {
			int error = errno;

			if (other->fd >= 0)
				__real_close(other->fd);
			free(other);
			return error;
		}
		*link = other;
	}
	other->flags = change->flags;
	other->fflags = change->fflags;
	other->udata = change->udata;
	if (change->filter == EVFILT_TIMER)
		timer_set(other->fd, change);
#ifdef EVFILT_USER
	if (change->filter == EVFILT_USER)
		atomic_store(&queue->trigger, other->fd);
#endif
	return 0;
}

static int change_other(struct queue *queue, const struct kevent *change)
{
	struct other **link = other_find(queue, change);

	if (change->filter != EVFILT_TIMER && change->filter != EVFILT_PROC
#ifdef EVFILT_USER
		&& change->filter != EVFILT_USER
#endif
	)
		return EINVAL;
	if (change->flags & EV_ADD)
		return other_add(queue, link, change);
	if (*link == NULL)
		return ENOENT;
	if (change->flags & EV_DELETE)
		other_remove(queue, link);
	return 0;
}

/* ---- events -------------------------------------------------------------------------- */

static intptr_t readable_bytes(int fd)
{
	int bytes = 0;

	return ioctl(fd, FIONREAD, &bytes) == 0 ? bytes : 1;
}

static bool note_event(struct queue *queue, int fd, int index, uint32_t bits, struct kevent *out)
{
	static const int16_t filters[] = { EVFILT_READ, EVFILT_WRITE,
#ifdef EVFILT_EXCEPT
		EVFILT_EXCEPT
#endif
	};
	static const uint32_t wanted[] = { EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR,
		EPOLLOUT | EPOLLHUP | EPOLLERR, EPOLLPRI };
	static const uint32_t ends[] = { EPOLLRDHUP | EPOLLHUP | EPOLLERR, EPOLLHUP | EPOLLERR, 0 };
	struct note *note = &queue->notes[fd].of[index];

	if (!note->set || (bits & wanted[index]) == 0)
		return false;
	EV_SET(out, (uintptr_t)fd, filters[index], note->flags & (EV_CLEAR | EV_ONESHOT), 0,
		index == READS ? readable_bytes(fd) : 1, note->udata);
	if (bits & ends[index])
		out->flags |= EV_EOF;
	if (note->flags & EV_ONESHOT) {
		note->set = false;
		apply(queue, fd, index == WRITES);
	}
	return true;
}

static bool other_event(struct queue *queue, int fd, struct kevent *out)
{
	struct other **link = &queue->others;
	struct other *other;
	uint64_t count = 1;

	while (*link != NULL && (*link)->fd != fd)
		link = &(*link)->next;
	other = *link;
	if (other == NULL)
		return false;
	/* Taken out by who is first. */
	if (other->filter != EVFILT_PROC && read(fd, &count, sizeof count) < 0)
		return false;
	EV_SET(out, other->ident, other->filter, other->flags & (EV_CLEAR | EV_ONESHOT), 0,
		(intptr_t)count, other->udata);
	if (other->filter == EVFILT_PROC) {
		out->fflags = NOTE_EXIT;
		out->flags |= EV_EOF | EV_ONESHOT;
	}
	if (out->flags & EV_ONESHOT)
		other_remove(queue, link);
	return true;
}

/* Of the same descriptor what is not so: a filter may wake up for nothing. */
static int lie(struct queue *queue, struct kevent *events, int n, int room)
{
	int fd;

	if (lies == 0 || n == 0 || n == room || ++queue->turn % lies != 0)
		return n;
	if (events[0].filter != EVFILT_READ && events[0].filter != EVFILT_WRITE)
		return n;
	fd = (int)events[0].ident;
	for (int index = READS; index <= WRITES && n < room; index++)
		n += note_event(queue, fd, index, EPOLLIN | EPOLLOUT, &events[n]);
	return n;
}

static int take_from(
	struct queue *queue, int from, bool writing, struct kevent *events, int n, int room)
{
	struct epoll_event found[TAKEN];
	/* As many as there is sure to be room for: two filters of one. */
	int most = room - n == 1 ? 1 : (room - n) / 2, count;

	if (most > TAKEN)
		most = TAKEN;
	if (most == 0)
		return n;
	count = epoll_wait(from, found, most, 0);
	for (int i = 0; i < count; i++) {
		uint64_t tag = found[i].data.u64;
		int fd = (int)(uint32_t)tag;

		if (tag & TAG_OTHER) {
			n += n < room && other_event(queue, fd, &events[n]);
		} else if ((tag & TAG_WRITERS) == 0 && writing) {
			n += n < room && note_event(queue, fd, WRITES, found[i].events, &events[n]);
		} else if ((tag & TAG_WRITERS) == 0) {
			n += n < room && note_event(queue, fd, READS, found[i].events, &events[n]);
			n += n < room &&
			     note_event(queue, fd, EXCEPTS, found[i].events, &events[n]);
		}
	}
	return n;
}

static int take(struct queue *queue, struct kevent *events, int room)
{
	int n = 0;

	/* With room for one alone, each comes to its turn. */
	if (room > 1 || queue->turn++ % 2 == 0)
		n = take_from(queue, queue->writers, true, events, n, room > 1 ? room / 2 : 1);
	n = take_from(queue, queue->fd, false, events, n, room);
	return lie(queue, events, n, room);
}

static int64_t now(void)
{
	struct timespec at;

	clock_gettime(CLOCK_MONOTONIC, &at);
	return at.tv_sec * INT64_C(1000000000) + at.tv_nsec;
}

/* Until there may be something: 0, or -1 with EINTR. */
static int wait_for_news(int fd, int64_t until)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };
	int64_t left = until - now();
	struct timespec limit;

	if (until < 0)
		return ppoll(&p, 1, NULL, NULL) < 0 ? -1 : 0;
	if (left < 0)
		left = 0;
	limit.tv_sec = left / 1000000000;
	limit.tv_nsec = left % 1000000000;
	return ppoll(&p, 1, &limit, NULL) < 0 ? -1 : 0;
}

/* ---- the call -------------------------------------------------------------------------- */

/* Makes the changes. The number of answers, or -1 with errno if there was no room
 * for one. */
static int change_all(struct queue *queue, const struct kevent *changes, int count,
	struct kevent *events, int room)
{
	int n = 0;

	for (int i = 0; i < count; i++) {
		struct kevent answer = changes[i];
		int index = filter_index(answer.filter);
		int error;

		if (answer.flags & EV_ADD)
			atomic_fetch_add(&added, 1);
		error = index < 0 ? change_other(queue, &answer)
				  : change_descriptor(queue, &answer, index);

		if (error == 0 && (answer.flags & EV_RECEIPT) == 0)
			continue;
		if (n == room && error == 0)
			continue;
		if (n == room) {
			errno = error;
			return -1;
		}
		answer.flags |= EV_ERROR;
		answer.data = error;
		events[n++] = answer;
	}
	return n;
}

/* What a signal handler may do: takes no lock. */
static bool is_trigger(const struct kevent *changes, int change_count)
{
#ifdef EVFILT_USER
	return change_count == 1 && changes[0].filter == EVFILT_USER &&
	       (changes[0].flags & (EV_ADD | EV_DELETE)) == 0 &&
	       (changes[0].fflags & NOTE_TRIGGER) != 0;
#else
	(void)changes;
	(void)change_count;
	return false;
#endif
}

static int pull_trigger(const struct queue *queue)
{
	int fd = atomic_load(&queue->trigger);
	uint64_t one = 1;

	if (fd < 0) {
		errno = ENOENT;
		return -1;
	}
	return write(fd, &one, sizeof one) < 0 && errno != EAGAIN ? -1 : 0;
}

int kevent(int fd, const struct kevent *changes, int change_count, struct kevent *events,
	int event_count, const struct timespec *timeout)
{
	struct queue *queue = queue_of(fd);
	int64_t until = -1;
	int n;

	if (queue == NULL) {
		errno = EBADF;
		return -1;
	}
	atomic_fetch_add(&calls, 1);
	if (is_trigger(changes, change_count) && event_count == 0)
		return pull_trigger(queue);
	if (timeout != NULL)
		until = now() + timeout->tv_sec * INT64_C(1000000000) + timeout->tv_nsec;
	pthread_mutex_lock(&lock);
	n = change_all(queue, changes, change_count, events, event_count);
	/* With answers at once: it does not wait, but reports what else there is. */
	if (n >= 0 && n < event_count)
		n += take(queue, events + n, event_count - n);
	pthread_mutex_unlock(&lock);
	/* "When nevents is zero, kevent() will return immediately even if there is a
	 * timeout specified". */
	while (n == 0 && event_count > 0 && (until < 0 || now() < until)) {
		if (wait_for_news(fd, until) < 0)
			return -1;
		pthread_mutex_lock(&lock);
		n = take(queue, events, event_count);
		pthread_mutex_unlock(&lock);
	}
	return n;
}

/* The ring itself: set up with what the kernel grants, entered, closed. */
#include "engines/uring/uring.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define ENTRIES_DEFAULT 1024u
#define ENTRIES_LEAST   8u
#define WORKERS_FILES   4u
/* How long to wait before what the kernel did not take is handed over again. */
#define NOT_TAKEN PROA_MILLISECOND
/* A call that has kept failing for so long, in a way that does not pass, is forbidden. */
#define FAILS_MOST PROA_SECOND

static const struct {
	const char *name;
	unsigned can;
} switches[] = {
	{ "all", CAN_ALL },
	{ "defer", CAN_DEFER },
	{ "coop", CAN_COOP | CAN_DEFER }, /* no kernel has but the latter */
	{ "ext_arg", CAN_EXT_ARG | CAN_COOP | CAN_DEFER }, /* as above */
	{ "buffers", CAN_BUFFERS },
	{ "multishot", CAN_MULTI },
	{ "files", CAN_FILES },
	{ "register", CAN_REGISTER },
	{ "poll_multishot", CAN_POLL_MULTI },
};

/* PROA_URING_OFF, a comma list: for tests of what happens where the kernel
 * lacks a thing. */
static unsigned switched_off(void)
{
	const char *list = secure_getenv("PROA_URING_OFF");
	unsigned off = 0;
	size_t length;

	for (; list != NULL && *list != '\0'; list += length + (list[length] == ',')) {
		length = strcspn(list, ",");
		for (size_t i = 0; i < sizeof switches / sizeof switches[0]; i++)
			if (strlen(switches[i].name) == length &&
				memcmp(switches[i].name, list, length) == 0)
				off |= switches[i].can;
	}
	return off;
}

/* The flags, dearest first: each set of them a try. */
static const unsigned flag_sets[] = {
	IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_COOP_TASKRUN |
		IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_SUBMIT_ALL | IORING_SETUP_R_DISABLED,
	IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_SUBMIT_ALL,
	IORING_SETUP_SUBMIT_ALL,
	0,
};

static int setup(struct uring *uring, unsigned entries, unsigned flags)
{
	struct io_uring_params params = { .flags = flags | IORING_SETUP_CLAMP |
						   IORING_SETUP_CQSIZE };
	int error;

	do {
		params.cq_entries = entries * 4;
		error = io_uring_queue_init_params(entries, &uring->ring, &params);
		entries /= 2; /* RLIMIT_MEMLOCK counts ring memory before Linux 5.12 */
	} while (error == -ENOMEM && entries >= ENTRIES_LEAST);
	return error;
}

/* False if there is no asking. */
static bool probe(struct uring *uring)
{
	struct io_uring_probe *found = io_uring_get_probe_ring(&uring->ring);

	uring->supported = 0;
	if (found == NULL)
		return false;
	for (int op = 0; op < 64; op++)
		if (io_uring_opcode_supported(found, op))
			uring->supported |= UINT64_C(1) << op;
	io_uring_free_probe(found);
	return true;
}

/* What the kernel tells that it can't do. Multishot has no flag of its own: before it
 * came, a request with that bit ended with EINVAL, which may be a request's own error
 * (and would come in the place of a cancel's). So it is known by its contemporaries. */
static void take_away(struct uring *uring)
{
	unsigned features = uring->ring.features;

	if ((features & IORING_FEAT_EXT_ARG) == 0)
		uring->can &= ~CAN_EXT_ARG;
	if ((features & IORING_FEAT_RSRC_TAGS) == 0) /* 5.13, both */
		uring->can &= ~CAN_POLL_MULTI;
	if ((uring->supported >> KERNEL_OP_SEND_ZC & 1) == 0) /* 6.0, as receives; accepts 5.19 */
		uring->can &= ~CAN_MULTI;
}

int ring_open(struct proa_port *port, struct uring *uring, const struct proa_port_options *options,
	char *why, size_t size)
{
	unsigned off = switched_off(),
		 entries = options->entries == 0 ? ENTRIES_DEFAULT : options->entries;
	struct io_uring_sq *sq = &uring->ring.sq;
	unsigned needed = IORING_FEAT_NODROP | IORING_FEAT_SUBMIT_STABLE | IORING_FEAT_FAST_POLL;
	int error = -EINVAL;
	size_t i;

	(void)port;
	if (entries < ENTRIES_LEAST)
		entries = ENTRIES_LEAST;
	for (i = 0; i < sizeof flag_sets / sizeof flag_sets[0]; i++) {
		if (((off & CAN_DEFER) && i == 0) || ((off & CAN_COOP) && i == 1))
			continue;
		error = setup(uring, entries, flag_sets[i]);
		/* Where io_uring_register() is forbidden nothing enables a ring. */
		if (error == 0 && !probe(uring) && (flag_sets[i] & IORING_SETUP_R_DISABLED)) {
			io_uring_queue_exit(&uring->ring);
			continue;
		}
		if (error != -EINVAL)
			break;
	}
	if (error < 0) {
		snprintf(why, size, "io_uring_setup: %s (%s)", proa_error_name(unix_error(-error)),
			error == -EPERM ? "forbidden here, by seccomp or kernel.io_uring_disabled"
			: error == -ENOSYS ? "not in this kernel, or hidden by seccomp"
			: error == -ENOMEM ? "not enough memory, or RLIMIT_MEMLOCK is too low"
					   : proa_error_text(unix_error(-error)));
		return unix_error(-error);
	}
	uring->can = CAN_ALL;
	if ((uring->ring.features & needed) != needed || fcntl(uring->ring.ring_fd, F_GETFD) < 0) {
		snprintf(why, size, "this kernel's io_uring is too old (5.7 is the least)");
		io_uring_queue_exit(&uring->ring);
		return PROA_ENOSYS;
	}
	if ((flag_sets[i] & IORING_SETUP_DEFER_TASKRUN) == 0)
		uring->can &= ~CAN_DEFER;
	io_uring_ring_dontfork(&uring->ring);
	take_away(uring);
	uring->can &= ~off;
	for (unsigned at = 0; at < sq->ring_entries; at++)
		sq->array[at] = at;
	uring->tail = *sq->ktail;
	uring->room = sq->ring_entries;
	return 0;
}

void ring_refuse(struct uring *uring, int error)
{
	uring->refused = error;
	uring->room = 0; /* it is full, from here on */
	uring->recancel = true; /* and a turn is not as others */
}

void ring_nap(int64_t timeout, int64_t most)
{
	nanosleep(&(struct timespec) { .tv_nsec = (long)(timeout < most ? timeout : most) }, NULL);
}

void ring_watch(struct proa_port *port, struct uring *uring)
{
	struct io_uring_sqe *sqe = ring_request(port, uring);

	uring->unwatched = sqe == NULL;
	if (sqe == NULL)
		return;
	sqe->opcode = IORING_OP_POLL_ADD;
	sqe->fd = port->wake_handle;
	sqe->poll32_events = POLLIN;
	sqe->len = (uring->can & CAN_POLL_MULTI) ? IORING_POLL_ADD_MULTI : 0;
	sqe->user_data = TAG_WAKE;
}

/* A ring of SINGLE_ISSUER belongs to the thread that enables it, so this waits
 * until the port has a thread. */
void ring_enable(struct proa_port *port, struct uring *uring)
{
	unsigned workers[2] = { port->worker_limit, port->worker_limit };
	int error = 0;

	uring->owner = thread_self();
	if (uring->ring.flags & IORING_SETUP_R_DISABLED)
		error = io_uring_register(
			(unsigned)uring->ring.ring_fd, IORING_REGISTER_ENABLE_RINGS, NULL, 0);
	if (error < 0) {
		ring_refuse(uring, -error);
		return;
	}
	if ((uring->can & CAN_REGISTER) && io_uring_register_ring_fd(&uring->ring) != 1)
		uring->can &= ~CAN_REGISTER;
	/* Requests that would block go to kernel threads: no more than ours. */
	io_uring_register_iowq_max_workers(&uring->ring, workers);
	ring_watch(port, uring);
}

bool ring_has_requests(const struct uring *uring)
{
	return uring->tail != __atomic_load_n(uring->ring.sq.khead, __ATOMIC_ACQUIRE);
}

static bool ring_is_full(const struct uring *uring)
{
	return uring->tail - __atomic_load_n(uring->ring.sq.khead, __ATOMIC_ACQUIRE) >= uring->room;
}

/* Room for a request, and for its scratch if it needs some. */
static bool ring_reserve(struct proa_port *port, struct uring *uring, bool scratch)
{
	if (LIKELY(!ring_is_full(uring) && !(scratch && uring->scratch_count == SCRATCHES)))
		return true;
	if (uring->owner == NULL)
		ring_enable(port, uring);
	if (uring->refused == 0)
		ring_enter(port, uring, -1);
	return !ring_is_full(uring) && !(scratch && uring->scratch_count == SCRATCHES);
}

static struct io_uring_sqe *next_request(struct uring *uring)
{
	struct io_uring_sqe *sqe = &uring->ring.sq.sqes[uring->tail++ & uring->ring.sq.ring_mask];

	memset(sqe, 0, sizeof *sqe);
	return sqe;
}

struct io_uring_sqe *ring_request(struct proa_port *port, struct uring *uring)
{
	return ring_reserve(port, uring, false) ? next_request(uring) : NULL;
}

struct io_uring_sqe *ring_request_with(
	struct proa_port *port, struct uring *uring, struct scratch **scratch)
{
	if (!ring_reserve(port, uring, true))
		return NULL;
	*scratch = &uring->scratch[uring->scratch_count++];
	return next_request(uring);
}

/* For kernels whose wait takes no time-out (before 5.11). */
static void wait_outside(struct uring *uring, int64_t timeout)
{
	struct pollfd p = { .fd = uring->ring.ring_fd, .events = POLLIN };
	struct timespec limit = unix_timespec(timeout);

	if (ppoll(&p, 1, timeout == PROA_FOREVER ? NULL : &limit, NULL) < 0 && errno != EINTR)
		ring_nap(timeout, NOT_TAKEN); /* what is asked next is whether there is more */
}

/* What the kernel answers when it is busy, or was disturbed. */
static bool is_passing(int error)
{
	return error == EINTR || error == ETIME || error == EAGAIN || error == EBUSY;
}

/* An entry failed, or one did before. True: as if it had not been made. */
static bool ring_failed(struct proa_port *port, struct uring *uring, int result, int64_t timeout)
{
	int64_t now;

	if (result >= 0 || is_passing(-result)) {
		uring->fails = 0;
		return false;
	}
	now = clock_now();
	if (uring->fails == 0)
		uring->fails = now;
	if (now - uring->fails > FAILS_MOST)
		ring_refuse(uring, -result);
	else if (timeout > 0 || port->backlog != NULL)
		ring_nap(timeout > 0 ? timeout : NOT_TAKEN, NOT_TAKEN);
	return true;
}

/* `timeout` -1: submit alone, take in nothing. */
bool ring_enter(struct proa_port *port, struct uring *uring, int64_t timeout)
{
	struct __kernel_timespec limit;
	struct io_uring_getevents_arg arg = { 0 };
	unsigned flags = timeout < 0 ? 0 : IORING_ENTER_GETEVENTS, wait = timeout > 0 ? 1 : 0;
	unsigned pending = uring->tail - __atomic_load_n(uring->ring.sq.khead, __ATOMIC_RELAXED);
	bool outside = timeout > 0 && timeout != PROA_FOREVER && (uring->can & CAN_EXT_ARG) == 0;
	void *argument = NULL;
	size_t size = _NSIG / 8;
	int result;

	__atomic_store_n(uring->ring.sq.ktail, uring->tail, __ATOMIC_RELEASE);
	if (outside)
		wait = 0;
	if (wait > 0 && timeout != PROA_FOREVER) {
		limit.tv_sec = timeout / PROA_SECOND;
		limit.tv_nsec = timeout % PROA_SECOND;
		arg.ts = (uint64_t)(uintptr_t)&limit;
		flags |= IORING_ENTER_EXT_ARG;
		argument = &arg;
		size = sizeof arg;
	}
	if (uring->can & CAN_REGISTER)
		flags |= IORING_ENTER_REGISTERED_RING;
	if (wait > 0 && (uring->ring.features & IORING_FEAT_NO_IOWAIT))
		flags |= IORING_ENTER_NO_IOWAIT;
	port->stats.system_calls++;
	/* Whatever it answers (EINTR, ETIME, EAGAIN and EBUSY for want of memory
	 * or of room for completions): what was not taken stays in the queue. */
	result = io_uring_enter2(
		(unsigned)uring->ring.enter_ring_fd, pending, wait, flags, argument, size);
	if (UNLIKELY(result < 0 || uring->fails != 0) && ring_failed(port, uring, result, timeout))
		return false;
	if (!ring_has_requests(uring)) {
		uring->scratch_count = 0;
	} else if (timeout > NOT_TAKEN) {
		/* Nothing tells when it has memory again. */
		outside = true;
		timeout = NOT_TAKEN;
	}
	if (outside) {
		port->stats.system_calls++;
		wait_outside(uring, timeout);
	}
	return result >= 0;
}

void ring_close(struct uring *uring)
{
	io_uring_queue_exit(&uring->ring);
}

/* A ring that the kernel does not serve any more: a filter that the program has put
 * itself under since the port was opened, say. All ops end with what it answers, but
 * none before the kernel is sure not to touch what it names.
 *
 * The ring is not entered again, whatever the kernel would answer by then. With
 * DEFER_TASKRUN a request that waits for its descriptor goes on inside of an entry
 * alone, so none does any more; when the ring is closed they are dropped unmade. */
#include "engines/uring/uring.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* How often is looked, for nothing tells. */
#define LOOK (10 * PROA_MILLISECOND)

#define TASKS "/proc/self/task"

/* Has the kernel made threads of its own (io-wq) for requests of this process? They are
 * listed with its others. One is kept when its work is done: this errs to that side. */
static bool has_helpers(void)
{
	DIR *threads = opendir(TASKS);
	const struct dirent *thread;
	char name[sizeof TASKS + sizeof thread->d_name + 6], bytes[8];
	bool found = threads == NULL;
	ssize_t got;
	int fd;

	while (!found && (thread = readdir(threads)) != NULL) {
		if (thread->d_name[0] == '.')
			continue;
		snprintf(name, sizeof name, TASKS "/%s/comm", thread->d_name);
		fd = open(name, O_RDONLY | O_CLOEXEC);
		got = fd < 0 ? -1 : read(fd, bytes, sizeof bytes);
		/* It has just ended, or it can't be told what it is. */
		found = got < 0 ? errno != ENOENT
				: got == sizeof bytes &&
					  memcmp(bytes, "iou-wrk-", sizeof bytes) == 0;
		if (fd >= 0)
			close(fd);
	}
	if (threads != NULL)
		closedir(threads);
	return found;
}

/* One that the kernel has. (Sends that were gathered are with their head.) */
static bool is_held(struct proa_port *port, struct proa_op *op)
{
	(void)port;
	return (op->options_ & OPT_GATHERED) == 0;
}

/* Asks for its end without an entry (Linux 6.0). True if there is no asking. */
static bool is_beyond(struct proa_port *port, struct proa_op *op)
{
	struct uring *uring = uring_of(port);
	struct io_uring_sync_cancel_reg reg = { .fd = -1 };
	int result;

	if (!is_held(port, op))
		return false;
	reg.addr = tagged(op, (op->options_ & U_POLLING) ? TAG_POLL : TAG_OP);
	port->stats.system_calls++;
	result = io_uring_register_sync_cancel(&uring->ring, &reg);
	if (result >= 0 || result == -ENOENT)
		return false;
	if (result != -EALREADY && result != -ETIME && result != -EINTR)
		return true;
	uring->working = true;
	return false;
}

/* Asks for the end of all; may the kernel go on with one of them? */
static bool goes_on(struct proa_port *port, struct uring *uring)
{
	uring->working = false;
	return (uring_find(port, is_beyond) != NULL && has_helpers()) || uring->working;
}

static int error_of(const struct uring *uring, const struct proa_op *op)
{
	return (op->options_ & OPT_CANCEL) ? ECANCELED : uring->refused;
}

/* What has completed before, or by itself. */
static void take_in(struct proa_port *port, struct uring *uring)
{
	struct io_uring_cq *cq = &uring->ring.cq;
	struct io_uring_cqe cqe;
	unsigned tag;

	while (!uring_cq_empty(uring) && port_has_room(port)) {
		cqe = cq->cqes[*cq->khead & cq->ring_mask];
		__atomic_store_n(cq->khead, *cq->khead + 1, __ATOMIC_RELEASE);
		tag = cqe.user_data & TAG_MASK;
		if (cqe.res == -ECANCELED && (tag == TAG_OP || tag == TAG_POLL))
			cqe.res = -error_of(uring,
				(struct proa_op *)(uintptr_t)(cqe.user_data & ~(uint64_t)TAG_MASK));
		uring_completed(port, &cqe);
	}
}

/* What was to begin. */
static void end_backlog(struct proa_port *port, struct uring *uring)
{
	uint64_t count = port->stats.backlog;
	struct proa_op *op;

	while (count-- > 0 && (op = port->backlog) != NULL) {
		backlog_remove(port, op);
		op->state_ = OP_ACTIVE;
		op_stepped(port, op, unix_error(uring->refused), 0);
	}
}

/* Only where it can't be taken up again, and its completion is not to be had. */
static void drop_held(struct proa_port *port, struct uring *uring)
{
	struct proa_op *op;

	while ((op = uring_find(port, is_held)) != NULL) {
		struct io_uring_cqe cqe = { .res = -error_of(uring, op),
			.user_data = tagged(op, (op->options_ & U_POLLING) ? TAG_POLL : TAG_OP) };

		uring->dropped = true;
		op->options_ &= (uint16_t)~U_CANCELLED; /* it is told the error, or the cancel */
		uring_completed(port, &cqe);
	}
}

void refused_turn(struct proa_port *port, struct uring *uring, int64_t timeout)
{
	bool defers = (uring->ring.flags & IORING_SETUP_DEFER_TASKRUN) != 0;

	uring_untake(port, uring, uring->refused);
	end_backlog(port, uring);
	if (!uring->dropped)
		take_in(port, uring);
	/* All are asked before the first is let go of: to wait for one that is worked on
	 * makes the kernel go on with others. */
	if (!goes_on(port, uring) && defers && (uring->dropped || uring_cq_empty(uring)))
		drop_held(port, uring);
	if (timeout > 0 && ready_empty(&port->ready))
		ring_nap(timeout, LOOK);
	if (port->external)
		port->turn_due = later(clock_now(), LOOK);
}

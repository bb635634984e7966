/* io_uring's calls, and its requests, that fail.
 *
 * A request fails by being another: right before the kernel takes it in it becomes
 * a request for nothing, and what completes of that is given the fault's code
 * before the library sees it. So a fault has no effect, as with a call. A request
 * that moves bytes can be made short: it asks for fewer. Slices are not ours to change:
 * while the kernel takes requests in, which is when it reads them, one of ours lies in
 * their place. */
#include "fault.h"

#include <errno.h>
#include <liburing.h>
#include <pthread.h>
#include <string.h>
#include <sys/socket.h>

#include "engines/uring/kernel.h"

/* In user_data: tag 7 is none of the engine's. */
#define OURS(number) ((uint64_t)(number) << 3 | 7u)

#define FAILED_MOST 1024
#define RINGS_MOST  8
#define CUTS_MOST   64

struct failed {
	uint64_t user_data;
	int how;
};

struct cut {
	struct io_uring_sqe *sqe; /* of a file, or ... */
	struct msghdr *message; /* ... of a socket */
	struct iovec *slices; /* as they were */
	size_t count;
	struct iovec first;
};

static struct ring {
	struct io_uring *ring;
	pthread_t thread; /* that has registered it: indices are each thread's own */
	bool registered;
	unsigned seen; /* of the completion queue */
	unsigned count; /* of `failed` */
	struct failed failed[FAILED_MOST];
	unsigned cut_count;
	struct cut cuts[CUTS_MOST];
} rings[RINGS_MOST];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static struct ring *ring_of(int fd, bool registered)
{
	struct ring *found = NULL;

	pthread_mutex_lock(&lock);
	for (int i = 0; i < RINGS_MOST && found == NULL; i++) {
		struct ring *ring = &rings[i];

		if (ring->ring != NULL &&
			(registered ? ring->registered && ring->ring->enter_ring_fd == fd &&
						pthread_equal(ring->thread, pthread_self())
				    : ring->ring->ring_fd == fd))
			found = ring;
	}
	pthread_mutex_unlock(&lock);
	return found;
}

/* The rings are the parent's, and unmapped: see io_uring_ring_dontfork(). */
static void forget_rings(void)
{
	for (int i = 0; i < RINGS_MOST; i++)
		rings[i].ring = NULL;
}

__attribute__((constructor)) static void watch_forks(void)
{
	pthread_atfork(NULL, NULL, forget_rings);
}

/* ---- requests --------------------------------------------------------------------- */

/* The wake-up's poll has a name of its own: its user_data is no op's. */
#define WAKE 3u

FAULT_SITE(op_recv, "uring_recv", FAULT_SHORT, ECONNRESET, ENOMEM, EINTR);
FAULT_SITE(op_recvmsg, "uring_recvmsg", FAULT_SHORT, ENOMEM, EINTR);
FAULT_SITE(op_send, "uring_send", FAULT_SHORT, EPIPE, ECONNRESET, EINTR, EAGAIN);
FAULT_SITE(op_sendmsg, "uring_sendmsg", FAULT_SHORT, EPIPE, ENOBUFS, EINTR, EAGAIN);
FAULT_SITE(op_accept, "uring_accept", EMFILE, ENOMEM, ECONNABORTED, EINTR);
FAULT_SITE(op_connect, "uring_connect", ECONNREFUSED, ETIMEDOUT, ENOMEM);
FAULT_SITE(op_poll_add, "uring_poll", ENOMEM);
FAULT_SITE(op_async_cancel, "uring_cancel", EALREADY);
FAULT_SITE(op_read, "uring_read", FAULT_SHORT, EIO, EINTR, EAGAIN, ENOMEM);
FAULT_SITE(op_write, "uring_write", FAULT_SHORT, EIO, ENOSPC, EINTR, EAGAIN);
FAULT_SITE(op_readv, "uring_readv", FAULT_SHORT, EIO, EINTR, EAGAIN, ENOMEM);
FAULT_SITE(op_writev, "uring_writev", FAULT_SHORT, EIO, ENOSPC, EINTR, EAGAIN);
FAULT_SITE(op_fsync, "uring_fsync", EIO, ENOSPC, EINTR);
FAULT_SITE(op_openat, "uring_openat", EMFILE, ENOMEM, EINTR, EAGAIN);
FAULT_SITE(op_statx, "uring_statx", ENOMEM, EIO);
FAULT_SITE(op_renameat, "uring_renameat", EROFS, ENOSPC);
FAULT_SITE(op_unlinkat, "uring_unlinkat", EROFS, EIO);
FAULT_SITE(op_mkdirat, "uring_mkdirat", EROFS, ENOSPC);
FAULT_SITE(op_ftruncate, "uring_ftruncate", EIO, EINTR);

static struct fault_site *const sites[] = {
	[IORING_OP_RECV] = &op_recv,
	[IORING_OP_RECVMSG] = &op_recvmsg,
	[IORING_OP_SEND] = &op_send,
	[IORING_OP_SENDMSG] = &op_sendmsg,
	[IORING_OP_ACCEPT] = &op_accept,
	[IORING_OP_CONNECT] = &op_connect,
	[IORING_OP_POLL_ADD] = &op_poll_add,
	[IORING_OP_ASYNC_CANCEL] = &op_async_cancel,
	[IORING_OP_READ] = &op_read,
	[IORING_OP_WRITE] = &op_write,
	[IORING_OP_READV] = &op_readv,
	[IORING_OP_WRITEV] = &op_writev,
	[IORING_OP_FSYNC] = &op_fsync,
	[IORING_OP_OPENAT] = &op_openat,
	[IORING_OP_STATX] = &op_statx,
	[IORING_OP_RENAMEAT] = &op_renameat,
	[IORING_OP_UNLINKAT] = &op_unlinkat,
	[IORING_OP_MKDIRAT] = &op_mkdirat,
	[KERNEL_OP_FTRUNCATE] = &op_ftruncate,
};
FAULT_SITE(wake_site, "uring_wake", ENOMEM);
/* Of datagrams: a full queue, of which no event tells that it is full no more. */
FAULT_SITE(datagram_site, "uring_sendto", ENOBUFS, EPERM, EINTR, EAGAIN);

static bool is_datagram(int fd)
{
	int type = SOCK_STREAM;
	socklen_t length = sizeof type;

	return getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &length) == 0 && type != SOCK_STREAM;
}

static bool is_stream(int fd)
{
	int type = 0;
	socklen_t length = sizeof type;

	return getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &length) == 0 && type == SOCK_STREAM;
}

/* A part of the first slice that has any bytes. */
static void request_cut_slices(
	struct ring *ring, const struct fault_site *site, struct io_uring_sqe *sqe)
{
	bool file = sqe->opcode == IORING_OP_READV || sqe->opcode == IORING_OP_WRITEV;
	struct msghdr *message = file ? NULL : (struct msghdr *)(uintptr_t)sqe->addr;
	struct iovec *slices = file ? (struct iovec *)(uintptr_t)sqe->addr : message->msg_iov;
	size_t count = file ? sqe->len : message->msg_iovlen, at = 0;
	struct cut *cut = &ring->cuts[ring->cut_count];

	if (ring->cut_count == CUTS_MOST || (!file && !is_stream(sqe->fd)))
		return;
	while (at < count && slices[at].iov_len == 0)
		at++;
	if (at == count)
		return;
	ring->cut_count++;
	*cut = (struct cut) { sqe, message, slices, count, slices[at] };
	if (cut->first.iov_len > 1)
		cut->first.iov_len = 1 + fault_number(site, (unsigned)cut->first.iov_len - 1);
	if (file) {
		sqe->addr = (uint64_t)(uintptr_t)&cut->first;
		sqe->len = 1;
	} else {
		message->msg_iov = &cut->first;
		message->msg_iovlen = 1;
	}
}

/* Backwards: slices may be cut twice. What was not taken in asks for all again. */
static void slices_restore(struct ring *ring)
{
	while (ring->cut_count > 0) {
		struct cut *cut = &ring->cuts[--ring->cut_count];

		if (cut->message != NULL) {
			cut->message->msg_iov = cut->slices;
			cut->message->msg_iovlen = cut->count;
		} else {
			cut->sqe->addr = (uint64_t)(uintptr_t)cut->slices;
			cut->sqe->len = (uint32_t)cut->count;
		}
	}
}

static void request_cut(struct ring *ring, const struct fault_site *site, struct io_uring_sqe *sqe)
{
	if (sqe->flags & IOSQE_BUFFER_SELECT)
		return;
	switch (sqe->opcode) {
	case IORING_OP_SENDMSG:
	case IORING_OP_RECVMSG:
	case IORING_OP_READV:
	case IORING_OP_WRITEV:
		request_cut_slices(ring, site, sqe);
		break;
	default:
		if (sqe->len > 1)
			sqe->len = 1 + fault_number(site, sqe->len - 1);
	}
}

static void request_fail(struct ring *ring, struct io_uring_sqe *sqe)
{
	struct fault_site *site =
		sqe->opcode < sizeof sites / sizeof sites[0] ? sites[sqe->opcode] : NULL;
	struct failed *failed;
	int how;

	if (sqe->user_data == WAKE)
		site = &wake_site;
	if (sqe->opcode == IORING_OP_SENDMSG && is_datagram(sqe->fd))
		site = &datagram_site;
	if (site == NULL || ring->count == FAILED_MOST)
		return;
	how = fault_here(site);
	if (how == FAULT_SHORT)
		request_cut(ring, site, sqe);
	if (how <= 0)
		return;
	failed = &ring->failed[ring->count];
	failed->user_data = sqe->user_data;
	failed->how = how;
	memset(sqe, 0, sizeof *sqe);
	sqe->opcode = IORING_OP_NOP;
	sqe->user_data = OURS(++ring->count);
}

static void requests_fail(struct ring *ring)
{
	struct io_uring_sq *sq = &ring->ring->sq;
	unsigned head = __atomic_load_n(sq->khead, __ATOMIC_ACQUIRE), tail = *sq->ktail;

	for (; head != tail; head++)
		if ((sq->sqes[head & sq->ring_mask].user_data & 7u) != 7u)
			request_fail(ring, &sq->sqes[head & sq->ring_mask]);
}

static void completions_restore(struct ring *ring)
{
	struct io_uring_cq *cq = &ring->ring->cq;
	unsigned tail = __atomic_load_n(cq->ktail, __ATOMIC_ACQUIRE);
	struct io_uring_cqe *cqe;

	for (; ring->seen != tail; ring->seen++) {
		cqe = &cq->cqes[ring->seen & cq->ring_mask];
		if ((cqe->user_data & 7u) != 7u)
			continue;
		cqe->res = -ring->failed[(cqe->user_data >> 3) - 1].how;
		cqe->user_data = ring->failed[(cqe->user_data >> 3) - 1].user_data;
	}
}

int faulty_io_uring_enter2(
	unsigned fd, unsigned submit, unsigned wait, unsigned flags, void *argument, size_t size);
int faulty_io_uring_enter2(
	unsigned fd, unsigned submit, unsigned wait, unsigned flags, void *argument, size_t size)
{
	FAULT_SITE(site, "enter", EINTR, EAGAIN, EBUSY, ENOMEM);
	struct ring *ring;
	int how = fault_here(&site), result;

	if (how > 0)
		return -how;
	ring = ring_of((int)fd, (flags & IORING_ENTER_REGISTERED_RING) != 0);
	if (ring != NULL)
		requests_fail(ring);
	result = io_uring_enter2(fd, submit, wait, flags, argument, size);
	if (ring != NULL) {
		slices_restore(ring);
		completions_restore(ring);
	}
	return result;
}

/* ---- set-up ----------------------------------------------------------------------- */

int faulty_io_uring_queue_init_params(
	unsigned entries, struct io_uring *ring, struct io_uring_params *params);
int faulty_io_uring_queue_init_params(
	unsigned entries, struct io_uring *ring, struct io_uring_params *params)
{
	FAULT_SITE(site, "io_uring_setup", ENOMEM, EMFILE, EPERM, ENOSYS, EINVAL);
	int how = fault_here(&site), result;

	if (how > 0)
		return -how;
	result = io_uring_queue_init_params(entries, ring, params);
	if (result < 0)
		return result;
	faults_block(1);
	faults_descriptor(ring->ring_fd);
	pthread_mutex_lock(&lock);
	for (int i = 0; i < RINGS_MOST; i++)
		if (rings[i].ring == NULL) {
			rings[i].ring = ring;
			rings[i].count = rings[i].seen = rings[i].cut_count = 0;
			rings[i].registered = false;
			break;
		}
	pthread_mutex_unlock(&lock);
	return result;
}

void faulty_io_uring_queue_exit(struct io_uring *ring);
void faulty_io_uring_queue_exit(struct io_uring *ring)
{
	pthread_mutex_lock(&lock);
	for (int i = 0; i < RINGS_MOST; i++)
		if (rings[i].ring == ring)
			rings[i].ring = NULL;
	pthread_mutex_unlock(&lock);
	faults_block(-1);
	faults_descriptor_gone(ring->ring_fd);
	io_uring_queue_exit(ring);
}

struct io_uring_probe *faulty_io_uring_get_probe_ring(struct io_uring *ring);
struct io_uring_probe *faulty_io_uring_get_probe_ring(struct io_uring *ring)
{
	FAULT_SITE(site, "get_probe_ring", ENOMEM);
	struct io_uring_probe *found =
		fault_here(&site) != 0 ? NULL : io_uring_get_probe_ring(ring);

	faults_block(found != NULL);
	return found;
}

void faulty_io_uring_free_probe(struct io_uring_probe *probe);
void faulty_io_uring_free_probe(struct io_uring_probe *probe)
{
	faults_block(-1);
	io_uring_free_probe(probe);
}

#define REGISTER(name, parameters, arguments, ...)                  \
	int faulty_io_uring_##name parameters;                      \
	int faulty_io_uring_##name parameters                       \
	{                                                           \
		FAULT_SITE(site, #name, __VA_ARGS__);               \
		int how = fault_here(&site);                        \
		return how != 0 ? -how : io_uring_##name arguments; \
	}
REGISTER(register_buf_ring, (struct io_uring * ring, struct io_uring_buf_reg *reg, unsigned flags),
	(ring, reg, flags), ENOMEM, EINVAL)
/* Nothing of it has happened then: the kernel keeps the buffers. */
REGISTER(unregister_buf_ring, (struct io_uring * ring, int group), (ring, group), ENOMEM)
REGISTER(register_eventfd, (struct io_uring * ring, int fd), (ring, fd), ENOMEM)
REGISTER(register_iowq_max_workers, (struct io_uring * ring, unsigned *most), (ring, most), ENOMEM)
REGISTER(ring_dontfork, (struct io_uring * ring), (ring), ENOMEM)

int faulty_io_uring_register_ring_fd(struct io_uring *ring);
int faulty_io_uring_register_ring_fd(struct io_uring *ring)
{
	FAULT_SITE(site, "register_ring_fd", ENOMEM);
	int how = fault_here(&site), result = how > 0 ? -how : io_uring_register_ring_fd(ring);
	struct ring *ours = result == 1 ? ring_of(ring->ring_fd, false) : NULL;

	if (ours != NULL) {
		ours->thread = pthread_self();
		ours->registered = true;
	}
	return result;
}

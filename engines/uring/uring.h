/* What the files of the io_uring engine share.
 *
 * Each op has at most one request with the kernel. The request's user_data is
 * the op's address, tagged in its low bits with what the request is for. */
#ifndef PROA_ENGINES_URING_URING_H
#define PROA_ENGINES_URING_URING_H

#include "engines/unix/unix.h"
#include "engines/uring/kernel.h"

/* Tags of user_data. There is room for no more: with 32 bits an op may begin at any
 * multiple of four (i686). */
#define TAG_OP     0u /* the op itself */
#define TAG_POLL   1u /* its descriptor is ready: try it */
#define TAG_CANCEL 2u /* a cancel: which op's is of no interest */
#define TAG_WAKE   3u /* the port's wake-up descriptor */
#define TAG_MASK   3u
_Static_assert(_Alignof(struct proa_op) > TAG_MASK, "an op's address has room for a tag");

/* The engine's bits of op->options_. 0x0800 is attempt.c's. */
#define U_POLLING   0x1000u /* the request is a poll */
#define U_FIRST     0x2000u /* armed to poll before it takes a buffer */
#define U_DIRECT    0x4000u /* goes by readiness: polls and tries */
#define U_CANCELLED 0x8000u /* the kernel has been, or has yet to be, asked to cancel it */

/* What the kernel can do, and PROA_URING_OFF has not turned off. */
#define CAN_DEFER      0x01u /* SINGLE_ISSUER, DEFER_TASKRUN */
#define CAN_EXT_ARG    0x02u /* a wait takes its time-out along */
#define CAN_BUFFERS    0x04u /* rings of provided buffers, and POLL_FIRST, which came with them */
#define CAN_MULTI      0x08u /* multishot accept and receive */
#define CAN_FILES      0x10u /* files by requests, not by workers */
#define CAN_REGISTER   0x20u /* a registered ring descriptor */
#define CAN_POLL_MULTI 0x40u /* multishot poll */
#define CAN_COOP       0x80u /* COOP_TASKRUN, where DEFER_TASKRUN is not */
#define CAN_ALL        0xffu

/* For a message's header until the kernel has read the request: it copies what
 * it needs when it takes the request in (IORING_FEAT_SUBMIT_STABLE). */
#define SCRATCH_SLICES 64
struct scratch {
	struct msghdr message;
	struct iovec slices[SCRATCH_SLICES];
};
#define SCRATCHES 32

/* For a receive's header, which the kernel writes to when it is done. */
struct envelope {
	struct msghdr message;
	struct iovec slice;
	struct sockaddr_storage sender; /* of a lent datagram */
	struct envelope *next;
};

struct ring_pool {
	struct io_uring_buf_ring *ring;
	size_t size;
	uint32_t entries, provided;
	uint32_t untold; /* used before the rest was taken back; their completions come */
	uint16_t tail, group;
};

struct envelope_block;

struct uring {
	struct io_uring ring;
	const void *owner; /* the thread that enabled it */
	unsigned can;
	unsigned tail; /* of the submission queue, ours */
	unsigned room; /* entries that it has, for us */
	bool working; /* refused.c's: a request can't be stopped */
	int refused; /* an errno: the kernel serves the ring no more; see refused.c */
	int64_t fails; /* since when entries have failed; 0: the last one did not */
	bool recancel; /* a cancel found no room */
	bool unwatched; /* ... or the poll of the port's wake-up */
	bool dropped; /* requests of a thread that has ended: it is not listened to any more */
	int64_t unheard; /* ... or no ear: how long until they are sent again */
	int event; /* an eventfd that the kernel writes to, for other loops; -1: none */
	unsigned scratch_count; /* used since the last submission */
	struct scratch scratch[SCRATCHES];
	struct envelope *envelopes; /* free ones */
	struct envelope_block *blocks;
	uint64_t supported; /* opcodes, by number */
	uint8_t groups[8192]; /* buffer groups in use, a bit each */
};

static inline struct uring *uring_of(const struct proa_port *port)
{
	return port->world;
}

static inline bool uring_cq_empty(const struct uring *uring)
{
	return *uring->ring.cq.khead == __atomic_load_n(uring->ring.cq.ktail, __ATOMIC_ACQUIRE);
}

/* Does the kernel keep completions that its queue had no room for? */
static inline bool cq_has_overflown(const struct uring *uring)
{
	return (__atomic_load_n(uring->ring.sq.kflags, __ATOMIC_RELAXED) & IORING_SQ_CQ_OVERFLOW) !=
	       0;
}

static inline uint64_t tagged(const struct proa_op *op, unsigned tag)
{
	return (uint64_t)(uintptr_t)op | tag;
}

/* ring.c */
int ring_open(struct proa_port *port, struct uring *uring, const struct proa_port_options *options,
	char *why, size_t size);
/* The thread that calls is the one that uses the ring from now on. */
void ring_enable(struct proa_port *port, struct uring *uring);
/* A zeroed request, or NULL when the kernel takes none now. */
struct io_uring_sqe *ring_request(struct proa_port *port, struct uring *uring);
/* Submits, and waits up to `timeout` ns for a completion. False: the kernel may not
 * have looked at what is to be done. */
bool ring_enter(struct proa_port *port, struct uring *uring, int64_t timeout);
/* Polls the port's wake-up descriptor. */
void ring_watch(struct proa_port *port, struct uring *uring);
bool ring_has_requests(const struct uring *uring);
void ring_close(struct uring *uring);
/* A request with scratch of its own. Giving the last scratch back is
 * uring->scratch_count--. */
struct io_uring_sqe *ring_request_with(
	struct proa_port *port, struct uring *uring, struct scratch **scratch);

/* The ring is not to be entered any more; the errno with which that ends all ops. */
void ring_refuse(struct uring *uring, int error);
/* Sleeps for `timeout` ns, but not for more than `most`, which is less than a second. */
void ring_nap(int64_t timeout, int64_t most);

/* uring.c */
void uring_completed(struct proa_port *port, const struct io_uring_cqe *cqe);
/* What the kernel has not taken from the queue ends with this errno. */
void uring_untake(struct proa_port *port, struct uring *uring, int error);
/* The first op that the engine has of which `is` says so. */
struct proa_op *uring_find(
	struct proa_port *port, bool (*is)(struct proa_port *port, struct proa_op *op));

/* refused.c */
/* The turn of a ring that is not served any more: uring->refused. */
void refused_turn(struct proa_port *port, struct uring *uring, int64_t timeout);

/* start.c */
int32_t uring_start(struct proa_port *port, struct proa_op *op, uint32_t *flags);
void uring_send_cancel(struct proa_port *port, struct proa_op *op);
void uring_cancel(struct proa_port *port, struct proa_op *op);
/* Polls the op's descriptor; then it is tried. STEP_STARTED or STEP_FULL. */
int32_t uring_poll(struct proa_port *port, struct proa_op *op);
int32_t uring_nap(struct proa_port *port, struct proa_op *op);
/* Arms a receive from a pool. */
int32_t uring_arm_lent(struct proa_port *port, struct proa_op *op, bool first);
struct envelope *envelope_take(struct uring *uring);
void envelope_put(struct uring *uring, struct envelope *envelope);
void envelopes_free(struct uring *uring);

/* buffers.c */
struct ring_pool *buffers_ring(struct proa_port *port, struct proa_pool *pool);
void buffers_close(struct proa_port *port, struct proa_pool *pool);
void buffers_refill(struct proa_port *port, struct proa_pool *pool);
/* Takes back what the kernel has not used. */
void buffers_reclaim(struct proa_port *port, struct proa_pool *pool);
/* The kernel used a buffer of the pool. */
void buffers_used(struct proa_port *port, struct proa_pool *pool);

#endif

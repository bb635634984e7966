/* Pools' buffers in the kernel's hands: a ring of provided buffers for each pool
 * that sockets receive from, made when the first does. Where the kernel has no
 * such rings, receives go by readiness and take a buffer when data is there. */
#include "engines/uring/uring.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* In pool_engine()'s place: it was tried, and is not to be had. */
static struct ring_pool no_ring;

/* Before Linux 6.9 the kernel keeps what it knows of the first 64 groups when they are
 * unregistered, and where it stood in the ring with it: one that is registered anew is
 * read from there on, not from its beginning. (Seen on 6.1.) Those are left out. */
#define GROUPS_KEPT 64

static int group_take(struct uring *uring)
{
	for (int at = GROUPS_KEPT / 8; at < (int)sizeof uring->groups; at++)
		if (uring->groups[at] != 0xff) {
			int bit = __builtin_ctz(~(unsigned)uring->groups[at]);

			uring->groups[at] |= (uint8_t)(1u << bit);
			return at * 8 + bit;
		}
	return -1;
}

static void group_put(struct uring *uring, int group)
{
	uring->groups[group / 8] &= (uint8_t) ~(1u << group % 8);
}

static struct ring_pool *ring_pool_new(struct uring *uring, struct proa_pool *pool)
{
	struct ring_pool *made = calloc(1, sizeof *made);
	struct io_uring_buf_reg reg = { 0 };
	int group = group_take(uring), error;

	if (made == NULL || group < 0)
		goto failed;
	made->entries = pool_ring_size(pool);
	made->size = made->entries * sizeof(struct io_uring_buf);
	made->group = (uint16_t)group;
	made->ring =
		mmap(NULL, made->size, PROT_READ | PROT_WRITE, MAP_ANONYMOUS | MAP_PRIVATE, -1, 0);
	if (made->ring == MAP_FAILED)
		goto failed;
	madvise(made->ring, made->size, MADV_DONTFORK);
	reg.ring_addr = (uint64_t)(uintptr_t)made->ring;
	reg.ring_entries = made->entries;
	reg.bgid = made->group;
	error = io_uring_register_buf_ring(&uring->ring, &reg, 0);
	if (error == 0)
		return made;
	if (error == -EINVAL) /* Linux before 5.19 */
		uring->can &= ~CAN_BUFFERS;
	munmap(made->ring, made->size);
failed:
	if (group >= 0)
		group_put(uring, group);
	free(made);
	return NULL;
}

struct ring_pool *buffers_ring(struct proa_port *port, struct proa_pool *pool)
{
	struct uring *uring = uring_of(port);
	struct ring_pool *ring = pool_engine(pool);

	if (LIKELY(ring != NULL))
		return ring == &no_ring ? NULL : ring;
	ring = (uring->can & CAN_BUFFERS) ? ring_pool_new(uring, pool) : NULL;
	pool_set_engine(pool, ring == NULL ? &no_ring : ring);
	if (ring != NULL)
		buffers_refill(port, pool);
	return ring;
}

void buffers_refill(struct proa_port *port, struct proa_pool *pool)
{
	struct ring_pool *ring = pool_engine(pool);
	struct proa_buffer *buffer;
	struct io_uring_buf *entry;
	int more = 0;

	(void)port;
	if (ring == NULL || ring == &no_ring)
		return;
	while (ring->provided < ring->entries && !pool_is_empty(pool)) {
		buffer = pool_take_free(pool);
		entry = &ring->ring->bufs[ring->tail++ & (ring->entries - 1)];
		entry->addr = (uint64_t)(uintptr_t)buffer->data;
		entry->len = buffer->size;
		entry->bid = (uint16_t)pool_id(buffer);
		ring->provided++;
		more++;
	}
	if (more > 0) {
		pool_provided(pool, more);
		__atomic_store_n(&ring->ring->tail, ring->tail, __ATOMIC_RELEASE);
	}
}

/* Buffers that the kernel has used, and whose completions are still to be taken
 * in. It uses them in the order of the ring. */
static uint32_t used_untold(const struct uring *uring, const struct proa_pool *pool)
{
	const struct io_uring_cq *cq = &uring->ring.cq;
	unsigned head = *cq->khead, tail = __atomic_load_n(cq->ktail, __ATOMIC_ACQUIRE);
	uint32_t count = 0;

	for (; head != tail; head++) {
		const struct io_uring_cqe *cqe = &cq->cqes[head & cq->ring_mask];
		const struct proa_op *op =
			(const struct proa_op *)(uintptr_t)(cqe->user_data & ~(uint64_t)TAG_MASK);

		if ((cqe->flags & IORING_CQE_F_BUFFER) && op->buffer_ == pool)
			count++;
	}
	return count;
}

void buffers_reclaim(struct proa_port *port, struct proa_pool *pool)
{
	struct uring *uring = uring_of(port);
	struct ring_pool *ring = pool_engine(pool);
	struct io_uring_buf_reg reg = { 0 };
	uint32_t used, i;

	if (ring == NULL || ring == &no_ring || ring->provided == 0)
		return;
	/* Buffers that it used for completions which it keeps to itself can't be counted:
	 * what is left is the kernel's until the queue has room again. */
	if (cq_has_overflown(uring))
		return;
	if (io_uring_unregister_buf_ring(&uring->ring, ring->group) != 0)
		return;
	used = used_untold(uring, pool) - ring->untold;
	for (i = used; i < ring->provided; i++) {
		uint16_t at = (uint16_t)(ring->tail - ring->provided + i);

		pool_put_free(
			pool, pool_buffer(pool, ring->ring->bufs[at & (ring->entries - 1)].bid));
	}
	pool_provided(pool, -(int)ring->provided);
	ring->untold += used;
	ring->provided = 0;
	ring->tail = 0;
	ring->ring->tail = 0;
	reg.ring_addr = (uint64_t)(uintptr_t)ring->ring;
	reg.ring_entries = ring->entries;
	reg.bgid = ring->group;
	if (io_uring_register_buf_ring(&uring->ring, &reg, 0) != 0) {
		/* Receives go by readiness from here on. */
		group_put(uring, ring->group);
		munmap(ring->ring, ring->size);
		ring->ring = NULL;
		free(ring);
		pool_set_engine(pool, &no_ring);
	}
}

void buffers_used(struct proa_port *port, struct proa_pool *pool)
{
	struct ring_pool *ring = pool_engine(pool);

	if (UNLIKELY(ring == NULL || ring == &no_ring))
		return;
	if (UNLIKELY(ring->untold > 0)) {
		ring->untold--;
	} else {
		ring->provided--;
		pool_provided(pool, -1);
	}
	if (!pool_is_empty(pool))
		buffers_refill(port, pool);
}

void buffers_close(struct proa_port *port, struct proa_pool *pool)
{
	struct uring *uring = uring_of(port);
	struct ring_pool *ring = pool_engine(pool);

	pool_set_engine(pool, NULL);
	if (ring == NULL || ring == &no_ring)
		return;
	if (uring != NULL) { /* else a forked child's, where nothing is mapped */
		io_uring_unregister_buf_ring(&uring->ring, ring->group);
		group_put(uring, ring->group);
		munmap(ring->ring, ring->size);
	}
	free(ring);
}

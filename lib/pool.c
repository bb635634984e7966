/* Pools: buffers that receives lend, and the back-pressure that comes of holding
 * them. A receive pauses in two ways: OPT_POOL, in its pool's queue, when no
 * buffer was free for data that is there; OPT_SHARE when its handle's holder has
 * all that one handle may hold. A give-back lets the first of the one kind, or
 * its handle's of the other, go on. */
#include "lib/port.h"

#ifndef _WIN32
#	include <netinet/in.h>
#endif
#include <stdlib.h>
#include <string.h>

#include "engines/engine.h"
#include "engines/system.h"
#include "lib/thread.h"

#define BLOCK_BUFFERS 64u /* allocated together */

/* What lies in a buffer's room_. */
struct lent {
	struct proa_pool *pool;
	struct proa_buffer *next; /* free, returned, or received beyond the share */
	_Atomic(uint32_t) holders;
	uint32_t id;
	int32_t handle; /* lent to; -1: taken by hand */
	uint8_t generation, on_loan, is_free;
	uint8_t sender_length; /* of the address before its bytes; 0: none */
};
_Static_assert(sizeof(struct lent) <= sizeof(((struct proa_buffer *)0)->room_), "lent fits room_");

/* A pool that grows by less than a block leaves the rest of it unused, so that
 * an id says where its buffer is. */
#define BLOCKS_MOST 1024u /* ids fit the 16 bits that io_uring has for them */

struct block {
	struct proa_buffer buffers[BLOCK_BUFFERS];
	unsigned char *memory;
	uint32_t count;
};

struct proa_pool {
	struct proa_port *port; /* NULL after the port's end; under `lock` for other threads */
	_Atomic(const void *) owner;
	struct proa_pool *next; /* of the port */
	void *engine;
	struct block **blocks;
	uint32_t block_count, block_room;
	uint32_t buffer_size, stride, count, limit, per_handle;
	uint32_t provided; /* free, and with the engine */
	struct proa_buffer *free;
	uint32_t free_count;
	struct proa_op *queue, *queue_tail; /* paused for want of a buffer */
	uint64_t lent, lent_peak, waits;
	bool closed;
	bool serving; /* queue_serve() is at work further up the stack */
	bool unwanted; /* who was just resumed can't use a buffer now */
	thread_mutex lock;
	struct proa_buffer *returned; /* given back by other threads; under `lock` */
};

static struct lent *lent(const struct proa_buffer *buffer)
{
	return (struct lent *)(void *)(uintptr_t)buffer->room_;
}

uint32_t pool_id(const struct proa_buffer *buffer)
{
	return lent(buffer)->id;
}

struct proa_buffer *pool_buffer(const struct proa_pool *pool, uint32_t id)
{
	return &pool->blocks[id / BLOCK_BUFFERS]->buffers[id % BLOCK_BUFFERS];
}

static unsigned char *buffer_start(const struct proa_pool *pool, const struct proa_buffer *buffer)
{
	uint32_t id = lent(buffer)->id;

	return pool->blocks[id / BLOCK_BUFFERS]->memory +
	       (size_t)(id % BLOCK_BUFFERS) * pool->stride + POOL_ADDRESS_ROOM;
}

void pool_provided(struct proa_pool *pool, int more)
{
	pool->provided += (uint32_t)more;
}

/* A kernel that receives on and on may take some dozens of buffers beyond a
 * handle's share before it is stopped: not where others would miss them. */
#define AMPLE 1024

bool pool_is_ample(const struct proa_pool *pool)
{
	return pool->limit >= AMPLE;
}

void pool_unwanted(struct proa_pool *pool)
{
	pool->unwanted = true;
}

bool pool_is_empty(const struct proa_pool *pool)
{
	return pool->free == NULL;
}

void *pool_engine(const struct proa_pool *pool)
{
	return pool->engine;
}

void pool_set_engine(struct proa_pool *pool, void *engine)
{
	pool->engine = engine;
}

uint32_t pool_buffer_size(const struct proa_pool *pool)
{
	return pool->buffer_size;
}

uint32_t pool_ring_size(const struct proa_pool *pool)
{
	uint32_t size = 16, most = pool->limit < 4096 ? pool->limit : 4096;

	while (size < most && size < pool->count * 4)
		size *= 2;
	return size;
}

/* ---- the free list ------------------------------------------------------------ */

/* Last in, first out: the memory of a buffer that has just been given back is in
 * the processor's cache. */
void pool_put_free(struct proa_pool *pool, struct proa_buffer *buffer)
{
	assert(!lent(buffer)->is_free && !lent(buffer)->on_loan);
	lent(buffer)->is_free = 1;
	lent(buffer)->next = pool->free;
	pool->free = buffer;
	pool->free_count++;
}

static struct block *block_new(const struct proa_pool *pool, uint32_t count)
{
	struct block *block = calloc(1, sizeof *block);

	if (block == NULL)
		return NULL;
	if (count <= SIZE_MAX / pool->stride) /* it may not, where addresses have 32 bits */
		block->memory = malloc((size_t)count * pool->stride);
	if (block->memory != NULL)
		return block;
	free(block);
	return NULL;
}

static void block_fill(struct proa_pool *pool, struct block *block, uint32_t count)
{
	uint32_t first = pool->block_count * BLOCK_BUFFERS;

	block->count = count;
	pool->blocks[pool->block_count++] = block;
	pool->count += count;
	for (uint32_t i = 0; i < count; i++) {
		struct proa_buffer *buffer = &block->buffers[i];

		proa_op_init(&buffer->op, pool->port, NULL);
		buffer->size = pool->buffer_size;
		lent(buffer)->pool = pool;
		lent(buffer)->id = first + i;
		pool_put_free(pool, buffer);
	}
}

static bool block_room(struct proa_pool *pool)
{
	uint32_t room = pool->block_room == 0 ? 4 : pool->block_room * 2;
	struct block **blocks;

	if (pool->block_count < pool->block_room)
		return true;
	if (room > BLOCKS_MOST)
		return false;
	blocks = realloc(pool->blocks, room * sizeof *blocks);
	if (blocks == NULL)
		return false;
	pool->blocks = blocks;
	pool->block_room = room;
	return true;
}

/* `wanted` more, or fewer at the limit or when memory is short; false: none. */
static bool pool_grow(struct proa_pool *pool, uint32_t wanted)
{
	uint32_t before = pool->count, most = pool->limit, n;
	struct block *block;

	while (pool->count < most && wanted > 0 && block_room(pool)) {
		n = most - pool->count;
		n = n < wanted ? n : wanted;
		n = n < BLOCK_BUFFERS ? n : BLOCK_BUFFERS;
		block = block_new(pool, n);
		if (block == NULL)
			break;
		block_fill(pool, block, n);
		wanted -= n;
	}
	return pool->count > before;
}

struct proa_buffer *pool_take_free(struct proa_pool *pool)
{
	struct proa_buffer *buffer = pool->free;

	if (buffer == NULL) {
		if (!pool_grow(pool, pool->count) && pool->provided > 0 && pool->port != NULL)
			pool->port->engine->pool_reclaim(pool->port, pool);
		buffer = pool->free;
		if (buffer == NULL)
			return NULL;
	}
	assert(lent(buffer)->is_free && !lent(buffer)->on_loan);
	lent(buffer)->is_free = 0;
	pool->free = lent(buffer)->next;
	pool->free_count--;
	lent(buffer)->sender_length = 0;
	buffer->data = buffer_start(pool, buffer);
	buffer->length = 0;
	return buffer;
}

/* ---- life ------------------------------------------------------------------------ */

static void pool_free(struct proa_pool *pool)
{
	for (uint32_t i = 0; i < pool->block_count; i++) {
		free(pool->blocks[i]->memory);
		free(pool->blocks[i]);
	}
	free(pool->blocks);
	mutex_destroy(&pool->lock);
	free(pool);
}

int proa_pool_open_sized(struct proa_port *port, const struct proa_pool_options *given, size_t size,
	struct proa_pool **out)
{
	struct proa_pool_options options;
	struct proa_pool *pool;
	int error;

	*out = NULL;
	if (!port_visit(port))
		return PROA_EINVAL;
	error = sized_copy(
		&options, sizeof options, _Alignof(struct proa_pool_options), given, size);
	if (error < 0)
		return error;
	if (options.limit > 65536 || options.per_handle > 65535 || options.buffer_size > 1u << 30)
		return PROA_EINVAL;
	pool = calloc(1, sizeof *pool);
	if (pool == NULL)
		return PROA_ENOMEM;
	pool->port = port;
	atomic_store(&pool->owner, port->owner);
	pool->buffer_size = options.buffer_size == 0 ? 16384 : options.buffer_size;
	pool->stride = (pool->buffer_size + POOL_ADDRESS_ROOM + 63) & ~63u;
	pool->limit = options.limit == 0 ? 65536 : options.limit;
	pool->per_handle = options.per_handle == 0 ? 16 : options.per_handle;
	mutex_init(&pool->lock);
	if (options.count == 0)
		options.count = 64;
	if (options.count > pool->limit)
		options.count = pool->limit;
	if (!pool_grow(pool, options.count) || pool->count < options.count) {
		pool_free(pool);
		return PROA_ENOMEM;
	}
	error = port->engine->pool_open == NULL ? 0 : port->engine->pool_open(port, pool);
	if (error < 0) {
		pool_free(pool);
		return error;
	}
	pool->next = port->pools;
	port->pools = pool;
	*out = pool;
	return 0;
}

#ifndef NDEBUG
static const struct proa_op *list_user(const struct proa_op *list, const struct proa_pool *pool)
{
	const struct proa_op *op = list;

	if (op == NULL)
		return NULL;
	do {
		if ((op->kind_ == PROA_OP_RECV_LENT || op->kind_ == PROA_OP_RECV_MULTI) &&
			op->buffer_ == pool)
			return op;
		op = flight(op)->next;
	} while (op != list);
	return NULL;
}
#endif

/* A receive in flight that is to lend from the pool. To look for it costs a walk
 * over all handles: without assertions only those that wait for a buffer are found. */
static const struct proa_op *pool_user(const struct proa_port *port, const struct proa_pool *pool)
{
#ifndef NDEBUG
	for (int fd = handle_next(port, -1); fd >= 0; fd = handle_next(port, fd)) {
		const struct handle *handle = handle_find(port, fd);
		const struct proa_op *op = list_user(handle->recvs, pool);

		if (op == NULL && (handle->state & HANDLE_PRIVATE) == 0)
			op = list_user(handle->others, pool);
		if (op != NULL)
			return op;
	}
#else
	(void)port;
#endif
	return pool->queue;
}

static void share_freed(struct proa_port *port, proa_handle fd, uint8_t generation);

/* Of a pool that closes what is lent counts among no handle's share any more, for its
 * port is not told when it comes back. */
static void shares_freed(struct proa_port *port, struct proa_pool *pool)
{
	const struct lent *l;

	for (uint32_t i = 0; i < pool->block_count; i++)
		for (uint32_t j = 0; j < pool->blocks[i]->count; j++) {
			l = lent(&pool->blocks[i]->buffers[j]);
			if (l->on_loan && l->handle >= 0)
				share_freed(port, l->handle, l->generation);
		}
}

void proa_pool_close(struct proa_pool *pool)
{
	const struct proa_op *user;
	struct proa_port *port;
	struct proa_pool **at;
	bool last;

	if (pool == NULL)
		return;
	port = pool->port;
	if (port != NULL && !port_visit(port))
		return;
	if (port != NULL) {
		user = pool_user(port, pool);
		if (user != NULL) {
			proa_misuse("a pool was closed while a receive uses it", user);
			return;
		}
		if (port->engine->pool_close != NULL)
			port->engine->pool_close(port, pool);
		for (at = &port->pools; *at != pool; at = &(*at)->next)
			;
		*at = pool->next;
		if (pool->lent > 0) {
			shares_freed(port, pool);
			port_touched(port);
		}
	}
	mutex_lock(&pool->lock);
	while (pool->returned != NULL) {
		pool->returned = lent(pool->returned)->next;
		pool->lent--;
	}
	pool->port = NULL;
	pool->closed = true;
	last = pool->lent == 0;
	mutex_unlock(&pool->lock);
	if (last)
		pool_free(pool);
}

uint64_t pools_lent(const struct proa_port *port)
{
	uint64_t sum = 0;

	for (const struct proa_pool *pool = port->pools; pool != NULL; pool = pool->next)
		sum += pool->lent;
	return sum;
}

/* The port has got its thread, or another: give-backs from it need no lock. */
void pools_owned(struct proa_port *port)
{
	for (struct proa_pool *pool = port->pools; pool != NULL; pool = pool->next)
		atomic_store(&pool->owner, port->owner);
}

void pools_detach(struct proa_port *port)
{
	struct proa_pool *pool, *next;

	for (pool = port->pools; pool != NULL; pool = next) {
		next = pool->next;
		/* At a fork a thread may have held it that the child does not have. */
		if (port->fork_generation != process_generation)
			mutex_init(&pool->lock);
		mutex_lock(&pool->lock);
		pool->port = NULL;
		mutex_unlock(&pool->lock);
		pool->queue = pool->queue_tail = NULL;
		if (port->engine->pool_close != NULL)
			port->engine->pool_close(port, pool);
	}
}

void pools_adopt(struct proa_port *port, struct proa_pool *first)
{
	struct proa_pool *pool;
	struct proa_buffer *buffer;
	uint32_t i, j;

	port->pools = first;
	for (pool = first; pool != NULL; pool = pool->next) {
		pool->port = port;
		atomic_store(&pool->owner, port->owner);
		/* Buffers that the engine had, or that came with completions
		 * nobody saw, are free again; what the program holds it keeps. */
		pool->free = NULL;
		pool->free_count = 0;
		pool->provided = 0;
		for (; pool->returned != NULL; pool->returned = lent(pool->returned)->next) {
			lent(pool->returned)->on_loan = 0;
			pool->lent--;
		}
		for (i = 0; i < pool->block_count; i++)
			for (j = 0; j < pool->blocks[i]->count; j++) {
				buffer = &pool->blocks[i]->buffers[j];
				lent(buffer)->is_free = 0;
				if (!lent(buffer)->on_loan)
					pool_put_free(pool, buffer);
			}
		if (port->engine->pool_open != NULL && port->engine->pool_open(port, pool) < 0)
			pool->engine = NULL;
	}
}

/* ---- lending ---------------------------------------------------------------------- */

static void lend(
	struct proa_pool *pool, struct proa_buffer *buffer, proa_handle fd, uint8_t generation)
{
	struct lent *l = lent(buffer);

	atomic_store_explicit(&l->holders, 1, memory_order_relaxed);
	assert(!l->on_loan && !l->is_free);
	l->handle = fd;
	l->generation = generation;
	l->on_loan = 1;
	if (++pool->lent > pool->lent_peak)
		pool->lent_peak = pool->lent;
}

struct proa_buffer *proa_pool_take(struct proa_pool *pool)
{
	struct proa_buffer *buffer;

	if (pool->port != NULL && !port_visit(pool->port))
		return NULL;
	buffer = pool_take_free(pool);
	if (buffer != NULL)
		lend(pool, buffer, PROA_NO_HANDLE, 0);
	return buffer;
}

struct proa_buffer *proa_lent(const struct proa_completion *c)
{
	if ((c->flags & PROA_LENT) == 0)
		return NULL;
	return pool_buffer(c->op->buffer_, LENT_ID(c->flags));
}

void pool_set_sender(struct proa_buffer *buffer, size_t length)
{
	_Static_assert(sizeof(struct sockaddr_storage) <= POOL_ADDRESS_ROOM &&
			       POOL_ADDRESS_ROOM <= UINT8_MAX,
		"an address fits, and its length");
	lent(buffer)->sender_length =
		(uint8_t)(length < POOL_ADDRESS_ROOM ? length : POOL_ADDRESS_ROOM);
}

int proa_lent_from(const struct proa_buffer *buffer, struct proa_address *out)
{
	const struct lent *l = lent(buffer);

	memset(out, 0, sizeof *out);
	out->length = l->sender_length;
	memcpy(&out->to, buffer_start(l->pool, buffer) - POOL_ADDRESS_ROOM, out->length);
	return out->length == 0 ? PROA_EINVAL : 0;
}

uint32_t proa_join(struct proa_buffer *into, struct proa_buffer *from)
{
	unsigned char *start = buffer_start(lent(into)->pool, into);
	uint32_t n;

	if (into->data != start) {
		memmove(start, into->data, into->length);
		into->data = start;
	}
	n = into->size - into->length;
	if (n > from->length)
		n = from->length;
	memcpy(into->data + into->length, from->data, n);
	into->length += n;
	from->data += n;
	from->length -= n;
	return n;
}

void proa_hold(struct proa_buffer *buffer)
{
	atomic_fetch_add_explicit(&lent(buffer)->holders, 1, memory_order_relaxed);
}

/* ---- pausing and going on ------------------------------------------------------------- */

static struct proa_op **queue_next(struct proa_op *op)
{
	_Static_assert(sizeof op->length_ >= sizeof(struct proa_op *), "a pointer fits length_");
	return (struct proa_op **)(void *)&op->length_;
}

/* Buffers that came in beyond the share, in order. */
static struct proa_buffer **surplus(struct proa_op *op)
{
	return (struct proa_buffer **)(void *)&op->argument_;
}

static void queue_append(struct proa_pool *pool, struct proa_op *op)
{
	*queue_next(op) = NULL;
	if (pool->queue == NULL)
		pool->queue = op;
	else
		*queue_next(pool->queue_tail) = op;
	pool->queue_tail = op;
	pool->waits++;
}

void pool_forget(struct proa_op *op)
{
	struct proa_pool *pool = op->buffer_;
	struct proa_op **at = &pool->queue, *before = NULL;

	while (*at != op) {
		before = *at;
		at = queue_next(before);
	}
	*at = *queue_next(op);
	if (pool->queue_tail == op)
		pool->queue_tail = before;
	*queue_next(op) = NULL;
	op->options_ &= (uint16_t)~OPT_POOL;
}

static void op_pause(struct proa_port *port, struct proa_op *op, unsigned why)
{
	op->state_ = OP_PAUSED;
	op->options_ |= (uint16_t)why;
	if (op->timer_ != 0)
		op_limit(port, op); /* its timeout does not run meanwhile */
}

bool pool_admits(struct proa_port *port, struct proa_op *op, struct handle *handle)
{
	struct proa_pool *pool = op->buffer_;

	if (UNLIKELY(pool->port != port)) {
		op_end(port, op, PROA_EINVAL, 0);
		return false;
	}
	if (LIKELY(handle->lent < pool->per_handle))
		return true;
	op_pause(port, op, OPT_SHARE);
	return false;
}

static void put_back(struct proa_port *port, struct proa_pool *pool, struct proa_buffer *buffer)
{
	pool_put_free(pool, buffer);
	if (port->engine->pool_refill != NULL)
		port->engine->pool_refill(port, pool);
}

/* The first that waits for a buffer goes on: one for each that came back. One that
 * finds no data after all (a wake-up for nothing, or another process took it)
 * leaves its turn to the next: no other give-back may come. So does one whose handle
 * holds its share by now. */
static void queue_serve(struct proa_port *port, struct proa_pool *pool)
{
	struct proa_op *op;

	if (pool->serving) {
		pool->unwanted = true;
		return;
	}
	pool->serving = true;
	do {
		op = pool->queue;
		if (op == NULL)
			break;
		pool_forget(op);
		pool->unwanted = false;
		op_resume(port, op);
		if (op->state_ == OP_PAUSED && (op->options_ & OPT_SHARE))
			pool->unwanted = true;
	} while (((op->state_ == OP_ACTIVE || op->state_ == OP_WORKER) && pool->free_count > 0) ||
		 (pool->unwanted && (pool->free_count > 0 || pool->provided > 0)));
	pool->serving = false;
}

static void deliver(struct proa_port *port, struct proa_op *op, struct handle *handle,
	struct proa_buffer *buffer, int32_t result, bool final)
{
	struct proa_pool *pool = op->buffer_;
	uint32_t flags = LENT_FLAGS(lent(buffer)->id);

	lend(pool, buffer, op->handle_, handle->generation);
	handle->lent++;
	if (final)
		op_end(port, op, result, flags);
	else
		port_complete(port, op, result, flags | PROA_MORE);
}

/* Hands over what came in beyond the share: as much as may be, or (all) all. A
 * single receive ends with it. */
static void surplus_deliver(
	struct proa_port *port, struct proa_op *op, struct handle *handle, bool all)
{
	const struct proa_pool *pool = op->buffer_;
	struct proa_buffer *buffer;

	while ((buffer = *surplus(op)) != NULL && (all || handle->lent < pool->per_handle) &&
		port_has_room(port)) {
		*surplus(op) = lent(buffer)->next;
		deliver(port, op, handle, buffer, (int32_t)lent(buffer)->holders,
			op->kind_ == PROA_OP_RECV_LENT);
	}
}

static void surplus_drop(struct proa_port *port, struct proa_op *op)
{
	struct proa_pool *pool = op->buffer_;
	struct proa_buffer *buffer;

	while ((buffer = *surplus(op)) != NULL) {
		*surplus(op) = lent(buffer)->next;
		put_back(port, pool, buffer);
		queue_serve(port, pool);
	}
}

static void surplus_add(struct proa_op *op, struct proa_buffer *buffer, int32_t result)
{
	struct proa_buffer **at = surplus(op);

	while (*at != NULL)
		at = &lent(*at)->next;
	lent(buffer)->next = NULL;
	atomic_store_explicit(&lent(buffer)->holders, (uint32_t)result, memory_order_relaxed);
	*at = buffer;
}

/* The attempt has ended for good: `result` is final, once the surplus is out. */
static bool multi_end(
	struct proa_port *port, struct proa_op *op, struct handle *handle, int32_t result)
{
	if (op->options_ & OPT_NO_MORE)
		surplus_drop(port, op);
	else
		surplus_deliver(port, op, handle,
			result == PROA_ECANCELED || (op->options_ & OPT_CANCEL) != 0);
	if (op->state_ == OP_READY)
		return false;
	if (*surplus(op) != NULL) {
		op->options_ |= OPT_ENDED;
		flight(op)->is.engine = (void *)(intptr_t)result;
		op_pause(port, op, OPT_SHARE);
		return false;
	}
	op_end(port, op, result, 0);
	return false;
}

/* The engine has stopped, for the pause that it was asked for or before it heard of
 * that: true if the handle's share lets the receive go on. */
static bool goes_on(struct proa_port *port, struct proa_op *op, struct handle *handle)
{
	const struct proa_pool *pool = op->buffer_;

	if (handle->lent < pool->per_handle)
		surplus_deliver(port, op, handle, false);
	if (*surplus(op) != NULL || handle->lent >= pool->per_handle) {
		op_pause(port, op, OPT_SHARE);
		return false;
	}
	if (op->options_ & OPT_SHARE) {
		op->options_ &= (uint16_t)~OPT_SHARE;
		if (op->timer_ != 0)
			op_limit(port, op);
	}
	return true;
}

static bool multi_received(struct proa_port *port, struct proa_op *op, struct handle *handle,
	struct proa_buffer *buffer, int32_t result, bool armed)
{
	struct proa_pool *pool = op->buffer_;

	if (op->options_ & OPT_NO_MORE) {
		put_back(port, pool, buffer);
		queue_serve(port, pool);
	} else if (handle->lent >= pool->per_handle || *surplus(op) != NULL ||
		   !port_has_room(port)) {
		surplus_add(op, buffer, result);
	} else {
		deliver(port, op, handle, buffer, result, false);
	}
	if (op->timeout_ != PROA_FOREVER)
		op_limit(port, op);
	if (armed) {
		if ((handle->lent >= pool->per_handle || *surplus(op) != NULL) &&
			(op->options_ & (OPT_SHARE | OPT_CANCEL)) == 0) {
			op->options_ |= OPT_SHARE; /* as soon as the engine has stopped */
			if (op->timer_ != 0)
				op_limit(port, op);
			port->engine->cancel(port, op);
		}
		return false;
	}
	if (op->options_ & OPT_CANCEL)
		return multi_end(port, op, handle, PROA_ECANCELED);
	return goes_on(port, op, handle);
}

/* No buffer was there for data that is: wait for one. */
static bool starved(struct proa_port *port, struct proa_op *op, struct proa_pool *pool)
{
	if (pool->free_count > 0 || pool->provided > 0 || pool_grow(pool, pool->count)) {
		if (port->engine->pool_refill != NULL)
			port->engine->pool_refill(port, pool);
		return true;
	}
	queue_append(pool, op);
	op_pause(port, op, OPT_POOL);
	return false;
}

static bool went_on(struct proa_op *op)
{
	/* The engine stopped because we asked it to, for a pause. */
	return (op->options_ & OPT_SHARE) && (op->options_ & OPT_CANCEL) == 0;
}

/* An attempt has ended without a buffer: if one was meant for it, the next in
 * the queue has it. */
static void queue_pass_on(struct proa_port *port, struct proa_pool *pool)
{
	if (UNLIKELY(pool->queue != NULL) && (pool->free_count > 0 || pool->provided > 0))
		queue_serve(port, pool);
}

static bool pool_ended(struct proa_port *port, struct proa_op *op, int32_t result)
{
	struct handle *handle = handle_find(port, op->handle_);
	struct proa_pool *pool = op->buffer_;
	bool again = false;

	if ((result == PROA_ECANCELED || result == STEP_NO_BUFFER) && went_on(op)) {
		if (goes_on(port, op, handle))
			return true;
	} else if (result == STEP_NO_BUFFER && (op->options_ & OPT_CANCEL) == 0) {
		return starved(port, op, pool);
	} else {
		again = multi_end(
			port, op, handle, result == STEP_NO_BUFFER ? PROA_ECANCELED : result);
	}
	queue_pass_on(port, pool);
	return again;
}

bool pool_stepped(struct proa_port *port, struct proa_op *op, int32_t result, uint32_t flags)
{
	struct handle *handle = handle_find(port, op->handle_);
	struct proa_pool *pool = op->buffer_;
	struct proa_buffer *buffer;
	int ended;

	if (op->options_ & OPT_ENDED)
		result = (int32_t)(intptr_t)flight(op)->is.engine;
	if (LIKELY(flags & PROA_LENT)) {
		buffer = pool_buffer(pool, LENT_ID(flags));
		if (UNLIKELY(result == 0) && (ended = system_has_ended(op->handle_)) != 0) {
			put_back(port, pool, buffer);
			return pool_ended(port, op, ended < 0 ? ended : 0);
		}
		flight(op)->moved += buffer->length;
		if (op->kind_ == PROA_OP_RECV_MULTI)
			return multi_received(
				port, op, handle, buffer, result, (flags & PROA_MORE) != 0);
		if (op->options_ & OPT_NO_MORE) {
			put_back(port, pool, buffer);
			queue_serve(port, pool);
			op_end(port, op, PROA_ECANCELED, 0);
		} else if (handle->lent >= pool->per_handle && (op->options_ & OPT_CANCEL) == 0) {
			/* Others of the handle's, all waiting for datagrams, were
			 * faster: it waits for its share with what it has. */
			surplus_add(op, buffer, result);
			op_pause(port, op, OPT_SHARE);
		} else {
			deliver(port, op, handle, buffer, result, true);
		}
		return false;
	}
	return pool_ended(port, op, result);
}

/* ---- giving back ------------------------------------------------------------------------ */

/* A receive that was paused at its handle's share goes on, if that is no more. Its
 * own pool says what the share is; the buffer that came back may be another's. */
static void share_resume(struct proa_port *port, struct handle *handle, struct proa_op *op)
{
	const struct proa_pool *pool = op->buffer_;

	if (op->state_ != OP_PAUSED || (op->options_ & OPT_SHARE) == 0 ||
		handle->lent >= pool->per_handle)
		return;
	surplus_deliver(port, op, handle, false);
	if (op->state_ == OP_READY || *surplus(op) != NULL || handle->lent >= pool->per_handle)
		return;
	if (op->options_ & OPT_ENDED)
		op_end(port, op, (int32_t)(intptr_t)flight(op)->is.engine, 0);
	else
		op_resume(port, op);
}

/* A handle holds one fewer: its paused receive may go on. Of datagrams there may be
 * several, and each that goes on may be cancelled: so all of them do. */
static void share_freed(struct proa_port *port, proa_handle fd, uint8_t generation)
{
	struct handle *handle = handle_find(port, fd);
	struct cursor at = { .outer = port->cursors };
	struct proa_op *op;

	if (handle == NULL || handle->generation != generation || handle->lent == 0)
		return;
	handle->lent--;
	if (handle->recvs != NULL) {
		share_resume(port, handle, handle->recvs);
		return;
	}
	at.next = handle->others;
	if (at.next == NULL)
		return;
	at.last = flight(at.next)->prev;
	port->cursors = &at;
	while ((op = at.next) != NULL) {
		at.next = op == at.last ? NULL : flight(op)->next;
		if (op_borrows(op))
			share_resume(port, handle, op);
	}
	port->cursors = at.outer;
}

static void take_back(struct proa_port *port, struct proa_pool *pool, struct proa_buffer *buffer)
{
	struct lent *l = lent(buffer);
	proa_handle fd = l->handle;

	l->on_loan = 0;
	pool->lent--;
	put_back(port, pool, buffer);
	if (fd >= 0)
		share_freed(port, fd, l->generation);
	queue_serve(port, pool);
}

static void give_back_from_afar(struct proa_pool *pool, struct proa_buffer *buffer)
{
	bool last = false;

	mutex_lock(&pool->lock);
	if (pool->port == NULL) {
		pool->lent--;
		lent(buffer)->on_loan = 0;
		pool_put_free(pool, buffer);
		last = pool->closed && pool->lent == 0;
	} else {
		lent(buffer)->next = pool->returned;
		pool->returned = buffer;
		atomic_store(&pool->port->returns, true);
		port_notify(pool->port);
	}
	mutex_unlock(&pool->lock);
	if (last)
		pool_free(pool);
}

void proa_give_back(struct proa_buffer *buffer)
{
	struct lent *l;
	struct proa_pool *pool;
	struct proa_port *port;

	if (buffer == NULL)
		return;
	l = lent(buffer);
	pool = l->pool;
	if (buffer->op.state_ != OP_IDLE) {
		proa_misuse("a buffer was given back while its op is in flight", &buffer->op);
		return;
	}
	/* The last holder is the only one who could change it. */
	if (atomic_load_explicit(&l->holders, memory_order_acquire) != 1 &&
		atomic_fetch_sub_explicit(&l->holders, 1, memory_order_acq_rel) != 1)
		return;
	/* Only its own thread ends a port: what it finds here stays so. */
	if (atomic_load_explicit(&pool->owner, memory_order_relaxed) != thread_self() ||
		pool->port == NULL) {
		give_back_from_afar(pool, buffer);
		return;
	}
	port = pool->port;
	take_back(port, pool, buffer);
	port_touched(port);
}

void pool_drain_returns(struct proa_port *port)
{
	struct proa_buffer *buffer, *next, *list;
	struct proa_pool *pool;

	for (pool = port->pools; pool != NULL; pool = pool->next) {
		mutex_lock(&pool->lock);
		list = pool->returned;
		pool->returned = NULL;
		mutex_unlock(&pool->lock);
		for (buffer = list; buffer != NULL; buffer = next) {
			next = lent(buffer)->next;
			take_back(port, pool, buffer);
		}
	}
}

void pool_unlend(const struct proa_op *op, uint32_t flags)
{
	struct proa_pool *pool = op->buffer_;

	lent(pool_buffer(pool, LENT_ID(flags)))->on_loan = 0;
	pool->lent--;
}

void pool_revoke(struct proa_port *port, const struct proa_op *op, uint32_t flags)
{
	take_back(port, op->buffer_, pool_buffer(op->buffer_, LENT_ID(flags)));
}

void proa_pool_stats_sized(const struct proa_pool *pool, struct proa_pool_stats *out, size_t size)
{
	struct proa_pool_stats stats = {
		.lent = pool->lent,
		.free = pool->count - pool->lent,
		.lent_peak = pool->lent_peak,
		.waits = pool->waits,
	};

	sized_fill(out, size, &stats, sizeof stats);
}

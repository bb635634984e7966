/* Pools, and the buffers that the program holds for a while. */
#include "random.h"

#include <stdlib.h>
#include <string.h>

#define POOLS     2
#define HELD_MOST 512

static struct pool_model pools[POOLS];

static struct held {
	struct pool_model *pool;
	struct proa_buffer *buffer;
	struct end *end;
	unsigned holds; /* further give-backs that are needed */
} held[HELD_MOST];
static unsigned held_count;

void pools_open(void)
{
	memset(pools, 0, sizeof(pools));
	held_count = 0;
	for (unsigned i = 0; i < POOLS; i++) {
		struct proa_pool_options options = { .buffer_size = 0 };
		unsigned tries = 0;
		int error;

		options.buffer_size = 64u << choose(9);
		options.count = 1 + (uint32_t)choose(8);
		options.limit = options.count + (uint32_t)choose(16);
		options.per_handle = 1 + (uint32_t)choose(6);
		pools[i].size = options.buffer_size;
		pools[i].limit = options.limit;
		pools[i].per_handle = options.per_handle;
		do
			error = proa_pool_open(world.port, &options, &pools[i].pool);
		while (asks_again(error, &tries));
		HOLDS(error == 0, "proa_pool_open() gives %s", proa_error_name(error));
		trace("a pool of %u to %u buffers of %u bytes, %u a handle", options.count,
			options.limit, options.buffer_size, options.per_handle);
	}
}

struct pool_model *pool_any(void)
{
	return &pools[choose(POOLS)];
}

/* It is about to be given back, by us or by somebody we ask to. */
static void uncount(struct pool_model *pool, struct end *end)
{
	pool->held--;
	if (end != NULL)
		end->held--;
}

static void give_back(struct proa_buffer *buffer)
{
	world.in_call = true;
	proa_give_back(buffer);
	world.in_call = false;
}

static void judge_holding(struct task *task, const struct proa_completion *c)
{
	(void)c;
	uncount(task->pool, task->extra != NULL ? *(struct end **)task->extra : NULL);
	give_back(task->buffer);
}

/* By a timer, or a post, on the buffer's own op. */
static void hold_by_op(struct pool_model *pool, struct proa_buffer *buffer, struct end *end)
{
	struct task *task = task_new("holding of a buffer", judge_holding, NULL);

	task->pool = pool;
	task_use_buffer(task, buffer);
	task->extra = malloc(sizeof(end));
	if (task->extra == NULL)
		abort();
	*(struct end **)task->extra = end;
	if (chance(50)) {
		task_post(task, 0);
		return;
	}
	proa_prep_timer(task->op, (int64_t)choose(3 * PROA_MILLISECOND));
	task_submit(task);
}

void lend_hold(struct pool_model *pool, struct proa_buffer *buffer, struct end *end, bool was_ended)
{
	unsigned way = (unsigned)choose(100);
	struct held *place;

	pool->held++;
	HOLDS(pool->held <= pool->limit, "a pool of %u buffers has lent %u", pool->limit,
		pool->held);
	if (end != NULL) {
		end->held++;
		/* What had been received when a receive was cancelled is handed
		 * over, share or no share. */
		HOLDS(was_ended || end->held <= pools[0].per_handle + pools[1].per_handle,
			"a handle holds %u buffers of pools that allow it %u and %u", end->held,
			pools[0].per_handle, pools[1].per_handle);
	}
	if (way < 25 || held_count == HELD_MOST || world.is_shut) {
		uncount(pool, end);
		give_back(buffer);
		return;
	}
	if (way < 40) {
		hold_by_op(pool, buffer, end);
		return;
	}
	if (way < 48 && !world.is_winding_down) {
		uncount(pool, end);
		work_give_back(buffer);
		return;
	}
	place = &held[held_count++];
	*place = (struct held) { pool, buffer, end, 0 };
	if (chance(10)) {
		proa_hold(buffer);
		place->holds = 1;
	}
}

struct proa_buffer *lend_take(struct pool_model **pool)
{
	struct pool_model *from = pool_any();
	struct proa_buffer *buffer = proa_pool_take(from->pool);

	if (buffer == NULL)
		return NULL;
	HOLDS(buffer->size == from->size, "a taken buffer has room for %u, not %u", buffer->size,
		from->size);
	from->held++;
	HOLDS(from->held <= from->limit, "a pool of %u buffers has lent %u", from->limit,
		from->held);
	*pool = from;
	return buffer;
}

void lend_untake(struct pool_model *pool, struct proa_buffer *buffer)
{
	uncount(pool, NULL);
	give_back(buffer);
}

static void give_back_at(unsigned at)
{
	struct held one = held[at];

	if (one.holds > 0) {
		held[at].holds--;
		give_back(one.buffer);
		return;
	}
	held[at] = held[--held_count];
	uncount(one.pool, one.end);
	give_back(one.buffer);
}

void lend_give_back_one(void)
{
	if (held_count > 0)
		give_back_at((unsigned)choose(held_count));
}

void lend_give_back_all(void)
{
	while (held_count > 0)
		give_back_at(0);
}

void pools_check(void)
{
	struct proa_pool_stats stats;

	lend_give_back_all();
	for (unsigned i = 0; i < POOLS; i++) {
		HOLDS(pools[i].held == 0, "the program still holds %u buffers", pools[i].held);
		proa_pool_stats(pools[i].pool, &stats);
		HOLDS(stats.lent == 0, "all buffers are back, and the pool says that %llu are lent",
			(unsigned long long)stats.lent);
	}
}

void pools_close(void)
{
	for (unsigned i = 0; i < POOLS; i++)
		proa_pool_close(pools[i].pool);
}

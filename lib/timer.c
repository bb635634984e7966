/* The timer heap. With a million timers what costs is cache misses, so keys lie
 * apart from ops: comparing touches keys alone, and the four children of a
 * place fill one cache line. A hole travels and the timer is put where it comes
 * to rest: nothing is written twice, which matters because each step writes to
 * an op that is nowhere near. Plain branches, not conditional moves, choose the
 * way: guessed, they let the next misses begin before this one is over. */
#include "lib/timer.h"

#include <assert.h>
#include <stdbool.h>
#include <stdlib.h>

#include <proa/error.h>

#define ARITY      4u
#define FIRST_ROOM 16u

/* Unused keys before the first: glibc's large blocks begin 16 bytes behind a
 * page's start, so that the root's children (places 1 to 4) and with them all
 * groups of four begin a cache line. Elsewhere it costs nothing but their room. */
#define KEYS_BEFORE 2u

static inline struct timer_key *key_at(const struct timers *timers, uint32_t place)
{
	return &timers->keys[(size_t)place + KEYS_BEFORE];
}

static inline bool earlier(const struct timer_key *a, const struct timer_key *b)
{
	return a->due < b->due || (a->due == b->due && a->order < b->order);
}

static inline void put(
	struct timers *timers, uint32_t place, const struct timer_key *key, struct proa_op *op)
{
	*key_at(timers, place) = *key;
	timers->ops[place] = op;
	op->timer_ = place + 1;
}

/* Moves the hole at `place` towards the root as far as `key` has to go. */
static inline uint32_t hole_up(struct timers *timers, uint32_t place, const struct timer_key *key)
{
	while (place > 0) {
		uint32_t parent = (place - 1) / ARITY;

		if (!earlier(key, key_at(timers, parent)))
			break;
		put(timers, place, key_at(timers, parent), timers->ops[parent]);
		place = parent;
	}
	return place;
}

/* The earliest of the children that begin at place `child`. */
static inline uint32_t earliest(const struct timers *timers, uint32_t child)
{
	const struct timer_key *keys = key_at(timers, child);
	uint32_t best = 0;

	if (timers->count - child >= ARITY) {
		uint32_t left = earlier(&keys[1], &keys[0]);
		uint32_t right = 2 + earlier(&keys[3], &keys[2]);

		return child + (earlier(&keys[right], &keys[left]) ? right : left);
	}
	for (uint32_t i = 1; i < timers->count - child; i++)
		if (earlier(&keys[i], &keys[best]))
			best = i;
	return child + best;
}

/* Asks for the keys that the step after the next will compare: a line for each
 * of the children that begin at `child`. */
static inline void foresee(const struct timers *timers, uint32_t child)
{
	uint64_t grandchild = (uint64_t)child * ARITY + 1;

	if (grandchild + ARITY * ARITY > timers->count)
		return;
#ifdef __GNUC__
	for (uint32_t i = 0; i < ARITY; i++)
		__builtin_prefetch(key_at(timers, (uint32_t)grandchild + i * ARITY));
#endif
}

/* Moves the hole at `place` away from the root as far as `key` has to go. */
static inline uint32_t hole_down(struct timers *timers, uint32_t place, const struct timer_key *key)
{
	/* In 64 bits: the children of a high place may be out of 32. */
	while ((uint64_t)place * ARITY + 1 < timers->count) {
		uint32_t child = place * ARITY + 1;

		foresee(timers, child);
		child = earliest(timers, child);
		if (!earlier(key_at(timers, child), key))
			break;
		put(timers, place, key_at(timers, child), timers->ops[child]);
		place = child;
	}
	return place;
}

/* Puts a timer in the hole at `place`, or where its key wants it. */
static inline void settle(
	struct timers *timers, uint32_t place, struct timer_key key, struct proa_op *op)
{
	uint32_t to = hole_up(timers, place, &key);

	if (to == place)
		to = hole_down(timers, place, &key);
	put(timers, to, &key, op);
}

/* When only one of the two has grown, `room` still tells what both have. */
static int grow(struct timers *timers)
{
	size_t room = timers->room == 0 ? FIRST_ROOM : (size_t)timers->room * 2;
	struct timer_key *keys;
	struct proa_op **ops;

	/* op->timer_ has 32 bits, and 0 is taken. */
	if (timers->room > UINT32_MAX / 2 || room > SIZE_MAX / sizeof *keys - KEYS_BEFORE)
		return PROA_ENOMEM;
	keys = realloc(timers->keys, (room + KEYS_BEFORE) * sizeof *keys);
	if (keys == NULL)
		return PROA_ENOMEM;
	timers->keys = keys;
	ops = realloc(timers->ops, room * sizeof *ops);
	if (ops == NULL)
		return PROA_ENOMEM;
	timers->ops = ops;
	timers->room = (uint32_t)room;
	return 0;
}

int timer_arm(struct timers *timers, struct proa_op *op, int64_t due)
{
	struct timer_key key = { .due = due };

	if (op->timer_ != 0) {
		assert(op->timer_ <= timers->count);
		key.order = timers->order++;
		settle(timers, op->timer_ - 1, key, op);
		return 0;
	}
	if (timers->count == timers->room && grow(timers) < 0)
		return PROA_ENOMEM;
	key.order = timers->order++;
	put(timers, hole_up(timers, timers->count++, &key), &key, op);
	return 0;
}

/* Takes `op`'s timer at `place` out; the last one fills the hole. */
static inline void take_out(struct timers *timers, uint32_t place, struct proa_op *op)
{
	uint32_t last = --timers->count;

	assert(place <= last);
	op->timer_ = 0;
	if (place != last)
		settle(timers, place, *key_at(timers, last), timers->ops[last]);
}

void timer_disarm(struct timers *timers, struct proa_op *op)
{
	if (op->timer_ != 0)
		take_out(timers, op->timer_ - 1, op);
}

int64_t timer_next(const struct timers *timers)
{
	return timers->count == 0 ? PROA_FOREVER : key_at(timers, 0)->due;
}

struct proa_op *timer_take(struct timers *timers, int64_t now, int64_t *due)
{
	struct proa_op *op;

	if (timers->count == 0 || key_at(timers, 0)->due > now)
		return NULL;
	op = timers->ops[0];
	*due = key_at(timers, 0)->due;
	take_out(timers, 0, op);
	return op;
}

int64_t timer_due(const struct timers *timers, const struct proa_op *op)
{
	return op->timer_ == 0 ? PROA_FOREVER : key_at(timers, op->timer_ - 1)->due;
}

void timers_free(struct timers *timers)
{
	free(timers->keys);
	free(timers->ops);
	*timers = (struct timers) { 0 };
}

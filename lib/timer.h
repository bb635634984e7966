/* The timer heap: what is due next, by due time, then by order of arming. One
 * for all timers, deadlines and back-offs of a port. No locks. */
#ifndef PROA_LIB_TIMER_H
#define PROA_LIB_TIMER_H

#include <stdint.h>

#include <proa/base.h>

/* What timers are compared by. */
struct timer_key {
	int64_t due;
	uint64_t order;
};

/* All zero is an empty heap. op->timer_ holds an op's place, from 1; 0: none. */
struct timers {
	struct timer_key *keys; /* 4-ary; timer.c says where a place's key lies */
	struct proa_op **ops; /* whose timer each place is */
	uint32_t count, room;
	uint64_t order; /* of the next timer armed */
};

/* Arms, or moves, `op`'s timer; moved, it is as if it had been armed last. 0, or
 * PROA_ENOMEM (then nothing has changed; never when it moves). */
int timer_arm(struct timers *timers, struct proa_op *op, int64_t due);
/* Nothing if it has none. */
void timer_disarm(struct timers *timers, struct proa_op *op);
/* When the first is due; PROA_FOREVER if none. */
int64_t timer_next(const struct timers *timers);
/* Takes the first if it is due at `now`, else NULL; *due is when it was. */
struct proa_op *timer_take(struct timers *timers, int64_t now, int64_t *due);
/* Due time of `op`'s timer, PROA_FOREVER if it has none. */
int64_t timer_due(const struct timers *timers, const struct proa_op *op);
/* Frees the memory, and is an empty heap again; ops are not touched. */
void timers_free(struct timers *timers);

#endif

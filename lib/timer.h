/* The timer heap: what is due next, by due time, then by order of arming. One
 * for all timers, deadlines and back-offs of a port. No locks. */
#ifndef PROA_LIB_TIMER_H
#define PROA_LIB_TIMER_H

#include <stdint.h>

#include <proa/base.h>

struct timer_entry {
	int64_t due;
	uint64_t order;
	struct proa_op *op;
};

/* All zero is an empty heap. op->timer_ holds an op's place, from 1; 0: none. */
struct timers {
	struct timer_entry *heap; /* 4-ary, heap[0] unused by none */
	uint32_t count, room;
	uint64_t order;
};

/* Arms, or moves, `op`'s timer. 0, or PROA_ENOMEM (then nothing has changed). */
int timer_arm(struct timers *timers, struct proa_op *op, int64_t due);
/* Nothing if it has none. */
void timer_disarm(struct timers *timers, struct proa_op *op);
/* When the first is due; PROA_FOREVER if none. */
int64_t timer_next(const struct timers *timers);
/* Takes the first if it is due at `now`, else NULL; *due is when it was. */
struct proa_op *timer_take(struct timers *timers, int64_t now, int64_t *due);
/* Due time of `op`'s timer, PROA_FOREVER if it has none. */
int64_t timer_due(const struct timers *timers, const struct proa_op *op);
void timers_free(struct timers *timers);

#endif

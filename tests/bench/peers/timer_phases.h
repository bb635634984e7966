/* Timers, many at once: all armed, all moved in random order, all cancelled in
 * random order, then all armed again and fired. What is timed is CPU. At last they
 * are armed once more and fire when they are due, and how late they are is kept. */
#ifndef PROA_BENCH_TIMER_PHASES_H
#define PROA_BENCH_TIMER_PHASES_H

#include <unistd.h>

#include "../measure.h"
#include "peer.h"

enum timer_phase { TIMER_ARM, TIMER_MOVE, TIMER_CANCEL, TIMER_FIRE, TIMER_ON_TIME, TIMER_PHASES };

struct timer_phases {
	struct proa_port *port;
	struct proa_op *timers;
	uint32_t *order; /* a random one */
	uint32_t count;
	int64_t *due;
	uint64_t seed, ended;
	int64_t ns[TIMER_PHASES]; /* of all of them */
	uint64_t calls[TIMER_PHASES];
	struct histogram late; /* TIMER_ON_TIME */
};

static inline void timer_ended(struct proa_op *op, const struct proa_completion *c)
{
	struct timer_phases *phases = op->data;

	phases->ended += c->result == 0 || c->result == PROA_ECANCELED;
}

static inline void timer_on_time(struct proa_op *op, const struct proa_completion *c)
{
	struct timer_phases *phases = op->data;

	phases->ended += c->result == 0;
	histogram_add(&phases->late, measure_now() - phases->due[op - phases->timers]);
}

/* `least` and up to `spread` more. */
static inline int64_t timer_delay(struct timer_phases *phases, int64_t least, int64_t spread)
{
	uint64_t steps = measure_random(&phases->seed) >> 32;

	return least + (int64_t)(steps % (uint64_t)(spread / PROA_MILLISECOND)) * PROA_MILLISECOND;
}

static inline void timers_arm(struct timer_phases *phases, int64_t least, int64_t spread)
{
	for (uint32_t i = 0; i < phases->count; i++) {
		proa_prep_timer(&phases->timers[i], timer_delay(phases, least, spread));
		proa_submit(&phases->timers[i], timer_ended);
	}
}

/* Their times count from the submit, so the clock read before is not too late. */
static inline void timers_arm_on_time(struct timer_phases *phases, int64_t least, int64_t spread)
{
	for (uint32_t i = 0; i < phases->count; i++) {
		int64_t delay = timer_delay(phases, least, spread);

		phases->due[i] = measure_now() + delay;
		proa_prep_timer(&phases->timers[i], delay);
		proa_submit(&phases->timers[i], timer_on_time);
	}
}

/* What a phase takes is what is there at its end less what was there at its begin. */
static inline void timers_count(struct timer_phases *phases, enum timer_phase phase, int sign)
{
	struct proa_port_stats stats;

	proa_port_stats(phases->port, &stats);
	phases->calls[phase] += sign * stats.system_calls;
	phases->ns[phase] += sign * measure_cpu();
}

static inline int timers_prepare(
	struct timer_phases *phases, struct proa_port *port, uint32_t count)
{
	memset(phases, 0, sizeof *phases);
	phases->port = port;
	phases->count = count;
	phases->seed = 42;
	phases->timers = malloc(count * sizeof *phases->timers);
	phases->order = malloc(count * sizeof *phases->order);
	phases->due = malloc(count * sizeof *phases->due);
	if (phases->timers == NULL || phases->order == NULL || phases->due == NULL)
		return PROA_ENOMEM;
	for (uint32_t i = 0; i < count; i++) {
		proa_op_init(&phases->timers[i], port, phases);
		phases->order[i] = i;
	}
	for (uint32_t i = count; i-- > 1;) {
		uint32_t j = (uint32_t)(measure_random(&phases->seed) % (i + 1));
		uint32_t kept = phases->order[i];

		phases->order[i] = phases->order[j];
		phases->order[j] = kept;
	}
	return 0;
}

/* Fills phases->ns, calls and late in. 0, or an error: also when a timer was lost. */
static inline int timers_measure(
	struct timer_phases *phases, struct proa_port *port, uint32_t count)
{
	const int64_t hour = 3600 * PROA_SECOND;
	int error = timers_prepare(phases, port, count);

	if (error < 0)
		goto out;
	timers_count(phases, TIMER_ARM, -1);
	timers_arm(phases, hour, hour);
	timers_count(phases, TIMER_ARM, 1);

	timers_count(phases, TIMER_MOVE, -1);
	for (uint32_t i = 0; i < count; i++)
		proa_timer_move(&phases->timers[phases->order[i]], timer_delay(phases, hour, hour));
	timers_count(phases, TIMER_MOVE, 1);

	timers_count(phases, TIMER_CANCEL, -1); /* with the completions that tell of it */
	for (uint32_t i = 0; i < count; i++)
		proa_cancel(&phases->timers[phases->order[i]]);
	proa_run(port);
	timers_count(phases, TIMER_CANCEL, 1);

	timers_arm(phases, PROA_MILLISECOND, PROA_SECOND);
	usleep(1100000); /* until all are due: the wait itself is not what is measured */
	timers_count(phases, TIMER_FIRE, -1);
	proa_run(port);
	timers_count(phases, TIMER_FIRE, 1);

	/* The first is due when all are armed: that takes a tenth of a microsecond each. */
	timers_arm_on_time(phases, 100 * PROA_MILLISECOND + (int64_t)count * 500, PROA_SECOND);
	timers_count(phases, TIMER_ON_TIME, -1);
	proa_run(port);
	timers_count(phases, TIMER_ON_TIME, 1);
	if (phases->ended != 3 * (uint64_t)count)
		error = PROA_EIO;
out:
	free(phases->timers);
	free(phases->order);
	free(phases->due);
	return error;
}

#endif

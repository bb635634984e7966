/* post: ops posted from one thread to the port of another: as many as it can
 * (flood), and one back and forth (ping-pong). */
#include "bench.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include <proa/proa.h>

/* So many ops go round: each is posted again once it has been delivered. */
#define FLOOD_OPS 4096

struct item {
	struct proa_op op;
	atomic_bool idle;
};

struct side {
	struct proa_port *port;
	struct side *other;
	bool same_core;
	uint64_t delivered;
};

static struct side sides[2];
static struct item items[FLOOD_OPS];
static struct proa_op ball;
static struct histogram trips;
static int64_t thrown, until;

static bool sides_open(
	const struct bench_options *options, const char *engine, struct bench_result *result)
{
	struct proa_port_options how = { .engine = engine };

	for (int i = 0; i < 2; i++) {
		sides[i] =
			(struct side) { .other = &sides[1 - i], .same_core = options->same_core };
		if (proa_port_open(&how, &sides[i].port) < 0) {
			bench_fail(result, "%s", proa_port_open_why());
			return false;
		}
	}
	return true;
}

/* Until its port is shut. */
static void *side_loop(void *argument)
{
	struct side *side = argument;

	bench_pin(1, side->same_core);
	while (proa_run_once(side->port, PROA_FOREVER) >= 0)
		;
	return NULL;
}

static uint64_t sides_calls(void)
{
	uint64_t sum = 0;

	for (int i = 0; i < 2; i++) {
		struct proa_port_stats stats;

		proa_port_stats(sides[i].port, &stats);
		sum += stats.system_calls;
	}
	return sum;
}

/* Starts the other thread, does `work` until time is up, and ends it all. */
static void sides_run(const struct bench_options *options, const char *engine,
	struct bench_result *result, void (*work)(void))
{
	int64_t cpu, wall;
	pthread_t thread;

	if (!sides_open(options, engine, result))
		return;
	pthread_create(&thread, NULL, side_loop, &sides[1]);
	cpu = measure_cpu();
	wall = measure_now();
	until = wall + (int64_t)(options->seconds * 1e9);
	work();
	wall = measure_now() - wall;
	proa_port_shut(sides[1].port);
	pthread_join(thread, NULL);
	cpu = measure_cpu() - cpu;
	if (sides[1].delivered == 0) {
		bench_fail(result, "nothing was delivered");
	} else {
		double count = (double)sides[1].delivered;

		result->rate = count * 1e9 / (double)wall;
		result->cpu = (double)cpu / count;
		result->calls = (double)sides_calls() / count;
		bench_latency(result, &trips);
	}
	proa_port_close(sides[1].port);
	proa_port_close(sides[0].port);
}

static void flood_delivered(struct proa_op *op, const struct proa_completion *c)
{
	struct item *item = op->data;

	if (c->result != 0)
		return; /* the port has been shut */
	sides[1].delivered++;
	atomic_store_explicit(&item->idle, true, memory_order_release);
}

static void flood_work(void)
{
	unsigned at = 0;

	for (unsigned i = 0; i < FLOOD_OPS; i++) {
		proa_op_init(&items[i].op, sides[1].port, &items[i]);
		atomic_init(&items[i].idle, true);
	}
	while (measure_now() < until) {
		unsigned burst;

		for (burst = 0; burst < 64; burst++) {
			struct item *item = &items[at % FLOOD_OPS];

			if (!atomic_load_explicit(&item->idle, memory_order_acquire))
				break;
			atomic_store_explicit(&item->idle, false, memory_order_relaxed);
			proa_post(sides[1].port, &item->op, 0, flood_delivered);
			at++;
		}
		if (burst == 0)
			sched_yield(); /* all are on their way */
	}
}

static void ball_home(struct proa_op *op, const struct proa_completion *c);

static void ball_away(struct proa_op *op, const struct proa_completion *c)
{
	sides[1].delivered++;
	proa_post(sides[0].port, op, c->result, ball_home);
}

static void ball_home(struct proa_op *op, const struct proa_completion *c)
{
	int64_t now = measure_now();

	if (c->result < 0)
		return;
	histogram_add(&trips, now - thrown);
	thrown = now;
	if (now < until)
		proa_post(sides[1].port, op, 0, ball_away);
}

static void ball_work(void)
{
	proa_op_init(&ball, sides[1].port, NULL);
	thrown = measure_now();
	proa_post(sides[1].port, &ball, 0, ball_away);
	while (measure_now() < until && proa_run_once(sides[0].port, PROA_SECOND) >= 0)
		;
}

static void flood_measure(const struct bench_options *options, const char *engine,
	struct bench_result *result, void *argument)
{
	(void)argument;
	sides_run(options, engine, result, flood_work);
}

static void ball_measure(const struct bench_options *options, const char *engine,
	struct bench_result *result, void *argument)
{
	(void)argument;
	sides_run(options, engine, result, ball_work);
}

void bench_post(const struct bench_options *options, const char *engine)
{
	struct bench_result result;

	report_running("post flood", engine);
	bench_apart(flood_measure, options, engine, &result, 1, NULL);
	report_add("post flood", engine, &result);
	report_running("post ping-pong", engine);
	bench_apart(ball_measure, options, engine, &result, 1, NULL);
	report_add("post ping-pong", engine, &result);
}

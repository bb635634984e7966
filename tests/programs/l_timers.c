/* 100,000 periodic timers, each with its own period; all end after
 * SECONDS. */
#include <proa/proa.h>
#include <stdio.h>

#define COUNT 100000
#ifndef SECONDS
#	define SECONDS 10
#endif

static struct proa_op timers[COUNT], end;
static uint64_t ticks, missed;

static void on_tick(struct proa_op *op, const struct proa_completion *c)
{
	(void)op;
	if (c->result > 0) {
		ticks++;
		missed += (uint64_t)c->result - 1;
	}
}

static void on_end(struct proa_op *op, const struct proa_completion *c)
{
	(void)c;
	proa_cancel_all(op->port);
}

int main(void)
{
	struct proa_port *port;

	if (proa_port_open(NULL, &port) < 0)
		return 1;
	for (int i = 0; i < COUNT; i++) {
		int64_t period = (100 + i % 900) * PROA_MILLISECOND;

		proa_op_init(&timers[i], port, NULL);
		proa_prep_interval(&timers[i], period, period);
		proa_submit(&timers[i], on_tick);
	}
	proa_op_init(&end, port, NULL);
	proa_prep_timer(&end, SECONDS * PROA_SECOND);
	proa_submit(&end, on_end);
	proa_run(port);
	proa_port_close(port);
	printf("%llu ticks, %llu missed\n", (unsigned long long)ticks, (unsigned long long)missed);
	return 0;
}

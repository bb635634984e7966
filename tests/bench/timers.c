/* timers: --timers of them armed, moved, cancelled and fired: CPU and system calls for
 * each; and how late they fire. */
#include "bench.h"

#include <stdio.h>

#include "peers/timer_phases.h"

static void timers_run(const struct bench_options *options, const char *engine,
	struct bench_result *results, void *argument)
{
	struct proa_port_options how = { .engine = engine };
	struct timer_phases phases;
	struct proa_port *port;
	int error;

	(void)argument;
	if (proa_port_open(&how, &port) < 0) {
		bench_fail(&results[0], "%s", proa_port_open_why());
		return;
	}
	error = timers_measure(&phases, port, options->timers);
	if (error < 0)
		bench_fail(&results[0], "timers: %s", proa_error_text(error));
	for (int i = 0; error == 0 && i < TIMER_PHASES; i++) {
		results[i].cpu = (double)phases.ns[i] / options->timers;
		results[i].rate = 1e9 / results[i].cpu;
		results[i].calls = (double)phases.calls[i] / options->timers;
	}
	if (error == 0)
		bench_latency(&results[TIMER_ON_TIME], &phases.late);
	proa_port_close(port);
}

void bench_timers(const struct bench_options *options, const char *engine)
{
	static const char *const names[TIMER_PHASES] = { "arm", "move", "cancel", "fire",
		"on time" };
	struct bench_result results[TIMER_PHASES];
	char work[WORK_TEXT];

	snprintf(work, sizeof work, "timers, %u", options->timers);
	report_running(work, engine);
	bench_apart(timers_run, options, engine, results, TIMER_PHASES, NULL);
	for (int i = 0; i < TIMER_PHASES; i++) {
		if (results[0].error[0] != '\0' && i > 0)
			break; /* told once */
		snprintf(work, sizeof work, "timers, %u: %s", options->timers, names[i]);
		report_add(work, engine, &results[i]);
	}
}

/* timers_proa [COUNT]: what arming, moving, cancelling and firing a timer
 * costs, ns of CPU each, among a million; for comparisons. */
#include "timer_phases.h"

int main(int argc, char **argv)
{
	uint32_t count = argc > 1 ? (uint32_t)strtoul(argv[1], NULL, 10) : 1000000;
	struct proa_port *port = peer_open();
	struct timer_phases phases;

	peer_check("timers", timers_measure(&phases, port, count));
	printf("who=%s n=%u add_ns=%.1f rearm_ns=%.1f cancel_ns=%.1f fire_ns=%.1f "
	       "late_p50_us=%.0f late_p99_us=%.0f timer_bytes=%zu\n",
		proa_engine_name(port), (unsigned)count, (double)phases.ns[TIMER_ARM] / count,
		(double)phases.ns[TIMER_MOVE] / count, (double)phases.ns[TIMER_CANCEL] / count,
		(double)phases.ns[TIMER_FIRE] / count, histogram_share(&phases.late, 0.5) / 1000,
		histogram_share(&phases.late, 0.99) / 1000, sizeof(struct proa_op));
	proa_port_close(port);
	return 0;
}

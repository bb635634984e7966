/* Cancelling below the public API: tickets when a port has had more submissions than
 * a ticket has bits for. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "lib/port.h"

static int32_t ended;

static void note(struct proa_op *op, const struct proa_completion *c)
{
	(void)op;
	ended = c->result;
}

static void tickets_after_all_numbers(void **state)
{
	proa_handle ends[2];
	struct proa_port *port;
	struct proa_op receive, timer, closing;
	uint64_t tickets[2];
	char byte;

	(void)state;
	assert_int_equal(proa_port_open(NULL, &port), 0);
	assert_int_equal(proa_pair(port, ends), 0);
	port->serial = (UINT64_C(1) << (64 - TICKET_HANDLE_BITS)) - 2;
	for (int i = 0; i < 3; i++) {
		proa_op_init(&receive, port, NULL);
		proa_op_init(&timer, port, NULL);
		proa_prep_recv(&receive, ends[0], &byte, 1, 0);
		tickets[0] = proa_submit(&receive, note);
		proa_prep_timer(&timer, 1000 * PROA_SECOND);
		tickets[1] = proa_submit(&timer, note);
		for (int j = 0; j < 2; j++) {
			ended = 0;
			proa_cancel_ticket(port, tickets[j]);
			for (int turns = 0; turns < 100 && ended == 0; turns++)
				assert_true(proa_run_once(port, 10 * PROA_MILLISECOND) >= 0);
			assert_int_equal(ended, PROA_ECANCELED);
		}
	}
	assert_true(port->serial > UINT64_C(1) << (64 - TICKET_HANDLE_BITS));
	for (int i = 0; i < 2; i++) {
		proa_op_init(&closing, port, NULL);
		proa_prep_close(&closing, ends[i], 0);
		proa_submit(&closing, NULL);
		assert_int_equal(proa_run(port), 0);
	}
	assert_int_equal(proa_port_close(port), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(tickets_after_all_numbers),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

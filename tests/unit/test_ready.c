/* The queue of completions: order while the ring grows and turns round, and what
 * happens when memory for more of it is not to be had. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include "lib/port.h"

static void in_order_while_it_grows(void **state)
{
	struct ready ready = { 0 };
	struct proa_completion c;
	static struct proa_op op;
	int32_t in = 0, out = 0;

	(void)state;
	assert_true(ready_empty(&ready));
	assert_false(ready_pop(&ready, &c));
	/* More in than out, so that it is never empty when it has to grow. */
	for (int round = 0; round < 1000; round++) {
		for (int i = 0; i < 7; i++)
			assert_true(ready_push(&ready, &op, in++, i % 2 ? PROA_MORE : 0));
		for (int i = 0; i < 5; i++) {
			assert_true(ready_pop(&ready, &c));
			assert_int_equal(c.result, out++);
			assert_ptr_equal(c.op, &op);
		}
	}
	while (ready_pop(&ready, &c))
		assert_int_equal(c.result, out++);
	assert_int_equal(in, out);
	assert_true(ready_empty(&ready));
	ready_free(&ready);
}

/* A ring that claims to be as large as can be: the next growth is refused. */
static void no_memory_loses_no_final_completion(void **state)
{
	enum { OPS = 20 };
	struct ready ready = { 0 };
	static struct proa_op ops[OPS];
	struct proa_completion c, *ring;
	int32_t out = 0;

	(void)state;
	assert_true(ready_reserve(&ready));
	ring = ready.ring;
	/* Full, and of a size whose double does not fit: two entries are used,
	 * at places that the real ring has. */
	ready.mask = 0x7fffffffu;
	ready.head = 0;
	ready.tail = 0x80000000u;
	assert_false(ready_reserve(&ready));
	assert_false(ready_push(&ready, &ops[0], 99, PROA_MORE));
	for (int i = 0; i < OPS; i++)
		assert_true(ready_push(&ready, &ops[i], -i, i == 3 ? PROA_LENT | 0x500u : 0));
	assert_int_equal(ready.spilt_count, OPS);
	/* As long as some are spilt nothing may overtake them. */
	ready.head = ready.tail = 0;
	ready.mask = 255;
	assert_false(ready_push(&ready, &ops[0], 99, PROA_MORE));
	while (ready_pop(&ready, &c)) {
		assert_ptr_equal(c.op, &ops[out]);
		assert_int_equal(c.result, -out);
		assert_int_equal(c.flags, out == 3 ? PROA_LENT | 0x500u : 0);
		out++;
	}
	assert_int_equal(out, OPS);
	assert_true(ready_push(&ready, &ops[0], 99, PROA_MORE));
	assert_ptr_equal(ready.ring, ring);
	ready_free(&ready);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(in_order_while_it_grows),
		cmocka_unit_test(no_memory_loses_no_final_completion),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
